"""How a run's balance stands, in figures and in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moeviz.records.metrics import (
    dead_experts,
    effective_experts,
    last_common,
    max_violation,
    noise_floor,
    validation_at,
)
from moeviz.records.runs import Snapshot

POINTS = 50  # over a whole run: each is the mean of the steps that it stands for
COLUMNS = (
    "run", "step", "busiest expert", "its share", "MaxVio", "experts in effect", "dead experts",
    "gate entropy", "training loss", "validation loss", "the dense twin's",
)  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """How a layer's load stood over some steps. share_E: each expert's part of the tokens; busiest:
    the one with the largest; floor: the MaxVio that chance alone brings about over as many tokens.
    """

    max_violation: float
    effective: float
    dead: int
    share_E: np.ndarray
    floor: float

    @property
    def busiest(self) -> int:
        return int(self.share_E.argmax())

    @property
    def largest(self) -> float:
        return float(self.share_E.max())


def window(run: Snapshot) -> int:
    """Steps that one drawn point stands for, and that a sentence speaks of."""
    return max(1, math.ceil(run.total_steps / POINTS))


def standing(run: Snapshot, layer: int) -> Standing | None:
    """The balance of a layer over the last `window` steps; None before the first."""
    curve = run.curve
    if not len(curve):
        return None
    steps = window(run)
    load_E = curve.load[curve.step > curve.step[-1] - steps, layer].mean(0)
    share_E = load_E / load_E.sum() if load_E.sum() else np.full_like(load_E, math.nan)
    return Standing(
        max_violation(load_E), effective_experts(load_E), dead_experts(load_E), share_E,
        floor(run, min(steps, int(curve.step[-1]))),
    )  # fmt: skip


def describe(run: Snapshot, layer: int, twin: Snapshot | None = None) -> str:
    """The last steps in figures, at most three a sentence; at last the loss beside the twin's."""
    now = standing(run, layer)
    if now is None:
        return f"{run.label}: no step has been trained yet."
    experts, steps = run.curve.load.shape[2], min(window(run), run.step)
    over = f"Over the last {steps} steps" if steps > 1 else "In this step"
    return (
        f"{run.label}, layer {layer}, step {run.step} of {run.total_steps}. "
        f"{over} expert {now.busiest} takes {now.largest:.0%} of the tokens. "
        f"{now.dead} of {experts} experts get less than a tenth of an even share, and "
        f"{now.effective:.1f} are in effect. MaxVio is {now.max_violation:.2f}; chance alone would "
        f"bring about {now.floor:.2f}.{_beside(run, twin)}"
    )


def _beside(run: Snapshot, twin: Snapshot | None) -> str:
    """How far the run's loss lies from the twin's, at the last step where both were measured."""
    if twin is None:
        return ""
    step = last_common([run.curve, twin.curve], "step")
    own, other = (validation_at(each.curve, "step", step) for each in (run, twin))
    if math.isnan(own - other):
        return ""
    side = "above" if own > other else "below"
    return (
        f" At step {step:.0f} its validation loss lies {abs(own - other):.3f} nats per token "
        f"{side} that of the dense twin, a recorded run of this seed."
    )


def floor(run: Snapshot, steps: int) -> float:
    """The MaxVio that chance alone brings about over some steps: a level, not a bound."""
    train, experts = run.meta["train"], run.meta["model"]["moe"]
    tokens = train["batch_size"] * train["seq_len"] * max(steps, 1)
    return noise_floor(tokens, run.curve.load.shape[2], experts["top_k"])


def is_hash(run: Snapshot) -> bool:
    return run.meta["model"]["moe"]["router"] == "hash"


def table(
    runs: Sequence[Snapshot], layer: int, twin: Snapshot | None = None
) -> Iterator[tuple[object, ...]]:
    """COLUMNS of each run where its validation was measured, and at its end. twin: of the first."""
    for run in runs:
        curve = run.curve
        measured = np.flatnonzero(~np.isnan(curve.validation))
        for p in sorted({*measured.tolist(), len(curve) - 1} - {-1}):
            now = standing(run.at("step", float(curve.step[p])), layer)
            assert now is not None
            entropy = "" if is_hash(run) else _told(curve.entropy[p, layer], 2)
            balance = f"{now.largest:.0%}", f"{now.max_violation:.2f}", f"{now.effective:.1f}"
            step = int(curve.step[p])
            beside = math.nan
            if twin is not None and run is runs[0] and p in measured:
                beside = validation_at(twin.curve, "step", step)
            losses = (_told(v, 3) for v in (curve.loss[p], curve.validation[p], beside))
            yield run.label, step, now.busiest, *balance, now.dead, entropy, *losses


def _told(value: float, decimals: int) -> str:
    return "" if math.isnan(value) else f"{value:.{decimals}f}"
