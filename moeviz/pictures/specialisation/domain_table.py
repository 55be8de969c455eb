"""A table of heat with domains down and experts across, as several pictures have it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeviz.pictures.colours import heat_colour, ink_on
from moeviz.pictures.plot import heat_bar
from moeviz.pictures.svg import INK, MUTED, Svg, shorten

LEFT, ROW, LINE = 104.0, 26.0, 17.0
WIDEST, CELL, NARROW = 560.0, 34.0, 380.0  # two tables stand beside each other
NARROWEST = 30.0  # of a cell with its number in it
NAMED_CELLS = 120  # so many have hover text of their own; of more each column has
BELOW = (74, 16, 48), (255, 140, 90)  # red, green, blue: just below zero, and farthest below


@dataclass(frozen=True)
class Head:
    """What stands above a table: a question or a title, what was found, and what a cell is."""

    title: str
    note: str
    finding: str = ""

    def top(self, num_experts: int) -> float:
        """Where the cells of a table of so many experts begin."""
        return 79 + LINE * len(self.lines(num_experts))

    def lines(self, num_experts: int) -> list[tuple[str, bool]]:
        """The text below the title in lines that fit, and whether each is of the finding."""
        width = table_width(num_experts)
        parts = (self.finding, True, 7.4), (self.note, False, 6.9)
        return [
            (line, bold)
            for words, bold, letter in parts
            for line in textwrap.wrap(words, int(width / letter))
        ]


def domain_table(
    svg: Svg, value_DE: np.ndarray, domains: Sequence[str], head: Head, *, peak: float,
    ends: tuple[str, str], framed_DE: np.ndarray, tips: Sequence[Sequence[str]], decimals: int = 1,
    corner: str = "domain / expert", top: float | None = None, below: str = "",
) -> None:  # fmt: skip
    """peak: the value from which on a cell is as bright as can be, and ends what 0 and it are
    called; framed: cells with a frame; tips: what is said of each cell; top: where the cells begin,
    by default below the head; below: what -peak is called, where values below zero have a hue of
    their own."""
    num_domains, num_experts = value_DE.shape
    cell = cell_width(num_experts)
    each = math.ceil(20 / cell)  # number one in so many: for more there is no room
    top = head.top(num_experts) if top is None else top
    svg.text(0, 16, head.title, size=14, bold=True)
    for number, (line, bold) in enumerate(head.lines(num_experts)):
        svg.text(0, 37 + LINE * number, line, bold=bold, fill=INK if bold else MUTED)
    if below:
        _signed_bar(svg, top - 46, below, *ends)
    else:
        heat_bar(svg, LEFT, top - 46, 100, 12, *ends)
    svg.text(LEFT - 8, top - 8, corner, anchor="end", fill=MUTED)
    for domain, name in enumerate(domains):
        y = top + domain * ROW
        with svg.thing(name, tip=name):
            svg.text(LEFT - 8, y + 17, shorten(name, 13), anchor="end")
        svg.heat(LEFT, y, num_experts * cell, ROW - 2, value_DE[domain][None] / peak)
    below_DE = np.round(value_DE, decimals) < 0 if below else np.zeros(value_DE.shape, bool)
    for domain, expert in np.argwhere(below_DE):
        colour = below_colour(-value_DE[domain, expert] / peak)
        svg.rect(LEFT + expert * cell, top + domain * ROW, cell, ROW - 2, colour)
    by_cell = value_DE.size <= NAMED_CELLS
    for expert in range(num_experts):
        x = LEFT + expert * cell
        column = "\n".join(f"{name}: {tips[d][expert]}" for d, name in enumerate(domains))
        with svg.thing(f"e{expert}", tip=f"expert {expert}\n{column}"):
            label = str(expert) if expert % each == 0 else ""
            svg.text(x + cell / 2, top - 8, label, anchor="middle", fill=MUTED)
            if not by_cell:
                svg.rect(x, top, cell, num_domains * ROW - 2, "transparent")
        for domain, name in enumerate(domains if by_cell else ()):
            tip = f"{name}, expert {expert}: {tips[domain][expert]}"
            with svg.thing(f"{name} {expert}", f"e{expert}", name, tip=tip):
                y, value = top + domain * ROW, float(value_DE[domain, expert])
                svg.rect(x, y, cell, ROW - 2, "transparent")
                words = "" if math.isnan(value) else f"{value:z.{decimals}f}"
                low = below_DE[domain, expert]
                ink = ink_on(below_colour(-value / peak) if low else heat_colour(value / peak))
                shown = words if cell >= NARROWEST else ""
                svg.text(x + cell / 2, y + 16.5, shown, anchor="middle", fill=ink)
    for domain, expert in np.argwhere(framed_DE):
        x, y = LEFT + expert * cell, top + domain * ROW
        # Light within dark: one of the two shows on any cell and any page.
        svg.rect(x + 1, y, cell - 2, ROW - 2, "none", stroke="#000000", stroke_width=4)
        svg.rect(x + 1, y, cell - 2, ROW - 2, "none", stroke="#ffffff", stroke_width=1.5)


def below_colour(share: float) -> str:
    """The fill of a value below zero, 0..1 of the way to the farthest: dark as zero is, and red."""
    share = min(max(share, 0.0), 1.0)
    mixed = (round(a + (b - a) * share) for a, b in zip(*BELOW, strict=True))
    return "#" + "".join(f"{v:02x}" for v in mixed)


def _signed_bar(svg: Svg, y: float, lowest: str, zero: str, highest: str) -> None:
    """What heat means on both sides of zero."""
    steps, wide = 12, 4.0
    svg.rect(LEFT, y, steps * wide + 60, 12, "none", stroke=MUTED)
    for step in range(steps):
        svg.rect(LEFT + step * wide, y, wide, 12, below_colour(1 - (step + 0.5) / steps))
    middle = LEFT + steps * wide
    svg.heat(middle, y, 60, 12, np.linspace(0, 1, 40)[None])
    svg.text(LEFT - 6, y + 11, lowest, anchor="end", fill=MUTED)
    svg.text(middle, y + 24, zero, anchor="middle", fill=MUTED)
    svg.text(middle + 66, y + 11, highest, fill=MUTED)


def cell_width(num_experts: int) -> float:
    return min(CELL, (WIDEST - LEFT - 4) / num_experts)


def table_width(num_experts: int) -> float:
    return max(LEFT + num_experts * cell_width(num_experts) + 4, NARROW)


def table_size(value_DE: np.ndarray, top: float) -> tuple[float, float]:
    """Width and height of a part that holds such a table, whose cells begin at top."""
    num_domains, num_experts = value_DE.shape
    return table_width(num_experts), top + num_domains * ROW + 8
