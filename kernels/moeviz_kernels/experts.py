"""The experts' forward and backward pass, as two custom operators and one autograd rule.

    forward     x -- up (gather, SwiGLU) --> h -- gemm (W2) --> rows -- gather-sum --> y
                kept for the backward: x and z, as a dense FFN of equal width would keep, and
                which tile is whose
    backward    dy -- grad_hidden (gather, W2, SwiGLU again from z) --> h, dz, dweight
                dy, h  -- grad_weight --> dW2          dz, x -- grad_weight --> dW13
                dz -- gemm (W13) --> rows -- gather-sum --> dx

Nothing is read by the host, every sum has one order: a CUDA graph can hold it, and two runs give
the same bits. As custom operators they stand in torch.compile's graphs as one node each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moeviz_kernels import configs
from moeviz_kernels.combine import gather_sum
from moeviz_kernels.gemm import grouped_gemm
from moeviz_kernels.grad_hidden import grad_hidden
from moeviz_kernels.grad_weight import grad_weight
from moeviz_kernels.support import LaunchError, launch_reason
from moeviz_kernels.tiles import most_tiles, room_for_tiles, tile_map
from moeviz_kernels.up import up_swiglu


def experts(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    *,
    token: Tensor,
    weight: Tensor,
    offsets: Tensor,
    inverse: Tensor,
    token_offsets: Tensor,
) -> Tensor:
    """y_TD: the sum over a token's experts of weight * W2 SwiGLU(W13 x).

    token, inverse: int32 [N]; offsets: int32 [E + 1]; token_offsets: int32 [T + 1]; weight: [N], in
    any float dtype, used as float32; all as in moeviz.routing.Plan, any number of rows per token.
    x_TD, w13_E2FD, w2_EDF: float32, float16 or bfloat16, accumulated in float32; the weights
    contiguous. Gradients flow to x, weight, w13 and w2. Where no gradient is wanted nothing is
    kept. The caller has checked that shapes, dtypes and devices fit together.
    """
    inputs = (x_TD, weight, w13_E2FD, w2_EDF)
    save = torch.is_grad_enabled() and any(v.requires_grad for v in inputs)
    rows = (v.contiguous() for v in (token, offsets, inverse, token_offsets))
    y_TD, *_ = _forward(
        x_TD.contiguous(), weight.float().contiguous(), w13_E2FD, w2_EDF, *rows, save
    )
    return y_TD


def _of_height(kept: tuple[Tensor, Tensor], num_rows: int, num_experts: int, height: int):
    """The tile map in the room that is kept for it."""
    num_tiles = most_tiles(num_rows, num_experts, height)
    return kept[0][:num_tiles], kept[1][:num_tiles]


@torch.library.custom_op("moeviz::experts_forward", mutates_args=())
def _forward(
    x_TD: Tensor, weight: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor,
    token: Tensor, offsets: Tensor, inverse: Tensor, token_offsets: Tensor, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, z, and the tiles' expert and first row; all but y without elements where not `save`."""
    num_rows, (num_experts, two_f, d_model) = token.numel(), w13_E2FD.shape
    if not num_rows:
        return torch.zeros_like(x_TD), *_kept(x_TD, token, w13_E2FD, save)
    with torch.cuda.device_of(x_TD):  # where Triton launches, on a machine with several GPUs
        rows_per_expert = num_rows / num_experts
        height = configs.height_of_tiles(x_TD, rows_per_expert, d_model, two_f // 2)
        kept = tile_map(offsets, num_rows, height, room_for_tiles(num_rows, num_experts))
        tiles = _of_height(kept, num_rows, num_experts, height)
        cut = configs.choose("up", x_TD, rows_per_expert, two_f, d_model, height)
        h_NF, z_N2F = up_swiglu(x_TD, token, weight, w13_E2FD, offsets, tiles, cut, save=save)
        cut = configs.choose("down", x_TD, rows_per_expert, d_model, two_f // 2, height)
        rows_ND = grouped_gemm(h_NF, w2_EDF.transpose(1, 2), offsets, tiles, cut)
        y_TD = gather_sum(rows_ND, inverse, token_offsets)
        return (y_TD, z_N2F, *kept) if save else (y_TD, *_kept(x_TD, token, w13_E2FD, save))


def _kept(x_TD: Tensor, token: Tensor, w13_E2FD: Tensor, save: bool):
    """Arrays of the sizes that the backward pass asks for, with nothing in them."""
    num_experts, two_f, _ = w13_E2FD.shape
    rows = token.numel() if save else 0
    room = room_for_tiles(rows, num_experts) if save else 0
    return x_TD.new_empty(rows, two_f), token.new_empty(room), token.new_empty(room)


@_forward.register_fake
def _(x_TD, weight, w13_E2FD, w2_EDF, token, offsets, inverse, token_offsets, save):
    return torch.empty_like(x_TD), *_kept(x_TD, token, w13_E2FD, save)


@torch.library.custom_op("moeviz::experts_backward", mutates_args=())
def _backward(
    grad_TD: Tensor, z_N2F: Tensor, tile_expert: Tensor, tile_row: Tensor,
    x_TD: Tensor, weight: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor,
    token: Tensor, offsets: Tensor, inverse: Tensor, token_offsets: Tensor,
    needs_x: bool, needs_w13: bool, needs_w2: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, weight, w13 and w2. One that is not needed, as of frozen experts, is not
    computed and has no elements."""
    num_rows, (num_experts, two_f, d_model) = token.numel(), w13_E2FD.shape
    if not num_rows:
        inputs = (x_TD, weight, w13_E2FD, w2_EDF)
        return _of_needed(torch.zeros_like, inputs, needs_x, needs_w13, needs_w2)
    grad_x, grad_w13, grad_w2 = (x_TD.new_empty(0) for _ in range(3))
    with torch.cuda.device_of(x_TD):
        rows_per_expert, d_expert = num_rows / num_experts, two_f // 2
        height = configs.height_of_tiles(x_TD, rows_per_expert, d_model, d_expert)
        tiles = _of_height((tile_expert, tile_row), num_rows, num_experts, height)
        cut = configs.choose("grad_hidden", x_TD, rows_per_expert, d_expert, d_model, height)
        h_NF, dz_N2F, grad_N = grad_hidden(
            grad_TD, token, weight, w2_EDF, z_N2F, offsets, tiles, cut
        )
        if needs_w2:
            cut = configs.choose("dW2", x_TD, rows_per_expert, d_expert, d_model)
            grad_w2 = grad_weight(grad_TD, h_NF, token, offsets, cut, gather_left=True)
        if needs_w13:
            cut = configs.choose("dW13", x_TD, rows_per_expert, d_model, two_f)
            grad_w13 = grad_weight(dz_N2F, x_TD, token, offsets, cut, gather_left=False)
        if needs_x:
            cut = configs.choose("dx", x_TD, rows_per_expert, d_model, two_f, height)
            rows_ND = grouped_gemm(dz_N2F, w13_E2FD, offsets, tiles, cut)
            grad_x = gather_sum(rows_ND, inverse, token_offsets)
        return grad_x, grad_N, grad_w13, grad_w2


@_backward.register_fake
def _(
    grad_TD, z_N2F, tile_expert, tile_row, x_TD, weight, w13_E2FD, w2_EDF, token, offsets, inverse,
    token_offsets, *needs
):  # fmt: skip
    return _of_needed(torch.empty_like, (x_TD, weight, w13_E2FD, w2_EDF), *needs)


def _of_needed(make, inputs, needs_x, needs_w13, needs_w2):
    needed = zip(inputs, (needs_x, True, needs_w13, needs_w2), strict=True)
    return tuple(make(v) if n else v.new_empty(0) for v, n in needed)


def _keep(ctx, inputs, output) -> None:
    _, *kept = output
    ctx.mark_non_differentiable(*kept)
    # Or autograd would fill a gradient of z with zeros, as large as z, which nobody reads.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*kept, *inputs[:-1])  # of the inputs, all but `save`


def _gradients(ctx, grad_TD: Tensor | None, *_: None):
    if grad_TD is None:  # what comes after has none
        return (None,) * 9
    needed = ctx.needs_input_grad
    z_N2F, _, _, x_TD, *_ = ctx.saved_tensors
    try:
        grads = _backward(grad_TD.contiguous(), *ctx.saved_tensors, needed[0], needed[2], needed[3])
    except LaunchError as error:
        raise RuntimeError(
            "A Triton kernel of the experts' backward pass does not fit this GPU "
            f"({launch_reason(error)}): train with another backend."
        ) from error
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"The GPU's memory does not hold the experts' backward pass of {len(z_N2F)} rows "
            f"({len(x_TD)} tokens, d_model {x_TD.shape[1]}, d_expert {z_N2F.shape[1] // 2}, "
            f"{x_TD.dtype}): give it fewer tokens at a time or a smaller model."
        ) from error
    grads = (grad if n else None for grad, n in zip(grads, needed, strict=False))
    return (*grads, None, None, None, None, None)


_forward.register_autograd(_gradients, setup_context=_keep)
