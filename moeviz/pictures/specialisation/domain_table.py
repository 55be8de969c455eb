"""A table of heat with domains down and experts across, as several pictures have it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from moeviz.pictures.plot import heading, heat_bar
from moeviz.pictures.svg import INK, MUTED, Svg, heat_colour, ink_on, shorten

LEFT, TOP, ROW = 104.0, 96.0, 26.0
WIDEST, CELL = 560.0, 40.0
NARROWEST = 30.0  # of a cell with its number in it
NAMED_CELLS = 120  # so many have hover text of their own; of more each column has


def domain_table(
    svg: Svg, value_DE: np.ndarray, domains: Sequence[str], title: str, note: str, *, peak: float,
    ends: tuple[str, str], framed_DE: np.ndarray, tips: Sequence[Sequence[str]], decimals: int = 1,
    corner: str = "domain / expert",
) -> None:  # fmt: skip
    """peak: the value from which on a cell is as bright as can be, and ends what 0 and it are
    called; framed: cells with a frame; tips: what is said of each cell."""
    num_domains, num_experts = value_DE.shape
    cell = cell_width(num_experts)
    each = math.ceil(20 / cell)  # number one in so many: for more there is no room
    heading(svg, title, note)
    heat_bar(svg, LEFT, 50, 100, 12, *ends)
    svg.text(LEFT - 8, TOP - 8, corner, anchor="end", fill=MUTED)
    for domain, name in enumerate(domains):
        y = TOP + domain * ROW
        with svg.thing(name, tip=name):
            svg.text(LEFT - 8, y + 17, shorten(name, 13), anchor="end")
        svg.heat(LEFT, y, num_experts * cell, ROW - 2, value_DE[domain][None] / peak)
    by_cell = value_DE.size <= NAMED_CELLS
    for expert in range(num_experts):
        x = LEFT + expert * cell
        column = "\n".join(f"{name}: {tips[d][expert]}" for d, name in enumerate(domains))
        with svg.thing(f"e{expert}", tip=f"expert {expert}\n{column}"):
            label = str(expert) if expert % each == 0 else ""
            svg.text(x + cell / 2, TOP - 8, label, anchor="middle", fill=MUTED)
            if not by_cell:
                svg.rect(x, TOP, cell, num_domains * ROW - 2, "transparent")
        for domain, name in enumerate(domains if by_cell else ()):
            tip = f"{name}, expert {expert}: {tips[domain][expert]}"
            with svg.thing(f"{name} {expert}", f"e{expert}", name, tip=tip):
                y, value = TOP + domain * ROW, float(value_DE[domain, expert])
                svg.rect(x, y, cell, ROW - 2, "transparent")
                words = "" if math.isnan(value) else f"{value:z.{decimals}f}"
                ink = ink_on(heat_colour(value / peak))
                shown = words if cell >= NARROWEST else ""
                svg.text(x + cell / 2, y + 16.5, shown, anchor="middle", fill=ink)
    for domain, expert in np.argwhere(framed_DE):
        x, y = LEFT + expert * cell, TOP + domain * ROW
        svg.rect(x + 1, y, cell - 2, ROW - 2, "none", stroke=INK, stroke_width=2)


def cell_width(num_experts: int) -> float:
    return min(CELL, (WIDEST - LEFT - 4) / num_experts)


def table_size(num_domains: int, num_experts: int) -> tuple[float, float]:
    """Width and height of a part that holds such a table."""
    width = max(LEFT + num_experts * cell_width(num_experts) + 4, 400.0)
    return width, TOP + num_domains * ROW + 8
