"""How a run's balance stands, in figures and in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moeviz.pictures.svg import shorten
from moeviz.records.metrics import dead_experts, effective_experts, max_violation, noise_floor
from moeviz.records.runs import Snapshot
from moeviz.words import percent

POINTS = 50  # over a whole run: each is the mean of the steps that it stands for
MOST = 0.9  # of the tokens: it is told how few experts take them
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
        f"{run.label}, layer {layer}, step {run.step:,} of {run.total_steps:,}. "
        f"{over} expert {now.busiest} takes {percent(now.largest)} of the tokens. "
        f"{now.dead} of {experts} experts get less than a tenth of an even share, and "
        f"{now.effective:.1f} are in effect. MaxVio is {now.max_violation:.2f}; chance alone would "
        f"bring about {now.floor:.2f}.{_beside(run, twin)}"
    )


def at_step(run: Snapshot) -> str:
    return f"{run.label}: step {run.step:,} of {run.total_steps:,}"


def result(run: Snapshot, layer: int) -> str:
    """How few experts take most of the tokens."""
    now = standing(run, layer)
    if now is None or math.isnan(now.largest):
        return shorten(at_step(run), 60)
    taken = np.cumsum(np.sort(now.share_E)[::-1])
    few = int(np.searchsorted(taken, MOST - 1e-9)) + 1
    takes, share = "takes" if few == 1 else "take", percent(float(taken[few - 1]))
    at = f"Step {run.step} of {run.total_steps}"
    return f"{at}: {few} of {len(taken)} experts {takes} {share} of the tokens"


def idle(run: Snapshot, layer: int) -> str:
    """Why that matters: what is paid for and hardly works."""
    now = standing(run, layer)
    if now is None:
        return ""
    experts = len(now.share_E)
    if not now.dead:
        return "Every expert gets at least a tenth of an even share."
    share = percent(now.dead / experts)
    return f"{now.dead} of {experts} experts hardly get a token: {share} of the experts' weights."


def _beside(run: Snapshot, twin: Snapshot | None) -> str:
    """How far the run's loss lies from the twin's, where it was measured last."""
    measured = _of_twin(run, twin)
    if not measured:
        return ""
    point, other = max(measured.items())
    own, step = run.curve.validation[point], run.curve.step[point]
    side = "above" if own > other else "below"
    return (
        f" At step {step:.0f} its validation loss lies {abs(own - other):.3f} nats per token "
        f"{side} that of the dense twin, a recorded run of this seed: two runs, and no verdict."
    )


def _of_twin(run: Snapshot, twin: Snapshot | None) -> dict[int, float]:
    """The twin's validation loss by the run's points. The first measurement of one belongs to the
    first of the other, and so on, for both measure equally often; by their steps they need not
    meet, because a recorded point stands for three steps and bears the last one's number."""
    if twin is None:
        return {}
    points = np.flatnonzero(~np.isnan(run.curve.validation)).tolist()
    measured = twin.curve.validation[~np.isnan(twin.curve.validation)].tolist()
    return dict(zip(points, measured, strict=False))


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
    of_twin = _of_twin(runs[0], twin)
    for run in runs:
        curve = run.curve
        measured = np.flatnonzero(~np.isnan(curve.validation))
        for p in sorted({*measured.tolist(), len(curve) - 1} - {-1}):
            now = standing(run.at("step", float(curve.step[p])), layer)
            assert now is not None
            entropy = "" if is_hash(run) else _told(curve.entropy[p, layer], 2)
            balance = f"{percent(now.largest)}", f"{now.max_violation:.2f}", f"{now.effective:.1f}"
            step = int(curve.step[p])
            beside = of_twin.get(p, math.nan) if run is runs[0] else math.nan
            losses = (_told(v, 3) for v in (curve.loss[p], curve.validation[p], beside))
            yield run.label, step, now.busiest, *balance, now.dead, entropy, *losses


def _told(value: float, decimals: int) -> str:
    return "" if math.isnan(value) else f"{value:.{decimals}f}"
