"""Ways to run the same experts, by time: forward, and forward with backward."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from moeviz.pictures.axes import LogScale, decades, short, x_axis
from moeviz.pictures.plot import Key, heading, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg, si, three

WIDTH, SIDE = 560.0, 380.0
LEFT, RIGHT, TOP, ROW = 8.0, 384.0, 96.0, 68.0
LAYER = 28.0  # the height of a row in the list of layers
QUARTILES = ("median", "q1", "q3")
SERIES = {
    "forward_ms": Key("forward", "#0072b2", mark="circle", width=0),
    "both_ms": Key("forward + backward", "#d55e00", mark="square", width=0),
}
COLUMNS = ("contender", *(f"{key.name}, ms: {q}" for key in SERIES.values() for q in QUARTILES))


Case = dict[str, Any]


def contenders(cases: Mapping[str, Case | None], title: str, *, where: str) -> Picture:
    """One case of a machine's contest, as benchmarks and experiments.contest write it: a mark at
    the median, a bar over the quartiles, on a logarithmic scale. None: it is not measured yet.
    Beside it all cases by their titles, each of which a press chooses."""
    case = cases[title]
    if case is None:
        summary = f"Nothing is measured on {where} yet."
        svg = Svg(WIDTH, TOP, "Contenders", summary)
        heading(svg, summary, "Press Run: each contender takes its turn, round by round.")
        _layers(svg, cases, title)
        return svg.picture(COLUMNS, ())
    timed = {n: c for n, c in case["contenders"].items() if "forward_ms" in c}
    left_out = {n: c for n, c in case["contenders"].items() if "forward_ms" not in c}
    summary = _summary(timed)
    reasons = _reasons(left_out)
    height = TOP + len(timed) * ROW + 50 + 18 * len(reasons)
    svg = Svg(WIDTH, height, "Contenders", summary)
    shape = case["shape"]
    names = {"T": "tokens", "D": "d_model", "F": "d_expert", "E": "num_experts", "K": "top_k"}
    sizes = " · ".join(f"{letter} {shape[name]:,}" for letter, name in names.items())
    note = f"{sizes} · {case['dtype']}, {case['routing']} · mark: median · bar: quartiles"
    heading(svg, f"{where}: {shape['name']}", note)
    legend(svg, 0, 62, SERIES.values())
    scale = _scale(timed)
    bottom = TOP + len(timed) * ROW
    x_axis(svg, scale, bottom, "milliseconds (logarithmic)", top=TOP - 4, form=short)
    for i, (name, times) in enumerate(timed.items()):
        with svg.thing(name, tip=_tip(name, timed)):
            svg.text(LEFT, TOP + i * ROW + 15, name, size=13, halo=True)
            for s, (kind, key) in enumerate(SERIES.items()):
                if kind in times:
                    _time(svg, times[kind], TOP + i * ROW + 30 + 20 * s, key, scale)
    paragraph(svg, 0, bottom + 56, reasons, fill=MUTED)
    _layers(svg, cases, title)
    return svg.picture(COLUMNS, _table(case))


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
    # The benchmark says every size in GB.
    sized = re.sub(r"([\d,.]+) GB", lambda m: si(1e9 * float(m[1].replace(",", "")), "B"), reason)
    return f"not run, {sized}"


def _layers(svg: Svg, cases: Mapping[str, Case | None], chosen: str) -> None:
    """The layers of this machine, each with its fastest contender that routes."""
    if len(cases) < 2:
        return
    side = svg.beside(SIDE, 52 + LAYER * len(cases))
    note = "fastest that routes, forward + backward · press one"
    heading(side, "Every layer of this machine", note)
    for i, (title, case) in enumerate(cases.items()):
        y, fastest = 50 + i * LAYER, _fastest(case)
        ink, fill = ("#ffffff", "#0072b2") if title == chosen else (INK, "none")
        # Without kin: the chart of the row's own layer stays as dark as it is.
        with side.thing(tip=f"{title}: {fastest}", press={"case": title}):
            side.rect(1, y, SIDE - 2, LAYER - 4, fill, stroke=RULE, radius=4)
            side.text(8, y + 16, title, fill=ink, bold=title == chosen)
            side.text(SIDE - 8, y + 16, fastest, anchor="end", fill=ink)


def _fastest(case: Case | None) -> str:
    if case is None:
        return "not measured yet"
    routed = {n: c for n, c in case["contenders"].items() if not n.startswith("dense")}
    times = {n: c["both_ms"]["median"] for n, c in routed.items() if "both_ms" in c}
    if not times:
        return "none ran"
    first = min(times, key=lambda name: times[name])
    return f"{first}, {_ms(times[first])}"


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


def _summary(timed: dict[str, Any]) -> str:
    both = {n: c["both_ms"]["median"] for n, c in timed.items() if "both_ms" in c}
    if len(both) < 2:
        return "Too few contenders ran to compare them."
    order = sorted(both, key=lambda name: both[name])
    first, last = order[0], order[-1]
    return (
        f"Forward and backward: {first} takes {_ms(both[first])}, {last} {_ms(both[last])}, "
        f"{both[last] / both[first]:.1f} times as long."
    )


def _unit(milliseconds: float) -> tuple[str, float]:
    """What to say a time in, and how many milliseconds that is."""
    return ("ms", 1.0) if milliseconds < 1000 else ("s", 1000.0)


def _ms(value: float) -> str:
    unit, one = _unit(value)
    return f"{three(value / one)} {unit}"


def _scale(timed: dict[str, Any]) -> LogScale:
    """Powers of ten around all quartiles."""
    spreads = [times[kind] for times in timed.values() for kind in SERIES if kind in times]
    values = [spread[q] for spread in spreads for q in QUARTILES if spread[q] > 0]
    return LogScale(*decades(values or [1.0, 10.0]), LEFT, RIGHT)


def _time(svg: Svg, spread: dict[str, float], y: float, key: Key, x: LogScale) -> None:
    median, q1, q3 = (x(max(spread[q], x.low)) for q in QUARTILES)
    svg.line(x.start, y, median, y)
    svg.line(q1, y, q3, y, stroke=key.colour, width=5)
    mark(svg, key.mark, median, y, key.colour, 6, stroke=INK)
    unit, one = _unit(spread["median"])
    m, a, b = (three(spread[q] / one) for q in QUARTILES)
    svg.text(RIGHT + 16, y + 4, f"{m} {unit} ({a} to {b})")


def _table(case: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, entry in case["contenders"].items():
        spreads = [entry.get(kind, {}) for kind in SERIES]
        cells = [f"{spread[q]:.3f}" if spread else "" for spread in spreads for q in QUARTILES]
        if "forward_ms" not in entry:
            cells[0] = _reason(entry)
        yield name, *cells
