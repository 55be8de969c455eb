"""How the grouped GEMMs are cut: a table by chip, kernel, rows per expert, width and dtype.

    rows per expert   <= 16   <= 32   <= 96   more       a tile never mixes experts: one taller than
    BLOCK_M              16      32      64    128       an expert's rows computes padding

Never chosen by the number of tokens alone, so that no batch size compiles or tunes anew; for the
same reason the kernels' `do_not_specialize` names what grows with the batch. Each entry
is the first of its candidates that ptxas compiles without a spill within the chip's shared memory
(aot.py checks every one). Widths that are no multiple of 16 take the small cuts of float32.

What a GPU has measured goes before the table: tuned.json, which `moeviz bench gpu --adopt` writes,
or the file that MOEVIZ_TUNED names. An entry holds for one chip, Triton, width and depth.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import triton

from moeviz_kernels.sizes import cdiv

Kernel = Literal["up", "gemm", "grad_hidden", "grad_weight"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
# The products of a layer: W13 x, W2 h, dh, dx and the gradients of both weights.
Role = Literal["up", "down", "grad_hidden", "dx", "dW2", "dW13"]
ROLES: tuple[Role, ...] = get_args(Role)
KERNEL_OF: dict[Role, Kernel] = {
    "up": "up", "down": "gemm", "dx": "gemm", "grad_hidden": "grad_hidden",
    "dW2": "grad_weight", "dW13": "grad_weight",
}  # fmt: skip
OLDEST = (8, 0)  # Triton uses no tensor cores below


@dataclass(frozen=True)
class Gemm:
    """One cut of a grouped GEMM: the block of the output, the step along the sum, the warps of a
    program, the stages of its pipeline, how many tiles walk the columns together, how many
    registers a thread may have at most (None: as many as ptxas likes), the path by which the
    kernel walks its tiles (each kernel's file draws its own), and how many columns of its block
    grad_hidden turns into its results at a time."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    group: int = 8
    maxnreg: int | None = None
    path: str = "pointer"
    epilogue: int = 32


# BLOCK_M: (BLOCK_N, BLOCK_K, warps, stages, and what else Gemm has), a wide and a narrow one. A
# column of `up` is a gate or an up row, so BLOCK_N / 2 hidden units. grad_weight walks the rows:
# its BLOCK_M is of the output.
Cuts = dict[int, tuple[tuple[Any, ...], ...]]
_FEW: Cuts = {32: ((128, 64, 4, 4), (64, 64, 4, 4)), 16: ((128, 64, 4, 4), (64, 64, 4, 4))}
_BLACKWELL: dict[Kernel, Cuts] = {
    # 128 rows of 256 columns spill under Triton 3.7.
    "up": {128: ((128, 64, 8, 4),), 64: ((256, 64, 8, 4), (128, 64, 4, 4)), **_FEW},
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
# By pointers in 128 columns an H200 took 1.15 to 1.46 times as long as by its best cut of 256, in
# `up` and `gemm` on tiles of 128 rows (data/runs/sweep_h200.json). Elsewhere it is a guess.
NARROW_COST = 1.25
# What an H200 was fastest with at most large sizes that it was asked for.
_FLAT: Cuts = {128: ((256, 64, 8, 4, 8, None, "flat"), (128, 64, 8, 4))}
_HOPPER: dict[Kernel, Cuts] = {
    "up": _BLACKWELL["up"] | _FLAT,
    "gemm": _BLACKWELL["gemm"] | _FLAT,
    "grad_hidden": _BLACKWELL["grad_hidden"] | {128: ((128, 64, 8, 3, 8, 128), (64, 64, 8, 3))},
    "grad_weight": {128: ((128, 64, 8, 3, 8, None, "tma"),)},
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
    "sm_100": _BLACKWELL,
    "float32": _FLOAT32,
}
PACKAGED = Path(__file__).with_name("tuned.json")


@dataclass(frozen=True)
class Tuned:
    """What GPUs have measured. cuts: by chip, Triton, dtype, `bucket` of the rows, role, width
    and depth. heights, of the tiles of rows: by chip, Triton, dtype, bucket, d_model, d_expert."""

    cuts: dict[tuple[Any, ...], Gemm]
    heights: dict[tuple[Any, ...], int]

    @staticmethod
    def read(path: Path) -> Tuned:
        """ValueError where there is no such file, or it holds something else."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            return Tuned(
                {tuple(entry["for"]): Gemm(**entry["cut"]) for entry in table["cuts"]},
                {tuple(entry["for"]): entry["height"] for entry in table["heights"]},
            )
        except (OSError, ValueError, LookupError, TypeError) as error:
            cure = "let MOEVIZ_TUNED name a table that `moeviz bench gpu` has written, or unset it"
            if path == PACKAGED:
                cure = "reinstall moeviz"
            raise ValueError(
                f"The cuts of the Triton kernels cannot be read from {path} "
                f"({type(error).__name__}: {error}): {cure}."
            ) from None


TUNED = Tuned.read(Path(os.environ.get("MOEVIZ_TUNED") or PACKAGED))


def bucket(rows_per_expert: float) -> int:
    """The next power of two from 16 to 4,096: numbers of rows that share what was measured."""
    return next((size for size in _BUCKETS if rows_per_expert <= size), _BUCKETS[-1])


_BUCKETS = tuple(2**power for power in range(4, 13))


def place(like: torch.Tensor, rows_per_expert: float) -> tuple[Any, ...]:
    """Where a measurement holds: chip, Triton (major.minor), dtype, bucket of the rows."""
    chip = "interpreter"
    if like.is_cuda:
        chip = "sm_{}{}".format(*torch.cuda.get_device_capability(like.device))
    version = ".".join(triton.__version__.split(".")[:2])
    return chip, version, str(like.dtype).removeprefix("torch."), bucket(rows_per_expert)


def family(capability: tuple[int, int], dtype: torch.dtype) -> str:
    """The table's name for a chip: 9.0 and 10.x hold 227 KiB of shared memory a program, the others
    from 8.0 on at least 99 KiB. 10.x has the cuts that compile: nobody has measured there."""
    if dtype == torch.float32:
        return "float32"
    return {9: "sm_90", 10: "sm_100"}.get(capability[0], "sm_80")


def tile_height(rows_per_expert: float) -> int:
    """BLOCK_M of the kernels that walk tiles of rows, where nothing was measured."""
    return next((m for m, most in ((16, 16), (32, 32), (64, 96)) if rows_per_expert <= most), 128)


def height_of_tiles(like: torch.Tensor, rows_per_expert: float, d_model: int, d_expert: int) -> int:
    """BLOCK_M of a layer's kernels that walk tiles of rows, for tensors like `like`."""
    key = (*place(like, rows_per_expert), d_model, d_expert)
    return TUNED.heights.get(key, tile_height(rows_per_expert))


def choose(
    role: Role,
    like: torch.Tensor,
    rows_per_expert: float,
    width: int,
    depth: int,
    height: int | None = None,
) -> Gemm:
    """The cut of a product of `width` columns and a sum over `depth`, for tensors like `like`.

    height: of its tiles of rows (default: tile_height); dW2 and dW13 have none.
    """
    kernel = KERNEL_OF[role]
    block_m = 128 if kernel == "grad_weight" else height or tile_height(rows_per_expert)
    tuned = TUNED.cuts.get((*place(like, rows_per_expert), role, width, depth))
    if tuned is not None and (kernel == "grad_weight" or tuned.block_m == block_m):
        return tuned
    capability = torch.cuda.get_device_capability(like.device) if like.is_cuda else OLDEST
    # Where Triton knows of no multiple of 16, a load or store of 16 bytes becomes eight, each with
    # an address of its own: only small blocks have registers for that. (32: `up` has width / 2.)
    aligned = width % 32 == 0 and depth % 16 == 0
    cuts = TABLE[family(capability, like.dtype) if aligned else "float32"][kernel][block_m]
    # Columns that are computed, those of padding too.
    cost = [cdiv(width, n) * n * NARROW_COST ** (n < cuts[0][0]) for n, *_ in cuts]
    return Gemm(block_m, *cuts[cost.index(min(cost))])


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
        **({} if config.maxnreg is None else {"maxnreg": config.maxnreg}),
    )
