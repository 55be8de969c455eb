"""How long a measured exchange takes: process by process, and beside a line fitted to messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np

from moeviz.pictures.axes import LogScale, Scale, axes, decades, short, x_axis
from moeviz.pictures.plot import NOBODY, Key, box, curve, heading, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, Svg, si, three
from moeviz.records.exchanged import Exchanged, Line
from moeviz.words import percent

WIDTH, LEFT, RIGHT = 560.0, 76.0, 28.0
SIDE, SIDE_LEFT = 380.0, 56.0  # of the line, beside the bytes
LANE, LANES_TOP = 34.0, 98.0
REST = Key("all else", "none", mark="box")
EXPERTS = Key("experts", "#f0e442", mark="box")
DISPATCH = Key("dispatch", "#0072b2", mark="box")
COMBINE = Key("combine", "#56b4e9", mark="box")
WAITING = Key("waits for others", NOBODY, mark="box", hatched=True)
KEYS = (REST, EXPERTS, DISPATCH, COMBINE, WAITING)
POINT = Key("messages", "#6e6e6e", mark="circle", width=0)
FITTED = Key("the line", "#d55e00")
OURS = Key("exchanges", "#0072b2", mark="diamond", width=0)
PLOT_TOP, PLOT_BOTTOM = 112.0, 300.0
HAND = 2.0  # what is narrower cannot be pressed: its exchange has other marks
SPEEDLESS = 1e13  # bytes a second: where longer messages took no longer, no speed was found

# What a process does, from when to when (ms), and for which exchange: 1 is the first, 0 none.
Part = tuple[Key, float, float, int]


def over(value: float, base: float) -> str:
    """ "12 % more"."""
    share = value / base - 1
    if round(100 * share) == 0:
        return "as much"
    return f"{percent(abs(share))} {'more' if share > 0 else 'less'}"


def parts_of(exchanged: Exchanged, process: int, count: int) -> Iterator[Part]:
    """What a process does one after the other, to the end of the first `count` exchanges."""
    at = 0.0
    spans = 1e3 * exchanged.span[:count, process]
    for number, (leg, span) in enumerate(zip(exchanged.legs[:count], spans, strict=True), 1):
        came, begun, ended = span
        yield EXPERTS if leg.back else REST, at, came, 0
        yield WAITING, came, begun, number
        yield COMBINE if leg.back else DISPATCH, begun, ended, number
        at = ended
    if count == len(exchanged.legs):
        yield REST, at, 1e3 * float(exchanged.end[process]), 0


def _mark_of(part: Svg, number: int, tip: str) -> AbstractContextManager[None]:
    """A mark of an exchange, a press on which chooses it; 0: of none."""
    if not number:
        return part.thing(tip=tip)
    return part.thing(f"exchange {number}", tip=tip, press={"exchange": number})


def draw_steps(svg: Svg, exchanged: Exchanged, count: int, chosen: int) -> None:
    """A lane for each process. chosen: the number of the exchange that is looked at, 0: all."""
    size = exchanged.processes
    lanes = [list(parts_of(exchanged, process, count)) for process in range(size)]
    end = max(parts[-1][2] for parts in lanes)
    bottom = LANES_TOP + LANE * size
    part = svg.beside(WIDTH, bottom + 50)
    heading(part, "Where does the time go?")
    part.text(0, 38, _told(lanes), bold=True)
    step = "forward and backward pass" if count == len(exchanged.legs) else "forward pass"
    part.text(0, 57, f"one {step}, the one that took the median time", fill=MUTED)
    legend(part, 2, 82, KEYS)
    x = Scale(0, end, LEFT, WIDTH - RIGHT)
    for process, parts in enumerate(lanes):
        y = LANES_TOP + LANE * process
        part.text(LEFT - 8, y + LANE / 2 + 2, f"process {process}", anchor="end")
        for key, start, stop, number in parts:
            if stop <= start:
                continue
            tip = f"process {process}, {key.name}: {stop - start:.3g} ms"
            if number:
                tip += f" ({exchanged.legs[number - 1].name})"
            width = x(stop) - x(start)
            with _mark_of(part, number if width >= HAND else 0, tip):
                edge = MUTED if key is REST else "none"
                box(part, x(start), y, width, LANE - 8, key.colour, hatched=key.hatched,
                    stroke=edge)  # fmt: skip
                if number and number == chosen:
                    part.rect(x(start), y - 2, width, LANE - 4, "none", stroke=INK, stroke_width=2)
    x_axis(part, x, bottom, "ms from the start of the step")
    part.line(LEFT, bottom, WIDTH - RIGHT, bottom)


def _told(lanes: list[list[Part]]) -> str:
    """Of the mean process."""
    total = np.mean([parts[-1][2] for parts in lanes])

    def share(*keys: Key) -> str:
        spent = [sum(stop - start for key, start, stop, _ in p if key in keys) for p in lanes]
        return percent(float(np.mean(spent) / total))

    return (
        f"{share(DISPATCH, COMBINE)} goes into exchanges, {share(WAITING)} into waiting for "
        f"others, {share(EXPERTS)} into experts."
    )


def line_words(line: Line) -> str:
    """ "α = 120 µs, β = 1.7 GB/s"."""
    speed = f"{line.bandwidth / 1e9:.2g} GB/s" if line.bandwidth < SPEEDLESS else "without a limit"
    return f"α = {three(1e6 * line.alpha)} µs, β = {speed}"


def draw_line(svg: Svg, exchanged: Exchanged, line: Line, count: int, chosen: int) -> None:
    """Seconds by bytes, logarithmic both ways. chosen: as in draw_steps."""
    part = svg.beside(SIDE, PLOT_BOTTOM + 60)
    travel_X, predicted_X = exchanged.travel[:count], exchanged.predicted(line)[:count]
    busiest_X = exchanged.busiest[:count]
    travel, predicted = 1e3 * travel_X.sum(), 1e3 * predicted_X.sum()
    heading(part, "Does a line predict how long it takes?")
    part.text(0, 38, f"Predicted {predicted:.3g} ms, measured {travel:.3g} ms.", bold=True)
    latency = line.alpha * np.count_nonzero(busiest_X) / max(predicted_X.sum(), 1e-30)
    notes = (
        f"time = α + bytes / β, fitted to {len(line.points)} sizes of message",
        f"{line_words(line)} · {percent(latency)} of the prediction is α",
    )
    paragraph(part, 0, 57, notes, fill=MUTED)
    sizes = [size for size, _ in line.points] + [float(size) for size in busiest_X if size]
    times = [seconds for _, seconds in line.points] + [t for t in travel_X if t > 0]
    low, high = decades(sizes)
    least, most = (1e6 * bound for bound in decades(times))
    x = LogScale(low, high, SIDE_LEFT, SIDE - RIGHT)
    y = LogScale(least, most, PLOT_BOTTOM, PLOT_TOP)
    axes(
        part, x, y, x_label="bytes that the busiest process sends or receives", y_label="µs",
        x_form=lambda value: si(value, "B"), y_form=short,
    )  # fmt: skip
    along = [(float(v), 1e6 * line.seconds(float(v))) for v in np.geomspace(low, high, 60)]
    curve(part, x, y, [point for point in along if least <= point[1] <= most], FITTED)
    for size, seconds in line.points:
        with part.thing(tip=f"{si(size, 'B')}: {1e6 * seconds:.3g} µs"):
            mark(part, "circle", x(size), y(1e6 * seconds), POINT.colour, 4)
    for number, (leg, size, seconds) in enumerate(
        zip(exchanged.legs[:count], busiest_X, travel_X, strict=True), 1
    ):
        if size and seconds > 0:
            tip = f"{leg.name}: {si(float(size), 'B')}, {1e6 * seconds:.3g} µs"
            with _mark_of(part, number, tip):
                wide = 8 if number == chosen else 5
                mark(part, "diamond", x(float(size)), y(1e6 * seconds), OURS.colour, wide, INK)
    legend(part, SIDE_LEFT, PLOT_TOP - 12, (POINT, FITTED, OURS))
