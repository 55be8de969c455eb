"""Predictions of the notebooks about routers."""

from __future__ import annotations

import numpy as np

from moeviz.experiments.routers_on_a_text import recorded
from moeviz.pictures.over_seeds import gap_words
from moeviz.pictures.training.arms import DENSE, FAIR, minus_dense, table_of
from moeviz.pictures.training.order import FAR, order, rho_words
from moeviz.pictures.training.output_scale import written_minus_fair
from moeviz.predictions.prediction import OPEN, Measured, nearest, prediction, recorded_run
from moeviz.records.routes import Decision

HASH, RAW = "hash, random", "token choice, raw"


@prediction(
    "03.late",
    "Slots are filled first come, first served. Which tokens of a text are dropped most?",
    "early ones", "late ones", "early and late ones alike",
)  # fmt: skip
def late() -> Measured:
    switch = _decision("switch")
    half = len(switch.tokens) // 2
    lost_T = switch.dropped.sum(axis=1) > 0
    early, after = int(lost_T[:half].sum()), int(lost_T[half:].sum())
    options = ("early ones", "late ones", "early and late ones alike")
    option = options[0 if early > after else 1 if after > early else 2]
    figure = (
        f"in the recorded text Switch drops {early} of the first {half} tokens and {after} of the "
        f"other {len(lost_T) - half}"
    )
    because = "all slots are free at the start, and those of a popular expert are full later"
    return Measured(option, figure, because)


@prediction(
    "03.price",
    "Let every expert pick its best tokens: the load is even by construction. What is the price?",
    "there is none", "some tokens get no expert", "some experts get no token",
)  # fmt: skip
def price() -> Measured:
    choice = _decision("expert_choice")
    alone, idle = int((~choice.visits.any(axis=1)).sum()), int((choice.load == 0).sum())
    option = "some tokens get no expert" if alone else "some experts get no token"
    if not alone and not idle:
        option = "there is none"
    least, most = choice.load.min(), choice.load.max()
    taken = f"{least}" if least == most else f"{least} to {most}"
    figure = (
        f"in the recorded text {alone} of {len(choice.tokens)} tokens are picked by no expert, and "
        f"each expert takes {taken} tokens"
    )
    return Measured(option, figure, "nothing obliges any expert to pick a given token")


@prediction(
    "03.future",
    "Which of these may be used while a text is still being written?",
    "each expert picks tokens", "each token picks experts", "both",
)  # fmt: skip
def future() -> Measured:
    leaking = {name: int(_decision(name).leaks.sum()) for name in ("expert_choice", "token_choice")}
    causal = [not leaking["expert_choice"], not leaking["token_choice"]]
    options = ("each expert picks tokens", "each token picks experts", "both")
    option = "both" if all(causal) else options[int(np.argmax(causal))]
    tokens = len(_decision("token_choice").tokens)
    figure = (
        "when only later tokens are replaced, the choice for "
        f"{leaking['expert_choice']} of {tokens} tokens changes where experts pick, and for "
        f"{leaking['token_choice']} where tokens pick"
    )
    return Measured(option, figure, "an expert that picks compares a token with those after it")


@prediction(
    "03.scale",
    "Token choice with raw weights sends each token to two of 16 experts. It is trained as written "
    "and at the fair scale, with one learning rate. How is its final loss as written?",
    "it is lower", OPEN, "it is higher",
)  # fmt: skip
def as_written() -> Measured:
    recorded = recorded_run("scale")
    change = written_minus_fair(recorded)[RAW]
    start = recorded["arms"][RAW]["as_written"]["scale"]
    quiet = f"its layers start at {start:.2g} times the fair scale and may"
    option, because = {
        "lower": ("it is lower", f"{quiet} disturb the rest of the model less"),
        "higher": ("it is higher", f"{quiet} need steps to become as loud"),
        "open": (OPEN, "the seeds differ too much to show one"),
    }[change.verdict]
    words = gap_words(change.gap)
    return Measured(
        option, f"after {recorded['steps']:,} steps it is {words} than at the fair scale", because
    )


@prediction(
    "03.hash",
    "A hash sends each token to two of 16 experts by a fixed table: no router learns anything. Its "
    "dense twin does the same work on each token. How does the final loss of hash compare with the "
    "twin's?",
    "it is lower", OPEN, "it is higher",
)  # fmt: skip
def hash_beside_dense() -> Measured:
    recorded = recorded_run("routers")
    table, arms = table_of(recorded, FAIR), recorded["arms"]
    found = minus_dense(table, HASH)
    more = arms[HASH]["parameters"] / arms[DENSE]["parameters"]
    option, because = {
        "lower": ("it is lower", f"it may gain from {more:.1f} times as many parameters, and "
                  "from a table that gives an expert the same tokens from the first step on"),
        "higher": ("it is higher", "most likely a table that knows only the token sends it to "
                   "experts that do not suit the context"),
        "open": (OPEN, "the seeds differ too much to show one among so many routers"),
    }[found.verdict]  # fmt: skip
    figure = (
        f"after {table['steps']:,} steps at the fair scale it is {gap_words(found.gap)} than the "
        "dense twin's"
    )
    return Measured(option, figure, because)


@prediction(
    "03.order",
    "All arms of equal cost are put in order by their loss after 300 steps, and again after 1,200 "
    "steps of another training. How much does the first order tell of the second?",
    "most of it", "about half of it", "next to nothing",
)  # fmt: skip
def order_after_longer_training() -> Measured:
    recorded = recorded_run("routers")
    picture = order(recorded)
    up = picture.columns.index("places up")
    moves = [abs(int(str(row[up]))) for row in picture.rows]
    far = sum(move >= FAR for move in moves)
    correlation = recorded["order"]["all"]
    options = {"most of it": 1.0, "about half of it": 0.5, "next to nothing": 0.0}
    option = nearest(correlation["rho"], options)
    because = f"{far} of {len(moves)} arms move by {FAR} places or more"
    if option == "most of it":
        upper = recorded["order"]["upper_half"]
        ranks = [picture.columns.index(f"rank, {which}") for which in ("short", "long")]
        again = sum(all(int(str(row[at])) <= upper["arms"] for at in ranks) for row in picture.rows)
        because = (
            f"{again} of the {upper['arms']} arms of the better half are in it again; but within "
            f"that half the correlation is {upper['rho']:.2f}"
        )
    figure = f"Spearman's rank correlation of the two orders is {rho_words(correlation)}"
    return Measured(option, figure, because)


def _decision(name: str) -> Decision:
    return recorded()[0][name]
