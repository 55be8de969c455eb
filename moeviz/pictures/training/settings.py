"""The recorded settings of a panel that trains, one a row: who ends ahead, and a press shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moeviz.pictures.axes import Scale, padded, x_axis
from moeviz.pictures.plot import paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, Svg

WIDTH, TOP, ROW = 352.0, 62.0, 28.0  # beside the curves there is no more room at 1400 pixels
PLOT, NUMBER = (112.0, 288.0), 344.0  # x of the bars' ends, and of the numbers' right ends
DENSE, MOE = "#0072b2", "#d55e00"  # as the race draws them
BAND = 20.0  # the height of what luck does
WITHIN = (
    "pale band: luck alone, in 19 of 20 runs;",
    "within the band: one seed shows no difference",
)


@dataclass(frozen=True)
class Setting:
    """A recorded run of two learners. ahead: the dense one's last validation loss minus the MoE's;
    luck: how far luck alone takes that difference (records.compare.reach_of_luck), and by which
    recorded seeds; press: the values of a panel's controls that show it."""

    name: str
    ahead: float
    luck: float
    source: str
    press: Mapping[str, object]
    chosen: bool

    @property
    def winner(self) -> str:
        """Who is ahead."""
        return "MoE" if self.ahead > 0 else "dense"

    @property
    def tip(self) -> str:
        """Who is ahead, and what luck alone does."""
        words = (
            f"{self.name}: {self.winner} is ahead by {abs(self.ahead):.3f} nats. Luck alone: "
            f"± {self.luck:.3f} in 19 of 20 runs, by {self.source}"
        )
        open_ = abs(self.ahead) <= self.luck
        return words + (". Within it one seed shows no difference" if open_ else "")


def settings_height(settings: Sequence[Setting]) -> float:
    """The room that `draw_settings` needs."""
    return TOP + ROW * len(settings) + 90


def draw_settings(svg: Svg, settings: Sequence[Setting]) -> None:
    """A bar for each, to the right of 0 where MoE is ahead."""
    first, bottom = TOP, TOP + ROW * len(settings)
    svg.text(0, 16, "Every recorded setting", size=14, bold=True)
    svg.text(0, 36, "who is ahead at the end, one seed · press one to see it", fill=MUTED)
    ends = [end for s in settings for end in (s.ahead, s.luck, -s.luck)]
    x = Scale(*padded(ends, 0.1), *PLOT)
    for i, setting in enumerate(settings):
        y = first + i * ROW
        edge = dict(stroke=INK, stroke_width=2) if setting.chosen else dict(stroke=RULE)
        with svg.thing(setting.name, tip=setting.tip, press=setting.press):
            svg.rect(1, y, WIDTH - 2, ROW - 4, "transparent", radius=4, **edge)
            svg.text(8, y + 16, setting.name, bold=setting.chosen)
            low, high = x(-setting.luck), x(setting.luck)
            svg.rect(low, y + 2, high - low, BAND, MUTED, opacity=0.25)
            left, right = sorted((x(0), x(setting.ahead)))
            svg.rect(left, y + 6, right - left, 12, MOE if setting.winner == "MoE" else DENSE)
            words = f"{setting.ahead:+z.3f}"
            svg.text(NUMBER, y + 16, words, anchor="end", bold=setting.chosen)
    x_axis(svg, x, bottom, "dense minus MoE, nats: right of 0 MoE is ahead",
           top=first - 4, ticks=x.ticks(3), zero=True)  # fmt: skip
    paragraph(svg, 8, bottom + 62, WITHIN, fill=MUTED)
