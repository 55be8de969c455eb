"""One batch through the real kernels, launch by launch, with every intermediate kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from moeviz.backend import kernels_anywhere
from moeviz.host import package_version
from moeviz.model.experts import reference_experts
from moeviz.model.transformer import LanguageModel
from moeviz.records.dispatch import DispatchTrace
from moeviz.routing import Plan
from moeviz.watch.routers import Tokens, one_thread

# A GPU's matrix kernels are launched with at least so many rows a tile; the interpreter takes any.
LEAST_GEMM_BLOCK = 16
WIDTH_OF_OWN = 16  # hidden units of experts made for synthetic tokens

_in_use = threading.Lock()


@contextmanager
def kernels_alone() -> Iterator[ModuleType]:
    """The kernels, for one thread at a time: Triton's interpreter keeps the program that it is at
    in a global. ValueError as kernels_anywhere."""
    with _in_use:
        yield kernels_anywhere()


@one_thread()
@torch.no_grad()
def watch(
    tokens: Tokens,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    *,
    top_k: int,
    sort_block: int,
    tile_block: int,
    meta: dict[str, Any] | None = None,
) -> DispatchTrace:
    """Run the kernels on tokens scored by their own gate, softmax before top-k, weights raw.

    sort_block: assignments of one program of the sort; tile_block: rows of a tile; powers of two,
    small ones, so that a batch for the eye has several of each. The library itself takes 16 to 128
    of either. On a GPU the products run with at least LEAST_GEMM_BLOCK rows (`gemm_block`).
    ValueError for other blocks, and where the kernels run neither on a GPU nor in the interpreter.
    """
    for name, block in (("sort_block", sort_block), ("tile_block", tile_block)):
        if block < 1 or block & (block - 1):
            raise ValueError(f"{name} must be a power of two, got {block}.")
    with kernels_alone() as kernels:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        x_TD, gate_ED, w13_E2FD, w2_EDF = (
            v.to(device, torch.float32).contiguous()
            for v in (tokens.x_TD, tokens.gate_ED, w13_E2FD, w2_EDF)
        )
        gemm_block = max(tile_block, LEAST_GEMM_BLOCK if x_TD.is_cuda else 1)
        _, weight_TK, expert_TK = kernels.softmax_topk(x_TD @ gate_ED.T, top_k)
        arrays = dict(x=x_TD, expert=expert_TK, weight=weight_TK)
        arrays |= _sorted(kernels, expert_TK, len(gate_ED), sort_block)
        arrays["tile_expert"], arrays["tile_row"] = kernels.tiles.tile_map(
            arrays["offsets"], expert_TK.numel(), tile_block
        )
        arrays |= _products(kernels, arrays, w13_E2FD, w2_EDF, gemm_block)
        interpreted = kernels.interpreted()
    plan = Plan.from_topk(expert_TK.cpu(), weight_TK.cpu(), num_experts=len(gate_ED))
    want_TD = reference_experts(x_TD.cpu(), plan, w13_E2FD.cpu(), w2_EDF.cpu())
    error = (arrays["y"].cpu() - want_TD).norm() / want_TD.norm().clamp(min=1e-30)
    where = "Triton's interpreter" if interpreted else torch.cuda.get_device_name()
    return DispatchTrace(
        tokens=tokens.pieces,
        **{name: array.cpu().numpy() for name, array in arrays.items()},
        sort_block=sort_block,
        tile_block=tile_block,
        gemm_block=gemm_block,
        error=float(error),
        meta={"where": where, "triton": package_version("triton"), **(meta or {})},
    )


def _sorted(
    kernels: ModuleType, expert_TK: Tensor, num_experts: int, block: int
) -> dict[str, Tensor]:
    """The counting sort's three launches, `block` assignments to a program: the library itself
    takes 16 at least, too many for a small batch."""
    expert_N = expert_TK.reshape(-1)
    count = kernels.sort.histogram(expert_N, num_experts, block)
    before = count.clone()
    total_E = kernels.sort.scan(before)
    names = ("order", "rank", "row_expert", "slot", "offsets")
    scattered = kernels.sort.scatter(expert_N, before, total_E, block)
    return dict(
        count=count, before=before, total=total_E, **dict(zip(names, scattered, strict=True))
    )


def _products(
    kernels: ModuleType,
    arrays: dict[str, Tensor],
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    gemm_block: int,
) -> dict[str, Tensor]:
    """The experts' two products on the sorted rows, gemm_block of them a tile, and the combine."""
    x_TD, offsets, top_k = arrays["x"], arrays["offsets"], arrays["expert"].shape[1]
    order = arrays["order"]
    token, weight = order // top_k, arrays["weight"].reshape(-1)[order.long()]
    tiles = kernels.tiles.tile_map(offsets, len(order), gemm_block)
    # In the interpreter a program costs milliseconds, so one covers a tile's columns and sums;
    # on a GPU the blocks fit the shared memory of any.
    sizes = dict(block_n=64, block_k=32) if x_TD.is_cuda else dict(block_n=128, block_k=128)
    cut = kernels.configs.Gemm(gemm_block, num_warps=4, num_stages=2, **sizes)
    hidden_NF, _ = kernels.up.up_swiglu(
        x_TD, token, weight, w13_E2FD, offsets, tiles, cut, save=False
    )
    rows_ND = kernels.gemm.grouped_gemm(hidden_NF, w2_EDF.transpose(1, 2), offsets, tiles, cut)
    steps_T1 = torch.arange(len(x_TD) + 1, device=x_TD.device, dtype=torch.int32)
    y_TD = kernels.gather_sum(rows_ND, arrays["rank"], steps_T1 * top_k)
    return dict(hidden=hidden_NF, rows=rows_ND, y=y_TD)


def experts_of(model: LanguageModel, layer: int) -> tuple[Tensor, Tensor]:
    """The trained experts of a layer: w13_E2FD and w2_EDF."""
    ffn = model.blocks[layer].ffn
    return ffn.w13_E2FD.detach(), ffn.w2_EDF.detach()


def own_experts(num_experts: int, d_model: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Random experts for synthetic tokens, which no model stands behind."""
    generator = torch.Generator().manual_seed(seed)
    w13 = torch.randn(num_experts, 2 * WIDTH_OF_OWN, d_model, generator=generator)
    w2 = torch.randn(num_experts, d_model, WIDTH_OF_OWN, generator=generator)
    return w13 * d_model**-0.5, w2 * WIDTH_OF_OWN**-0.5
