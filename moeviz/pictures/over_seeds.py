"""Figures over seeds, as experiments record them: in words, and as rows of dots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moeviz.pictures.axes import Scale, padded
from moeviz.pictures.plot import Key, mark
from moeviz.pictures.svg import INK, Svg
from moeviz.records.compare import Gap

Figure = dict[str, Any]  # mean, sd (None for one seed), values


def _sd(figure: Figure) -> float:
    return figure["sd"] or 0.0


def mean_sd(figure: Figure, decimals: int, sign: str = "") -> str:
    """ "1.23 ± 0.04", or the mean alone where there is one seed; no minus before 0."""
    text = f"{figure['mean']:{sign}z.{decimals}f}"
    return text if figure["sd"] is None else f"{text} ± {figure['sd']:.{decimals}f}"


def gap_words(gap: Gap, unit: str = "nats per token") -> str:
    """ "0.048 nats per token lower (95 % interval -0.065 to -0.031, 5 seeds)"."""
    way = "lower" if gap.mean < 0 else "higher"
    return f"{abs(gap.mean):.3f} {unit} {way} ({interval_words(gap)}, {len(gap.values)} seeds)"


def interval_words(gap: Gap) -> str:
    """ "95 % interval -0.065 to -0.031"; one seed has none."""
    if len(gap.values) == 1:
        return "one seed, so no interval"
    return f"95 % interval {gap.low:+z.3f} to {gap.high:+z.3f}"


def dots(svg: Svg, x: Scale, y: float, figure: Figure, colour: str, shape: str = "circle") -> None:
    """A figure over seeds: a tick a seed, one standard deviation as a bar, a mark at the mean."""
    ends = [figure["mean"] + s * _sd(figure) for s in (-1, 1)]
    _over_seeds(svg, x, y, figure, ends, colour, shape)


def _over_seeds(
    svg: Svg, x: Scale, y: float, figure: Figure, ends: list[float], colour: str, shape: str
) -> None:
    low, high = (min(max(x(end), x.start), x.end) for end in ends)
    svg.rect(low, y - 6, high - low, 12, colour, opacity=0.3)
    for value in figure["values"]:
        svg.line(x(value), y - 6, x(value), y + 6, stroke=colour, width=1.5)
    mark(svg, shape, x(figure["mean"]), y, colour, stroke=INK)


def recorded_gap(figure: Figure, values: Sequence[float] | None = None) -> Gap:
    """A recorded difference as it was recorded. To compute it once more from its seeds, whose last
    digit is rounded too, would tell another last digit than the tables do."""
    ends = (figure["low"], figure["high"])
    low, high = (-math.inf, math.inf) if ends[0] is None else ends
    each = tuple(figure["values"] if values is None else values)
    return Gap(figure["mean"], low, high, figure["p"], each)


# Paired differences with a verdict, as experiments.recording.judged writes them: a Figure with
# "low" and "high" of the 95 % interval (None for one seed), and the "verdict".

VERDICTS = {
    "lower": ("#0072b2", "circle"), "higher": ("#d55e00", "square"), "open": ("#6e6e6e", "ring"),
}  # fmt: skip


def verdict_keys() -> list[Key]:
    """What the marks of `gap_dots` mean."""
    return [Key(verdict, colour, mark=m, width=0) for verdict, (colour, m) in VERDICTS.items()]


def gap_dots(svg: Svg, x: Scale, y: float, gap: Figure) -> None:
    """A paired difference: a tick a seed, the 95 % interval as a bar, the verdict as the mark."""
    _over_seeds(svg, x, y, gap, _interval(gap) or [gap["mean"]] * 2, *VERDICTS[gap["verdict"]])


def gap_scale(gaps: Iterable[Figure], start: float, end: float, *others: float) -> Scale:
    """Holds all that is drawn of such differences, 0, and other values."""
    drawn = (v for gap in gaps for v in (*gap["values"], *_interval(gap)))
    return Scale(*padded([0.0, *others, *drawn]), start, end)


def gap_cell(gap: Figure) -> str:
    """ "-0.026 (-0.041 to -0.011), lower": mean, interval and verdict."""
    ends = " to ".join(f"{end:+z.3f}" for end in _interval(gap)) or "one seed"
    return f"{gap['mean']:+z.3f} ({ends}), {gap['verdict']}"


def told_gap(name: str, base: str, gap: Figure) -> str:
    """One sentence on a loss beside another: how far below or above, or that it is open."""
    ends = " to ".join(f"{end:+z.3f}" for end in _interval(gap))
    if not ends:
        return f"Whether {name} differs from {base} is open: only one seed is recorded."
    if gap["verdict"] == "open":
        size = f"{gap['mean']:+z.3f} nats per token (95 % interval {ends})"
        return f"Whether {name} differs from {base} is open{_why(gap)}: the difference is {size}."
    way = "below" if gap["verdict"] == "lower" else "above"
    size = f"{abs(gap['mean']):.3f} nats per token {way} {base}"
    return f"{name[0].upper()}{name[1:]} ends {size} (95 % interval {ends})."


def told_briefly(name: str, base: str, gap: Figure) -> str:
    """As told_gap, without the interval, which stands in the table and under a hand."""
    if gap["low"] is None or gap["verdict"] == "open":
        size = f"the difference is {gap['mean']:+z.3f} nats per token"
        return f"Whether {name} differs from {base} is open{_why(gap)}: {size}."
    way = "below" if gap["verdict"] == "lower" else "above"
    size = f"{abs(gap['mean']):.3f} nats per token {way} {base}"
    return f"{name[0].upper()}{name[1:]} ends {size}."


def _why(gap: Figure) -> str:
    """An interval is not corrected, and may leave out zero where the verdict is open."""
    beyond = gap["low"] is not None and gap["low"] * gap["high"] > 0
    return " for so many comparisons" if beyond else ""


def _interval(gap: Figure) -> list[float]:
    return [] if gap["low"] is None else [gap["low"], gap["high"]]


def rate_words(rates: Mapping[str, Figure], of: str = "") -> str:
    """The learning rate of each name, and which of them are an end of what was tried. rates: by
    name, what experiments.routers_compared.best_rate found; of: what they are of, in words."""
    each = ", ".join(f"{name} {found['chosen']:g}" for name, found in rates.items())
    edges = ", ".join(name for name, found in rates.items() if found["at_edge"])
    last = "None of them is the lowest or the highest that was tried."
    if edges:
        last = (
            f"The lowest or highest that was tried, so that a better one may lie beyond: {edges}."
        )
    return f"Learning rates{of}: {each}. {last}"


def about(recorded: dict[str, Any], figure: Figure) -> str:
    """Of how many seeds and steps a recorded experiment is, where, when and on which text it
    ran."""
    seeds = len(figure["values"])
    count = "1 seed" if seeds == 1 else f"{seeds} seeds"
    return " · ".join([count, f"{recorded['steps']:,} steps", *ran_on(recorded["provenance"])])


def ran_on(made: dict[str, Any]) -> list[str]:
    """The device, the date, and the fingerprint of the text, as far as they are known."""
    text = f"text {made['text']}" if "text" in made else None
    return [words for words in (made.get("device"), made.get("date"), text) if words]
