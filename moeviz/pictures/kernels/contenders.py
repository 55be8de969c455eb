"""Ways to run the same experts, by time: forward, and forward with backward."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from moeviz.checks import check_choice
from moeviz.pictures.axes import LogScale, x_axis
from moeviz.pictures.kernels.layer_names import CONTENDERS, sizes_of
from moeviz.pictures.plot import heading, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, SMALLEST, Picture, Svg, text_width, three

WIDTH, SIDE = 560.0, 380.0
LEFT, RIGHT, TOP, ROW = 12.0, 420.0, 144.0, 46.0
LAYER = 42.0  # the height of a row in the list of layers
FASTEST = "the fastest that routes"
DENSE = "dense, equal active FLOPs"  # what experts are compared with, where it was timed
FASTER, SLOWER = "#009e73", "#d55e00"
TICKS = tuple(m * 10.0**power for power in range(-3, 5) for m in (1, 2, 5))
QUARTILES = ("median", "q1", "q3")
SERIES = {
    "forward_ms": "forward",
    "both_ms": "forward + backward",
}
COLUMNS = ("contender", *(f"{key}, ms: {q}" for key in SERIES.values() for q in QUARTILES))


Case = dict[str, Any]


def contenders(
    cases: Mapping[str, Case | None], title: str, *, where: str, against: str = DENSE,
    timed: str = "both_ms",
) -> Picture:  # fmt: skip
    """One case of a machine's contest, as benchmarks and experiments.contest write it: the fastest
    first, on a logarithmic scale, and a line at the time of the contender `against`, a press on
    which chooses it; how many times as long each takes. timed: of SERIES, what is shown.

    None: it is not measured yet. Beside it all cases by their titles, each of which a press
    chooses."""
    check_choice("timed", timed, SERIES)
    case = cases[title]
    if case is None:
        summary = f"Nothing is measured on {where} yet."
        svg = Svg(WIDTH, TOP, "Contenders", summary)
        heading(svg, summary, "Press Run: each contender takes its turn, round by round.")
        _layers(svg, cases, title, timed)
        return svg.picture(COLUMNS, ())
    ran = {n: c for n, c in case["contenders"].items() if "forward_ms" in c}
    left_out = {n: c for n, c in case["contenders"].items() if "forward_ms" not in c}
    shown = sorted((n for n in ran if timed in ran[n]), key=lambda n: _median(ran[n], timed))
    base = against if against in shown else _fastest(ran, timed)
    summary = _summary(ran, base, timed)
    reasons = [*_forward_only(ran, timed), *_reasons(left_out)]
    bottom = TOP + len(shown) * ROW
    svg = Svg(WIDTH, bottom + 70 + 18 * len(reasons), "Contenders", summary)
    heading(svg, "Which way to run the experts is the fastest?")
    svg.text(0, 38, _outcome(ran, base, timed), bold=True)
    svg.text(0, 57, f"{title} · {where}, {case['dtype']}", fill=MUTED)
    svg.text(0, 75, f"{sizes_of(case['shape'])} · {SERIES[timed]}", fill=MUTED)
    scale = _scale(ran, base, timed)
    ticks = [v for v in TICKS if scale.low <= v <= scale.high]
    x_axis(svg, scale, bottom, "times as long (logarithmic)", top=TOP - 14, ticks=ticks,
           form=lambda v: f"{v:g}×")  # fmt: skip
    for i, name in enumerate(shown):
        _contender(svg, TOP + i * ROW, name, ran, base, scale, timed)
    if base:
        _divider(svg, scale(1), base, bottom)
    words = "bar: the median of all rounds · on its end: their middle half · press a row to compare"
    paragraph(svg, 0, bottom + 56, [words, *reasons], fill=MUTED)
    _layers(svg, cases, title, timed)
    return svg.picture(COLUMNS, _table(case))


def _median(times: Case, timed: str) -> float:
    return float(times[timed]["median"])


def _contender(
    svg: Svg, y: float, name: str, ran: Case, base: str | None, x: LogScale, timed: str
) -> None:
    """One way to run the experts: a bar from the line to how many times as long it takes, and on
    its end what the middle half of the rounds took."""
    unit = _median(ran[base or name], timed)
    median, q1, q3 = (ran[name][timed][q] / unit for q in QUARTILES)
    with svg.thing(name, tip=_tip(name, ran), press={"against": name}):
        edge = INK if name == base else "transparent"
        svg.rect(1, y - 12, WIDTH - 2, ROW - 4, "none", stroke=edge, radius=6)
        svg.text(LEFT, y + 4, name, size=13, halo=True, bold=name == base)
        words = CONTENDERS.get(name, "")
        svg.text(LEFT + text_width(name, 13) + 20, y + 4, words, fill=MUTED, halo=True)
        if name != base:
            left, right = sorted((x(1), x(median)))
            svg.rect(left, y + 11, right - left, 16, FASTER if median < 1 else SLOWER)
        svg.line(x(q1), y + 19, x(q3), y + 19, stroke=INK, width=2)
        for end in (q1, q3):
            svg.line(x(end), y + 13, x(end), y + 25, stroke=INK, width=2)
        ratio = " = 1×" if name == base else f" · {three(median)}×"
        svg.text(RIGHT + 16, y + 23, _ms(unit * median) + ratio, bold=name == base)


def _divider(svg: Svg, at: float, base: str, bottom: float) -> None:
    """A line at what the others are compared with."""
    words = f"{base} = 1×"
    half = 0.5 * text_width(words, SMALLEST)
    middle = min(max(at, half), WIDTH - half)
    svg.text(middle, TOP - 44, words, anchor="middle", bold=True)
    svg.text(at - 8, TOP - 24, "◀ faster", anchor="end")
    svg.text(at + 8, TOP - 24, "slower ▶")
    svg.line(at, TOP - 36, at, TOP - 16, stroke=INK, width=2)
    for y in np.arange(TOP, bottom, ROW):  # beside the bars, and not through the words
        svg.line(at, y + 8, at, y + 30, stroke=INK, width=2)


def _forward_only(ran: Case, timed: str) -> list[str]:
    """Those that ran but have no time to show."""
    names = [name for name, times in ran.items() if timed not in times]
    return [f"{', '.join(names)}: timed forward only"[:80]] if names else []


def _reasons(left_out: dict[str, Case]) -> list[str]:
    """Why these did not run, those of one reason together."""
    names: dict[str, list[str]] = {}
    for name, entry in left_out.items():
        names.setdefault(_reason(entry), []).append(name)
    told = (f"{', '.join(of)}: {reason}"[:240] for reason, of in names.items())
    return [line for words in told for line in textwrap.wrap(words, 84)]


def _reason(entry: Case) -> str:
    reason = entry.get("not_run") or entry.get("failed") or "not measured"
    if reason.endswith("was used up"):  # a benchmark's words, of its budget of seconds
        return "not timed, for the time to measure was over before their turn"
    return "not run, " + re.sub(r"([\d,.]+) GB", _in_words, reason)


def _in_words(size: re.Match[str]) -> str:
    """A size of the benchmark, which says all in GB."""
    gigabytes = float(size[1].replace(",", ""))
    if gigabytes < 1000:
        return f"{three(gigabytes)} gigabytes"
    return f"{three(gigabytes / 1000)} terabytes"


def _layers(svg: Svg, cases: Mapping[str, Case | None], chosen: str, timed: str) -> None:
    """The layers of this machine, each with its fastest contender that routes."""
    if len(cases) < 2:
        return
    side = svg.beside(SIDE, 52 + LAYER * len(cases))
    heading(side, "Other layers timed here", f"with {FASTEST} · press one")
    for i, (title, case) in enumerate(cases.items()):
        y, words = 50 + i * LAYER, _first(case, timed)
        ink, muted, fill = (INK, MUTED, "none")
        if title == chosen:
            ink, muted, fill = ("#ffffff", "#ffffff", "#0072b2")
        # Without kin: the chart of the row's own layer stays as dark as it is.
        with side.thing(tip=f"{title}: {words}", press={"case": title}):
            side.rect(1, y, SIDE - 2, LAYER - 4, fill, stroke=RULE, radius=4)
            side.text(8, y + 15, title, fill=ink, bold=title == chosen)
            side.text(8, y + 32, words, fill=muted)


def _fastest(ran: Case, timed: str) -> str | None:
    """Of those that route; None where none ran."""
    names = [n for n, times in ran.items() if timed in times and not n.startswith("dense")]
    return min(names, key=lambda name: _median(ran[name], timed), default=None)


def _first(case: Case | None, timed: str) -> str:
    """Who is first, and how fast."""
    if case is None:
        return "not measured yet"
    name = _fastest(case["contenders"], timed)
    return f"{name}, {_ms(_median(case['contenders'][name], timed))}" if name else "none ran"


def _tip(name: str, timed: dict[str, Any]) -> str:
    """A contender's medians, and how far behind the fastest each is."""
    parts = []
    for kind, key in SERIES.items():
        if kind in timed[name]:
            median = timed[name][kind]["median"]
            best = min(times[kind]["median"] for times in timed.values() if kind in times)
            behind = f"{median / best:.2f} times the fastest" if median > best else "the fastest"
            parts.append(f"{key} {_ms(median)}, {behind}")
    return f"{name}: {'; '.join(parts)}"


