"""Scales and axes: from values to pixels, and the lines that say which value is where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from moeviz.pictures.svg import INK, MUTED, Svg, si

Form = Callable[[float], str]


@dataclass(frozen=True)
class Scale:
    """A linear map from values low..high to pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the range, about `count` of them."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        raw = span / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        values = [(first + i) * step for i in range(count * 3)]
        return [v for v in values if v <= self.high + step * 1e-6]


@dataclass(frozen=True)
class LogScale(Scale):
    """A logarithmic map; low and high are above 0."""

    def __call__(self, value: float) -> float:
        share = math.log(max(value, 1e-30) / self.low) / (math.log(self.high / self.low) or 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """The powers of ten within the range."""
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        return [10.0**exponent for exponent in range(first, last + 1)]


@dataclass(frozen=True)
class RootScale(Scale):
    """A map by square roots from 0 to high: it parts small values without losing large ones."""

    def __call__(self, value: float) -> float:
        share = math.sqrt(max(value, 0.0) / (self.high or 1.0))
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Squares, and the end of the range."""
        return [v for v in (0, 1, 4, 9) if v < 0.8 * self.high] + [self.high]


def decades(values: Iterable[float]) -> tuple[float, float]:
    """The powers of ten that enclose all values, at least one decade apart."""
    numbers = list(values)
    low = math.floor(math.log10(min(numbers)) + 1e-9)
    high = math.ceil(math.log10(max(numbers)) - 1e-9)
    return 10.0**low, 10.0 ** max(high, low + 1)


def padded(values: Iterable[float], share: float = 0.06) -> tuple[float, float]:
    """The range of values, and some air at both ends."""
    numbers = [float(v) for v in values]
    margin = share * (max(numbers) - min(numbers) or 1.0)
    return min(numbers) - margin, max(numbers) + margin


def general(value: float) -> str:
    return f"{value:,g}"


def signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def short(value: float) -> str:
    """A number as a tick says it: 0.01, 30, 1,024, 10 k."""
    if value < 1000:
        return f"{value:g}"
    return f"{value:,.0f}" if value % 1000 else si(value, "").strip()


def x_axis(
    svg: Svg, x: Scale, bottom: float, label: str = "", *, top: float | None = None,
    ticks: Sequence[float] | None = None, form: Form = general, zero: bool = False,
) -> None:  # fmt: skip
    """Values below, the axis' name under them; with top: lines up to there. zero: 0 stands out."""
    for value in x.ticks() if ticks is None else ticks:
        at, end = x(value), bottom + 4 if top is None else top
        svg.line(at, bottom, at, end, width=1 if top is None else 0.5)
        svg.text(at, bottom + 17, form(value), anchor="middle", fill=MUTED)
    if zero:
        svg.line(x(0), bottom, x(0), bottom if top is None else top, stroke=INK, width=1.5)
    if label:
        svg.text((x.start + x.end) / 2, bottom + 36, label, anchor="middle")


def y_axis(
    svg: Svg, y: Scale, left: float, right: float, label: str = "", *,
    ticks: Sequence[float] | None = None, form: Form = general, above: bool = False,
) -> None:  # fmt: skip
    """Lines across with their values on the left. The name stands upright beside them or above,
    where one of any length has room."""
    for value in y.ticks() if ticks is None else ticks:
        svg.line(left, y(value), right, y(value), width=0.5)
        svg.text(left - 6, y(value) + 4, form(value), anchor="end", fill=MUTED)
    if above:
        svg.text(left - 44, y.end - 12, label)
    elif label:
        svg.text(left - 42, (y.start + y.end) / 2, label, anchor="middle", rotate=-90)


def axes(
    svg: Svg, x: Scale, y: Scale, *, x_label: str = "", y_label: str = "",
    x_ticks: Sequence[float] | None = None, y_ticks: Sequence[float] | None = None,
    x_form: Form = general, y_form: Form = general, above: bool = False, lines: bool = False,
) -> None:  # fmt: skip
    """The frame of a plot, units in the names; lines: upright ones too."""
    y_axis(svg, y, x.start, x.end, y_label, ticks=y_ticks, form=y_form, above=above)
    top = y.end if lines else None
    x_axis(svg, x, y.start, x_label, top=top, ticks=x_ticks, form=x_form)
    svg.line(x.start, y.start, x.end, y.start)
