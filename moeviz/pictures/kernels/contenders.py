"""Ways to run the same experts, by time: forward, and forward with backward."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from moeviz.pictures.axes import LogScale, decades, short, x_axis
from moeviz.pictures.kernels.layer_names import CONTENDERS, sizes_of
from moeviz.pictures.plot import Key, heading, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg, text_width, three

WIDTH, SIDE = 560.0, 380.0
LEFT, RIGHT, TOP, ROW = 12.0, 400.0, 112.0, 66.0
LAYER = 42.0  # the height of a row in the list of layers
FASTEST = "the fastest that routes"
QUARTILES = ("median", "q1", "q3")
SERIES = {
    "forward_ms": Key("forward", "#0072b2", mark="circle", width=0),
    "both_ms": Key("forward + backward", "#d55e00", mark="square", width=0),
}
COLUMNS = ("contender", *(f"{key.name}, ms: {q}" for key in SERIES.values() for q in QUARTILES))


Case = dict[str, Any]


def contenders(
    cases: Mapping[str, Case | None], title: str, *, where: str, against: str = FASTEST
) -> Picture:
    """One case of a machine's contest, as benchmarks and experiments.contest write it: a mark at
    the median, a bar over the quartiles, on a logarithmic scale, and how many times as long it is
    as of the contender `against`, a press on which chooses it. None: it is not measured yet. Beside
    it all cases by their titles, each of which a press chooses."""
    case = cases[title]
    if case is None:
        summary = f"Nothing is measured on {where} yet."
        svg = Svg(WIDTH, TOP, "Contenders", summary)
        heading(svg, summary, "Press Run: each contender takes its turn, round by round.")
        _layers(svg, cases, title)
        return svg.picture(COLUMNS, ())
    timed = {n: c for n, c in case["contenders"].items() if "forward_ms" in c}
    left_out = {n: c for n, c in case["contenders"].items() if "forward_ms" not in c}
    base = against if against in timed else _fastest(timed)
    summary = _summary(timed, base)
    reasons = _reasons(left_out)
    bottom = TOP + len(timed) * ROW
    svg = Svg(WIDTH, bottom + 50 + 18 * len(reasons), "Contenders", summary)
    heading(svg, title, f"{where}, {case['dtype']}: the same experts, timed in turns")
    svg.text(0, 54, f"{sizes_of(case['shape'])} · mark: median, bar: quartiles", fill=MUTED)
    legend(svg, 0, 80, SERIES.values())
    svg.text(WIDTH, 80, "×: times as long as the framed one · press another", anchor="end",
             fill=MUTED)  # fmt: skip
    scale = _scale(timed)
    x_axis(svg, scale, bottom, "milliseconds (logarithmic)", top=TOP - 14, form=short)
    for i, (name, times) in enumerate(timed.items()):
        _contender(svg, TOP + i * ROW, name, timed, times, base, scale)
    paragraph(svg, 0, bottom + 56, reasons, fill=MUTED)
    _layers(svg, cases, title)
    return svg.picture(COLUMNS, _table(case))


def _contender(
    svg: Svg, y: float, name: str, timed: Case, times: Case, base: str | None, scale: LogScale
) -> None:
    """One way to run the experts, with its times."""
    with svg.thing(name, tip=_tip(name, timed), press={"against": name}):
        edge = INK if name == base else "transparent"
        svg.rect(1, y - 12, WIDTH - 2, ROW - 3, "none", stroke=edge, radius=6)
        svg.text(LEFT, y + 4, name, size=13, halo=True, bold=name == base)
        words = CONTENDERS.get(name, "")
        svg.text(LEFT + text_width(name, 13) + 20, y + 4, words, fill=MUTED, halo=True)
        for s, (kind, key) in enumerate(SERIES.items()):
            if kind in times:
                ratio = " = 1×" if name == base else ""
                if base and name != base and kind in timed[base]:
                    ratio = f" · {three(times[kind]['median'] / timed[base][kind]['median'])}×"
                _time(svg, times[kind], y + 19 + 19 * s, key, scale, ratio)


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


def _layers(svg: Svg, cases: Mapping[str, Case | None], chosen: str) -> None:
    """The layers of this machine, each with its fastest contender that routes."""
    if len(cases) < 2:
        return
    side = svg.beside(SIDE, 52 + LAYER * len(cases))
    note = "and the fastest that routes, forward + backward · press one"
    heading(side, "Layers timed here", note)
    for i, (title, case) in enumerate(cases.items()):
        y, words = 50 + i * LAYER, _first(case)
        ink, muted, fill = (INK, MUTED, "none")
        if title == chosen:
            ink, muted, fill = ("#ffffff", "#ffffff", "#0072b2")
        # Without kin: the chart of the row's own layer stays as dark as it is.
        with side.thing(tip=f"{title}: {words}", press={"case": title}):
            side.rect(1, y, SIDE - 2, LAYER - 4, fill, stroke=RULE, radius=4)
            side.text(8, y + 15, title, fill=ink, bold=title == chosen)
            side.text(8, y + 32, words, fill=muted)


def _fastest(timed: Case) -> str | None:
    """Of those that route, forward and backward; None where none ran."""
    times = {
        name: times["both_ms"]["median"]
        for name, times in timed.items()
        if "both_ms" in times and not name.startswith("dense")
    }
    return min(times, key=lambda name: times[name], default=None)


def _first(case: Case | None) -> str:
    """Who is first, and how fast."""
    if case is None:
        return "not measured yet"
    timed = case["contenders"]
    name = _fastest(timed)
    return f"{name}, {_ms(timed[name]['both_ms']['median'])}" if name else "none ran"


def _tip(name: str, timed: dict[str, Any]) -> str:
    """A contender's medians, and how far behind the fastest each is."""
    parts = []
    for kind, key in SERIES.items():
        if kind in timed[name]:
            median = timed[name][kind]["median"]
            best = min(times[kind]["median"] for times in timed.values() if kind in times)
            behind = f"{median / best:.2f} times the fastest" if median > best else "the fastest"
            parts.append(f"{key.name} {_ms(median)}, {behind}")
    return f"{name}: {'; '.join(parts)}"


