"""Balance of expert load, what a limit drops, who is ahead in a race, figures over seeds.

numpy, from what runs and decisions hold; NaN where nothing counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_number, check_whole
from moeviz.records.arrays import NAN, amounts, check_array, check_equally_long, entropy, ratio
from moeviz.records.runs import Curve

DEAD = 0.1  # an expert with less than this share of the mean load is called dead
RECENT = 50  # steps of training over which a collapse is judged


def max_violation(load_E: ArrayLike) -> float:
    """MaxVio = max load / mean load - 1: 0 when even, E - 1 when one expert takes all
    (Wang et al. 2024, auxiliary-loss-free balancing). NaN without any load."""
    load = amounts("load_E", load_E)
    return ratio(load.max(), load.mean()) - 1


def effective_experts(load_E: ArrayLike) -> float:
    """exp of the load's entropy: E when even, 1 when one expert takes all. NaN without load."""
    load = amounts("load_E", load_E)
    return math.exp(entropy(load)) if load.any() else NAN


def noise_floor(num_tokens: int, num_experts: int, top_k: int) -> float:
    """The MaxVio that a perfectly even random router shows by sampling alone, about
    sqrt(2 ln E) sqrt(E / (K T)): the bound on the mean maximum of E Gaussians, times the relative
    spread of a Poisson count.

    It lies above the mean (1.1 to 2.1 times for K <= E / 2, further as K nears E, where choices
    without repetition even the load out); up to one batch in five still exceeds it. With fewer than
    10 assignments per expert, whose counts are skewed, it gets too low.
    """
    check_whole("num_tokens", num_tokens)
    check_whole("top_k", top_k, high=check_whole("num_experts", num_experts))
    return float(np.sqrt(2 * np.log(num_experts)) * np.sqrt(num_experts / (top_k * num_tokens)))


def dead_experts(load_E: ArrayLike) -> int:
    """How many experts have less than a tenth of the mean load (without any load, none)."""
    load = amounts("load_E", load_E)
    return int((load < DEAD * load.mean()).sum())


def training_load(curve: Curve) -> np.ndarray:
    """The share of assignments that each expert took on average over the last 50 steps of training
    (fewer, where it had fewer): float [L, E], for the figures above. ValueError without a step."""
    if not len(curve):
        raise ValueError("The curve has no point yet; train for a step at least.")
    load_LE: np.ndarray = curve.load[curve.step > curve.step[-1] - RECENT].mean(0)
    return load_LE


def collapsed(curve: Curve) -> bool:
    """Whether in one of the layers at least half of the experts are dead, by their mean load over
    the last 50 steps of training."""
    if not len(curve):
        return False
    return any(2 * dead_experts(load_E) >= len(load_E) for load_E in training_load(curve))


def drop_rate(demand_E: ArrayLike, load_E: ArrayLike) -> float:
    """Assignments dropped / asked for. Only the sums count: what one expert had no room for,
    another may have taken."""
    demand, load = amounts("demand_E", demand_E), amounts("load_E", load_E)
    check_equally_long(demand_E=demand, load_E=load)
    asked, served = demand.sum(), load.sum()
    if served > asked * (1 + 1e-9):  # averages over steps round
        raise ValueError(f"load_E ({served:g} in all) must not exceed demand_E ({asked:g}).")
    return 1 - ratio(min(served, asked), asked)


def padding_waste(load_E: ArrayLike, capacity: int) -> float:
    """1 - sum load / (E capacity): the share of expert slots that are computed and stay empty."""
    load = amounts("load_E", load_E)
    check_number("capacity", capacity, max(load.max(), 1))
    return float(1 - load.sum() / (len(load) * capacity))


def expected_drop_rate(share_E: ArrayLike, num_assignments: int, capacity: float) -> float:
    """E[sum_e max(0, n_e - C)] / E[sum_e n_e], the share of assignments that is dropped on average
    where each expert takes at most C = capacity slots and n_e ~ Binomial(N, share_e).

    share_E: the chance that one of the N = num_assignments goes to each expert; it sums to 1. For
    tokens with K distinct experts give N = T and the chance that a token visits each expert (sum
    K): then this is their drop rate. Exact for independent tokens, whatever the priority.
    """
    share = check_array("share_E", share_E, 0, 1, np.float64)
    check_whole("num_assignments", num_assignments)
    check_number("capacity", capacity)
    # log n! as a sum of logarithms: numpy has no log-gamma.
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, num_assignments + 1)))))
    over = np.arange(math.floor(min(capacity, num_assignments)) + 1, num_assignments + 1)
    rest = num_assignments - over
    ways = log_factorial[-1] - log_factorial[over] - log_factorial[rest]
    sure = share >= 1  # its log(1 - share) is not finite
    open_E1 = np.where((share > 0) & ~sure, share, 0.5)[:, None]
    chance_En = np.exp(ways + over * np.log(open_E1) + rest * np.log1p(-open_E1))
    lost_E = (chance_En * (over - capacity)).sum(axis=1)
    lost_E = np.where(sure, max(num_assignments - capacity, 0.0), np.where(share > 0, lost_E, 0.0))
    return ratio(lost_E.sum(), num_assignments * share.sum())


def _measured(curve: Curve, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Where on an axis the validation loss was measured, and what it was."""
    known = ~np.isnan(curve.validation)
    return getattr(curve, axis)[known], curve.validation[known]


def validation_at(curve: Curve, axis: str, x: float) -> float:
    """The validation loss at x on an axis (step, seconds or flops), linear between measurements;
    NaN before the first and after the last."""
    xs, losses = _measured(curve, axis)
    return float(np.interp(x, xs, losses, left=NAN, right=NAN)) if len(xs) else NAN


def last_common(curves: list[Curve], axis: str) -> float:
    """The furthest x at which every curve has a validation loss; NaN where one has none."""
    ends = [xs[-1] if len(xs) else NAN for xs, _ in (_measured(curve, axis) for curve in curves)]
    return float(np.min(ends)) if ends else NAN


def gap(dense: Curve, moe: Curve, axis: str) -> float:
    """Dense minus MoE validation loss (nats per token; above zero: MoE is ahead) at the furthest x
    on an axis that both have reached."""
    x = last_common([dense, moe], axis)
    return validation_at(dense, axis, x) - validation_at(moe, axis, x)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """A figure over seeds: its mean, its sample standard deviation (None for one seed), values."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "values": [float(v) for v in values]}
