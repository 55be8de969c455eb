"""What the package launches, written down in place of being run: aot.py compiles it.

    grouped_gemm(meta tensors, a cut)            a shape and a dtype, no memory and no GPU
      gemm_kernel[(tiles,)](x, matrix, ..)       the package's own launch code
        JITFunction.run                          recording() stands in its place:
          Launch(types, constants, by 16, ..)    all that decides what is compiled

`shipped` lists the launches of a chip, `all_candidates` those of the cuts that a GPU may prefer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton.runtime import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from moeviz_kernels import combine, configs, sort, tiles, tune
from moeviz_kernels.gemm import grouped_gemm
from moeviz_kernels.grad_hidden import grad_hidden
from moeviz_kernels.grad_weight import grad_weight
from moeviz_kernels.topk import launch_topk, launch_topk_backward
from moeviz_kernels.up import up_swiglu

# float32 in both kinds: as torch.set_float32_matmul_precision("high") allows it, and exact (last:
# pointers are named after it).
DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "fp32": torch.float32,
}
POINTERS = {dtype: f"*{name}" for name, dtype in DTYPES.items()}
POINTERS |= {torch.int32: "*i32", torch.int64: "*i64"}
TOP_K = (1, 2, 8, 32)
# Here ptxas spills up to 72 bytes with most registers unused. Smaller blocks would avoid it, and
# cost the other chips more.
UNCHECKED = {("sm_100", "tf32")}


@dataclass(frozen=True)
class Launch:
    """All that a launch tells the compiler."""

    module: str
    kernel: str
    dtype: str
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: list[str]  # by 16: pointers and sizes that allow loads of 16 bytes
    num_warps: int
    num_stages: int
    maxnreg: int | None = None

    def __str__(self) -> str:
        values = self.constants | dict(warps=self.num_warps, stages=self.num_stages)
        hidden = ("PRECISION", "GROUP")
        words = [f"{n}={v}" for n, v in values.items() if v is not False and n not in hidden]
        words += [f"maxnreg={self.maxnreg}"] if self.maxnreg else []
        sizes = [name for name in self.divisible if self.signature[name] == "i32"]
        words += [f"by16={','.join(sizes)}"] if sizes else []
        words += [] if self.divisible else ["unaligned"]
        return " ".join(words).replace("=True", "")


@contextmanager
def recording(dtype: str, aligned: bool = True) -> Iterator[list[Launch]]:
    """Within, launches are written down in place of being run, each once; as for pointers to
    multiples of 16 bytes where `aligned`."""
    launches: list[Launch] = []

    def write_down(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        given = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        signature, constants, divisible = {}, {}, []
        for parameter in kernel.params:
            name, value = parameter.name, given[parameter.name]
            if isinstance(value, Tensor):
                signature[name] = POINTERS[value.dtype]
                divisible += [name] * aligned
            elif isinstance(value, TensorDescriptor):
                element = POINTERS[value.base.dtype].removeprefix("*")
                signature[name] = f"tensordesc<{element}{[*value.block_shape]}>"
            # Triton, too, makes a constant of a size or stride of 1.
            elif parameter.is_constexpr or (value == 1 and not parameter.do_not_specialize):
                signature[name], constants[name] = "constexpr", value
            else:
                signature[name] = "i32"
                divisible += [name] * (value % 16 == 0 and not parameter.do_not_specialize)
        launch = Launch(
            kernel.fn.__module__, kernel.fn.__name__, dtype, signature, constants, divisible,
            given.get("num_warps", 4), given.get("num_stages", 3), given.get("maxnreg"),
        )  # fmt: skip
        launches.extend([launch] * (launch not in launches))

    with mock.patch.object(JITFunction, "run", write_down):
        yield launches


def meta(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def routing_launches(sizes: Sequence[int]) -> list[Launch]:
    """top-k, sort and tile map, which know no dtype but float32 and whole numbers."""
    with recording("fp32") as launches:
        for num_experts in sizes:
            logits_TE = meta(1001, num_experts, dtype=torch.float32)
            for k in (k for k in TOP_K if k <= num_experts):
                launch_topk(logits_TE, k, softmax=False)
                for renormalise in (False, True):
                    outputs = launch_topk(logits_TE, k, softmax=True, renormalise=renormalise)
                    for grad_TE in (None, outputs[0]):
                        launch_topk_backward(*outputs, grad_TE, outputs[1], renormalise)
            # The choices of a top-k, or any list.
            for num_rows in (1001, 1_000_007):
                for expert in (meta(num_rows), meta(num_rows // 7, 7, dtype=torch.int64)):
                    sort.launch_sort(expert, num_experts)
            for height in (16, 128):
                tiles.tile_map(meta(num_experts + 1), 1001, height)
    return launches


def combine_launches(dtype: str) -> Iterator[Launch]:
    """gather and gather-sum with each block, and at a width that allows no wide loads."""
    for width, aligned in ((64, True), (1024, True), (4096, True), (1033, False)):
        with recording(dtype, aligned) as launches:
            rows_ND = meta(1001, width, dtype=DTYPES[dtype])
            combine.gather(rows_ND, meta(1001))
            combine.gather_sum(rows_ND, meta(1001), meta(334))
        yield from launches


def gemm_launches(
    kernel: configs.Kernel,
    config: configs.Gemm,
    dtype: str,
    width: int,
    depth: int,
    num_rows: int = 1001,
) -> list[Launch]:
    """A grouped GEMM in one cut, with each of its flags."""
    like = partial(meta, dtype=DTYPES[dtype])
    token, offsets, weight = meta(num_rows), meta(9), meta(num_rows, dtype=torch.float32)
    num_tiles = tiles.most_tiles(num_rows, 8, config.block_m)
    tile_map = (meta(num_tiles), meta(num_tiles))
    x, h = like(num_rows, depth), like(num_rows, width)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    with recording(dtype, aligned=width % 8 == 0) as launches:
        if kernel == "up":
            for save in (True, False):
                w13 = like(8, 2 * width, depth)
                up_swiglu(x, token, weight, w13, offsets, tile_map, config, save=save)
        elif kernel == "gemm":
            for matrix in (like(8, width, depth).transpose(1, 2), like(8, depth, width)):
                grouped_gemm(x, matrix, offsets, tile_map, config)
        elif kernel == "grad_hidden":
            w2, z = like(8, depth, width), like(num_rows, 2 * width)
            grad_hidden(x, token, weight, w2, z, offsets, tile_map, config)
        else:
            for gather_left in (True, False):
                grad_weight(x, h, token, offsets, config, gather_left=gather_left)
    torch.set_float32_matmul_precision(precision)
    return launches


def capability(chip: str) -> tuple[int, int]:
    return divmod(int(chip.removeprefix("sm_")), 10)


def shipped_gemms(chip: str, dtype: str) -> list[Launch]:
    """The grouped GEMMs as `configs.choose` cuts them for a chip: for many and few rows, a wide and
    a narrow matrix; with a sum over a multiple of every block, and of 16 only, which takes a mask;
    with columns by 8 only, and with both odd, at odd addresses, which allows no wide loads."""
    found: list[Launch] = []
    like: Any = SimpleNamespace(dtype=DTYPES[dtype], device=chip, is_cuda=True)
    with mock.patch.object(torch.cuda, "get_device_capability", capability):
        for role, rows, width, (odd, more) in itertools.product(
            configs.ROLES, (1000, 96, 32, 16), (1024, 32), ((0, 0), (0, 16), (8, 0), (9, 9))
        ):
            columns, depth = width + odd, 1024 + more
            chosen = columns * 2 if role == "up" else columns
            config = configs.choose(role, like, rows, chosen, depth)
            launches = gemm_launches(configs.KERNEL_OF[role], config, dtype, columns, depth)
            found += [launch for launch in launches if launch not in found]
    return found


def shipped(chip: str, dtypes: Sequence[str], quick: bool) -> list[Launch]:
    """All that is launched on a chip, or each kernel once in each dtype."""
    launches = routing_launches((8, 60, 256, sort.MAX_EXPERTS))
    for dtype in dtypes:
        launches += combine_launches(dtype)
        if capability(chip) >= configs.OLDEST and (chip, dtype) not in UNCHECKED:
            launches += shipped_gemms(chip, dtype)
    if quick:
        first: dict[tuple[str, str], Launch] = {}
        for launch in launches:
            first.setdefault((launch.kernel, launch.dtype), launch)
        return [*first.values()]
    return launches


def all_candidates() -> list[Launch]:
    """Every cut that a GPU is asked to try, in bfloat16, each with its kernel's flags."""
    launches: list[Launch] = []
    for kernel, height in tune.CANDIDATES:
        for cut in tune.candidates(kernel, height):
            if cut.group == configs.Gemm.group:  # the order of programs is no matter of ptxas
                launches += gemm_launches(kernel, cut, "bf16", 1024, 2048)
    return launches
