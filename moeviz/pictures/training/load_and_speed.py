"""What stands beside the curves of learners: the load of their experts, and their speed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from moeviz.glossary import meaning
from moeviz.pictures.plot import heat_bar, paragraph
from moeviz.pictures.svg import MUTED, Svg
from moeviz.records.metrics import effective_experts, max_violation
from moeviz.records.runs import Snapshot
from moeviz.words import percent

SIDE, LOAD_HEIGHT = 300, 270
# Line colours of the learners, with a dash and a mark each: never colour alone.
STYLES = (("#0072b2", ""), ("#d55e00", "7 3"), ("#009e73", "2 3"))
# The heat of expert load ends at this multiple of an even share.
HEAT_TOP = 3
BESIDE_WORK = "recorded beside other work: only the ratio counts"


def speed_height(learners: Sequence[Snapshot]) -> float:
    """The room that `draw_speed` needs."""
    return 66.0 + 56 * len(learners)


def draw_load(svg: Svg, learners: Sequence[Snapshot], axis: str, finish: float, label: str) -> None:
    """The last MoE layer's load as a ribbon: experts down, time across, as far as the race is."""
    learner = next((s for s in learners if s.curve.load.shape[1]), None)
    if learner is None:
        return
    left, top, width, height = 44.0, 30.0, 196.0, 190.0
    svg.text(left, 16, "Expert load, last layer", size=13, bold=True)
    if not len(learner.curve):
        svg.text(left, top + 14, "no step has been trained yet", fill=MUTED)
        return
    load_PE = learner.curve.load[:, -1]
    num_experts = load_PE.shape[1]
    row = height / num_experts
    for e in range(0, num_experts, max(1, math.ceil(14 / row))):
        svg.text(left - 6, top + e * row + row / 2 + 4, str(e), anchor="end", fill=MUTED)
    # The ribbon is as long as its curve, sampled evenly along the axis.
    xs = getattr(learner.curve, axis)
    sampled = np.searchsorted(xs, np.linspace(0, xs[-1], 60)).clip(max=len(xs) - 1)
    reach = width * float(xs[-1]) / finish
    svg.heat(left, top, reach, height, load_PE[sampled].T * num_experts / HEAT_TOP)
    recent_E = recent_load(learner)
    for e, share in enumerate(recent_E / recent_E.sum()):
        even = f"{share * num_experts:.1f} × even"
        tip = f"expert {e}: {percent(share, 1)} of the tokens lately, {even}"
        svg.rect(left, top + e * row, width, row, "transparent", tip=tip)
    svg.text(12, top + height / 2, "expert", anchor="middle", fill=MUTED, rotate=-90)
    svg.line(left, top + height, left + width, top + height)
    svg.text(left, top + height + 16, f"{label.split(',')[0]} →", fill=MUTED)
    effective = f"{effective_experts(recent_E):.1f} of {num_experts} experts in effect"
    with svg.thing(tip=meaning("MaxVio")):
        svg.text(0, top + height + 36, f"MaxVio {max_violation(recent_E):.2f}")
    with svg.thing(tip=meaning("experts in effect")):
        svg.text(96, top + height + 36, effective)
    heat_bar(svg, left + width + 8, top, 10, 96, "0", f"{HEAT_TOP}×")
    svg.text(left + width + 24, top + 28, "even", fill=MUTED)


def recent_load(learner: Snapshot) -> np.ndarray:
    """The last layer's load, mean over the last twentieth of the run."""
    return learner.curve.load[-max(1, len(learner.curve) // 20) :, -1].mean(0)


def draw_speed(svg: Svg, learners: Sequence[Snapshot], beside_work: bool) -> None:
    """A bar a learner, beside_work as a ratio to the first one, which was slowed as much; before
    its first step nothing is known of it."""
    top, first = 28.0, learners[0]
    unit = f"against {first.label}" if beside_work else "tokens per second"
    svg.text(0, top - 12, f"Speed, {unit}", size=13, bold=True)
    if beside_work and not all(len(s.curve) for s in learners):
        svg.text(0, top + 12, "not trained yet", fill=MUTED)
        return
    peak = max((s.tokens_per_second for s in learners if len(s.curve)), default=0.0) or 1.0
    for i, learner in enumerate(learners):
        y, speed = top + i * 56, learner.tokens_per_second
        if not len(learner.curve):
            svg.text(0, y + 12, f"{learner.label}: not trained yet", fill=MUTED)
            continue
        number, of = f"{speed:,.0f}", unit
        if beside_work:
            number, of = f"{speed / first.tokens_per_second:.2f} ×", first.label
        size = f"{learner.active_parameters / 1e6:.2f} M active of {learner.parameters / 1e6:.2f} M"
        with svg.thing(learner.label, tip=f"{learner.label}: {number} {of}"):
            svg.text(0, y + 12, learner.label)
            svg.rect(0, y + 18, 220 * speed / peak, 14, STYLES[i % len(STYLES)][0])
            svg.text(6 + 220 * speed / peak, y + 30, number)
            svg.text(0, y + 46, size, fill=MUTED)
    if beside_work:
        notes = textwrap.wrap(BESIDE_WORK, 34)
        paragraph(svg, 0, top + 56 * len(learners) + 14, notes, fill=MUTED)
