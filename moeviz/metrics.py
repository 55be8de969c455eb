"""Balance of expert load, and who is ahead in a race: numpy, from what snapshots hold."""

from __future__ import annotations

import numpy as np

from moeviz.snapshot import Curve


def max_violation(load_E: np.ndarray) -> float:
    """MaxVio = max load / mean load - 1: 0 when even, E - 1 when one expert takes all
    (Wang et al. 2024, auxiliary-loss-free balancing). NaN without any load."""
    mean = load_E.mean()
    return float(load_E.max() / mean - 1) if mean > 0 else float("nan")


def effective_experts(load_E: np.ndarray) -> float:
    """exp of the load's entropy: E when even, 1 when one expert takes all. NaN without load."""
    total = load_E.sum()
    if total <= 0:
        return float("nan")
    share = load_E[load_E > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def validation_at(curve: Curve, axis: str, x: float) -> float:
    """The validation loss at x on an axis (step, seconds or flops), linear between measurements;
    NaN before the first and after the last."""
    measured = ~np.isnan(curve.validation)
    if not measured.any():
        return float("nan")
    xs, losses = getattr(curve, axis)[measured], curve.validation[measured]
    return float(np.interp(x, xs, losses, left=np.nan, right=np.nan))


def last_common(curves: list[Curve], axis: str) -> float:
    """The furthest x at which every curve has a validation loss; NaN where one has none."""
    ends = []
    for curve in curves:
        measured = ~np.isnan(curve.validation)
        if not measured.any():
            return float("nan")
        ends.append(float(getattr(curve, axis)[measured][-1]))
    return min(ends, default=float("nan"))


def gap(dense: Curve, moe: Curve, axis: str) -> float:
    """Dense minus MoE validation loss (nats per token; above zero: MoE is ahead) at the furthest x
    on an axis that both have reached."""
    x = last_common([dense, moe], axis)
    return validation_at(dense, axis, x) - validation_at(moe, axis, x)
