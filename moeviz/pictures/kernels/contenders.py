"""Ways to run the same experts, by time: forward, and forward with backward."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.log_axes import LogScale, around
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg, text_width

WIDTH = 900.0
RIGHT, TOP, ROW = 640.0, 96.0, 52.0
# What is timed: name, colour, mark.
SERIES = (("forward_ms", "forward", "#0072b2"), ("both_ms", "forward + backward", "#d55e00"))
COLUMNS = (
    "contender",
    *(f"{name}, ms: {q}" for _, name, _ in SERIES for q in ("median", "q1", "q3")),
)


def contenders(case: dict[str, Any] | None, *, where: str, state: str = "") -> Picture:
    """One case of a contest, as benchmarks and experiments.contest write it: a mark at the median,
    a bar over the quartiles, on a logarithmic scale. case None: nothing is measured yet."""
    if case is None:
        summary = f"Nothing is measured on {where} yet."
        svg = Svg(WIDTH, TOP, "Contenders", summary)
        svg.text(0, 16, summary, size=14, bold=True)
        svg.text(0, 40, "Press Run: each contender takes its turn, round by round.", fill=MUTED)
        return Picture(svg.close(state=state), summary, COLUMNS, ())
    timed = {n: c for n, c in case["contenders"].items() if "forward_ms" in c}
    left_out = {n: c for n, c in case["contenders"].items() if "forward_ms" not in c}
    summary = _summary(timed)
    height = TOP + len(timed) * ROW + 50 + 18 * len(left_out)
    svg = Svg(WIDTH, height, "Contenders", summary)
    shape = case["shape"]
    svg.text(0, 16, f"{where}: {shape['name']}", size=14, bold=True)
    sizes = (
        f"T {shape['tokens']} · D {shape['d_model']} · F {shape['d_expert']} · "
        f"E {shape['num_experts']} · K {shape['top_k']} · {case['dtype']}, {case['routing']}"
    )
    svg.text(0, 36, f"{sizes} · mark: median · bar: quartiles", fill=MUTED)
    _legend(svg)
    scale = _scale(timed)
    bottom = TOP + len(timed) * ROW
    _axis(svg, scale, bottom)
    for i, (name, times) in enumerate(timed.items()):
        y = TOP + i * ROW
        svg.text(scale.start - 12, y + 26, name, anchor="end", size=13)
        for s, (key, _, colour) in enumerate(SERIES):
            if key in times:
                _mark(svg, times[key], y + 14 + 20 * s, s, colour, scale)
    for i, (name, entry) in enumerate(left_out.items()):
        reason = entry.get("not_run") or entry.get("failed") or "not measured"
        svg.text(0, bottom + 56 + 18 * i, f"{name}: not run, {reason}"[:130], fill=MUTED)
    return Picture(svg.close(state=state), summary, COLUMNS, _table(case))


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
    return f"{_short(value / one)} {unit}"


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):g}"


def _scale(timed: dict[str, Any]) -> LogScale:
    """Powers of ten around all quartiles, right of the longest name."""
    values = [c[key][q] for c in timed.values() for key, _, _ in SERIES if key in c for q in c[key]
              if q in ("median", "q1", "q3")]  # fmt: skip
    low, high = around([v for v in values if v > 0] or [1.0, 10.0])
    left = max((text_width(name, 13) + 14 for name in timed), default=0.0)
    return LogScale(low, high, max(left, 180.0), RIGHT)


def _axis(svg: Svg, scale: LogScale, bottom: float) -> None:
    for power in scale.ticks():
        x = scale(power)
        svg.line(x, TOP - 4, x, bottom, stroke=RULE)
        svg.text(x, bottom + 16, f"{power:g}", anchor="middle", fill=MUTED)
        if power < scale.high:
            for digit in range(2, 10):
                minor = scale(digit * power)
                svg.line(minor, bottom - 4, minor, bottom, stroke=RULE, width=0.5)
    svg.line(scale.start, bottom, RIGHT, bottom)
    svg.text((scale.start + RIGHT) / 2, bottom + 34, "milliseconds (logarithmic)", anchor="middle")


def _legend(svg: Svg) -> None:
    x = 0.0
    for s, (_, name, colour) in enumerate(SERIES):
        _shape(svg, x + 6, 58, s, colour)
        svg.text(x + 18, 62, name)
        x += text_width(name, 12) + 30


def _shape(svg: Svg, x: float, y: float, series: int, colour: str) -> None:
    if series == 0:
        svg.circle(x, y, 6, colour, stroke=INK)
    else:
        svg.rect(x - 5.5, y - 5.5, 11, 11, colour, stroke=INK)


def _mark(
    svg: Svg, spread: dict[str, float], y: float, series: int, colour: str, scale: LogScale
) -> None:
    q1, median, q3 = (scale(max(spread[q], scale.low)) for q in ("q1", "median", "q3"))
    svg.line(scale.start, y, median, y, stroke=RULE, width=1)
    svg.line(q1, y, q3, y, stroke=colour, width=5)
    _shape(svg, median, y, series, colour)
    unit, one = _unit(spread["median"])
    m, a, b = (_short(spread[q] / one) for q in ("median", "q1", "q3"))
    svg.text(RIGHT + 16, y + 4, f"{m} {unit} ({a} to {b})")


def _table(case: dict[str, Any]) -> tuple[tuple[object, ...], ...]:
    rows = []
    for name, entry in case["contenders"].items():
        cells: list[object] = []
        for key, _, _ in SERIES:
            cells += [
                f"{entry[key][q]:.3f}" if key in entry else "" for q in ("median", "q1", "q3")
            ]
        if "forward_ms" not in entry:
            cells[0] = f"not run: {entry.get('not_run', '')}"
        rows.append((name, *cells))
    return tuple(rows)