def _summary(timed: dict[str, Any], base: str | None) -> str:
    """Who is the fastest that routes, and how the others stand to it."""
    both = {n: c["both_ms"]["median"] for n, c in timed.items() if "both_ms" in c}
    first = _fastest(timed)
    if first is None or len(both) < 2:
        return "Too few contenders ran to compare them."
    sentences = [f"Forward and backward: {FASTEST} is {first}, {_ms(both[first])}."]
    last = max(both, key=lambda name: both[name])
    if last != first:
        sentences.append(f"{last} takes {both[last] / both[first]:.1f} times as long.")
    if base in both and base not in (first, last):
        sentences.append(f"{base} takes {both[base] / both[first]:.2f} times as long.")
    return " ".join(sentences)


def _ms(value: float) -> str:
    return f"{three(value)} ms" if value < 1000 else f"{three(value / 1000)} s"


def _scale(timed: dict[str, Any]) -> LogScale:
    """Powers of ten around all quartiles."""
    spreads = [times[kind] for times in timed.values() for kind in SERIES if kind in times]
    values = [spread[q] for spread in spreads for q in QUARTILES if spread[q] > 0]
    return LogScale(*decades(values or [1.0, 10.0]), LEFT, RIGHT)


def _time(svg: Svg, spread: dict[str, float], y: float, key: Key, x: LogScale, ratio: str) -> None:
    median, q1, q3 = (x(max(spread[q], x.low)) for q in QUARTILES)
    svg.line(x.start, y, median, y)
    svg.line(q1, y, q3, y, stroke=key.colour, width=5)
    mark(svg, key.mark, median, y, key.colour, 6, stroke=INK)
    svg.text(RIGHT + 16, y + 4, _ms(spread["median"]) + ratio)


def _table(case: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, entry in case["contenders"].items():
        spreads = [entry.get(kind, {}) for kind in SERIES]
        cells = [f"{spread[q]:.3f}" if spread else "" for spread in spreads for q in QUARTILES]
        if "forward_ms" not in entry:
            cells[0] = _reason(entry)
        yield name, *cells
