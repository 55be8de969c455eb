"""Recorded runs: what a limit of slots costs in loss, and what the later tokens are worth."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import Scale, signed, x_axis
from moeviz.pictures.over_seeds import (
    Figure,
    about,
    gap_cell,
    gap_dots,
    gap_scale,
    mean_sd,
    told_gap,
    verdict_keys,
)
from moeviz.pictures.plot import legend, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.words import percent

TOP, ROW = 126.0, 30.0
NAME, PITCH, PLOT = 190.0, 124.0, 104.0  # the names of the arms stand before it
NO_LIMIT, TOKEN_CHOICE = "no limit", "token choice"
BY_PROBABILITY = "factor 1, by probability"
POOLS = {"mixed": "all domains", "domain": "one domain", "sequence": "one text"}
NARROW = "pool of 16 neighbours"
PUBLISHED = "Wang et al. (2408.15664, appendix D) saw a loss 10 % lower"
WORTHS = {
    "worth_of_later_tokens": "worth,\npool as large", "worth_with_smaller_pool":
    "worth,\npool shrinks too", "loss_mixed_minus_dense": "loss\nminus dense",
}  # fmt: skip
HOLM = "tick: a seed · bar: 95 % interval · verdicts are corrected for the whole table (Holm)"

Recorded = dict[str, Any]


def limits(recorded: Recorded) -> Picture:
    """The loss of one trained model under its limit minus the loss of the same model without: in
    pools that mix the domains as training does, of one domain, and of one text. At the right what
    training with the limit did, and the share dropped."""
    arms = {name: arm for name, arm in recorded["limits"].items() if name != NO_LIMIT}
    bottom = TOP + ROW * len(arms)
    svg = Svg(560, bottom + 64, "What a limit costs", told_limits(recorded))
    svg.text(0, 16, about(recorded, recorded["dense"]["loss"]), fill=MUTED)
    svg.text(0, 36, HOLM, fill=MUTED)
    legend(svg, NAME, 58, verdict_keys(), across=80)
    gaps = [arm[f"cost_{pool}"] for arm in arms.values() for pool in POOLS]
    costs = {
        f"cost_{pool}": (f"pool: {words}", gap_scale(gaps, *_column(i)))
        for i, (pool, words) in enumerate(POOLS.items())
    }
    _gaps(svg, arms, costs, bottom, 4)
    svg.text(NAME, bottom + 36, "loss with the limit minus without it, of one model (nats)")
    side = svg.beside(364, bottom + 64)
    minus = gap_scale((arm["loss_minus_no_limit"] for arm in arms.values()), NAME, NAME + 100)
    alone = {"loss_minus_no_limit": ("model alone", minus)}
    _gaps(side, arms, alone, bottom, 3)
    side.text(side.width, TOP - 26, "dropped", anchor="end", bold=True)
    for i, (name, arm) in enumerate(arms.items()):
        dropped = percent(arm["drop_rate"]["mean"], 1)
        with side.thing(name, tip=f"{name}: {dropped} dropped in training"):
            side.text(side.width, TOP + (i + 0.5) * ROW + 4, dropped, anchor="end")
    words = "its loss without a limit, minus that", "of the model trained without (nats)"
    paragraph(side, 60, bottom + 36, words)
    columns = (
        "limit", *(f"cost, pool of {words}" for words in POOLS.values()),
        *(f"dropped, pool of {words}" for words in POOLS.values()), "dropped in training",
        "trained with the limit, evaluated without", "under its limit, minus dense",
    )  # fmt: skip
    return svg.picture(columns, (_limit_cells(*item) for item in arms.items()))


def _limit_cells(name: str, arm: dict[str, Any]) -> tuple[object, ...]:
    return (
        name, *(gap_cell(arm[f"cost_{pool}"]) for pool in POOLS),
        *(percent(arm[f"dropped_{pool}"]["mean"], 1) for pool in POOLS),
        percent(arm["drop_rate"]["mean"], 1), gap_cell(arm["loss_minus_no_limit"]),
        gap_cell(arm["loss_mixed_minus_dense"]),
    )  # fmt: skip


def leak(recorded: Recorded) -> Picture:
    """Expert choice with several pools: what the later tokens are worth when the pool keeps its
    size, and when it shrinks; and the loss in mixed pools minus the dense twin's. Below, the
    training loss in order minus shuffled."""
    arms = recorded["leaks"]
    bottom = TOP + ROW * len(arms)
    summary = f"{told_worth(recorded)} {told_signature(recorded)}"
    svg = Svg(560, bottom + 64, "What the future is worth", summary)
    svg.text(0, 16, about(recorded, recorded["dense"]["loss"]), fill=MUTED)
    svg.text(0, 36, HOLM, fill=MUTED)
    legend(svg, NAME, 58, verdict_keys(), across=80)
    plots = {
        name: (head, gap_scale((arm[name] for arm in arms.values()), *_column(i)))
        for i, (name, head) in enumerate(WORTHS.items())
    }
    _gaps(svg, arms, plots, bottom, 3)
    words = "loss without the later tokens minus loss with them: right is a gain by them"
    svg.text(svg.width, bottom + 36, words, anchor="end")
    _signature(svg, recorded)
    columns = (
        "router", "worth of later tokens, pool as large", "worth, pool shrinks too",
        "loss, mixed pools", "minus dense", "training loss", "in order minus shuffled",
    )  # fmt: skip
    return svg.picture(columns, _leak_rows(recorded))


def _column(place: int) -> tuple[float, float]:
    start = NAME + PITCH * place
    return start, start + PLOT


def _gaps(
    svg: Svg, arms: Recorded, plots: dict[str, tuple[str, Scale]], bottom: float, ticks: int
) -> None:
    """Arms below each other, their figures of these names beside each other, each on its axis
    under its head."""
    for head, x in plots.values():
        lines = head.split("\n")
        paragraph(svg, x.start, TOP - 10 - 16 * len(lines), lines, 16, bold=True)
        x_axis(svg, x, bottom, top=TOP - 8, ticks=x.ticks(ticks), form=signed, zero=True)
    for i, (name, arm) in enumerate(arms.items()):
        y = TOP + (i + 0.5) * ROW
        svg.line(0, y + ROW / 2, svg.width, y + ROW / 2, width=0.5)
        with svg.thing(name):
            svg.text(0, y + 4, name, bold=name == TOKEN_CHOICE)
        for figure, (head, x) in plots.items():
            words = head.replace("\n", " ")
            with svg.thing(name, tip=f"{name}, {words}: {gap_cell(arm[figure])}"):
                gap_dots(svg, x, y, arm[figure])


def _signature(svg: Svg, recorded: Recorded) -> None:
    """Beside, the training loss in order minus shuffled."""
    signature, top = recorded["signature"], 56.0
    bottom = top + ROW * len(signature)
    side = svg.beside(560, bottom + 48)
    title = "Training loss of a pool in order minus the same pool shuffled"
    side.text(0, 16, title, bold=True)
    published = -0.1 * _training(recorded)["mean"]
    x = gap_scale(signature.values(), NAME, 540, published)
    label = "nats per token: left of zero the pool in order has the lower loss"
    x_axis(side, x, bottom, label, top=top - 4, ticks=x.ticks(6), form=signed, zero=True)
    side.line(x(published), top - 4, x(published), bottom, stroke=INK, dash="2 3")
    side.text(x(published) + 6, top - 10, "10 % of the loss (Wang et al.)", fill=MUTED)
    for i, (name, gap) in enumerate(signature.items()):
        y = top + (i + 0.5) * ROW
        with side.thing(name, tip=f"{name}: {gap_cell(gap)}"):
            side.text(0, y + 4, name)
            gap_dots(side, x, y, gap)


def _training(recorded: Recorded) -> Figure:
    """The shuffled pool's training loss, which the published share is of."""
    figure: Figure = recorded["leaks"]["pool of 16, shuffled"]["training_loss"]
    return figure


