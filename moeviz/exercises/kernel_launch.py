"""Exercise 12.3: a learner's Triton kernel, launched where it can do no harm, and its faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

GUARD = 1 << 16  # numbers before and behind each buffer: a kernel that goes astray stays inside
UNTOUCHED = -7777.0
# Tokens, width, block, dtype.
LAUNCHES = ((5, 37, 16, "float32"), (9, 64, 32, "float32"), (3, 20, 32, "float16"))
LONG = 64  # rows of the token whose sum float16 gets wrong


def gather_sum_fault(answer: Any) -> str | None:
    """What is wrong with the kernel, or None."""
    if not (hasattr(answer, "fn") and hasattr(answer, "run")):
        return "the answer is a Triton kernel: a function with @triton.jit above it."
    from moeviz.watch.kernels import kernels_alone

    with kernels_alone() as kernels:
        if kernels.interpreted() and type(answer).__name__ == "JITFunction":
            return (
                "the kernel was defined before Triton's interpreter was asked for: restart, and "
                "run the notebook from the top."
            )
        for launch in LAUNCHES:
            fault = _launch(answer, *launch, interpreted=kernels.interpreted())
            if fault:
                return fault
    return None


def _launch(
    kernel: Any, num_tokens: int, width: int, block: int, dtype: str, *, interpreted: bool
) -> str | None:
    """The kernel on a random plan: what is wrong, or None."""
    import torch

    device = "cpu" if interpreted else "cuda"
    rows_ND, inverse, token_offsets = _plan(num_tokens, width, getattr(torch, dtype))
    rows, _ = _guarded(rows_ND.to(device), float("nan"))
    places, _ = _guarded(inverse.to(device), 0)
    offsets, _ = _guarded(token_offsets.to(device), 0)
    y_TD, around = _guarded(torch.full((num_tokens, width), float("nan"), dtype=rows.dtype,
                                       device=device), UNTOUCHED)  # fmt: skip
    buffers = {"rows": rows, "inverse": places, "token_offsets": offsets, "y": y_TD}
    try:
        with _fenced(buffers) if interpreted else nullcontext():
            kernel[(num_tokens, -(-width // block))](*buffers.values(), width, BLOCK=block)
        if device == "cuda":
            torch.cuda.synchronize()
    except Exception as error:  # whatever Triton makes of it is for the learner to read
        return _said(error)
    beyond = torch.cat((around[:GUARD], around[-GUARD:])) != UNTOUCHED
    if beyond.any():
        return "it writes outside of y: mask the store, d < D, and mind the row's length."
    given_TD, rows_64 = y_TD.cpu().double(), rows_ND.double()
    want = _sums(rows_64, inverse, token_offsets)
    if torch.allclose(given_TD, want, rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-4):
        return None
    return _sum_fault(given_TD, want, rows_64, inverse, token_offsets, block)


class _Astray(Exception):
    """A kernel went outside of what it was given."""


@contextmanager
def _fenced(buffers: dict[str, Tensor]) -> Iterator[None]:
    """Let no address outside of the buffers reach Triton's interpreter: it reads the machine's own
    memory, and a stray pointer would end the notebook's process."""
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    ranges = {
        name: (v.data_ptr(), v.data_ptr() + v.numel() * v.element_size())
        for name, v in buffers.items()
    }

    def watched(act: Callable[..., Any], verb: str, mask_at: int) -> Callable[..., Any]:
        def check(pointers: Any, *others: Any) -> Any:
            used = np.atleast_1d(pointers.data)[np.atleast_1d(others[mask_at].data)]
            inside = np.zeros(used.shape, bool)
            for low, high in ranges.values():
                inside |= (used >= low) & (used < high)
            if not inside.all():
                raise _Astray(_stray(int(used[~inside][0]), ranges, verb, builder.grid_idx))
            return act(pointers, *others)

        return check

    builder.create_masked_load = watched(builder.create_masked_load, "reads", 0)
    builder.create_masked_store = watched(builder.create_masked_store, "writes", 1)
    try:
        yield
    finally:
        del builder.create_masked_load, builder.create_masked_store


