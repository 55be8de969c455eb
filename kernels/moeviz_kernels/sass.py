"""What a product's machine code for sm_90 says of its speed, before any GPU has run it.

    .L_x_1:                                 the main loop: from a label to the branch back to it
        LDGSTS / UTMALDG                    loads of a later step begin: by pointers / by TMA
        DEPBAR.LE SB0, 0x4                  waits until at most 4 groups of them are under way
        HGMMA x 4                           the step's product on the tensor cores
        WARPGROUP.DEPBAR.LE gsb0, 0x1       waits until at most 1 product is under way: the last
        BRA .L_x_1                          one goes on while this step's addresses are computed

Each instruction takes a turn of a warp; what is not a product has to fit beside the products. While
one program starts or stores a block, another on the same multiprocessor can compute: if two fit.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass

import triton

from moeviz_kernels.tma import REGISTERS, RESERVED, SHARED

THREADS, PROGRAMS = 2048, 32  # that a multiprocessor holds
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);")
_OF_EVERY_STEP = re.compile("HGMMA|LDGSTS|UTMALDG")
_LABEL = re.compile(r"\s*(\.L\w+):")


@dataclass(frozen=True)
class Loop:
    """Instructions of a step of the main loop, and some kinds of them. Waits: how many products,
    and groups of loads by pointers, may be under way behind the strictest one; None where none
    waits."""

    instructions: int
    products: int  # HGMMA
    pointer_loads: int  # LDGSTS
    tma_loads: int  # UTMALDG
    product_wait: int | None
    load_wait: int | None


def programs_together(registers: int, shared: int, num_warps: int) -> int:
    """How many programs a multiprocessor of sm_90 holds. Registers of a thread, shared bytes."""
    of_program = 32 * num_warps * (-(-registers // 8) * 8)  # handed out to a warp by 256
    return min(
        REGISTERS // of_program,
        SHARED // (shared + RESERVED),
        THREADS // (32 * num_warps),
        PROGRAMS,
    )


def disassemble(cubin: bytes) -> str:
    """The machine code as text, by the nvdisasm of Triton's wheel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main_loop(code: str) -> Loop | None:
    """The loop that loads most, of the shortest loops with products on the tensor cores.

    An outer loop holds the inner ones, and is none of its own; nor is a wait that ptxas moves
    behind the kernel's end and that jumps back into one. What a branch skips is no part of a step:
    one loop of tiles and steps so begins and stores a tile.
    """
    lines: list[str] = []
    labels: dict[str, int] = {}
    for line in code.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(lines)
        elif instruction := _INSTRUCTION.match(line):
            lines.append(instruction[1])
    spans = []
    for end, line in enumerate(lines):
        branch = re.search(r"\bBRA\b.*`\((\.L\w+)\)", line)
        begin = labels.get(branch[1], end) if branch else end
        body = [inner.strip() for inner in lines[begin:end]]
        if any("HGMMA" in inner for inner in body) and "EXIT" not in body:
            spans.append((begin, end + 1))
    loops: list[tuple[int, int]] = []
    for begin, end in sorted(spans, key=lambda span: span[1] - span[0]):
        if all(end <= first or last <= begin for first, last in loops):
            loops.append((begin, end))
    found = [_read(_step(lines, begin, end, labels)) for begin, end in sorted(loops)]
    return max(found, key=lambda loop: loop.pointer_loads + loop.tma_loads, default=None)


def _step(lines: list[str], begin: int, end: int, labels: dict[str, int]) -> list[str]:
    """The instructions of a loop, without what a branch ahead within it skips: that is rare, unless
    it multiplies or loads."""
    step, at = [], begin
    while at < end:
        step.append(lines[at])
        branch = re.match(r"@\S+ BRA\b.*`\((\.L\w+)\)", lines[at])
        ahead = labels.get(branch[1], at) if branch else at
        skips = at < ahead < end and not _OF_EVERY_STEP.search(" ".join(lines[at:ahead]))
        at = ahead if skips else at + 1
    return step


def _read(body: list[str]) -> Loop:
    def number(word: str) -> int:
        return sum(word in line for line in body)

    def strictest(wait: str) -> int | None:
        depths = [re.search(wait + r", 0x([0-9a-f]+)", line) for line in body]
        return min((int(depth[1], 16) for depth in depths if depth), default=None)

    return Loop(
        len(body), number("HGMMA"), number("LDGSTS"), number("UTMALDG"),
        strictest(r"WARPGROUP\.DEPBAR\.LE gsb0"), strictest(r"\bDEPBAR\.LE SB0"),
    )  # fmt: skip
