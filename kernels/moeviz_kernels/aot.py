"""Compile every kernel as shipped for GPUs that are not here, and check what the compilers say.

    python -m moeviz_kernels.aot [--chips sm_90,sm_120] [--dtypes bf16] [--quick] [--json FILE]
    python -m moeviz_kernels.aot --candidates           what `moeviz bench gpu` will try on sm_90

    1. record   the launch code runs on meta tensors (a shape, no memory), and its launches are
                written down in place of being run: types and constants are those of a real one
    2. compile  Triton lowers each launch to PTX for a chip, its ptxas the PTX to machine code
    3. check    registers that do not fit are spilled to memory: none may be; the shared memory has
                to fit the chip; a matrix product has to use the chip's tensor cores

This needs no GPU. It says nothing about results (the interpreter does) or speed (a GPU does). The
exit code is 1 where a check fails.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from moeviz_kernels import combine, configs, sort, tiles, tune
from moeviz_kernels.gemm import grouped_gemm
from moeviz_kernels.grad_hidden import grad_hidden
from moeviz_kernels.grad_weight import grad_weight
from moeviz_kernels.support import interpreted
from moeviz_kernels.topk import launch as launch_topk
from moeviz_kernels.up import up_swiglu

# KiB of shared memory that one program may have.
CHIPS = {"sm_75": 64, "sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}
# float32 in both kinds: as torch.set_float32_matmul_precision("high") allows it, and exact (last:
# pointers are named after it).
DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "fp32": torch.float32,
}
POINTERS = {dtype: f"*{name}" for name, dtype in DTYPES.items()} | {torch.int32: "*i32"}
TOP_K = (1, 2, 8, 32)
# Here ptxas spills up to 72 bytes with most registers unused. Smaller blocks would avoid it, and
# cost the other chips more.
UNCHECKED = {("sm_100", "tf32")}
FEW_SPILLED = 32  # bytes that a cut may spill that is held to few registers on purpose


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


@dataclass(frozen=True)
class Report:
    """What the compilers made of a launch for a chip, and what is wrong with it."""

    chip: str
    dtype: str
    kernel: str
    launch: str
    registers: int = 0
    shared: int = 0  # bytes
    spilled: int = 0  # bytes, written and read
    tensor_cores: str = ""  # the instruction
    faults: tuple[str, ...] = ()


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
    """top-k, sort and tile map, which know no dtype but float32 and int32."""
    with recording("fp32") as launches:
        for num_experts in sizes:
            logits_TE = meta(1001, num_experts, dtype=torch.float32)
            for k, softmax in itertools.product(TOP_K, (False, True)):
                if k <= num_experts:
                    launch_topk(logits_TE, k, softmax)
            for num_rows in (1001, 1_000_001):
                expert_N, total_E = meta(num_rows), meta(num_experts)
                count = sort.histogram(expert_N, num_experts)
                sort.scan(count)
                sort.scatter(expert_N, count, total_E)
            for height in (16, 128):
                tiles.tile_map(meta(num_experts + 1), 1001, height)
        for k in TOP_K:
            rows, options = meta(1001 * k), dict(BLOCK=sort.RECTANGLE, num_warps=4)
            sort.rectangle_kernel[(1,)](rows, rows, rows, meta(1002), 1001 * k, k, **options)
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
        for kernel, rows, width, (odd, more) in itertools.product(
            configs.KERNELS, (1000, 96, 32, 16), (1024, 32), ((0, 0), (0, 16), (8, 0), (9, 9))
        ):
            columns, depth = width + odd, 1024 + more
            chosen = columns * 2 if kernel == "up" else columns
            config = configs.choose(kernel, like, rows, chosen, depth)
            launches = gemm_launches(kernel, config, dtype, columns, depth)
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


def compile_launch(launch: Launch, chip: str) -> Report:
    """What Triton and ptxas say of one launch. A refusal is a fault, not an exception."""
    report = Report(chip, launch.dtype, launch.kernel, str(launch))
    kernel = getattr(import_module(launch.module), launch.kernel)
    place = {name: (i,) for i, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        kernel,
        launch.signature,
        {place[name]: value for name, value in launch.constants.items()},
        {place[name]: [["tt.divisibility", 16]] for name in launch.divisible},
    )
    # Only Triton knows its options for ptxas. So its own run is asked to speak: it does so on
    # stdout, and not at all for a kernel that lies in the cache.
    triton.knobs.nvidia.dump_ptxas_log = True
    with tempfile.TemporaryDirectory() as cache, redirect_stdout(io.StringIO()) as log:
        triton.knobs.cache.dir = cache
        try:
            compiled = triton.compile(
                source,
                target=GPUTarget("cuda", int(chip.removeprefix("sm_")), 32),
                options=dict(
                    num_warps=launch.num_warps,
                    num_stages=launch.num_stages,
                    maxnreg=launch.maxnreg,
                ),
            )
        except Exception as error:
            return replace(report, faults=(f"does not compile: {type(error).__name__}: {error}",))
    instructions = ("tcgen05.mma", "wgmma.mma_async", "mma.sync")
    report = replace(
        report,
        registers=max(map(int, re.findall(r"Used (\d+) registers", log.getvalue()))),
        shared=compiled.metadata.shared,
        spilled=sum(map(int, re.findall(r"(\d+) bytes spill", log.getvalue()))),
        tensor_cores=next((name for name in instructions if name in compiled.asm["ptx"]), ""),
    )
    return replace(report, faults=tuple(faults(launch, report, compiled.metadata.tmem_size or 0)))


def faults(launch: Launch, report: Report, tensor_memory: int) -> Iterator[str]:
    if report.spilled > (FEW_SPILLED if launch.maxnreg else 0):
        yield f"spills {report.spilled} bytes"
    if report.shared > CHIPS[report.chip] * 1024:
        yield f"needs {report.shared} bytes of shared memory, of {CHIPS[report.chip]} KiB"
    if tensor_memory > 512:
        yield f"needs {tensor_memory} columns of tensor memory, of 512"
    if "BLOCK_K" in launch.constants:  # a matrix product
        tall = launch.constants["BLOCK_M"] >= 64
        best = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"} if tall else {}
        right = "" if launch.dtype == "fp32" else best.get(report.chip, "mma.sync")
        if report.tensor_cores != right:
            yield f"uses {report.tensor_cores or 'no tensor cores'}, not {right or 'exact sums'}"


def main() -> int:
    parser = argparse.ArgumentParser("moeviz_kernels.aot", description=(__doc__ or "")[:95])
    parser.add_argument("--chips", default=",".join(CHIPS))
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--quick", action="store_true", help="each kernel once in each dtype")
    parser.add_argument("--candidates", action="store_true", help="the cuts that a GPU will try")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    chips, dtypes = asked.chips.split(","), asked.dtypes.split(",")
    if unknown := [*({*chips} - {*CHIPS}), *({*dtypes} - {*DTYPES})]:
        parser.error(f"{unknown[0]!r} is none of {', '.join([*CHIPS, *DTYPES])}.")
    if interpreted():
        parser.error("With TRITON_INTERPRET=1 Triton interprets kernels and compiles none.")

    if asked.candidates:
        chips, jobs = ["sm_90"], [(launch, "sm_90") for launch in all_candidates()]
    else:
        jobs = [(launch, chip) for chip in chips for launch in shipped(chip, dtypes, asked.quick)]
    row = "{:6} {:5} {:18} {:>9} {:>7} {:>7}  {:15} {}".format
    print(row(*"chip dtype kernel registers shared spilled tensor_cores launch".split()))
    reports = []
    workers = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for r in pool.map(compile_launch, *zip(*jobs, strict=True)):
            words = "; ".join([r.launch, *(f"FAULT {fault}" for fault in r.faults)])
            numbers = (r.registers, r.shared, r.spilled, r.tensor_cores)
            print(row(r.chip, r.dtype, r.kernel, *numbers, words), flush=True)
            reports.append(r)
    if asked.json:
        summary = dict(triton=triton.__version__, reports=[asdict(r) for r in reports])
        asked.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for chip in chips:
        own = [r for r in reports if r.chip == chip]
        print(
            f"{chip}: {len(own)} compilations, at most {max(r.registers for r in own)} registers, "
            f"{max(r.shared for r in own) / 1024:.1f} of {CHIPS[chip]} KiB shared memory, "
            f"{max(r.spilled for r in own)} bytes spilled"
        )
    wrong = sum(bool(r.faults) for r in reports)
    print(f"Triton {triton.__version__}: {len(reports)} compilations, {wrong} with faults")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
