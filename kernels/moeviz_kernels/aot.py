"""Compile every kernel as shipped for GPUs that are not here, and check what the compilers say.

    python -m moeviz_kernels.aot [--chips sm_90,sm_120] [--dtypes bf16] [--quick] [--json FILE]
    python -m moeviz_kernels.aot --candidates           what `moeviz bench gpu` will try on sm_90

    1. record   the launch code runs on tensors without memory, and its launches are written down
                in place of being run: types and constants are those of a real one (launches.py)
    2. compile  Triton lowers each launch to PTX for a chip, its ptxas the PTX to machine code
    3. check    registers that do not fit are spilled to memory: none may be; the shared memory has
                to fit the chip; a matrix product has to use the chip's tensor cores, and on sm_90
                in 16 bits a short main loop that waits late (sass.py reads it)

This needs no GPU. It says nothing about results (the interpreter does) or speed (a GPU does). The
exit code is 1 where a check fails.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from moeviz_kernels import sass
from moeviz_kernels.launches import DTYPES, Launch, all_candidates, shipped
from moeviz_kernels.support import interpreted

# KiB of shared memory that one program may have.
CHIPS = {"sm_75": 64, "sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}
# Bytes that a cut may spill that is held to few registers. What an H200 was fastest with in
# grad_hidden, in bfloat16, spills 20 there and 56 in float16, 88 under Triton 3.8. Exact products,
# without tensor cores, ptxas itself holds to 128 at times: for one odd width up spills 76 on sm_89.
FEW_SPILLED = 96


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
    programs: int | None = None  # that share a multiprocessor of sm_90
    loop: sass.Loop | None = None  # of a product with wgmma
    faults: tuple[str, ...] = ()


def source(launch: Launch) -> ASTSource:
    """What Triton's own launch would compile, to the letter: one key of the cache for both."""
    kernel = getattr(import_module(launch.module), launch.kernel)
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], list[Any]] = {}
    # Triton 3.7 has an empty entry for every constant, 3.6 for those that are words.
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    words = object if version >= (3, 7) else str
    for i, parameter in enumerate(kernel.params):
        name, kind = parameter.name, launch.signature[parameter.name]
        if kind == "constexpr":
            constants[(i,)] = launch.constants[name]
            if isinstance(launch.constants[name], words):
                attributes[(i,)] = []
        elif name in launch.divisible:
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif kind.startswith(("*", "i")) and not parameter.do_not_specialize:
            attributes[(i,)] = []
    return ASTSource(kernel, launch.signature, constants, attributes)


def options(launch: Launch) -> dict[str, int | None]:
    return dict(
        num_warps=launch.num_warps, num_stages=launch.num_stages, maxnreg=launch.maxnreg
    )  # fmt: skip


def compile_launch(launch: Launch, chip: str) -> Report:
    """What Triton and ptxas say of one launch. A refusal is a fault, not an exception."""
    report = Report(chip, launch.dtype, launch.kernel, str(launch))
    # Only Triton knows its options for ptxas. So its own run is asked to speak: it does so on
    # stdout, and not at all for a kernel that lies in the cache.
    triton.knobs.nvidia.dump_ptxas_log = True
    with tempfile.TemporaryDirectory() as cache, redirect_stdout(io.StringIO()) as log:
        triton.knobs.cache.dir = cache
        try:
            target = GPUTarget("cuda", int(chip.removeprefix("sm_")), 32)
            compiled = triton.compile(source(launch), target=target, options=options(launch))
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
    if chip == "sm_90":
        together = sass.programs_together(report.registers, report.shared, launch.num_warps)
        report = replace(report, programs=together)
        if report.tensor_cores == "wgmma.mma_async":
            code = sass.disassemble(compiled.asm["cubin"])
            report = replace(report, loop=sass.main_loop(code))
    wrong = (*faults(launch, report, compiled.metadata.tmem_size or 0), *slow(launch, report))
    return replace(report, faults=wrong)


def faults(launch: Launch, report: Report, tensor_memory: int) -> Iterator[str]:
    held = launch.maxnreg or (launch.dtype == "fp32" and report.registers <= 128)
    if report.spilled > (FEW_SPILLED if held else 0):
        yield f"spills {report.spilled} bytes"
    if report.shared > CHIPS[report.chip] * 1024:
        yield f"needs {report.shared} bytes of shared memory, of {CHIPS[report.chip]} KiB"
    if tensor_memory > 512:
        yield f"needs {tensor_memory} columns of tensor memory, of 512"
    if "PRECISION" in launch.constants:  # a matrix product
        tall = launch.constants["BLOCK_M"] >= 64
        best = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"} if tall else {}
        right = "" if launch.dtype == "fp32" else best.get(report.chip, "mma.sync")
        if report.tensor_cores != right:
            yield f"uses {report.tensor_cores or 'no tensor cores'}, not {right or 'exact sums'}"


def slow(launch: Launch, report: Report) -> Iterator[str]:
    """What would keep a large cut in 16 bits from the speed of the tensor cores."""
    loop, block = report.loop, launch.constants
    if loop is None or launch.dtype not in ("fp16", "bf16"):
        return
    if block["BLOCK_M"] * block["BLOCK_N"] < 128 * 128 or block["BLOCK_K"] < 64:
        return
    # A step of "flat" also asks whether a tile begins or ends.
    longest = 200 if launch.kernel == "grad_weight_kernel" or block.get("FLAT") else 130
    # With eight warps; four take turns half as often. grad_weight's path that masks every block
    # takes up to 281: an H200 was fastest with it at one size all the same.
    if loop.instructions * launch.num_warps > longest * 8 and block.get("PATH") != "pointer":
        yield f"takes {loop.instructions} instructions a step, of {longest}"
    if not loop.product_wait:
        yield "waits for each product before it goes on"
    if launch.maxnreg and (report.programs or 0) < 2:
        yield "has a multiprocessor to itself, in spite of its few registers"


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
    row = "{:6} {:5} {:18} {:>9} {:>7} {:>7}  {:15} {:>8} {:>4} {:>4}  {}".format
    columns = "chip dtype kernel registers shared spilled tensor_cores programs loop wait launch"
    print(row(*columns.split()))
    reports = []
    workers = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for r in pool.map(compile_launch, *zip(*jobs, strict=True)):
            words = "; ".join([r.launch, *(f"FAULT {fault}" for fault in r.faults)])
            loop = (r.loop.instructions, r.loop.product_wait) if r.loop else ("", "")
            numbers = (r.registers, r.shared, r.spilled, r.tensor_cores, r.programs or "", *loop)
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
