"""Blocks that the copy engine of sm_90 and later (TMA) brings, and grids whose programs stay.

    pointer     one program, one tile          tma, flat     as many programs as run at one time
    grid        t0 t1 t2 t3 t4 t5 t6 ..        program 0     t0    t3    t6 ..
                a program that ends makes      program 1     t1    t4
                place for the next             program 2     t2    t5

A descriptor tells the copy engine a matrix's address, shape and strides, and the block's shape; one
thread then asks for a block by the place of its corner, where a load by pointers takes an address
from every thread. What lies outside the matrix arrives as zeros. "flat" makes one loop of tiles and
steps: the loads of a program's next tile begin while it still computes and stores the last one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moeviz_kernels.configs import Gemm

OLDEST = (9, 0)
# Of a multiprocessor: registers, and bytes of shared memory, of which each program costs one KiB
# more than it has.
REGISTERS, SHARED, RESERVED = 65536, 228 * 1024, 1024
MOST_REGISTERS = 256  # of a thread
MULTIPROCESSORS = 3  # taken where there is no GPU: a program then has several tiles


def takes_tma(*matrices: Tensor) -> bool:
    """Whether a descriptor can stand for each of these: on a chip that has the engine, the last
    dimension without gaps, all other strides and the address multiples of 16 bytes."""
    return all(
        (not m.is_cuda or torch.cuda.get_device_capability(m.device) >= OLDEST)
        and m.stride(-1) == 1
        and all(stride * m.itemsize % 16 == 0 for stride in m.stride()[:-1])
        and m.data_ptr() % 16 == 0
        for m in matrices
    )


def programs_that_stay(config: Gemm, like: Tensor, most_blocks: int) -> int:
    """Programs of a grid that walks blocks of the output: as many as run at one time.

    Counted from what the cut may use: registers (maxnreg of each thread, or as many as there are)
    and shared memory.
    """
    registers = 32 * config.num_warps * (config.maxnreg or MOST_REGISTERS)
    numbers = (config.block_m + config.block_n) * config.block_k * config.num_stages
    if config.path == "flat":  # the block on its way out has no stage to lie in
        numbers += config.block_m * config.block_n
    shared = numbers * like.itemsize + RESERVED
    together = max(1, min(REGISTERS // registers, SHARED // shared))
    multiprocessors = MULTIPROCESSORS
    if like.is_cuda:
        device = torch.cuda.get_device_properties(like.device)
        multiprocessors = device.multi_processor_count
    return min(most_blocks, multiprocessors * together)
