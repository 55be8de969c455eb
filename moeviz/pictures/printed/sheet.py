"""What printed figures share: a sheet in one style, series that grey paper tells apart, and rows.

Objects only, never pyplot, which keeps every figure it ever made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import seaborn
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moeviz.pictures.axes import padded
from moeviz.pictures.over_seeds import ran_on
from moeviz.pictures.plot import Key
from moeviz.pictures.training.arms import drawn
from moeviz.records.compare import Gap

ROW = 0.42  # cm, of a name and its marks
GREY = "#59636e"
PAPER: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: one look on every machine
    "font.size": 7.5, "axes.labelsize": 7.5, "axes.titlesize": 8, "figure.titlesize": 8,
    "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "lines.linewidth": 1.2, "text.usetex": False,
}  # fmt: skip
# Text that stays text: whole TrueType fonts, which every journal takes, and words in an SVG.
SAVED: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}
MARKERS = {
    "circle": "o", "ring": "o", "square": "s", "diamond": "D", "cross": "X", "up": "^", "down": "v",
}  # fmt: skip


class Sheet(Figure):
    """A figure that saves its text as text, whatever the reader's own settings say."""

    def savefig(self, *args: Any, **options: Any) -> None:
        with rc_context(SAVED):
            super().savefig(*args, **options)


@contextmanager
def sheet(width: float, height: float) -> Iterator[Sheet]:
    """An empty figure of so many cm; what is drawn inside the block has the style of print."""
    with seaborn.axes_style("ticks"), rc_context(PAPER):
        yield Sheet(figsize=(width / 2.54, height / 2.54), dpi=150, layout="constrained")


def foot(figure: Figure, recorded: dict[str, Any], *notes: str) -> None:
    """Notes, and where, when and on which text it was recorded: small, below everything."""
    words = "\n".join([*notes, f"recorded on {', '.join(ran_on(recorded['provenance']))}"])
    figure.supxlabel(words, x=0.995, ha="right", fontsize=6, color=GREY)


def marked(key: Key) -> dict[str, Any]:
    """A series as matplotlib's lines and error bars take it."""
    return {
        "color": key.colour, "marker": MARKERS[key.mark], "markeredgecolor": key.colour,
        "markerfacecolor": "white" if key.mark == "ring" else key.colour,
        "linestyle": (0, [float(n) / 2 for n in key.dash.split()]) if key.dash else "-",
    }  # fmt: skip


def row(
    axes: Axes, y: float, mean: float, ends: Sequence[float], values: Sequence[float], key: Key,
    **look: Any,
) -> None:  # fmt: skip
    """One figure in a row: a mark at the mean, a bar between the ends, a tick for each seed. Ends
    that are not finite, as one seed has, leave the bar out. look: what differs from the key's."""
    bar = [[mean - ends[0]], [ends[1] - mean]] if all(map(math.isfinite, ends)) else None
    axes.errorbar(
        [mean], [y], xerr=bar, markersize=4.5, markeredgewidth=1, elinewidth=1.2,
        **marked(key) | look,
    )  # fmt: skip
    axes.plot(
        values, [y] * len(values), color=key.colour, linestyle="none", marker="|", markersize=6,
        markeredgewidth=0.7,
    )  # fmt: skip


def gap_row(axes: Axes, y: float, gap: Gap, key: Key, **look: Any) -> None:
    """A paired difference in a row, with its 95 % interval."""
    row(axes, y, gap.mean, (gap.low, gap.high), gap.values, key, **look)


def gap_of(figure: dict[str, Any]) -> Gap:
    """A recorded difference; one seed's interval is endless."""
    low, high = (
        sign * math.inf if figure[end] is None else figure[end]
        for sign, end in ((-1, "low"), (1, "high"))
    )
    return Gap(figure["mean"], low, high, figure["p"], tuple(figure["values"]))


def ends_of(gaps: Iterable[Gap]) -> tuple[float, float]:
    """Ends of an axis around zero and all gaps."""
    return padded([0.0, *drawn(gaps)], 0.05)


def named_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names down the left, the first on top, with a faint line to lead the eye, and zero marked."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", linewidth=0.3, color="#d0d7de")
    axes.set_axisbelow(True)
    axes.axvline(0, color="black", linewidth=0.6)


def legend(figure: Figure, keys: Sequence[Key], title: str, *, lines: bool = False) -> None:
    """What the marks mean, above all axes, so that it covers none of them; title: above it, the
    whole figure's where there are several axes."""
    handles = [_sample(key, lines) for key in keys]
    above = figure.legend(
        handles=handles, title=title, title_fontsize=7, loc="outside upper center",
        ncols=len(keys) if len(keys) < 5 else 3, frameon=False, handlelength=3.2 if lines else 1.5,
    )  # fmt: skip
    above.get_title().set_multialignment("center")


def _sample(key: Key, lines: bool) -> Line2D:
    look = marked(key) if lines else marked(key) | {"linestyle": "none"}
    return Line2D([], [], label=key.name, markersize=4.5, **look)
