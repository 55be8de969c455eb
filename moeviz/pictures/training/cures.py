"""Cures of collapse over several seeds: how even they make the load, and what that does to the
loss. Every sentence is made from the recorded figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moeviz.pictures.axes import RootScale, Scale, general, padded, x_axis
from moeviz.pictures.plot import about, dots, mean_sd
from moeviz.pictures.svg import MUTED, Picture, Svg

WIDTH, TOP, ROW = 880, 96.0, 28.0
BALANCE, COUNT, LOSS, DOMAINS = (222.0, 424.0), 484.0, (544.0, 708.0), (738.0, 868.0)
EVEN = "#0072b2"
BASE = "nothing"
EXPERTS = 16  # of every recorded run


def cures(summary: dict[str, Any]) -> Picture:
    """One row an arm, a tick a seed, a mark at the mean, one standard deviation to both sides as a
    bar: MaxVio in the least even layer, runs that collapsed, validation loss minus that of the same
    seed without a cure, and what the chosen expert tells about the text's domain."""
    arms = summary["arms"]
    verdict = f"{told_collapse(summary)} {told_cures(summary)}"
    bottom = TOP + ROW * len(arms)
    svg = Svg(WIDTH, bottom + 66, "Balance and loss under every cure", verdict)
    svg.text(0, 16, about(summary, arms[BASE]["max_violation"]), fill=MUTED)
    balance = RootScale(0, EXPERTS - 1, *BALANCE)
    loss, domains = (
        padded([0.0, *(v for arm in arms.values() for v in arm[name]["values"])])
        for name in ("loss_minus_nothing", "domain_information")
    )
    plots = {
        "max_violation": balance,
        "loss_minus_nothing": Scale(*loss, *LOSS),
        "domain_information": Scale(0, domains[1], *DOMAINS),
    }
    for place, title, note in (
        (BALANCE[0], "MaxVio", f"0 even · {EXPERTS - 1} all to one"),
        (COUNT - 42, "collapsed", "runs"),
        (LOSS[0], "Loss minus nothing's", "nats · left is better"),
        (DOMAINS[0], "Domain information", "0 none · 1 all"),
    ):
        svg.text(place, 46, title, bold=True)
        svg.text(place, 64, note, fill=MUTED)
    for name, x in plots.items():
        minus = name == "loss_minus_nothing"
        form = (lambda v: f"{v:+g}" if v else "0") if minus else general
        x_axis(svg, x, bottom, top=TOP - 8, ticks=x.ticks(4 if minus else 3), form=form, zero=minus)
    for i, (arm, figures) in enumerate(arms.items()):
        y = TOP + (i + 0.5) * ROW
        svg.line(0, y + ROW / 2, WIDTH, y + ROW / 2, width=0.5)
        svg.text(0, y + 4, arm, bold=arm == BASE)
        fell = figures["collapsed"]
        svg.text(COUNT - 14, y + 4, f"{fell} of {figures['runs']}", anchor="middle", bold=fell > 0)
        for name, x in plots.items():
            if (arm, name) != (BASE, "loss_minus_nothing"):
                dots(svg, x, y, figures[name], EVEN)
    note = "tick: a seed · circle: mean · bar: one standard deviation · MaxVio on a root scale"
    svg.text(0, bottom + 52, note, fill=MUTED)
    columns = (
        "cure", "collapsed", "MaxVio", "dead experts", "experts in effect", "validation loss",
        "loss minus nothing's", "domain information",
    )  # fmt: skip
    rows = (
        (
            arm, f"{a['collapsed']} of {a['runs']}", mean_sd(a["max_violation"], 2),
            mean_sd(a["dead_experts"], 1), mean_sd(a["effective_experts"], 1),
            mean_sd(a["validation_loss"], 3), mean_sd(a["loss_minus_nothing"], 3, "+"),
            mean_sd(a["domain_information"], 3),
        )
        for arm, a in arms.items()
    )  # fmt: skip
    return svg.picture(columns, rows)


# What the recorded runs say, in words.


def told_collapse(summary: dict[str, Any]) -> str:
    """What happens without a cure."""
    a = summary["arms"][BASE]
    return (
        f"Without a cure {a['collapsed']} of {a['runs']} recorded runs collapsed: in the least "
        f"even layer MaxVio is {mean_sd(a['max_violation'], 1)}, {mean_sd(a['dead_experts'], 1)} "
        f"of {EXPERTS} experts get less than a tenth of a fair share, and "
        f"{mean_sd(a['effective_experts'], 1)} are in effect."
    )


def failing(summary: dict[str, Any]) -> list[str]:
    """The cures under which at least half of the recorded runs still collapsed."""
    arms = summary["arms"]
    return [n for n, a in arms.items() if n != BASE and 2 * a["collapsed"] >= a["runs"]]


def told_cures(summary: dict[str, Any]) -> str:
    """Who cures collapse and who does not."""
    arms = summary["arms"]
    fails = failing(summary)
    never = [n for n, a in arms.items() if n != BASE and not a["collapsed"]]
    rest = [n for n in arms if n not in (*fails, *never, BASE)]
    parts = [
        f"No run collapsed under {_listed(never)}." if never else "No cure saved every run.",
        f"At least half of the runs still collapsed under {_listed(fails)}." if fails else "",
        f"Some did under {_listed(rest)}." if rest else "",
    ]
    return " ".join(filter(None, parts))


def told_quality(summary: dict[str, Any]) -> str:
    """Whether the even ones are the good ones."""
    from scipy.stats import spearmanr  # here: no other picture waits for it

    arms = {n: a for n, a in summary["arms"].items() if n != BASE}
    signs = {n: np.sign(a["loss_minus_nothing"]["values"]) for n, a in arms.items()}
    loss = {n: f"{n} ({mean_sd(a['loss_minus_nothing'], 3, '+')})" for n, a in arms.items()}
    better = [loss[n] for n, s in signs.items() if (s < 0).all()]
    worse = [loss[n] for n, s in signs.items() if (s > 0).all()]
    mixed = [loss[n] for n, s in signs.items() if (s < 0).any() and (s > 0).any()]
    even = min(arms, key=lambda n: arms[n]["max_violation"]["mean"])
    by_loss = sorted(summary["arms"], key=lambda n: summary["arms"][n]["validation_loss"]["mean"])
    figures = ("max_violation", "validation_loss")
    means = [[arm[name]["mean"] for name in figures] for arm in summary["arms"].values()]
    rank = spearmanr(means).statistic
    return (
        f"Better than nothing with every seed: {_listed(better) or 'none'}. "
        f"Worse with every seed: {_listed(worse) or 'none'}. "
        f"Better with some seeds and worse with others: {_listed(mixed) or 'none'}. "
        f"The most even of all, {even}, has rank {by_loss.index(even) + 1} of {len(by_loss)} "
        "by loss (1 is the best). "
        f"Over all arms the rank correlation of MaxVio and loss is {rank:.2f} (1: the more "
        "even, the better; 0: nothing to do with each other)."
    )


def told_versus(summary: dict[str, Any], a: str, b: str, figure: str, name: str) -> str:
    """One arm beside another in one figure, paired by seed."""
    first, second = (summary["arms"][arm][figure] for arm in (a, b))
    gap = np.subtract(first["values"], second["values"])
    lower = int((gap < 0).sum())
    return (
        f"{name}: {mean_sd(first, 3)} with {a}, {mean_sd(second, 3)} with {b}; lower with {a} in "
        f"{lower} of {len(gap)} seeds."
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
