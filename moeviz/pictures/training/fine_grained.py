"""What finer and shared experts are worth: every recorded difference, at two lengths.

runs/fine_grained.json, which moeviz/experiments/fine_grained.py describes.
"""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import x_axis
from moeviz.pictures.over_seeds import (
    gap_cell,
    gap_dots,
    gap_scale,
    told_gap,
    verdict_keys,
)
from moeviz.pictures.plot import heading, legend, row
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.arms import (
    DENSE_ALL,
    FAIR,
    LONG,
    counted,
    lies,
    minus_dense,
    origin,
    seeds_words,
)
from moeviz.words import percent

Recorded = dict[str, Any]
Ends = tuple[float | None, float | None]
WIDTH, LEFT, RIGHT, TOP, ROW = 560.0, 214.0, 546.0, 66.0, 22.0
COLUMNS = ("arm", "minus", "steps", "difference (nats per token)", "mean loss")
LENGTHS = (FAIR, LONG)


def arm_of(split: int, shared: int) -> str:
    """The name of an arm in the recording."""
    return f"split {split}" + (f", {shared} shared" if shared else "")


def words_of(arm: str) -> str:
    """ "split 4, 1 shared" as it is shown: "m = 4, 1 shared"."""
    return arm.replace("split ", "m = ")


def tables_of(recorded: Recorded) -> list[Recorded]:
    """The tables of the lengths that are recorded, the shorter first."""
    return [recorded["settings"][name] for name in LENGTHS if name in recorded["settings"]]


def fine_grained(recorded: Recorded) -> Picture:
    """A row for each pair and length: a tick a seed, the 95 % interval, the verdict as the mark."""
    tables = tables_of(recorded)
    pairs = [*tables[-1]["pairs"]]
    told = f"{told_splitting(recorded)} {told_sharing(recorded)}"
    height = TOP + len(pairs) * (len(tables) * ROW + 26) + 90
    svg = Svg(WIDTH, height, "Finer and shared experts", told)
    seeds = seeds_words(len(tables[-1]["seeds"]))
    heading(svg, "Are finer and shared experts better?", origin(recorded, f"fair scale, {seeds}"))
    gaps = [table["pairs"][arm] for table in tables for arm in pairs if arm in table["pairs"]]
    x, y, rows = gap_scale(gaps, LEFT, RIGHT), TOP, []
    for arm in pairs:
        base = tables[-1]["pairs"][arm]["base"]
        svg.text(0, y + 4, f"{words_of(arm)} minus {words_of(base)}", bold=True)
        for table in tables:
            gap = table["pairs"].get(arm)
            if gap is None:
                continue
            label = f"{table['steps']:,} steps"
            tip = f"{words_of(arm)} minus {words_of(base)}, {label}: {gap_cell(gap)}"
            with row(svg, y + ROW, ROW, arm, gap["verdict"], tip=tip):
                svg.text(LEFT - 10, y + ROW + 4, label, anchor="end", fill=MUTED)
                gap_dots(svg, x, y + ROW, gap)
            loss = table["arms"][arm]["loss"]["mean"]
            rows.append(
                (words_of(arm), words_of(base), f"{table['steps']:,}", gap_cell(gap), f"{loss:.3f}")
            )
            y += ROW
        y += 26
    svg.line(x(0), TOP, x(0), y + 8, stroke=INK)
    x_axis(svg, x, y + 8, "difference of the loss (nats per token): left is better")
    legend(svg, 0, y + 62, verdict_keys(), across=92)
    note = f"verdicts: Holm's correction, {len(pairs)} comparisons each"
    svg.text(0, y + 82, note, fill=MUTED)
    return svg.picture(COLUMNS, rows)


# Sentences.


def told_splitting(recorded: Recorded) -> str:
    """Of every length, how many kinds of finer experts differ from the coarse ones, and the finest
    in figures."""
    return " ".join(_told(table, shared=False) for table in tables_of(recorded))


def told_sharing(recorded: Recorded) -> str:
    """The same of shared experts, beside as fine ones without."""
    return " ".join(_told(table, shared=True) for table in tables_of(recorded))


