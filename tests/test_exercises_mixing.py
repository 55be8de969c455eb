"""The answers of 14_many_models_in_one on mixing, and that they are what the library does."""

import numpy as np
import torch
from scipy.special import logsumexp

from helpers.exercises import Contract, run_solution
from moeviz.exercises.mixing import mixed
from moeviz.surgery.mix import by_prompt_loss, mixed_loss


def by_logs(loss_MS, prompt):
    log_weight_M = -loss_MS[:, :prompt].sum(1)
    log_weight_M -= logsumexp(log_weight_M)
    return float(-logsumexp(log_weight_M[:, None] - loss_MS[:, prompt:], axis=0).mean())


class TestMixing(Contract):
    in_parts = True
    wrong = {
        "14.8": [
            (lambda loss, prompt: by_logs(loss, prompt) * loss.shape[1], "does not lose that"),
            (lambda loss, prompt: loss[:, prompt:].mean(), "does not lose that"),
        ],
        "14.9": [(4, "one layer"), (12, "in a row"), (6, "is gone"), (10, "not only one")],
    }
    right = {"14.8": [by_logs], "14.9": [8.0]}

    def solved(self, number):
        return run_solution(number, np=np)


def test_the_library_mixes_so():
    rng = np.random.default_rng(3)
    for prompt in (1, 5):
        loss_MS = rng.exponential(2, (3, 12))
        loss_M1S = torch.from_numpy(loss_MS)[:, None]
        weight_1M = by_prompt_loss(loss_M1S[:, :, :prompt])
        found = float(mixed_loss(loss_M1S[:, :, prompt:], weight_1M).mean())
        np.testing.assert_allclose(mixed(loss_MS, prompt), found)
