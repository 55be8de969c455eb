"""Exercises of 12_kernels: tiles by hand, a counting sort, and a kernel of one's own."""

from __future__ import annotations

from types import CodeType
from typing import Any

import numpy as np

from moeviz.exercises.exercise import Exercise, number_near
from moeviz.exercises.kernel_launch import gather_sum_fault

# 12.1: rows of each expert, in tiles of 16.
LOADS, BLOCK_M = (70, 3, 0, 129, 16), 16


def _padding(answer: Any) -> str | None:
    return number_near(
        answer,
        38,
        {
            16: "that is the number of tiles; count the rows that they compute for nothing.",
            256: "that is all computed rows; take off the real ones.",
            218: "that is the real rows.",
            54: "an expert without rows gets no tile.",
            6: "tiles never mix experts: round up each expert's rows, not their sum.",
            40: "that is the rule of thumb, E · BLOCK_M / 2; here the loads are known.",
        },
    )


# 12.2


def _rank(answer: Any) -> str | None:
    if not callable(answer):
        return "the answer is a function of expert_N and num_experts."
    names = _names(getattr(answer, "__code__", None))
    if sorts := sorted(names & {"sort", "argsort", "sorted", "lexsort", "msort", "topk"}):
        return f"it sorts ({sorts[0]}): count instead, as the kernels do."
    rng = np.random.default_rng(0)
    for num_rows, num_experts in ((12, 3), (1, 1), (40, 8), (64, 60)):
        expert_N = rng.integers(num_experts, size=num_rows)
        order_N = np.argsort(expert_N, kind="stable")
        want_N = np.argsort(order_N, kind="stable")
        found = np.asarray(answer(expert_N.copy(), num_experts))
        if found.shape != (num_rows,) or found.dtype.kind not in "iu":
            return (
                f"it must give one whole number for each assignment, shape ({num_rows},); this "
                f"gave {found.dtype} of shape {found.shape}."
            )
        if (found == want_N).all():
            continue
        fault = _rank_fault(found, expert_N, order_N, want_N)
        i = int(np.flatnonzero(found != want_N)[0])
        return fault or (
            f"for {num_rows} assignments to {num_experts} experts, number {i} (expert "
            f"{expert_N[i]}) belongs in row {want_N[i]}, not {found[i]}."
        )
    return None


def _rank_fault(
    found: np.ndarray, expert_N: np.ndarray, order_N: np.ndarray, want_N: np.ndarray
) -> str | None:
    """Which well-known other thing it is."""
    first_N = np.searchsorted(np.sort(expert_N), expert_N)  # where the expert's rows begin
    if (found == order_N).all():
        return "that is the other way round: which assignment a row holds, not which row it gets."
    if (found == want_N - first_N).all():
        return "that is the place among the expert's own rows; its rows begin at its offset."
    if (found == want_N + 1).all():
        return "every row is one too large: count those before, without the assignment itself."
    if (np.sort(found) == np.sort(want_N)).all() and (
        np.diff(expert_N[np.argsort(found)]) >= 0
    ).all():
        return "sorted by expert, yes, but not stable: equal experts keep the order they came in."
    if (found == first_N).all():
        return "all rows of an expert land in one place: add how many came earlier."
    return None


def _names(code: CodeType | None) -> set[str]:
    """All names that a function uses, those of functions inside it too."""
    if code is None:
        return set()
    inside = (_names(c) for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*inside)


PADDING = Exercise(
    _padding,
    (
        "Expert 0: 70 rows are ⌈70 / 16⌉ = 5 tiles, 80 rows computed, 10 of them padding.",
        "sum(-(-n // 16) * 16 - n for n in loads)",
    ),
    "sum(-(-n // 16) * 16 - n for n in (70, 3, 0, 129, 16))",
    "16 tiles, 256 computed rows, 218 real ones: 15 % of the work is thrown away.",
)
RANK = Exercise(
    _rank,
    (
        "one_hot = expert_N[:, None] == np.arange(num_experts) compares all at once; its cumsum "
        "down the rows counts.",
        "row = offset of the expert + how many of the same expert came earlier.",
    ),
    "def row_of(expert_N, num_experts):\n"
    "    one_hot = (expert_N[:, None] == np.arange(num_experts)).astype(int)\n"
    "    earlier = one_hot.cumsum(0) - one_hot\n"
    "    offset = one_hot.sum(0).cumsum() - one_hot.sum(0)\n"
    "    return (one_hot * (offset + earlier)).sum(1)",
    "Histogram, scan, scatter in four lines: stable, and nothing was compared pair by pair.",
)
GATHER_SUM = Exercise(
    gather_sum_fault,
    (
        "start and end of a token's rows stand in token_offsets, at token and token + 1; then "
        "row = tl.load(inverse_ptr + i).",
        "total = tl.zeros([BLOCK], tl.float32); each tl.load and the tl.store get mask=d < D.",
    ),
    "@triton.jit\n"
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
    "Equal to the reference on every plan: tokens without rows, ragged widths, long float16 sums.",
)
