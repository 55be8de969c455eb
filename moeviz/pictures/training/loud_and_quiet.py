"""How loud an MoE and its dense twin start, and what becomes of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moeviz.pictures.plot import paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.load_and_speed import STYLES
from moeviz.pictures.training.race import AXES, COLUMNS, HEIGHT, MAIN, draw_curves, rows_of, told
from moeviz.pictures.training.settings import WIDTH, Setting, draw_settings, settings_height
from moeviz.records.runs import Snapshot

STREAM, DENSE, MOE = "residual stream", "dense", "MoE"
WAVES = 262.0  # where they end, and the recorded settings begin
LEFT, RIGHT = 120.0, 350.0  # x of the first value and behind the last
UNIT = 12.0  # pixels of a 1, the same for all: the loudest MoE has room
ROWS = {STREAM: 86.0, DENSE: 142.0, MOE: 202.0}  # y of a wave's zero
COLOURS = {STREAM: "#6e6e6e", DENSE: STYLES[0][0], MOE: STYLES[1][0]}


def loud_and_quiet(
    learners: Sequence[Snapshot], start: Mapping[str, Any], scale: float, name: str, *,
    note: str = "", settings: Sequence[Setting] = (),
) -> Picture:  # fmt: skip
    """The size of what each FFN adds to the residual stream before training, as waves to one scale;
    then who is ahead, and the losses.

    start: of the experiment loud_and_quiet, its sizes and values. scale: of the MoE, one of those
    in start, and its name."""
    waves = {STREAM: start[STREAM], DENSE: start[DENSE]}
    waves[MOE] = next(wave for wave in start[MOE] if wave["scale"] == scale)
    sizes = {of: wave["size"] for of, wave in waves.items()}
    # No other scale than the one in the picture says how much a seed matters.
    spread = next((s.spread for s in settings if s.press.get("scale") == scale), 0.0)
    headline = told(learners, "step", spread)
    summary = (
        f"{headline} Before training the first FFN of the MoE adds values of size "
        f"{_two(sizes[MOE])} to a residual stream of size {_two(sizes[STREAM])}; that of the "
        f"dense twin adds {_two(sizes[DENSE])}."
    )
    svg = Svg(WIDTH, WAVES + settings_height(settings), "Loud and quiet", summary)
    svg.text(0, 16, "How loud each FFN starts", size=14, bold=True)
    svg.text(0, 36, f"one token's {len(waves[MOE]['values'])} values before training, seed 0",
             fill=MUTED)  # fmt: skip
    for of, wave in waves.items():
        _draw_wave(svg, of, wave, name, sizes)
    if settings:
        draw_settings(svg, settings, WAVES)
    draw_curves(svg.beside(MAIN, HEIGHT), learners, "step", note, AXES["step"][0], headline)
    columns = (*COLUMNS, "size of the FFN's output at the start")
    added = [f"{sizes[of]:.4f}" for of in (DENSE, MOE)]
    rows = rows_of(learners, speeds=False)
    return svg.picture(columns, [(*row, one) for row, one in zip(rows, added, strict=True)])


def _two(value: float) -> str:
    """Two digits that count, a 0 at the end too."""
    return f"{value:#.2g}".rstrip(".")


def _draw_wave(
    svg: Svg, of: str, wave: Mapping[str, Any], name: str, sizes: Mapping[str, float]
) -> None:
    """A bar for each value, up or down from 0, and the size of all tokens' values."""
    y, values = ROWS[of], wave["values"]
    wide = (RIGHT - LEFT) / len(values)
    size, times = _two(sizes[of]), f"{_two(sizes[of] / sizes[DENSE])} × dense"
    first, *rest = {
        STREAM: ("residual stream", f"size {size}"),
        DENSE: (f"+ dense FFN: {size}", "scale 1, always"),
        MOE: (f"+ MoE: {size}", f"scale {name}", times),
    }[of]
    tip = f"{of}: size {sizes[of]:.3g}, {times} (the root of the mean square over all tokens)"
    svg.line(LEFT, y, RIGHT, y, stroke=INK, width=0.5)
    with svg.thing(of, tip=tip):
        svg.rect(0, y - 26, RIGHT, 52, "transparent")
        svg.text(0, y - 8, first, bold=True)
        paragraph(svg, 0, y + 8, rest, 16)
        for n, value in enumerate(values):
            tall = abs(value) * UNIT
            svg.rect(LEFT + n * wide, y - tall * (value > 0), wide - 1, tall, COLOURS[of])