def _leak_rows(recorded: Recorded) -> list[tuple[object, ...]]:
    in_order = {"pool of 16 neighbours": "pool of 16", "pool of one sequence": "pool of 64"}
    rows: list[tuple[object, ...]] = []
    for name, arm in recorded["leaks"].items():
        pool = in_order.get(name)
        rows.append(
            (name, gap_cell(arm["worth_of_later_tokens"]), gap_cell(arm["worth_with_smaller_pool"]),
             mean_sd(arm["loss_mixed"], 3), gap_cell(arm["loss_mixed_minus_dense"]),
             mean_sd(arm["training_loss"], 3),
             gap_cell(recorded["signature"][pool]) if pool else "")
        )  # fmt: skip
    return rows


# What was seen, in words that the figures decide.


def told_limits(recorded: Recorded) -> str:
    """What factor 1.25 costs in mixed pools, what the pool does to that, and whether training with
    it harms the model; that who is dropped counts too; and how the model stands without a limit."""
    arm, sure = (recorded["limits"][name] for name in ("factor 1.25", BY_PROBABILITY))
    costs = [f"{arm[f'cost_{pool}']['mean']:+z.3f}" for pool in POOLS]
    mixed = told_gap(
        "in pools of all domains a model under factor 1.25", "the same model freed of its limit",
        arm["cost_mixed"],
    )  # fmt: skip
    freed = told_gap(
        "a model trained with factor 1.25 and freed of it", "one that never had a limit",
        arm["loss_minus_no_limit"],
    )  # fmt: skip
    chosen = told_gap("that model", "the same freed of its limit", sure["cost_mixed"])
    without = recorded["limits"][NO_LIMIT]["loss_minus_dense"]
    twin = told_gap("the model without a limit", "its dense twin", without)
    return (
        f"{mixed} The cost is {costs[0]} there, {costs[1]} in pools of one domain and {costs[2]} "
        f"in pools of one text. Training with it drops {percent(arm['drop_rate']['mean'], 1)} of "
        f"the assignments. {freed} By probability a factor of 1 drops "
        f"{percent(sure['dropped_mixed']['mean'], 1)} in pools of all domains. {chosen} {twin}"
    )


