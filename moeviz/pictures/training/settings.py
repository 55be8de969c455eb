"""The recorded settings of a panel that trains, one a row: who ends ahead, and a press shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moeviz.pictures.axes import x_axis
from moeviz.pictures.over_seeds import (
    VERDICTS,
    Figure,
    gap_dots,
    gap_scale,
    interval_words,
    recorded_gap,
)
from moeviz.pictures.plot import Key, legend
from moeviz.pictures.svg import INK, MUTED, RULE, Svg

WIDTH, TOP, ROW = 352.0, 82.0, 28.0  # beside the curves there is no more room at 1400 pixels
PLOT, NUMBER = (112.0, 288.0), 344.0  # x of the plot's ends, and of the numbers' right ends
# A verdict on dense minus MoE, in the colour that a race has for the one of lower loss.
AHEAD = {"lower": "dense", "higher": "MoE", "open": "open"}


@dataclass(frozen=True)
class Setting:
    """A recorded pair of learners. ahead: the dense one's last loss minus the MoE's over seeds, as
    experiments.recording.judged writes it; press: the values of a panel's controls that show one of
    the seeds."""

    name: str
    ahead: Figure
    press: Mapping[str, object]
    chosen: bool

    @property
    def tip(self) -> str:
        """Who ends ahead, over how many seeds, and what a press does."""
        gap = recorded_gap(self.ahead)
        words = f"dense minus MoE is {gap.mean:+z.3f} nats per token, {interval_words(gap)}"
        verdict = AHEAD[self.ahead["verdict"]]
        who = (
            "which of the two ends ahead is open" if verdict == "open" else f"{verdict} ends ahead"
        )
        return f"{self.name}: {who}; {words}. Press to see the race of seed 0"


def settings_height(settings: Sequence[Setting]) -> float:
    """The room that `draw_settings` needs."""
    return TOP + ROW * len(settings) + 76


def told_settings(settings: Sequence[Setting]) -> str:
    """In how many settings each of the two ends ahead, by the verdicts over seeds."""
    found = Counter(AHEAD[setting.ahead["verdict"]] for setting in settings)
    wins = f"MoE wins {found['MoE']} of {len(settings)}, dense {found['dense']}"
    return wins + ("; the rest is open." if found["open"] else ".")


def by_verdict(recorded: Mapping[str, Any]) -> list[str]:
    """Of all that is in runs/race_settings.json: which settings have which verdict, a line each."""
    lines = [f"over {len(recorded['seeds'])} seeds"]
    for verdict, words in AHEAD.items():
        found = [
            f"E = {row['experts']}, K = {row['top_k']} ({row['ahead']['mean']:+z.3f})"
            for row in recorded["MoE"]
            if row["ahead"]["verdict"] == verdict
        ]
        if found:
            words = words if verdict == "open" else f"{words} ends ahead"
            lines.append(f"{words} in {len(found)} of {len(recorded['MoE'])}: {'; '.join(found)}")
    return lines


def draw_settings(svg: Svg, settings: Sequence[Setting]) -> None:
    """The seeds of each setting, to the right of 0 where MoE is ahead."""
    first, bottom = TOP, TOP + ROW * len(settings)
    seeds = len(settings[0].ahead["values"])
    svg.text(0, 16, "Who wins at which E and K?", size=14, bold=True)
    svg.text(0, 36, told_settings(settings), size=13, bold=True)
    svg.text(0, 56, f"at equal steps, {seeds} seeds, more text · press one to see it", fill=MUTED)
    x = gap_scale((setting.ahead for setting in settings), *PLOT)
    for i, setting in enumerate(settings):
        y = first + i * ROW
        edge = dict(stroke=INK, stroke_width=2) if setting.chosen else dict(stroke=RULE)
        with svg.thing(setting.name, tip=setting.tip, press=setting.press):
            svg.rect(1, y, WIDTH - 2, ROW - 4, "transparent", radius=4, **edge)
            svg.text(8, y + 16, setting.name, bold=setting.chosen)
            gap_dots(svg, x, y + 12, setting.ahead)
            words = f"{setting.ahead['mean']:+z.3f}"
            svg.text(NUMBER, y + 16, words, anchor="end", bold=setting.chosen)
    x_axis(svg, x, bottom, "dense minus MoE, nats: right of 0 MoE is ahead",
           top=first - 4, ticks=x.ticks(3), zero=True)  # fmt: skip
    keys = [Key(AHEAD[of], colour, mark=shape, width=0) for of, (colour, shape) in VERDICTS.items()]
    legend(svg, 8, bottom + 58, keys)
    svg.text(WIDTH - 2, bottom + 58, "tick: a seed · bar: 95 %", anchor="end", fill=MUTED)
