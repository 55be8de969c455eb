"""What pictures of recorded routers share: arms, settings, and a difference as a row and in words.

They draw `data/runs/routers.json`, which moeviz/experiments/routers_trained.py describes. A
recording grows: a setting or seeds may still be missing, and every picture tells which it has.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from moeviz.pictures.axes import Scale, padded
from moeviz.pictures.over_seeds import interval_words, ran_on, recorded_gap
from moeviz.pictures.plot import Key, legend, mark
from moeviz.pictures.svg import MUTED, Svg
from moeviz.records.compare import Gap, compare, verdicts

Recorded = dict[str, Any]
Name = TypeVar("Name", bound=Hashable)

FAIR, WRITTEN, LONG = "fair 300", "as written 300", "fair 1200"
DENSE, DENSE_ALL = "dense", "dense, all parameters"
MIXTRAL, OLMOE = "token choice, renormalised (Mixtral)", "token choice, raw (OLMoE)"
# What a learner sees before all arms. They were chosen by kind, not by loss: no routing, the
# commonest router with its two ways to weigh, no learning, and experts that choose.
FIVE = (DENSE, MIXTRAL, OLMOE, "hash, random", "expert choice")

# How a verdict is drawn: by its word, a shape and a colour.
LOOKS = {
    "lower": Key("lower", "#0072b2", mark="circle", width=0),
    "higher": Key("higher", "#d55e00", mark="square", width=0),
    "open": Key("open", "#6e6e6e", mark="ring", width=0),
}
NAMED = {verdict: verdict for verdict in LOOKS}


@dataclass(frozen=True)
class Judged:
    """A paired difference of losses, and what its whole table says of it: "lower", "higher" or
    "open"."""

    gap: Gap
    verdict: str


def table_of(recorded: Recorded, setting: str) -> Recorded:
    """One setting's table; ValueError where it is not recorded yet."""
    tables: Recorded = recorded["settings"]
    if setting not in tables:
        raise ValueError(
            f"{setting!r} is not recorded: there is {' and '.join(map(repr, tables)) or 'nothing'}."
            " 'python -m moeviz experiment routers' goes on with the rest."
        )
    table: Recorded = tables[setting]
    return table


def losses(table: Recorded, arm: str) -> list[float]:
    """An arm's loss, by seed."""
    values: list[float] = table["arms"][arm]["loss"]["values"]
    return values


def minus_dense(table: Recorded, arm: str) -> Judged:
    """An arm's loss minus the dense twin's, with the verdict of its recorded table."""
    figure = table["arms"][arm]["minus_dense"]
    gap = compare(losses(table, arm), losses(table, DENSE))
    return Judged(recorded_gap(figure, gap.values), figure["verdict"])


def judged(pairs: Mapping[Name, tuple[Sequence[float], Sequence[float]]]) -> dict[Name, Judged]:
    """The first of two minus the second for each name, judged as one table. Where one has more
    seeds, the seeds that both have count."""
    gaps = {}
    for name, (first, second) in pairs.items():
        seeds = min(len(first), len(second))
        gaps[name] = compare(first[:seeds], second[:seeds])
    found = verdicts(gaps)
    return {name: Judged(gap, found[name]) for name, gap in gaps.items()}


def sparse(table: Recorded) -> list[str]:
    """The arms of a table that have a router."""
    return [arm for arm in table["arms"] if arm not in (DENSE, DENSE_ALL)]


# Words.


def setting_words(table: Recorded) -> str:
    """ "fair scale, 300 steps, 5 seeds"."""
    scale = "fair scale" if table["scale"] == "fair" else table["scale"]
    return f"{scale}, {table['steps']:,} steps, {seeds_words(len(table['seeds']))}"


def counted(number: int, of: int | None = None) -> str:
    """ "3 of 31", "none of 31", "3" or "none"."""
    return " of ".join([f"{number}" if number else "none", *([] if of is None else [f"{of}"])])


def seeds_words(count: int) -> str:
    return f"{count} {'seed' if count == 1 else 'seeds'}"


def origin(recorded: Mapping[str, Any], words: str) -> str:
    """The line above a picture: these words, where, when and on which text it was recorded."""
    return " · ".join(filter(None, (words, *ran_on(recorded["provenance"]))))


def sentence_case(words: str) -> str:
    return words[:1].upper() + words[1:]


def lies(one: Judged, than: str = "the dense twin's") -> str:
    """ "0.048 nats per token lower than the dense twin's (95 % interval -0.065 to -0.031)", and
    whether that is open."""
    gap = one.gap
    way = "lower" if gap.mean < 0 else "higher"
    words = f"{abs(gap.mean):.3f} nats per token {way} than {than} ({interval_words(gap)})"
    return f"{words}, which is open among so many comparisons" if one.verdict == "open" else words


def seen(facts: Recorded) -> str:
    """When a router sees later tokens: "no", "train" (in training alone) or "always"."""
    if facts.get("causal", True):
        return "no"
    return "train" if facts["substitute"] else "always"


# Rows.


def drawn(gaps: Iterable[Gap]) -> list[float]:
    """All that rows of these show. An interval over two seeds is too wide for any axis: it goes on
    beyond the ends."""
    values: list[float] = []
    for gap in gaps:
        values += gap.values
        values += [gap.low, gap.high] if len(gap.values) > 2 else []
    return values


def axis(values: Iterable[float], ends: tuple[float, float]) -> Scale:
    """A scale for differences, 0 among them."""
    return Scale(*padded([0.0, *values], 0.05), *ends)


def gap_row(svg: Svg, x: Scale, y: float, one: Judged) -> None:
    """A tick a seed, the 95 % interval as a line, a mark at the mean by the verdict. A mean beyond
    the axis is an arrow with its number."""
    look = LOOKS[one.verdict]
    if not x.low <= one.gap.mean <= x.high:
        _arrow(svg, x, y, one.gap.mean, look.colour)
        return
    if math.isfinite(one.gap.low):
        low, high = (min(max(x(v), x.start), x.end) for v in (one.gap.low, one.gap.high))
        svg.line(low, y, high, y, stroke=look.colour, width=2.5)
    for value in one.gap.values:
        svg.line(x(value), y - 6, x(value), y + 6, stroke=look.colour, width=1.2)
    mark(svg, look.mark, x(one.gap.mean), y, look.colour, 4.5)


def _arrow(svg: Svg, x: Scale, y: float, mean: float, colour: str) -> None:
    end, out = (x.end, 1) if mean > x.high else (x.start, -1)
    svg.polygon([(end, y), (end - 9 * out, y - 5), (end - 9 * out, y + 5)], fill=colour)
    anchor = "end" if out > 0 else "start"
    svg.text(end - 14 * out, y + 4, f"{mean:+.3f}", anchor=anchor, halo=True)


def gap_tip(name: str, one: Judged) -> str:
    """ "hash: -0.048 nats per token (95 % interval -0.065 to -0.031), lower"."""
    return f"{name}: {one.gap.mean:+z.3f} nats per token ({interval_words(one.gap)}), {one.verdict}"


def verdict_legend(svg: Svg, y: float, compared: int, words: Mapping[str, str] = NAMED) -> None:
    """How to read rows of differences, over how many of them the verdicts hold, in two lines. A
    verdict lights the rows of its kin."""
    keys = [replace(key, name=words[verdict]) for verdict, key in LOOKS.items()]
    legend(svg, 2, y, keys, fill=MUTED, across=92, kin=True)
    svg.text(278, y, "tick: a seed · line: 95 % interval", fill=MUTED)
    svg.text(2, y + 20, f"verdicts after Holm's correction for {compared} comparisons", fill=MUTED)
