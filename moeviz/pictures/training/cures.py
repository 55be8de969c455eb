"""Cures of collapse over several seeds: how even they make the load, and what that does to the
loss, beside the dense twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moeviz.pictures.axes import RootScale, signed, x_axis
from moeviz.pictures.over_seeds import (
    about,
    dots,
    gap_cell,
    gap_dots,
    gap_scale,
    mean_sd,
    verdict_keys,
)
from moeviz.pictures.plot import Key, legend, paragraph, row
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.pictures.training.cures_told import (
    BASE,
    DENSE,
    balance_verdicts,
    cures_of,
    told_against_dense,
    told_cures,
    told_layers,
    told_quality,
    worst_layer,
)

MAIN, SIDE, TOP, ROW = 510, 560, 108.0, 30.0
BALANCE, COUNT = (226.0, 430.0), 474.0
LOSS = {DENSE: (216.0, 372.0), BASE: (396.0, 552.0)}
EXPERTS = 16  # of every recorded run
# A layer's colour and mark.
LAYERS = (("#cc79a7", "diamond"), ("#009e73", "circle"))
FEW = (DENSE, BASE, "balancing loss 0.1", "sign bias", "z-loss 0.001", "hash")


def cures(summary: dict[str, Any], names: Sequence[str] = ()) -> Picture:
    """One row a setting (all cures unless named): MaxVio of the last 50 training steps in each
    layer, a tick a seed, a bar of one standard deviation; runs that collapsed; loss minus the dense
    twin's and minus that without a cure, a bar for the 95 % interval, the verdict as the mark."""
    shown = {n: summary["arms"][n] for n in names or (DENSE, BASE, *cures_of(summary))}
    bottom = TOP + ROW * len(shown)
    svg = Svg(MAIN, bottom + 64, "Balance and loss under every cure", _sentences(summary))
    side = svg.beside(SIDE, bottom + 84)
    svg.text(0, 16, about(summary, summary["arms"][DENSE]["reserve_loss"]), fill=MUTED)
    balance = RootScale(0, EXPERTS - 1, *BALANCE)
    gaps = {
        base: gap_scale((a[_minus(base)] for a in shown.values()), *ends)
        for base, ends in LOSS.items()
    }
    _heads(svg, side, summary)
    x_axis(svg, balance, bottom, top=TOP - 4, ticks=balance.ticks(3))
    for x in gaps.values():
        x_axis(side, x, bottom, top=TOP - 4, ticks=x.ticks(4), form=signed, zero=True)
    for i, (name, arm) in enumerate(shown.items()):
        y, bold = TOP + (i + 0.5) * ROW, name in (DENSE, BASE)
        fell = f"{arm['collapsed']} of {arm['runs']}" if "training" in arm else ""
        with row(svg, y, ROW, name, tip=f"{name}: collapsed in {fell} runs" if fell else name):
            svg.text(0, y + 4, name, bold=bold)
            svg.text(COUNT, y + 4, fell, anchor="middle", bold=fell[:1] != "0")
        for layer, figure in enumerate(arm.get("training", {}).get("max_violation", ())):
            tip = f"{name}, layer {layer}: MaxVio {mean_sd(figure, 2)}"
            with svg.thing(name, f"layer {layer}", tip=tip):
                dots(svg, balance, y - 7 + 14 * layer, figure, *LAYERS[layer])
        with row(side, y, ROW, name, tip=f"{name}: loss {mean_sd(arm['reserve_loss'], 3)}"):
            side.text(0, y + 4, name, bold=bold)
        for base, x in gaps.items():
            if name != base:
                gap = arm[_minus(base)]
                with side.thing(name, gap["verdict"], tip=f"{name} minus {base}: {gap_cell(gap)}"):
                    gap_dots(side, x, y, gap)
        for part in (svg, side):
            part.line(0, y + ROW / 2, part.width, y + ROW / 2, width=0.5)
    svg.text(0, bottom + 50, "tick: a seed · bar: one standard deviation", fill=MUTED)
    notes = "tick: a seed · bar: 95 % interval", "verdicts are corrected for the whole table (Holm)"
    paragraph(side, 0, bottom + 50, notes, 20, fill=MUTED)
    return svg.picture(_columns(summary), (_cells(*item, summary) for item in shown.items()))


def _minus(base: str) -> str:
    return f"loss_minus_{base}"


def _sentences(summary: dict[str, Any]) -> str:
    told = told_layers, told_cures, told_against_dense, told_quality
    return " ".join(of(summary) for of in told)


def _layers(summary: dict[str, Any]) -> int:
    return len(summary["arms"][BASE]["training"]["max_violation"])


def _heads(svg: Svg, side: Svg, summary: dict[str, Any]) -> None:
    svg.text(BALANCE[0], 52, "MaxVio, last 50 steps", bold=True)
    svg.text(COUNT - 36, 52, "collapsed", bold=True)
    for base, (left, _) in LOSS.items():
        side.text(left, 52, f"Loss minus {base}", bold=True)
    layers = [
        Key(f"layer {i}", colour, mark=shape, width=0)
        for i, (colour, shape) in enumerate(LAYERS[: _layers(summary)])
    ]
    legend(svg, BALANCE[0], 72, layers, across=90, kin=True)
    svg.text(BALANCE[0], 92, "of training · 0 is even", fill=MUTED)
    svg.text(COUNT - 36, 72, "runs", fill=MUTED)
    side.text(LOSS[DENSE][0], 92, "nats · left is better", fill=MUTED)
    legend(side, LOSS[DENSE][0], 72, verdict_keys(), across=80, kin=True)


def _columns(summary: dict[str, Any]) -> tuple[str, ...]:
    return (
        "setting", "collapsed", f"MaxVio in training, layer {worst_layer(summary)}, minus nothing",
        *(f"{name}, layer {i}" for i in range(_layers(summary))
          for name in ("MaxVio in training", "dead experts in training", "MaxVio in evaluation")),
        "loss", "loss minus dense", "loss minus nothing", "domain information",
    )  # fmt: skip


def _cells(name: str, arm: dict[str, Any], summary: dict[str, Any]) -> tuple[object, ...]:
    balance: list[str] = []
    for i in range(_layers(summary)):
        balance += [
            mean_sd(arm[load][figure][i], decimals) if load in arm else ""
            for load, figure, decimals in (
                ("training", "max_violation", 2),
                ("training", "dead_experts", 1),
                ("held_out", "max_violation", 2),
            )
        ]
    domains = arm.get("domain_information")
    return (
        name, f"{arm['collapsed']} of {arm['runs']}" if "training" in arm else "",
        balance_verdicts(summary).get(name, ""), *balance,
        mean_sd(arm["reserve_loss"], 3), *(gap_cell(arm[_minus(base)]) for base in (DENSE, BASE)),
        mean_sd(domains, 3) if domains else "",
    )  # fmt: skip
