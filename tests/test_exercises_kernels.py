"""Exercises of 12_kernels: the stated solution passes, typical wrong answers are told apart, and no
learner's kernel can hurt the process."""

import linecache
import re
import textwrap
from itertools import count

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from helpers.exercises import Contract
from moeviz.exercises import EXERCISES, check, kernels
from moeviz.pictures.kernels.tile_waste import padding_rows

_cells = count()


def cell(source):
    """What a notebook cell defines: its source can be read, as Triton needs it."""
    name = f"<cell {next(_cells)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    names = {"np": np, "triton": triton, "tl": tl}
    exec(compile(source, name, "exec"), names)
    return names[re.search(r"^def (\w+)", source, re.M).group(1)]


def solved(number):
    stated = EXERCISES[number].solution
    return cell(textwrap.dedent(stated)) if "def " in stated else eval(stated)


def changed(old, new):
    """The kernel of the solution with one thing wrong."""
    stated = EXERCISES["12.3"].solution
    assert old in stated
    return cell(stated.replace(old, new))


def backwards(expert_N, num_experts):
    return solved("12.2")(expert_N[::-1], num_experts)[::-1]


WRONG = {
    "12.2": [
        (lambda e, n: np.argsort(np.argsort(e, kind="stable")), "it sorts (argsort): count"),
        (lambda e, n: sorted(e), "it sorts (sorted)"),
        (backwards, "not stable"),
        (lambda e, n: e * 0, "belongs in row"),
        (lambda e, n: e[:-1], "shape (12,); this gave int64 of shape (11,)"),
        (lambda e, n: e / 2, "this gave float64"),
    ],
    "12.3": [
        (("total, mask=d < D", "total"), "writes outside of y: is a mask missing"),
        (("mask=d < D, other=0.0", ""), "reads outside of rows: is a mask missing"),
        (("tl.program_id(1) * BLOCK + ", ""), "columns from 16 on are wrong"),
        (("tl.load(inverse_ptr + i)", "i"), "it adds up rows[i]"),
        (("tl.float32", "tl.float16"), "add up in float32, round once."),
        (("start, end)", "start, end + 1)"), "reads outside of inverse: where does its loop end?"),
        (("    tl.store", "    if end > start:\n        tl.store"), "token 0 has no rows"),
        (("total +=", "total ="), "y of token 1, column 0, must be"),
        (("tl.load(inverse_ptr + i)", "tl.load(inverse_ptr + i) * 100000000"), "its pointers."),
        (("rows_ptr + row", "rows + row"), "the kernel raises NameError: name 'rows'"),
        (("[BLOCK]", "[17]"), "the kernel raises ValueError: "),
        (("row * D + d, mask", "row * D + d[:4], mask"), "the kernel raises "),
        (("@triton.jit\n", ""), "a function with @triton.jit above it."),
        (("y_ptr, D", "y_ptr"), "the kernel raises "),
    ],
}  # fmt: skip


def one_by_one(expert_N, num_experts):
    """Exercise 12.2, every pair compared."""
    before = [
        [b < a or (a == b and j < i) for j, b in enumerate(expert_N)]
        for i, a in enumerate(expert_N)
    ]
    return np.array(before).sum(1)


RIGHT = {
    "12.1": ["38", np.float32(38)],
    "12.2": [one_by_one, lambda e, n: torch.from_numpy(solved("12.2")(e, n))],
    "12.3": [
        (
            "    for i in range(start, end):\n",
            "    for i in range(start, end):\n        tl.static_assert(BLOCK > 0)\n",
        ),
        (
            "row * D + d, mask=d < D, other=0.0)",
            "row * D + tl.minimum(d, D - 1))",  # a column is read twice and stored once
        ),
    ],
}


class TestContract(Contract):
    wrong, right, solved = WRONG, RIGHT, staticmethod(solved)

    def answer(self, number, case):
        return changed(*case) if isinstance(case, tuple) else case


def test_the_number_asked_for():
    assert padding_rows(np.array(kernels.LOADS), kernels.BLOCK_M) == solved("12.1") == 38


def test_ones_own_sort_is_the_kernels():
    from moeviz_kernels import sort_by_expert

    expert_N = np.random.default_rng(1).integers(9, size=70)
    rank = sort_by_expert(torch.from_numpy(expert_N), 9)[1]
    np.testing.assert_array_equal(solved("12.2")(expert_N, 9), rank.numpy())


def test_a_kernel_that_failed_leaves_the_interpreter_as_it_was(capsys):
    from triton.runtime.interpreter import interpreter_builder

    before = set(vars(interpreter_builder))
    check("12.3", changed("total, mask=d < D", "total"))
    assert "create_masked_load" not in vars(interpreter_builder)
    assert set(vars(interpreter_builder)) <= before | {"grid_idx", "grid_dim"}
    check("12.3", solved("12.3"))
    assert "✔ 12.3" in capsys.readouterr().out
