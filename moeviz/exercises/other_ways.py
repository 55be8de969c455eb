"""Exercises of 10_efficiency_frontier: what K experts of a dense mixture keep, and grams of CO2."""

from __future__ import annotations

import numpy as np

from moeviz.exercises.exercise import function_asked


def covered(share_TE, k):
    best_TE = np.sort(share_TE, axis=1)[:, ::-1]
    return best_TE[:, :k].sum(1).mean()


def _shares() -> list[tuple[np.ndarray, int]]:
    """Gates' weights of tokens that sum to 1, from even ones to decided ones; and K."""
    rng = np.random.default_rng(7)
    cases = []
    for tokens, experts, k, decided in ((2, 3, 1, 2.0), (6, 8, 2, 0.5), (9, 16, 4, 3.0)):
        power_TE = np.exp(decided * rng.standard_normal((tokens, experts)))
        cases.append((power_TE / power_TE.sum(1, keepdims=True), k))
    return cases


function_asked(
    "10.7",
    "Each token has its own K best experts. Sort along which axis?",
    "np.sort sorts upwards, so a token's K largest weights are the last K of its row. Sum them, "
    "and take the mean over the tokens.",
    difficulty=2,
    minutes=6,
    solution=covered,
    praise="What is not covered is cut away when K experts answer. A gate that is sure of itself "
    "covers much with few, and the information loss makes it sure.",
    cases=_shares,
    mistakes=(
        (
            lambda p, k: p[:, :k].sum(1).mean(),
            "that takes the first K experts; take the K largest weights of each token.",
        ),
        (
            lambda p, k: np.sort(p.mean(0))[::-1][:k].sum(),
            "that takes the K experts that are largest on average, the same for all tokens.",
        ),
        (
            lambda p, k: np.sort(p, axis=1)[:, :k].sum(1).mean(),
            "those are the K smallest weights: np.sort sorts upwards.",
        ),
        (
            lambda p, k: np.sort(p, axis=1)[:, -k:].mean(),
            "sum the K weights of a token, and take the mean over the tokens alone.",
        ),
    ),
    words="for weights {} and K = {} it gives {found:.4f}; it must be {wanted:.4f}.",
)


def grams(seconds, watts, kg_per_kwh):
    kwh = seconds * watts / 3.6e6
    return 1000 * kwh * kg_per_kwh


function_asked(
    "10.8",
    "A watt is a joule per second. How many joules is a kilowatt hour?",
    "A kWh is 1,000 W for 3,600 s: 3.6 million joules. The intensity is in kg, the answer in g.",
    difficulty=1,
    minutes=5,
    solution=grams,
    praise="The recorded race costs less than a gram on each of these grids. A training of "
    "thousands of GPUs is the same sum, with other factors.",
    cases=lambda: [(90.0, 45.0, 0.713), (3600.0, 1000.0, 0.481), (12.5, 250.0, 0.056)],
    mistakes=(
        (lambda s, w, i: s * w / 3.6e6 * i, "that is in kg; the answer is in grams."),
        (
            lambda s, w, i: s * w / 1000 * 1000 * i,
            "that takes the seconds for hours: divide them by 3,600.",
        ),
        (
            lambda s, w, i: s * w / 3600 * 1000 * i,
            "that takes the watts for kilowatts: divide them by 1,000.",
        ),
    ),
    words="for {} s at {} W and {} kg a kWh it gives {found:.4g}; it must be {wanted:.4g}.",
)
