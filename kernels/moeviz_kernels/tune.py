"""Measure the cuts of the grouped GEMMs on the GPU at hand, for one size of layer.

    python -m moeviz_kernels.tune --tokens 32768 --d-model 2048 --d-expert 1024 \\
        --experts 64 --top-k 8

prints each kernel's candidates with their times and keeps the fastest for the running process:
configs.choose then takes it for this width, depth, dtype and tile height, whatever the number of
tokens. To keep it for good, write it into configs.TABLE.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from moeviz_kernels import configs
from moeviz_kernels.configs import Gemm, Kernel
from moeviz_kernels.gemm import grouped_gemm
from moeviz_kernels.grad_hidden import grad_hidden
from moeviz_kernels.grad_weight import grad_weight
from moeviz_kernels.sort import sort_by_expert
from moeviz_kernels.support import LaunchError, interpreted
from moeviz_kernels.tiles import tile_map
from moeviz_kernels.up import up_swiglu

BLOCK_N, BLOCK_K, STAGES = (64, 128, 256), (32, 64), (3, 4, 5)

# What configs.choose is asked for, and a run with a cut: (kernel, width, depth), call.
Case = tuple[tuple[Kernel, int, int], Callable[[Gemm], object]]


def candidates(kernel: Kernel, block_m: int) -> list[Gemm]:
    """Every cut worth a try; those that do not fit the chip refuse to launch and are left out."""
    rows = (128, 256) if kernel == "grad_weight" else (block_m,)
    return [
        Gemm(m, n, k, 8 if m * n > 64 * 128 else 4, stages)
        for m, n, k, stages in itertools.product(rows, BLOCK_N, BLOCK_K, STAGES)
    ]


def cases(
    num_tokens: int,
    d_model: int,
    d_expert: int,
    num_experts: int,
    top_k: int,
    dtype: torch.dtype,
    device: str,
) -> tuple[int, list[Case]]:
    """The tile height, and each kernel as the layer calls it, on random rows routed evenly."""

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    num_rows = num_tokens * top_k
    expert_N = torch.randint(num_experts, (num_rows,), device=device)
    order, _, _, _, offsets = sort_by_expert(expert_N, num_experts)
    token, weight = order // top_k, torch.rand(num_rows, device=device)
    block_m = configs.tile_height(num_rows / num_experts)
    tiles = tile_map(offsets, num_rows, block_m)
    x, w13 = random(num_tokens, d_model), random(num_experts, 2 * d_expert, d_model)
    h, z = random(num_rows, d_expert), random(num_rows, 2 * d_expert)
    w2 = random(num_experts, d_model, d_expert)

    def up(cut: Gemm) -> object:
        return up_swiglu(x, token, weight, w13, offsets, tiles, cut, save=True)

    def down(cut: Gemm) -> object:
        return grouped_gemm(h, w2.transpose(1, 2), offsets, tiles, cut)

    def grad_x(cut: Gemm) -> object:
        return grouped_gemm(z, w13, offsets, tiles, cut)

    def hidden(cut: Gemm) -> object:
        return grad_hidden(x, token, weight, w2, z, offsets, tiles, cut)

    def grad_w2(cut: Gemm) -> object:
        return grad_weight(x, h, token, offsets, cut, gather_left=True)

    def grad_w13(cut: Gemm) -> object:
        return grad_weight(z, x, token, offsets, cut, gather_left=False)

    return block_m, [
        (("up", 2 * d_expert, d_model), up),
        (("gemm", d_model, d_expert), down),
        (("gemm", d_model, 2 * d_expert), grad_x),
        (("grad_hidden", d_expert, d_model), hidden),
        (("grad_weight", d_expert, d_model), grad_w2),
        (("grad_weight", d_model, 2 * d_expert), grad_w13),
    ]


def tune(
    num_tokens: int,
    d_model: int,
    d_expert: int,
    num_experts: int,
    top_k: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> dict[tuple[Kernel, int, int], dict[Gemm, float]]:
    """Milliseconds of every cut by (kernel, width, depth), fastest first; the fastest is kept in
    configs.TUNED. Takes some minutes, for the compiling. ValueError without a GPU."""
    if interpreted() or not torch.cuda.is_available():
        raise ValueError("tune() measures on a GPU, and none is here.")
    sizes = (num_tokens, d_model, d_expert, num_experts, top_k)
    block_m, found = cases(*sizes, dtype, "cuda")
    times: dict[tuple[Kernel, int, int], dict[Gemm, float]] = {}
    for key, call in found:
        of_cut: dict[Gemm, float] = {}
        for cut in candidates(key[0], block_m):
            try:
                median = triton.testing.do_bench(
                    lambda cut=cut, call=call: call(cut), warmup=5, rep=20, return_mode="median"
                )
            except LaunchError:
                continue
            of_cut[cut] = median
        times[key] = dict(sorted(of_cut.items(), key=lambda item: item[1]))
        height = 128 if key[0] == "grad_weight" else block_m
        configs.TUNED[key[0], dtype, height, key[1], key[2]] = next(iter(times[key]))
    return times


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    for name in ("tokens", "d-model", "d-expert", "experts", "top-k"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args(argv)
    try:
        times = tune(args.tokens, args.d_model, args.d_expert, args.experts, args.top_k)
    except ValueError as error:
        parser.error(str(error))
    for (kernel, width, depth), of_cut in times.items():
        print(f"{kernel}, width {width}, depth {depth}")
        for cut, milliseconds in list(of_cut.items())[:5]:
            print(f"  {milliseconds:8.3f} ms  {cut}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
