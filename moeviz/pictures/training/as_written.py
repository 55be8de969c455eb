"""What the output scale alone does to three settings of collapse: fair, and as their papers write
them."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import RootScale, x_axis
from moeviz.pictures.over_seeds import (
    about,
    dots,
    gap_cell,
    gap_dots,
    gap_scale,
    mean_sd,
    verdict_keys,
)
from moeviz.pictures.plot import legend, row
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.pictures.training.cures_told import (
    DENSE,
    balance,
    listed,
    told_fallen,
    told_gap,
    worst_layer,
)

MAIN, SIDE, TOP, ROW = 470, 560, 96.0, 30.0
BALANCE, LOSS = (250.0, 450.0), (250.0, 544.0)
PAIRS = ("nothing", "frozen router", "hash")
FAIR, WRITTEN, QUIET = "fair scale", "as written", "at one sixteenth"


def as_written(summary: dict[str, Any]) -> Picture:
    """MaxVio of training and the loss minus the dense twin's, of each setting at the fair scale and
    as written; of a hash also as quiet as top-1 routing is as written."""
    arms = summary["arms"]
    rows = [(pair, scale, _arm(pair, scale)) for pair in PAIRS for scale in (FAIR, WRITTEN)]
    rows.append(("hash", QUIET, _arm("hash", QUIET)))
    layer, bottom = worst_layer(summary), TOP + ROW * len(rows)
    svg = Svg(MAIN, bottom + 70, "What the output scale does", told_scale(summary))
    side = svg.beside(SIDE, bottom + 50)
    svg.text(0, 16, about(summary, arms[DENSE]["reserve_loss"]), fill=MUTED)
    violation = RootScale(0, 15, *BALANCE)
    gaps = [arms[name]["loss_minus_dense"] for *_, name in rows]
    loss = gap_scale(gaps, *LOSS)
    svg.text(BALANCE[0], 50, f"MaxVio in training, layer {layer}", bold=True)
    side.text(LOSS[0], 50, "Loss minus the dense twin's", bold=True)
    legend(side, LOSS[0], 72, verdict_keys(), across=80, kin=True)
    x_axis(svg, violation, bottom, top=TOP - 6, ticks=violation.ticks())
    label = "nats per token: left is better"
    x_axis(side, loss, bottom, label, top=TOP - 6, ticks=loss.ticks(4), zero=True)
    for i, (pair, scale, name) in enumerate(rows):
        y = TOP + (i + 0.5) * ROW
        uneven, verdict = balance(summary, name), gaps[i]["verdict"]
        tips = f"MaxVio {mean_sd(uneven, 2)}", f"minus the dense twin {gap_cell(gaps[i])}"
        for part, tip in zip((svg, side), tips, strict=True):
            if scale == FAIR:
                part.line(0, y - ROW / 2, part.width, y - ROW / 2, width=0.5)
                part.text(0, y + 4, pair, bold=True)
            with row(part, y, ROW, name, verdict, tip=f"{pair}, {scale}: {tip}"):
                part.text(118, y + 4, scale)
                if part is svg:
                    dots(svg, violation, y, uneven, "#009e73")
                else:
                    gap_dots(side, loss, y, gaps[i])
    columns = ("setting", "scale", "MaxVio in training", "loss", "loss minus the dense twin's")
    cells = (
        (pair, scale, mean_sd(balance(summary, name), 2), mean_sd(arms[name]["reserve_loss"], 3),
         gap_cell(arms[name]["loss_minus_dense"]))
        for pair, scale, name in rows
    )  # fmt: skip
    return svg.picture(columns, cells)


def _arm(pair: str, scale: str) -> str:
    return pair if scale == FAIR else f"{pair}, {scale}"


def told_scale(summary: dict[str, Any]) -> str:
    """For whom the verdict against the dense twin hangs on the scale."""
    verdict = {n: arm["loss_minus_dense"]["verdict"] for n, arm in summary["arms"].items()}
    turned = [pair for pair in PAIRS if verdict[pair] != verdict[_arm(pair, WRITTEN)]]
    if turned:
        words = f"The scale alone changes the verdict against the dense twin for {listed(turned)}."
    else:
        words = "The scale changes no verdict against the dense twin here."
    quiet = _arm("hash", QUIET)
    name = "a hash as quiet as top-1 routing is as written"
    gap = summary["arms"][quiet]["loss_minus_dense"]
    settings = _arm("nothing", WRITTEN), _arm("nothing", FAIR)
    scales = "without a cure as written", "at the fair scale"
    fallen = told_fallen(summary, *settings, scales)
    return f"{words} {told_gap(name, 'the dense twin', gap)} {fallen}"
