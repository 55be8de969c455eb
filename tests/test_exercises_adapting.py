"""Exercises of 14_many_models_in_one on adapting experts."""

import numpy as np

from helpers.exercises import Contract, run_solution
from moeviz.records.important import important_experts
from moeviz.surgery.lora import unpacked


def by_library(sum_LE, top_p):
    chosen = np.zeros(sum_LE.shape)
    for layer, sums in enumerate(sum_LE):
        chosen[layer, list(important_experts(sums / sums.sum(), top_p))] = 1
    return chosen


def by_tensors(lora_A, lora_B, num_experts):
    import torch

    a, b = unpacked(torch.from_numpy(lora_A), torch.from_numpy(lora_B), num_experts)
    return (b @ a).numpy()


def by_columns(lora_A, lora_B, num_experts):
    rank = len(lora_A) // num_experts
    return np.array([
        lora_B[:, e::num_experts] @ lora_A[e * rank : (e + 1) * rank] for e in range(num_experts)
    ])  # fmt: skip


class TestContract(Contract):
    in_parts = True
    wrong = {
        "14.3": [
            (lambda s, p: np.ones(s.shape), "not the fewest experts"),
            (lambda s, p: "abc", "true or false for each expert of each layer"),
            (lambda s, p: [[0, 3], [1], [2], [0]], "true or false for each expert of each layer"),
        ],
        "14.4": [(lambda a, b, e: b @ a, "not the changes of W")],
    }
    right = {"14.3": [by_library], "14.4": [by_tensors, by_columns]}

    def solved(self, number):
        return run_solution(number, np=np)
