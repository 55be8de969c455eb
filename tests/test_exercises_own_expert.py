"""Exercises of 14 on an expert of one's own: the answers are those of torch and of the library."""

import numpy as np
import torch

from helpers.exercises import Contract, run_solution
from moeviz.exercises.own_expert import lora, lora_gradients


def merged_first(x_TD, w0_FD, a_rD, b_Fr, alpha):
    return x_TD @ (w0_FD + alpha / b_Fr.shape[1] * b_Fr @ a_rD).T


def by_autograd(x_D, g_F, a_rD, b_Fr, alpha):
    a, b = (torch.tensor(m, requires_grad=True) for m in (a_rD, b_Fr))
    y_F = alpha / len(a_rD) * b @ (a @ torch.from_numpy(x_D))
    y_F.backward(torch.from_numpy(g_F))
    return a.grad.numpy(), b.grad.numpy()


class TestOwnExpert(Contract):
    in_parts = True
    wrong = {
        "14.1": [
            (lambda x, w, a, b, alpha: lora(x, w, a, b, 2 * alpha), "not the values of W0 x +"),
            (
                lambda x, w, a, b, alpha: x @ w.T + alpha / x.shape[1] * x @ a.T @ b.T,
                "not the values",
            ),
        ],
        "14.2": [
            (lambda x, g, a, b, alpha: (2 * a, b), "not the gradients by A and by B"),
            (lambda x, g, a, b, alpha: a, "two arrays"),
            (lambda x, g, a, b, alpha: (x, g), "must be matrices"),
        ],
    }
    right = {"14.1": [merged_first], "14.2": [by_autograd]}

    def solved(self, number):
        return run_solution(number, np=np)


def test_where_b_is_zero_nothing_is_added_and_only_b_gets_a_gradient():
    rng = np.random.default_rng(5)
    x_TD, w0_FD, a_rD = rng.normal(size=(3, 4)), rng.normal(size=(5, 4)), rng.normal(size=(2, 4))
    b_Fr, g_F = np.zeros((5, 2)), rng.normal(size=5)
    assert np.array_equal(lora(x_TD, w0_FD, a_rD, b_Fr, 7.0), x_TD @ w0_FD.T)
    by_a, by_b = lora_gradients(x_TD[0], g_F, a_rD, b_Fr, 7.0)
    assert not by_a.any() and by_b.all()
    assert not any(each.any() for each in lora_gradients(x_TD[0], g_F, 0 * a_rD, b_Fr, 7.0))
