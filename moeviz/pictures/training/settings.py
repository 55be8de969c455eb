"""The recorded settings of a panel that trains, one a row: who ends ahead, and a press shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moeviz.pictures.axes import Scale, padded, x_axis
from moeviz.pictures.plot import heading, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, Svg

WIDTH, TOP, ROW = 380.0, 62.0, 28.0
PLOT, NUMBER = (118.0, 310.0), 372.0  # x of the bars' ends, and of the numbers' right ends
DENSE, MOE = "#0072b2", "#d55e00"  # as the race draws them
BAND = 20.0  # the height of a seed's spread
WITHIN = ("pale band: ± the spread of a seed;", "within the band: one seed shows no difference")


@dataclass(frozen=True)
class Setting:
    """A recorded run of two learners. ahead: the dense one's last validation loss minus the MoE's;
    spread: the standard deviation of that difference over seeds, and where it is recorded; press:
    the values of a panel's controls that show it."""

    name: str
    ahead: float
    spread: float
    source: str
    press: Mapping[str, object]
    chosen: bool


def list_settings(svg: Svg, settings: Sequence[Setting]) -> None:
    """A further part of a picture: a bar for each, to the right of 0 where MoE is ahead."""
    if not settings:
        return
    bottom = TOP + ROW * len(settings)
    side = svg.beside(WIDTH, bottom + 90)
    heading(
        side, "Every recorded setting", "who is ahead at the end, one seed · press one to see it"
    )
    ends = [end for s in settings for end in (s.ahead, s.spread, -s.spread)]
    x = Scale(*padded(ends, 0.1), *PLOT)
    for i, setting in enumerate(settings):
        y, winner = TOP + i * ROW, "MoE" if setting.ahead > 0 else "dense"
        tip = (
            f"{setting.name}: {winner} is ahead by {abs(setting.ahead):.3f} nats. A seed's spread: "
            f"± {setting.spread:.3f}, the standard deviation of {setting.source}"
        )
        if abs(setting.ahead) <= setting.spread:
            tip += ". Within it one seed shows no difference"
        edge = dict(stroke=INK, stroke_width=2) if setting.chosen else dict(stroke=RULE)
        with side.thing(setting.name, tip=tip, press=setting.press):
            side.rect(1, y, WIDTH - 2, ROW - 4, "transparent", radius=4, **edge)
            side.text(8, y + 16, setting.name, bold=setting.chosen)
            low, high = x(-setting.spread), x(setting.spread)
            side.rect(low, y + 2, high - low, BAND, MUTED, opacity=0.25)
            left, right = sorted((x(0), x(setting.ahead)))
            side.rect(left, y + 6, right - left, 12, MOE if winner == "MoE" else DENSE)
            words = f"{setting.ahead:+z.3f}"
            side.text(NUMBER, y + 16, words, anchor="end", bold=setting.chosen)
    x_axis(side, x, bottom, "dense minus MoE, nats: right of 0 MoE is ahead",
           top=TOP - 4, ticks=x.ticks(3), zero=True)  # fmt: skip
    paragraph(side, 8, bottom + 62, WITHIN, fill=MUTED)
