"""Trainings recorded on a GPU: held-out loss, balance and speed of every arm.

Every sentence is made from the recorded figures.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from moeviz.pictures.axes import Scale, axes, padded
from moeviz.pictures.colours import OKABE_ITO
from moeviz.pictures.over_seeds import mean_sd
from moeviz.pictures.plot import Key, curve, legend, paragraph, spots
from moeviz.pictures.svg import MUTED, Picture, Svg, si
from moeviz.words import percent

MAIN, SIDE, HEIGHT, TABLE, ROW = 440, 560, 350, 32.0, 24.0
LEFT, RIGHT, UPRIGHT = (60.0, 430.0), (40.0, 420.0), (296.0, 84.0)
LATE = 0.3  # of a run: the steep beginning before it would flatten the rest
LOOKS = tuple(
    zip(
        (OKABE_ITO[i] for i in (4, 5, 2, 0, 6, 1)),
        ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4"),
        ("circle", "square", "diamond", "ring", "cross", "circle"),
        strict=True,
    )
)
# Right edges of the columns of figures and their heads: of two tables, quality and size.
LOSSES = ((330.0, "held-out loss"), (440.0, "minus {}"))
SIZES = (
    (302.0, "parameters"), (372.0, "tokens / s"), (430.0, "of peak"), (510.0, "in effect"),
    (556.0, "dead"),
)  # fmt: skip
COLUMNS = (
    "arm", "runs", "held-out loss", "minus the first arm's", "parameters", "tokens per second",
    "share of the peak", "experts in effect", "dead experts",
)  # fmt: skip


def at_scale(name: str, recorded: dict[str, Any]) -> Picture:
    """A recorded experiment of experiments/gpu_*.py, by its name: held-out loss and experts in
    effect against the tokens seen, a line a run, and a row of figures for each arm."""
    arms, base = recorded["arms"], recorded["base"]
    svg = Svg(MAIN, HEIGHT, TITLES[name], TOLD[name](recorded))
    side = svg.beside(MAIN, HEIGHT)
    paragraph(svg, 0, 16, textwrap.wrap(about(recorded), 62), fill=MUTED)
    keys = {key.name: replace(key, bold=key.name == base) for key in keys_of(recorded)}
    tokens, per_step = recorded["tokens"], recorded["tokens"] / recorded["steps"]
    left, right = (Scale(0, tokens, *ends) for ends in (LEFT, RIGHT))
    late = [v for a in arms.values() for run in a["validation_curve"] for s, v in run
            if s * per_step >= LATE * tokens]  # fmt: skip
    loss, effect = Scale(*padded(late), *UPRIGHT), Scale(0, 1, *UPRIGHT)
    svg.text(LEFT[0], 66, "Held-out loss (nats per token)", size=13, bold=True)
    title = "Experts in effect, share of all, least even layer"
    side.text(RIGHT[0], 66, title, size=13, bold=True)
    for part, x, y in ((svg, left, loss), (side, right, effect)):
        axes(part, x, y, x_label="training tokens", x_form=lambda v: si(v, "") if v else "0")
    for arm, key in keys.items():
        for run in arms[arm]["validation_curve"]:
            shown = [(s * per_step, v) for s, v in run if v <= loss.high]
            with svg.thing(arm):
                places = curve(svg, left, loss, shown, key, marks=3)
            spots(svg, [arm], places, [f"{arm}, {_short(t)} tokens: {v:.3f}" for t, v in shown])
        experts = arms[arm].get("experts")
        for run in arms[arm].get("effective_curve", ()):
            with side.thing(arm):
                curve(side, right, effect, ((s * per_step, v / experts) for s, v in run), key)
    height = TABLE + ROW * len(arms) + 50
    figures = {arm: _figures(arms[arm]) for arm in keys}
    _table(svg.beside(MAIN, height), LOSSES, base, keys, figures)
    _table(svg.beside(SIDE, height), SIZES, base, keys, {a: f[2:] for a, f in figures.items()})
    return svg.picture(COLUMNS, ((n, a["runs"], *_figures(a)) for n, a in arms.items()))


def _table(
    svg: Svg, columns: Sequence[tuple[float, str]], base: str, keys: dict[str, Key],
    figures: dict[str, tuple[str, ...]],
) -> None:  # fmt: skip
    """A row an arm, under these heads."""
    for edge, head in columns:
        svg.text(edge, TABLE - 12, head.format(base), anchor="end", bold=True)
    for i, (arm, key) in enumerate(keys.items()):
        middle = TABLE + (i + 0.5) * ROW
        svg.line(0, middle - 10, svg.width, middle - 10, width=0.5)
        legend(svg, 0, middle + 4, [key], kin=True)
        for (edge, _), text in zip(columns, figures[arm], strict=False):
            svg.text(edge, middle + 4, text, anchor="end")
    if columns == LOSSES:
        notes = (
            "± of a loss: standard deviation over seeds",
            "± of a difference: half its 95 % interval",
        )
        paragraph(svg, 0, TABLE + ROW * len(keys) + 20, notes, fill=MUTED)


def keys_of(recorded: dict[str, Any]) -> list[Key]:
    """How each arm's lines are drawn."""
    return [Key(arm, *look, width=1.8) for arm, look in zip(recorded["arms"], LOOKS, strict=False)]