def _stray(
    address: int, ranges: dict[str, tuple[int, int]], verb: str, program: tuple[int, ...]
) -> str:
    far, name = min(
        (max(low - address, address - high + 1), name) for name, (low, high) in ranges.items()
    )
    where = f"program ({program[0]}, {program[1]}) {verb} outside"
    if far > GUARD:
        return f"{where} of all that it was given: look at how it computes its pointers."
    why = "is a mask missing, d < D?" if name in ("rows", "y") else "where does its loop end?"
    return f"{where} of {name}: {why}"


def _plan(num_tokens: int, width: int, dtype: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Random rows; tokens with none to three of them, the first one with none. In float16 the last
    token has LONG rows, one large and many small ones."""
    import torch

    generator = torch.Generator().manual_seed(num_tokens)
    count_T = torch.randint(0, 4, (num_tokens,), generator=generator)
    count_T[0], count_T[1] = 0, 3
    long = dtype == torch.float16
    if long:
        count_T[-1] = LONG
    num_rows = int(count_T.sum())
    inverse = torch.randperm(num_rows, generator=generator).int()
    rows_ND = torch.randn(num_rows, width, generator=generator)
    if long:
        rows_ND[inverse[-LONG:].long()] = 0.5
        rows_ND[inverse[-LONG].long()] = 2048.0
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), count_T.cumsum(0))).int()
    return rows_ND.to(dtype), inverse, offsets


def _guarded(values: Tensor, fill: float) -> tuple[Tensor, Tensor]:
    """The values within a larger buffer, and that buffer."""
    import torch

    whole = torch.full(
        (2 * GUARD + values.numel(),), fill, dtype=values.dtype, device=values.device
    )
    inside = whole[GUARD : GUARD + values.numel()].view(values.shape)
    inside.copy_(values)
    return inside, whole


def _sums(rows_ND: Tensor, places: Tensor, token_offsets: Tensor) -> Tensor:
    import torch

    bounds = token_offsets.tolist()
    return torch.stack(
        [rows_ND[places[a:b].long()].sum(0) for a, b in zip(bounds, bounds[1:], strict=False)]
    )


def _sum_fault(
    found: Tensor, want: Tensor, rows_ND: Tensor, inverse: Tensor, token_offsets: Tensor, block: int
) -> str:
    import torch

    wrong = ~torch.isclose(found, want, rtol=2e-3, atol=1e-4)
    empty_T = token_offsets.diff() == 0
    t, d = (int(v) for v in wrong.nonzero()[0])
    if not wrong[~empty_T].any():
        return f"token {t} has no rows: its y must be zeros, and yours is not written."
    if not wrong[:, :block].any():
        return f"columns from {block} on are wrong: program_id(1) tells which block of columns."
    in_order = torch.arange(len(inverse))
    if torch.allclose(found, _sums(rows_ND, in_order, token_offsets), equal_nan=True):
        return "it adds up rows[i]; the rows of a token are rows[inverse[i]]."
    if not torch.isfinite(found[wrong]).all():
        t, d = (int(v) for v in (~torch.isfinite(found)).nonzero()[0])
        return f"y of token {t}, column {d}, is not written, or from outside of rows."
    if len(inverse) > LONG and not wrong[:-1].any():
        return (
            f"a sum of {LONG} float16 rows gives {found[-1, 0]:g} instead of {want[-1, 0]:g}: add "
            "up in float32, round once."
        )
    return f"y of token {t}, column {d}, must be {want[t, d]:.3g}; it is {found[t, d]:.3g}."


def _said(error: BaseException) -> str:
    """One sentence of what Triton raised; the interpreter and the compiler wrap the cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, _Astray):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"the kernel raises {type(error).__name__}: {(lines or ['no reason given'])[-1][:160]}"
