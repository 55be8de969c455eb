"""How the grouped GEMMs are cut: a table by chip, kernel, rows per expert, width and dtype.

    rows per expert   <= 16   <= 32   <= 96   more       a tile never mixes experts: one taller than
    BLOCK_M              16      32      64    128       an expert's rows computes padding

Never chosen by the number of tokens alone, so that no batch size compiles or tunes anew; for the
same reason the kernels' `do_not_specialize` names what grows with the batch. Each entry
is the first of its candidates that ptxas compiles without a spill within the chip's shared memory
(aot.py checks every one); none has been measured on a GPU yet. Widths that are no multiple of 16
take the small cuts of float32. `tune.tune` measures on the GPU at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

Kernel = Literal["up", "gemm", "grad_hidden", "grad_weight"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
OLDEST = (8, 0)  # Triton uses no tensor cores below


@dataclass(frozen=True)
class Gemm:
    """One cut of a grouped GEMM: the block of the output, the step along the sum, the warps of a
    program, the stages of its pipeline, and how many tiles walk the columns together."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    group: int = 8


# BLOCK_M: (BLOCK_N, BLOCK_K, warps, stages), a wide and a narrow one. A column of `up` is a gate or
# an up row, so BLOCK_N / 2 hidden units. grad_weight walks the rows: its BLOCK_M is of the output.
Cuts = dict[int, tuple[tuple[int, int, int, int], ...]]
_FEW: Cuts = {32: ((128, 64, 4, 4), (64, 64, 4, 4)), 16: ((128, 64, 4, 4), (64, 64, 4, 4))}
_HOPPER: dict[Kernel, Cuts] = {
    "up": {128: ((256, 64, 8, 4), (128, 64, 8, 4)), 64: ((256, 64, 8, 4), (128, 64, 4, 4)), **_FEW},
    "gemm": {
        128: ((256, 64, 8, 4), (128, 64, 8, 4)),
        64: ((256, 64, 8, 4), (128, 64, 4, 4)),
        **_FEW,
    },
    "grad_hidden": {
        128: ((128, 64, 8, 4), (64, 64, 8, 3)),
        64: ((128, 64, 4, 4), (64, 64, 4, 3)),
        **_FEW,
    },
    # Half of the stages are spent on the row's token, which has to be there before its address.
    "grad_weight": {128: ((256, 64, 8, 5), (128, 64, 8, 6))},
}
_AMPERE: dict[Kernel, Cuts] = {
    "up": {128: ((256, 64, 8, 3), (128, 64, 8, 3)), 64: ((256, 64, 8, 3), (128, 64, 4, 4)), **_FEW},
    "gemm": {
        128: ((256, 64, 8, 3), (128, 64, 8, 3)),
        64: ((256, 64, 8, 3), (128, 64, 4, 4)),
        **_FEW,
    },
    "grad_hidden": {
        128: ((128, 64, 8, 4), (64, 64, 8, 3)),
        64: ((128, 64, 8, 4), (64, 64, 8, 3)),
        **_FEW,
    },
    "grad_weight": {128: ((256, 32, 8, 6), (128, 32, 8, 6))},
}
# The tensor cores' float32 (TF32) and the exact one: smaller blocks, for twice the bytes.
_FLOAT32: dict[Kernel, Cuts] = {
    "up": {
        128: ((64, 32, 8, 2),),
        64: ((64, 32, 4, 2),),
        32: ((32, 32, 4, 3),),
        16: ((64, 16, 4, 3),),
    },
    "gemm": {
        128: ((128, 32, 8, 3),),
        64: ((64, 32, 8, 2),),
        32: ((64, 32, 4, 3),),
        16: ((64, 32, 4, 3),),
    },
    "grad_hidden": {
        128: ((64, 64, 8, 2),),
        64: ((64, 16, 4, 4),),
        32: ((64, 32, 4, 2),),
        16: ((64, 32, 4, 3),),
    },
    "grad_weight": {128: ((64, 32, 8, 4),)},
}
TABLE: dict[str, dict[Kernel, Cuts]] = {
    "sm_80": _AMPERE,
    "sm_90": _HOPPER,
    "float32": _FLOAT32,
}
TUNED: dict[tuple[Any, ...], Gemm] = {}


def family(capability: tuple[int, int], dtype: torch.dtype) -> str:
    """The table's name for a chip: 9.0 and 10.x hold 227 KiB of shared memory a program, the others
    from 8.0 on at least 99 KiB."""
    if dtype == torch.float32:
        return "float32"
    return "sm_90" if capability[0] in (9, 10) else "sm_80"


def tile_height(rows_per_expert: float) -> int:
    """BLOCK_M of the kernels that walk tiles of rows."""
    return next((m for m, most in ((16, 16), (32, 32), (64, 96)) if rows_per_expert <= most), 128)


def choose(
    kernel: Kernel, like: torch.Tensor, rows_per_expert: float, width: int, depth: int
) -> Gemm:
    """The cut of a GEMM of `width` columns and a sum over `depth`, for tensors like `like`."""
    block_m = 128 if kernel == "grad_weight" else tile_height(rows_per_expert)
    tuned = TUNED.get((kernel, like.dtype, block_m, width, depth))
    if tuned is not None:
        return tuned
    capability = torch.cuda.get_device_capability(like.device) if like.is_cuda else OLDEST
    # Where Triton knows of no multiple of 16, a load or store of 16 bytes becomes eight, each with
    # an address of its own: only small blocks have registers for that. (32: `up` has width / 2.)
    aligned = width % 32 == 0 and depth % 16 == 0
    cuts = TABLE[family(capability, like.dtype) if aligned else "float32"][kernel][block_m]
    return Gemm(block_m, *next((cut for cut in cuts if cut[0] <= width), cuts[-1]))


def launch_options(config: Gemm, dtype: torch.dtype) -> dict[str, Any]:
    """The keyword arguments of a launch. float32 follows torch's own switch for TF32."""
    # The old switches set this one too; but what reads the old raises once this one has been set.
    exact = dtype != torch.float32 or torch.backends.cuda.matmul.fp32_precision != "tf32"
    return dict(
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        GROUP=config.group,
        PRECISION="ieee" if exact else "tf32",
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
