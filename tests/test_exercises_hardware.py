"""Exercises of 08_hardware: the stated solution passes and typical wrong answers are told apart."""

import math

from helpers.exercises import Contract, run_solution
from moeviz.costs import distinct_experts, model, weight_bytes
from moeviz.exercises import hardware

WRONG = {
    "08.1": [
        (3, "3 devices have 240 GB"),
        (1, "that is for the active parameters"),
        (2, "one byte a parameter"),
        (281.2, "that is how many GB the weights take"),
        (8, "16 bits are 2 bytes"),
    ],
    "08.2": [
        *hardware._OTHER_EXPERTS,
        (lambda e, k, b: 1.01 * hardware._experts(e, k, b), "for E = 8, K = 2, B = 1 it must be 2"),
        (lambda e, k, b: None, "it must give one number, not None."),
        (lambda e, k, b: math.nan, "it must give one number, not nan."),
    ],
    "08.3": [
        *hardware._OTHER_SECONDS,
        (lambda *a: 2 * hardware._seconds(*a), "experts touched it must be "),
        (lambda *a: "fast", "it must give one number, not 'fast'."),
    ],
}  # fmt: skip


class TestContract(Contract):
    wrong = WRONG


def test_the_numbers_are_the_calculators():
    size = weight_bytes(model("Mixtral 8x22B").architecture, "bf16").total
    assert math.ceil(size / 80e9) == run_solution("08.1") == 4 and round(size / 1e9) == 281
    assert round(320 - size / 1e9) == 39
    for case in ((8, 2, 1), (256, 8, 32), (60, 4, 100)):
        assert hardware._experts(*case) == distinct_experts(*case).total


def test_the_steps_asked_for_are_bound_by_memory_and_by_compute():
    steps = hardware._steps()
    computes = sum(hardware._seconds(*step) == step[0] * step[5] / step[7] for step in steps)
    assert len(steps) == hardware.TRIES and 3 <= computes <= hardware.TRIES - 3
    assert steps == hardware._steps(), "the same for everyone"