def _outcome(ran: Case, base: str | None, timed: str) -> str:
    first = _fastest(ran, timed)
    if first is None:
        return "None that routes was timed so."
    median, words = _median(ran[first], timed), ""
    if base == DENSE:  # others have long names, and their ratios stand at the bars
        words = f", {three(median / _median(ran[base], timed))}× dense"
    return f"Fastest that routes: {first}, {_ms(median)}{words}."


def _summary(ran: Case, base: str | None, timed: str) -> str:
    """Who is the fastest that routes, how it stands to the base, and the slowest to it."""
    times = {n: _median(c, timed) for n, c in ran.items() if timed in c}
    first = _fastest(ran, timed)
    if first is None or len(times) < 2:
        return "Too few contenders ran to compare them."
    what = SERIES[timed].capitalize().replace("+", "and")
    sentences = [f"{what}: {FASTEST} is {first}, {_ms(times[first])}."]
    last = max(times, key=lambda name: times[name])
    if base and times[base] < times[first]:
        sentences.append(f"That is {three(times[first] / times[base])} times as long as {base}.")
    elif base not in (None, first, last):
        sentences.append(f"{base} takes {three(times[base] / times[first])} times as long.")
    if last != first:
        sentences.append(f"{last} takes {times[last] / times[first]:.1f} times as long as {first}.")
    return " ".join(sentences)


def _ms(value: float) -> str:
    return f"{three(value)} ms" if value < 1000 else f"{three(value / 1000)} s"


def _scale(ran: Case, base: str | None, timed: str) -> LogScale:
    """How many times as long as the base; on its left there is room for a word."""
    unit = _median(ran[base], timed) if base else 1.0
    spreads = [times[timed] for times in ran.values() if timed in times]
    ratios = [spread[q] / unit for spread in spreads for q in QUARTILES if spread[q] > 0] or [1.0]
    high = 1.2 * max(2.0, *ratios)
    return LogScale(min(high**-0.2, *ratios), high, LEFT + 4, RIGHT)


def _table(case: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, entry in case["contenders"].items():
        spreads = [entry.get(kind, {}) for kind in SERIES]
        cells = [f"{spread[q]:.3f}" if spread else "" for spread in spreads for q in QUARTILES]
        if "forward_ms" not in entry:
            cells[0] = _reason(entry)
        yield name, *cells
