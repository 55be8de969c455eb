"""Exercises of 13: a real model's choices, weights, balance and captures."""

import numpy as np

from helpers.exercises import Contract, run_solution
from moeviz.exercises import EXERCISES, real_models
from moeviz.records.locality import distinct_experts
from moeviz.records.metrics import max_violation

WRONG = {
    "13.1": [
        (lambda ids, n: 1.01 * real_models.touched(ids, n), "for a batch of 8 tokens it gives"),
        (lambda ids, n: [1], "it must give one number, not [1]."),
    ],
    "13.2": [
        (lambda logits, ids: real_models.weigh(logits, ids) + 1, "of its first token are"),
        (lambda logits, ids: logits.tolist(), "weights [6, 3], as the ids are, not [[0.1885"),
    ],
    "13.3": [
        (lambda load: (0, 0), "it gives 0.000 and 0.000; it must be"),
        (lambda load: 3, "it must return two numbers, (mean of the tasks, pooled), not 3."),
    ],
    "13.4": [(5, "the answer is the number of a tool, 1 to 4, not 5.")],
}
# As right as the stated solution, and not it.
RIGHT = {
    "13.1": [lambda ids, n: distinct_experts(ids, 64, n)],
    "13.2": [lambda logits, ids: real_models.weigh(logits, ids).tolist()],
    "13.3": [
        lambda load: np.array(
            [np.mean([max_violation(row) for row in load]), max_violation(load.sum(0))]
        )
    ],
    "13.4": [3.0],
}


class TestContract(Contract):
    wrong, right = WRONG, RIGHT

    def solved(self, number):
        return run_solution(number, np=np)


def test_one_capture_alone_does_not_give_the_layers_output():
    out_ETD, y_TD, four = real_models.captures()
    errors = {}
    for number, (expert_TK, weight_TK) in four.items():
        rows_TKD = out_ETD[expert_TK, np.arange(len(y_TD))[:, None]]
        again_TD = (rows_TKD * weight_TK[..., None]).sum(1)
        errors[number] = np.linalg.norm(again_TD - y_TD) / np.linalg.norm(y_TD)
    wrong = int(EXERCISES["13.4"].solution)
    assert errors.pop(wrong) > 0.1 and max(errors.values()) < 0.01


def test_the_mystery_routers_choice_is_not_its_largest_logits():
    logits_TE, expert_TK, weight_TK = real_models.mystery()
    largest_TK = np.sort(np.argsort(-logits_TE, axis=1)[:, :3])
    assert (largest_TK != np.sort(expert_TK)).any()
    np.testing.assert_allclose(weight_TK, real_models.weigh(logits_TE, expert_TK))