def about(recorded: dict[str, Any]) -> str:
    """Where and when it ran, and on how much text."""
    made = recorded["provenance"]
    words = [f"recorded on {made['device']}", made["date"], f"commit {made['commit']}"]
    return " · ".join(
        [*words, f"{recorded['steps']:,} steps", f"{_short(recorded['tokens'])} tokens"]
    )


def _figures(arm: dict[str, Any]) -> tuple[str, ...]:
    """The columns at the right; nothing where an arm has none."""
    minus, peak, balance = arm.get("loss_minus_base"), arm.get("of_peak"), least_even(arm)
    return (
        mean_sd(arm["validation_loss"], 3),
        _difference(minus) if minus else "",
        _short(arm["parameters"]),
        _short(arm["tokens_per_second"]["mean"]),
        f"{percent(peak['mean'])}" if peak else "",
        f"{balance[0]:.1f} of {arm['experts']}" if balance else "",
        f"{balance[1]:.1f}" if balance else "",
    )


def least_even(arm: dict[str, Any]) -> tuple[float, float] | None:
    """Experts in effect where they are fewest, and dead ones where they are most: of all layers at
    the end, the mean over the runs. None for a dense arm."""
    if "effective_by_layer" not in arm:
        return None
    effect = [min(run) for run in arm["effective_by_layer"]]
    dead = [max(run) for run in arm["dead_by_layer"]]
    return sum(effect) / len(effect), sum(dead) / len(dead)


def _difference(figure: dict[str, Any]) -> str:
    interval = figure["interval"]
    return f"{figure['mean']:+z.3f}" + (f" ± {interval:.3f}" if interval is not None else "")


# What the recorded runs say, in words.


def told_difference(arm: str, base: str, figure: dict[str, Any]) -> str:
    """One arm's held-out loss beside another's: a difference within its interval is not shown."""
    mean, interval, seeds = figure["mean"], figure["interval"], len(figure["values"])
    if interval is None:
        return f"A difference between {arm} and {base} is not shown (one seed)."
    spread = f"95 % interval {mean - interval:+.3f} to {mean + interval:+.3f}, {seeds} seeds"
    if abs(mean) <= interval:
        return f"A difference between {arm} and {base} is not shown ({spread})."
    below = "below" if mean < 0 else "above"
    return f"{arm} ended {abs(mean):.3f} nats per token {below} {base} ({spread})."


def told_race(recorded: dict[str, Any]) -> str:
    """Who is ahead after equal tokens, and who is faster."""
    words = _setting(recorded), *_differences(recorded), *_speeds(recorded, "MoE")
    return " ".join([*words, *_no_multipliers(recorded, "MoE")])