def _told(table: Recorded, *, shared: bool) -> str:
    pairs = {arm: gap for arm, gap in table["pairs"].items() if ("shared" in arm) == shared}
    what = "with shared experts" if shared else "of split experts"
    start = f"After {table['steps']:,} steps:"
    if not pairs:
        return f"{start} nothing is recorded."
    lower, higher = (
        sum(gap["verdict"] == verdict for gap in pairs.values()) for verdict in ("lower", "higher")
    )
    arm = max(pairs, key=lambda name: abs(pairs[name]["mean"]))
    return (
        f"{start} a lower loss {what} is shown for {counted(lower, len(pairs))}, a higher one for "
        f"{counted(higher)}. {told_pair(arm, pairs[arm])}"
    )


def told_pair(arm: str, gap: Recorded) -> str:
    """One sentence on the loss of an arm beside that of its base."""
    return told_gap(f"the loss of {words_of(arm)}", f"that of {words_of(gap['base'])}", gap)


def told_size(recorded: Recorded) -> str:
    """Whether more parameters help at all: the dense model with all of them at work, beside the
    twin."""
    helps = {
        "lower": "more parameters at work help",
        "higher": "more parameters at work harm",
        "open": "that more parameters at work help is not shown",
    }
    sentences = []
    for table in tables_of(recorded):
        one = minus_dense(table, DENSE_ALL)
        sentences.append(
            f"After {table['steps']:,} steps {helps[one.verdict]}: the loss of the dense model "
            f"with all of them is {lies(one)}."
        )
    return " ".join(sentences)


def told_multipliers(recorded: Recorded) -> str:
    """Both multipliers of every kind of experts without shared ones, at the longest length, a line
    each, and how many intervals lie above or below 1."""
    table = tables_of(recorded)[-1]
    lines = [
        f"After {table['steps']:,} steps the dense twin needs this many times the arm's own "
        "spending for the same loss; in brackets the 95 % interval of the loss, not corrected for "
        "several arms:"
    ]
    ends_of: dict[str, list[Ends]] = {"FLOPs": [], "the clock": []}
    for arm, figures in sorted(table["arms"].items()):
        if not arm.startswith("split") or "shared" in arm:
            continue
        found, cells = figures["multipliers"], []
        for measure, ratio in zip(ends_of, (found["compute"], found["wall_clock"]), strict=True):
            if ratio is not None:
                # All of an interval is of the loss: on both measures it reaches equally far.
                low, high = (end and end * ratio / found["compute"] for end in found["interval"])
                ends_of[measure].append((low, high))
                cells.append(f"{ratio:.2f} by {measure} ({ends_words(low, high)})")
        lines.append(f"{words_of(arm)}: {', '.join(cells) or found['why']}")
    for measure, ends in ends_of.items():
        saved = sum(low is not None and low > 1 for low, _ in ends)
        lost = sum(high is not None and high < 1 for _, high in ends)
        lines.append(
            f"By {measure} the interval lies above 1 for {counted(saved, len(ends))}, and below 1 "
            f"for {counted(lost)}."
            if ends
            else "The steps are not timed yet."
        )
    return "\n".join(lines)


def ends_words(low: float | None, high: float | None) -> str:
    """An interval of multipliers, open where the twin was never seen at such a loss."""
    if low is None:
        return "no interval" if high is None else f"up to {high:.2f}"
    return f"{low:.2f} upwards" if high is None else f"{low:.2f} to {high:.2f}"


def told_router(recorded: Recorded) -> str:
    """How much of the layer the router takes, from coarse to fine."""
    arms = {n: f for n, f in recorded["arms"].items() if f.get("shared") == 0}
    shares = [f"{percent(f['router_flops'], 1)} ({words_of(n)})" for n, f in sorted(arms.items())]
    return f"The router's share of the layer's FLOPs: {', '.join(shares)}."


def told_rate(recorded: Recorded) -> str:
    """Whether the rate of all arms also suits the finest one."""
    finest, rate = recorded["finest"], recorded["rate"]
    if finest["chosen"] == rate:
        tried = ", ".join(f"{each:g}" for each in finest["grid"])
        return f"Of the rates {tried} the finest experts too do best at that of all arms, {rate:g}."
    return (
        f"The finest experts do best at the rate {finest['chosen']:g} and were trained at "
        f"{rate:g}, as all arms were: their loss may be a little too high."
    )
