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
        num_experts = len(gate_ED)
        _, weight_TK, expert_TK = kernels.softmax_topk(x_TD @ gate_ED.T, top_k)
        expert_N = expert_TK.reshape(-1)
        count, before, total_E, scattered = _sort(kernels, expert_N, num_experts, sort_block)
        order, rank, row_expert, slot, offsets = scattered
        tiles = kernels.tiles.tile_map(offsets, len(expert_N), tile_block)
        gemm_block = max(tile_block, LEAST_GEMM_BLOCK if x_TD.is_cuda else 1)
        of_gemm = tiles
        if gemm_block != tile_block:
            of_gemm = kernels.tiles.tile_map(offsets, len(expert_N), gemm_block)
        token, weight = order // top_k, weight_TK.reshape(-1)[order.long()]
        # In the interpreter a program costs milliseconds, so one covers a tile's columns and sums;
        # on a GPU the blocks fit the shared memory of any.
        sizes = dict(block_n=64, block_k=32) if x_TD.is_cuda else dict(block_n=128, block_k=128)
        cut = kernels.configs.Gemm(gemm_block, num_warps=4, num_stages=2, **sizes)
        hidden_NF, _ = kernels.up.up_swiglu(
            x_TD, token, weight, w13_E2FD, offsets, of_gemm, cut, save=False
        )
        rows_ND = kernels.gemm.grouped_gemm(
            hidden_NF, w2_EDF.transpose(1, 2), offsets, of_gemm, cut
        )
        token_offsets = torch.arange(len(x_TD) + 1, device=device, dtype=torch.int32) * top_k
        y_TD = kernels.gather_sum(rows_ND, rank, token_offsets)
        interpreted = kernels.interpreted()
    plan = Plan.from_topk(expert_TK.cpu(), weight_TK.cpu(), num_experts=num_experts)
    want_TD = reference_experts(x_TD.cpu(), plan, w13_E2FD.cpu(), w2_EDF.cpu())
    error = (y_TD.cpu() - want_TD).norm() / want_TD.norm().clamp(min=1e-30)
    arrays = dict(
        expert=expert_TK, weight=weight_TK, count=count, before=before, total=total_E,
        order=order, rank=rank, row_expert=row_expert, slot=slot, offsets=offsets,
        tile_expert=tiles[0], tile_row=tiles[1],
        x=x_TD, hidden=hidden_NF, rows=rows_ND, y=y_TD,
    )  # fmt: skip
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


def _sort(
    kernels: ModuleType, expert_N: Tensor, num_experts: int, block: int
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """The counting sort's three launches with a block of one's own: count, before, total, and what
    the scatter writes. The library's launcher takes 16 at least, too many for a small batch."""
    num_rows, sort = len(expert_N), kernels.sort
    programs = -(-num_rows // block)
    block_e = 1 << (num_experts - 1).bit_length()
    count = torch.empty(programs, num_experts, device=expert_N.device, dtype=torch.int32)
    sort.histogram_kernel[(programs,)](
        expert_N, count, num_rows, num_experts, block, BLOCK=block, BLOCK_E=block_e, num_warps=1
    )
    before = count.clone()
    total_E = sort.scan(before)
    order, rank, expert, slot = (torch.empty_like(expert_N) for _ in range(4))
    offsets = torch.empty(num_experts + 1, device=expert_N.device, dtype=torch.int32)
    sort.scatter_kernel[(programs,)](
        expert_N, before, total_E, order, rank, expert, slot, offsets,
        num_rows, num_experts, block, BLOCK=block, BLOCK_E=block_e, num_warps=1,
    )  # fmt: skip
    return count, before, total_E, (order, rank, expert, slot, offsets)


def first_tokens(tokens: Tokens, most: int) -> Tokens:
    """The same without those behind the first `most`."""
    context = type(tokens.context)()  # the gate of `watch` looks at hidden states alone
    group = None if tokens.group is None else tokens.group[:most]
    return Tokens(tokens.pieces[:most], tokens.x_TD[:most], tokens.gate_ED, context, group)


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
