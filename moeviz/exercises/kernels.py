"""Exercises of 12_kernels: tiles by hand, a counting sort, and a kernel of one's own."""

from __future__ import annotations

from types import CodeType
from typing import Any

import numpy as np

from moeviz.exercises.exercise import Wrong, exercise, function_fault, number_asked
from moeviz.exercises.kernel_launch import gather_sum_fault

# 12.1: rows of each expert, in tiles of 16.
LOADS, BLOCK_M = (70, 3, 0, 129, 16), 16


number_asked(
    "12.1",
    38,
    {
        16: "that is the number of tiles; count the rows that they compute for nothing.",
        256: "that is all computed rows; take off the real ones.",
        218: "that is the real rows.",
        54: "an expert without rows gets no tile.",
        6: "tiles never mix experts: round up each expert's rows, not their sum.",
        40: "that is the rule of thumb, E · BLOCK_M / 2; here the loads are known.",
    },
    "Expert 0: 70 rows are ⌈70 / 16⌉ = 5 tiles, 80 rows computed, 10 of them padding.",
    "Do the same for every expert and add the padding up. What does an expert without rows get?",
    difficulty=1,
    minutes=3,
    solution="sum(-(-n // 16) * 16 - n for n in (70, 3, 0, 129, 16))",
    praise="16 tiles, 256 computed rows, 218 real ones: 15 % of the work is thrown away.",
)


# 12.2


def row_of(expert_N, num_experts):
    one_hot = (expert_N[:, None] == np.arange(num_experts)).astype(int)
    earlier = one_hot.cumsum(0) - one_hot
    offset = one_hot.sum(0).cumsum() - one_hot.sum(0)
    return (one_hot * (offset + earlier)).sum(1)


def _first_row(expert_N: np.ndarray) -> np.ndarray:
    """Where the rows of each assignment's expert begin."""
    return np.searchsorted(np.sort(expert_N), expert_N)


def _assignment_of(expert_N: np.ndarray) -> np.ndarray:
    return np.argsort(expert_N, kind="stable")


MISTAKES = (
    (
        lambda e, n: _assignment_of(e),
        "that is the other way round: which assignment a row holds, not which row it gets.",
    ),
    (
        lambda e, n: row_of(e, n) - _first_row(e),
        "that is the place among the expert's own rows; its rows begin at its offset.",
    ),
    (
        lambda e, n: row_of(e, n) + 1,
        "every row is one too large: count those before, without the assignment itself.",
    ),
    (
        lambda e, n: _first_row(e),
        "all rows of an expert land in one place: add how many came earlier.",
    ),
)


@exercise(
    "12.2",
    "one_hot = expert_N[:, None] == np.arange(num_experts) compares all at once; its cumsum "
    "down the rows counts.",
    "A row has two parts: where the rows of its expert begin, and how many assignments of the "
    "same expert came earlier.",
    difficulty=3,
    minutes=15,
    solution=row_of,
    praise="It is stable and sorts nothing. The kernels do it in three steps: histogram, scan, "
    "scatter.",
    mistakes=MISTAKES,
)
def rank(answer: Any) -> str | None:
    names = _names(getattr(answer, "__code__", None))
    if sorts := sorted(names & {"sort", "argsort", "sorted", "lexsort", "msort", "topk"}):
        return f"it sorts ({sorts[0]}): count instead, as the kernels do."

    def rows(expert_N: np.ndarray, num_experts: int) -> np.ndarray:
        rank_N = np.asarray(answer(expert_N, num_experts))
        if rank_N.shape != expert_N.shape or rank_N.dtype.kind not in "iu":
            raise Wrong(
                f"it must give one whole number for each assignment, shape {expert_N.shape}; this "
                f"gave {rank_N.dtype} of shape {rank_N.shape}."
            )
        return rank_N

    def say(case: tuple[np.ndarray, int], found: np.ndarray, wanted: np.ndarray) -> str:
        expert_N, num_experts = case
        in_order = (np.diff(expert_N[np.argsort(found)]) >= 0).all()
        if in_order and (np.sort(found) == np.sort(wanted)).all():
            return (
                "sorted by expert, yes, but not stable: equal experts keep the order they came in."
            )
        i = int(np.flatnonzero(found != wanted)[0])
        return (
            f"for {len(expert_N)} assignments to {num_experts} experts, number {i} (expert "
            f"{expert_N[i]}) belongs in row {wanted[i]}, not {found[i]}."
        )

    rng = np.random.default_rng(0)
    sizes = ((12, 3), (1, 1), (40, 8), (64, 60))
    cases = [(rng.integers(experts, size=rows), experts) for rows, experts in sizes]
    return function_fault(rows, row_of, cases, MISTAKES, say)


def _names(code: CodeType | None) -> set[str]:
    """All names that a function uses, those of functions inside it too."""
    if code is None:
        return set()
    inside = (_names(c) for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*inside)


BEGUN = """
import triton
import triton.language as tl

@triton.jit
def my_gather_sum(rows_ptr, inverse_ptr, token_offsets_ptr, y_ptr, D, BLOCK: tl.constexpr):
    token = tl.program_id(0)
    d = tl.arange(0, BLOCK)
    tl.store(y_ptr + token * D + d, tl.zeros([BLOCK], tl.float32), mask=d < D)
""".strip()

exercise(
    "12.3",
    "Start and end of a token's rows stand in token_offsets, at token and token + 1; which rows "
    "they are, in inverse.",
    "Add up in float32 whatever the rows' type is, and let no load and no store of columns reach "
    "beyond D.",
    difficulty=3,
    minutes=20,
    asks="a Triton kernel my_gather_sum",
    start=BEGUN,
    solution="@triton.jit\n"
    "def my_gather_sum(rows_ptr, inverse_ptr, token_offsets_ptr, y_ptr, D, BLOCK: tl.constexpr):\n"
    "    token = tl.program_id(0)\n"
    "    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)\n"
    "    start = tl.load(token_offsets_ptr + token)\n"
    "    end = tl.load(token_offsets_ptr + token + 1)\n"
    "    total = tl.zeros([BLOCK], tl.float32)\n"
    "    for i in range(start, end):\n"
    "        row = tl.load(inverse_ptr + i)\n"
    "        total += tl.load(rows_ptr + row * D + d, mask=d < D, other=0.0)\n"
    "    tl.store(y_ptr + token * D + d, total, mask=d < D)",
    praise="Equal to the reference on every plan: tokens without rows, ragged widths, long float16 "
    "sums.",
)(gather_sum_fault)
