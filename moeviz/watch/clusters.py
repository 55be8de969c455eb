"""Synthetic tokens of known skew: clusters around orthogonal centres."""

from __future__ import annotations

import numpy as np

from moeviz.checks import check_number, check_whole

SHARPNESS = 4  # the gate's rows are the centres times this


def clusters(
    num_tokens: int, num_experts: int, *, skew: float, spread: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each token, int [T], and the tokens, float32 [T, E].

    1. the r-th most frequent of E clusters is drawn in proportion to 1 / r^skew (Zipf; 0 is even)
    2. each token is scattered by `spread` around its cluster's centre
    Orthogonal centres: no cluster is nearer to another by chance. ValueError where a size or value
    is impossible.
    """
    check_whole("num_tokens", num_tokens)
    check_whole("num_experts", num_experts)
    check_number("skew", skew)
    check_number("spread", spread)
    rng = np.random.default_rng(seed)
    share_E = np.arange(1, num_experts + 1) ** -float(skew)
    group_T = rng.choice(num_experts, size=num_tokens, p=share_E / share_E.sum())
    centre_ED = np.eye(num_experts, dtype=np.float32)
    scatter_TD = rng.standard_normal((num_tokens, num_experts)).astype(np.float32)
    return group_T, centre_ED[group_T] + spread * scatter_TD