def told_worth(recorded: Recorded) -> str:
    """Whether the later tokens help expert choice among neighbours, in a pool as large as ever."""
    causal, narrow = (
        recorded["leaks"][name]["worth_of_later_tokens"] for name in (TOKEN_CHOICE, NARROW)
    )
    same = all(abs(v) < 5e-4 for v in causal["values"])
    name = "expert choice in a pool of 16 without the later tokens"
    return (
        f"Token choice has {'the same' if same else 'another'} loss with and without the later "
        f"tokens. {told_gap(name, 'the same with them', narrow)}{_told_mixture(recorded)}"
    )


def _told_mixture(recorded: Recorded) -> str:
    """What the exchange does besides: the later tokens are those of another kind of text."""
    pools = {name: arm for name, arm in recorded["leaks"].items() if name != TOKEN_CHOICE}
    gaps = {name: arm["worth_of_later_tokens"] for name, arm in pools.items()}
    lower = [name for name, gap in gaps.items() if gap["verdict"] == "lower"]
    if not lower or NARROW in lower:
        return ""
    most = max(-gaps[name]["mean"] for name in lower)
    return (
        f" With {len(lower)} of the {len(gaps)} pools the loss is lower without them, by up to "
        f"{most:.3f}. That the exchange also mixes two kinds of text in a pool may be why."
    )


def told_signature(recorded: Recorded) -> str:
    """What training on neighbours gains over the same pool shuffled, beside the published size."""
    gap = recorded["signature"]["pool of 16"]
    share = gap["mean"] / _training(recorded)["mean"]
    words = told_gap("training in a pool of 16 in order", "the same pool shuffled", gap)
    return f"{words} That is {percent(share, 1, sign='+z')} of the loss; {PUBLISHED}."