def _no_multipliers(recorded: dict[str, Any], arm: str) -> Iterator[str]:
    """Runs of one length, whose rate falls to its end, have no point at a loss that they did not
    end with: so much more compute or time is a multiplier that nobody measured."""
    both = [recorded["arms"].get(name) for name in (arm, recorded["base"])]
    if all(both):
        own, base = (one["validation_loss"]["mean"] for one in both if one)
        if own < base:
            yield (
                f"How many times the compute or the time {recorded['base']} needs for the loss of "
                f"{arm} was not measured: it did not reach it."
            )


def told_experts(recorded: dict[str, Any]) -> str:
    """What more experts change in the loss and in the speed."""
    sparse = [name for name in recorded["arms"] if name != recorded["base"]]
    parts = [_setting(recorded)]
    if slope := recorded.get("loss_per_doubling"):
        ends = [slope["mean"] + sign * slope["interval"] for sign in (-1, 1)]
        spread = f"95 % interval of a straight line, {ends[0]:+.3f} to {ends[1]:+.3f}"
        if ends[0] <= 0 <= ends[1]:
            parts.append(f"An effect of more experts on the loss is not shown ({spread}).")
        else:
            way = "lowers" if slope["mean"] < 0 else "raises"
            size = f"{abs(slope['mean']):.3f} nats per token"
            seeds = max(arm["runs"] for arm in recorded["arms"].values())
            luck = "; one seed a size, so luck between seeds is not in it" if seeds == 1 else ""
            parts.append(f"Each doubling of E {way} the held-out loss by {size} ({spread}{luck}).")
    elif sparse:
        parts.append("Too few sizes were trained to tell what more experts change.")
    few = dict.fromkeys([*sparse[:1], *sparse[-1:]])
    return " ".join([*parts, *(words for name in few for words in _speeds(recorded, name))])


def told_collapse(recorded: dict[str, Any]) -> str:
    """Who is left under every cure; and the losses beside that without a cure."""
    parts = [_setting(recorded)]
    for name, arm in recorded["arms"].items():
        if balance := least_even(arm):
            cure = "Without a cure" if name == recorded["base"] else f"Under {name}"
            dead = f"at most {balance[1]:.3g} of {arm['experts']} experts of a layer are dead"
            if balance[1] == 0:
                dead = "no expert is dead"
            parts.append(f"{cure} {dead}, and at least {balance[0]:.1f} are in effect.")
    if not any(arm.get("collapsed", {}).get("mean") for arm in recorded["arms"].values()):
        parts.append("No arm collapsed in this time: that is, no layer lost half of its experts.")
    return " ".join([*parts, *_differences(recorded)])


def _setting(recorded: dict[str, Any]) -> str:
    arms = recorded["arms"].values()
    active = max(arm["active_parameters"] for arm in arms)
    return (
        f"All arms read the same {_short(recorded['tokens'])} tokens, with at most "
        f"{_short(active)} active parameters."
    )


def _short(value: float) -> str:
    return si(value, "").strip()


def _differences(recorded: dict[str, Any]) -> Iterator[str]:
    arms = recorded["arms"]
    found = {name: arm["loss_minus_base"] for name, arm in arms.items() if "loss_minus_base" in arm}
    if found and all(figure["interval"] is None for figure in found.values()):
        yield "With one seed no difference of loss is shown to be more than luck."
        return
    for name, figure in found.items():
        yield told_difference(name, recorded["base"], figure)


def _speeds(recorded: dict[str, Any], arm: str) -> Iterator[str]:
    """How fast an arm reads beside the first one."""
    both = [recorded["arms"].get(name) for name in (arm, recorded["base"])]
    if arm != recorded["base"] and all(both):
        fast, slow = (one["tokens_per_second"]["mean"] for one in both if one)
        yield f"{arm} read {fast / slow:.2f} times the tokens of {recorded['base']} per second."


TOLD = {"gpu_race": told_race, "gpu_experts": told_experts, "gpu_collapse": told_collapse}
TITLES = {
    "gpu_race": "Dense against MoE on a GPU",
    "gpu_experts": "More and more experts on a GPU",
    "gpu_collapse": "Collapse and three cures on a GPU",
}
