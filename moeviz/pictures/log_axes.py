"""Axes that count in powers, for what spans several decades."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moeviz.pictures.svg import MUTED, RULE, Scale, Svg, si


@dataclass(frozen=True)
class LogScale(Scale):
    """A logarithmic map from values low..high, both above 0, to pixels start..end."""

    def __call__(self, value: float) -> float:
        share = math.log(max(value, 1e-30) / self.low) / (math.log(self.high / self.low) or 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """The powers of ten within the range."""
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        return [10.0**exponent for exponent in range(first, last + 1)]


def around(values: list[float]) -> tuple[float, float]:
    """The powers of ten that enclose all values, at least one decade apart."""
    low = math.floor(math.log10(min(values)) + 1e-9)
    high = math.ceil(math.log10(max(values)) - 1e-9)
    return 10.0**low, 10.0 ** max(high, low + 1)


def plot_axes(
    svg: Svg, x: Scale, y: Scale, *, x_label: str, y_label: str,
    x_ticks: tuple[float, ...], y_ticks: tuple[float, ...] = (),
) -> None:  # fmt: skip
    """Grid and tick labels; the y axis is named above it, where a label of any width has room."""
    for value in y_ticks or y.ticks():
        svg.line(x.start, y(value), x.end, y(value), stroke=RULE, width=0.5)
        svg.text(x.start - 6, y(value) + 4, short(value), anchor="end", fill=MUTED)
    for value in x_ticks:
        svg.line(x(value), y.start, x(value), y.start + 4)
        svg.text(x(value), y.start + 17, short(value), anchor="middle", fill=MUTED)
    svg.line(x.start, y.start, x.end, y.start)
    svg.text((x.start + x.end) / 2, y.start + 35, x_label, anchor="middle")
    svg.text(x.start - 44, y.end - 12, y_label)


def short(value: float) -> str:
    """A number as a tick says it: 0.01, 30, 1,024, 10 k."""
    if value < 1000:
        return f"{value:g}"
    return f"{value:,.0f}" if value % 1000 else si(value, "").strip()
