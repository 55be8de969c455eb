"""What the tests of numbers share."""

import numpy as np
import pytest


def relative(a, b):
    """||a - b|| / ||b|| in float64, of tensors of one shape."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    assert a.shape == b.shape
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def distinct_choices(rng, T, E, K):
    """K different experts per token, at random."""
    return rng.permuted(np.tile(np.arange(E), (T, 1)), axis=1)[:, :K]


def domains_of_sequences(rng, count, length, E, dependence):
    """Top-1 routing of sequences that each like one expert, and their domains (of 2); with
    dependence (0 to 1) so often the expert of their domain."""
    domain_G = np.arange(count) % 2
    liked_G = np.where(rng.random(count) < dependence, domain_G, rng.integers(0, E, count))
    group = np.repeat(np.arange(count), length)
    stays = rng.random(len(group)) < 0.8
    expert = np.where(stays, liked_G[group], rng.integers(0, E, len(group)))
    return expert[:, None], domain_G[group], group


def assert_figures(now, recorded, tolerance=1e-6, where=""):
    """Trees of figures are the same: numbers within the tolerance, all else exactly."""
    if isinstance(recorded, dict):
        assert now.keys() == recorded.keys(), where
        for name in recorded:
            assert_figures(now[name], recorded[name], tolerance, f"{where}.{name}")
    elif isinstance(recorded, list):
        assert len(now) == len(recorded), where
        for one, other in zip(now, recorded, strict=True):
            assert_figures(one, other, tolerance, where)
    elif isinstance(recorded, float):
        assert now == pytest.approx(recorded, abs=tolerance), where
    else:
        assert now == recorded, where
