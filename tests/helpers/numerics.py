"""What the tests of numbers share."""

import numpy as np


def relative(a, b):
    """||a - b|| / ||b|| in float64, of tensors of one shape."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    assert a.shape == b.shape
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def distinct_choices(rng, T, E, K):
    """K different experts per token, at random."""
    return rng.permuted(np.tile(np.arange(E), (T, 1)), axis=1)[:, :K]
