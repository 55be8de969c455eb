"""The answers of 14_many_models_in_one on growing, and that they are what the library does."""

import numpy as np
import pytest
import torch

from helpers.exercises import Contract, run_solution
from moeviz.exercises.growing import draw_anew, upcycle
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.surgery.upcycle import upcycled


def half_of_it(w13_2FD, w2_DF, num_experts, total):
    w13_E2FD, w2_EDF = upcycle(w13_2FD, w2_DF, num_experts, total)
    return w13_E2FD / total, w2_EDF * total


def by_shape(w13_2FD, w2_DF, num_experts, total):
    """Views of one copy; torch tensors will do as well."""
    w13, w2 = torch.from_numpy(w13_2FD), torch.from_numpy(w2_DF) / total
    return w13.expand(num_experts, *w13.shape), w2.expand(num_experts, *w2.shape)


def of_the_whole(w13_2FD, w2_DF, chosen_f, rng):
    """With the statistics of all neurons."""
    whole = draw_anew(w13_2FD, w2_DF, np.arange(w2_DF.shape[1]), rng)
    return only(chosen_f, (w13_2FD, w2_DF), whole)


def shuffled(w13_2FD, w2_DF, chosen_f, rng):
    order = np.roll(chosen_f, 1)
    return only(chosen_f, (w13_2FD, w2_DF), (w13_2FD, w2_DF), order)


def only(chosen_f, old, new, taken=None):
    """The chosen neurons of the new, the others of the old."""
    (w13, w2), width = (each.copy() for each in old), old[1].shape[1]
    taken = chosen_f if taken is None else taken
    for half in (0, width):
        w13[half + chosen_f] = new[0][half + taken]
    w2[:, chosen_f] = new[1][:, taken]
    return w13, w2


def zeros(w13_2FD, w2_DF, chosen_f, rng):
    return only(chosen_f, (w13_2FD, w2_DF), (0 * w13_2FD, 0 * w2_DF))


def gate_alone(w13_2FD, w2_DF, chosen_f, rng):
    new = draw_anew(w13_2FD, w2_DF, chosen_f, rng)[0]
    return np.concatenate([np.split(new, 2)[0], np.split(w13_2FD, 2)[1]]), w2_DF


def by_broadcast(w13_2FD, w2_DF, chosen_f, rng):
    """All three parts at once: [3, F, D]."""
    parts = np.stack([*np.split(w13_2FD, 2), w2_DF.T])
    old = parts[:, chosen_f]
    mean, std = old.mean((1, 2), keepdims=True), old.std((1, 2), keepdims=True)
    parts[:, chosen_f] = mean + std * rng.standard_normal(old.shape)
    return np.concatenate(parts[:2]), parts[2].T


class TestGrowing(Contract):
    in_parts = True
    wrong = {
        "14.5": [
            (lambda a, b, n, t: upcycle(a, b, n, 1.0), "gets 0.25 times the FFN's answer"),
            (lambda a, b, n, t: upcycle(a, b, n, 3 if n == 6 else 2), "sum to total, not to K"),
            (half_of_it, "does not answer as the FFN"),
            (lambda a, b, n, t: (a, b), "of the shapes"),
            (lambda a, b, n, t: a[0, 0], "two arrays"),
        ],
        "14.6": [(0.5, "not the same half"), (0.75, "one at least"), (0.0, "the same ones")],
    }
    wrong["14.7"] = [
        (of_the_whole, "the gate's rows must be drawn with the mean"),
        (shuffled, "every weight of them"),
        (zeros, "must be drawn with the mean"),
        (gate_alone, "the up projection's rows of the chosen"),
        (lambda a, b, c, r: draw_anew(a, b, np.arange(3000), r), "that are not chosen must stay"),
        (lambda a, b, c, r: (a, b), "must be drawn anew"),
        (lambda a, b, c, r: (a, b.T), "keep their shapes"),
    ]
    right = {"14.5": [by_shape], "14.6": [1 / 4, 0.2500001], "14.7": [by_broadcast]}

    def solved(self, number):
        return run_solution(number, np=np)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_library_copies_and_divides_so(scale):
    torch.manual_seed(0)
    dense = LanguageModel(ModelConfig(vocab_size=20, d_model=8, num_heads=2, d_ff=6))
    moe = MoEConfig(4, 2, 6, options={"scale": scale})
    ffn, new = dense.blocks[0].ffn, upcycled(dense, moe).blocks[0].ffn
    want = upcycle(ffn.w13_2FD.detach().numpy(), ffn.w2_DF.detach().numpy(), 4, scale)
    for bank, array in zip((new.w13_E2FD, new.w2_EDF), want, strict=True):
        np.testing.assert_allclose(bank.detach().numpy(), array, rtol=1e-5)
