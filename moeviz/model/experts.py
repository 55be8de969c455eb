"""Banks of expert FFNs: y_t = sum over the experts of token t of weight * W2 SwiGLU(W13 x_t)."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from moeviz.backend import kernels, resolve_backend, say_once
from moeviz.ops import can_look, gather, gather_sum
from moeviz.routing.plan import Plan, SoftPlan

silu_backward = torch.ops.aten.silu_backward.grad_input  # the form that writes into an array
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CPU_IS_FULL = "DefaultCPUAllocator"  # in the plain RuntimeError that torch raises
embedding_weight_grad = torch.ops.aten._embedding_bag_per_sample_weights_backward


def apply_experts(
    x_TD: Tensor,
    plan: Plan | SoftPlan,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Run every expert on its tokens and add the results up: y_TD.

    w13_E2FD holds the gate projection in its first F rows and the up projection in the last F
    (the layout of transformers' fused experts); w2_EDF is the down projection. A token without
    an expert gets zeros. The backends (see moeviz.backend) agree to rounding.

    Raises ValueError on shapes that do not fit together, on mixed dtypes or devices, and where the
    backend asked for cannot run; torch.OutOfMemoryError, with the sizes, where the memory is full.
    """
    _check(x_TD, plan, w13_E2FD, w2_EDF)
    if isinstance(plan, SoftPlan):
        return soft_experts(x_TD, plan, w13_E2FD, w2_EDF)
    chosen = resolve_backend(backend, x_TD, w13_E2FD, w2_EDF)
    try:
        if chosen == "triton":
            return _triton_or_matmul(x_TD, plan, w13_E2FD, w2_EDF, insist=backend == "triton")
        run = dict(grouped=grouped_experts, matmul=matmul_experts, reference=reference_experts)
        return run[chosen](x_TD, plan, w13_E2FD, w2_EDF)
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or CPU_IS_FULL in str(error)):
            raise
        where = "GPU" if x_TD.is_cuda else "machine"
        raise torch.OutOfMemoryError(
            f"The {where}'s memory does not hold the experts' forward pass of {len(plan.token)} "
            f"rows ({plan.num_tokens} tokens, d_model {x_TD.shape[1]}, d_expert {w2_EDF.shape[2]}, "
            f"{x_TD.dtype}): give it fewer tokens at a time or a smaller model."
        ) from error


def _triton_or_matmul(
    x_TD: Tensor, plan: Plan, w13_E2FD: Tensor, w2_EDF: Tensor, *, insist: bool
) -> Tensor:
    """triton_experts; where a kernel does not fit the GPU, matmul_experts, or ValueError."""
    try:
        return triton_experts(x_TD, plan, w13_E2FD, w2_EDF)
    except kernels().LaunchError as error:
        why = kernels().launch_reason(error)
        reason = f"A Triton kernel does not fit this GPU ({why})."
        if insist:
            raise ValueError(f"{reason} Use backend='auto' or 'reference'.") from None
        say_once(f"{reason} Expert FFNs run on the matmul backend.")
        return matmul_experts(x_TD, plan, w13_E2FD, w2_EDF)


def swiglu(hidden_N2F: Tensor) -> Tensor:
    """silu(gate) * up [N, F] (Shazeer 2020, "GLU Variants Improve Transformer")."""
    gate_NF, up_NF = hidden_N2F.chunk(2, dim=-1)
    return F.silu(gate_NF) * up_NF


def reference_experts(x_TD: Tensor, plan: Plan, w13_E2FD: Tensor, w2_EDF: Tensor) -> Tensor:
    """The plain form: one expert after the other, each on its own rows.

    The weights are unbound once: taking w[e] in the loop makes each backward step fill a zero
    gradient of all E experts, 8 to 84 times slower at E >= 64.
    """
    y_TD = torch.zeros_like(x_TD)
    bounds = plan.offsets.tolist()
    for e, (w13_2FD, w2_DF) in enumerate(zip(w13_E2FD.unbind(0), w2_EDF.unbind(0), strict=True)):
        rows = slice(bounds[e], bounds[e + 1])
        token_n = plan.token[rows].long()
        y_nD = swiglu(x_TD[token_n] @ w13_2FD.T) @ w2_DF.T
        y_TD = y_TD.index_add(0, token_n, y_nD * plan.weight[rows, None].to(y_nD.dtype))
    return y_TD


def grouped_experts(x_TD: Tensor, plan: Plan, w13_E2FD: Tensor, w2_EDF: Tensor) -> Tensor:
    """1. gather x_ND, sorted by expert  2. grouped GEMM, SwiGLU, grouped GEMM  3. weighted
    gather-sum."""
    return _Grouped.apply(x_TD, plan.weight.to(x_TD.dtype), w13_E2FD, w2_EDF, plan)


class _Grouped(torch.autograd.Function):
    """Autograd would do the same with twice the arrays, which a CPU notices: each is memory asked
    of the system, and given back, in every step. Those here are written over where they can be.

    W2 is linear, so the weight's gradient is <dhidden, hidden>, and W2's output is not kept.
    """

    @staticmethod
    def forward(
        ctx, x_TD: Tensor, weight_N: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, plan: Plan
    ) -> Tensor:
        ends_E = plan.offsets[1:]
        x_ND = gather(x_TD, plan.token)
        z_N2F = F.grouped_mm(x_ND, w13_E2FD.mT, offs=ends_E)
        gate_NF, up_NF = z_N2F.chunk(2, dim=-1)
        silu_NF = F.silu(gate_NF)
        hidden_NF = silu_NF * up_NF
        ctx.plan = plan
        ctx.save_for_backward(x_ND, weight_N, w13_E2FD, w2_EDF, z_N2F, silu_NF, hidden_NF)
        y_ND = F.grouped_mm(hidden_NF, w2_EDF.mT, offs=ends_E)
        return gather_sum(y_ND, plan.inverse, plan.token_offsets, weight_N)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_N, w13_E2FD, w2_EDF, z_N2F, silu_NF, hidden_NF = ctx.saved_tensors
        needs_x, needs_weight, needs_w13, needs_w2, _ = ctx.needs_input_grad
        ends_E, weight_N1 = ctx.plan.offsets[1:], weight_N[:, None]
        gate_NF, up_NF = z_N2F.chunk(2, dim=-1)

        dy_ND = gather(dy_TD, ctx.plan.token)  # not weighted yet
        dw2_EDF = None
        if needs_w2:
            dw2_EDF = F.grouped_mm(dy_ND.mT, hidden_NF * weight_N1, offs=ends_E)
        dhidden_NF = F.grouped_mm(dy_ND, w2_EDF, offs=ends_E)
        dweight_N = row_dots(dhidden_NF, hidden_NF) if needs_weight else None

        dhidden_NF.mul_(weight_N1)
        dz_N2F = torch.empty_like(z_N2F)
        dgate_NF, dup_NF = dz_N2F.chunk(2, dim=-1)
        torch.mul(dhidden_NF, silu_NF, out=dup_NF)
        silu_backward(dhidden_NF.mul_(up_NF), gate_NF, grad_input=dgate_NF)

        dw13_E2FD = F.grouped_mm(dz_N2F.mT, x_ND, offs=ends_E) if needs_w13 else None
        dx_TD = None
        if needs_x:
            dx_ND = F.grouped_mm(dz_N2F, w13_E2FD, offs=ends_E)
            dx_TD = gather_sum(dx_ND, ctx.plan.inverse, ctx.plan.token_offsets)
        return dx_TD, dweight_N, dw13_E2FD, dw2_EDF, None


def row_dots(a_NF: Tensor, b_NF: Tensor) -> Tensor:
    """<a_n, b_n> of each row. On a CPU without an array of the products: what embedding_bag's own
    backward does for its weights, with one row in each bag. On a GPU that operator has no bfloat16
    before torch 2.12, and sums float16 in float16."""
    if a_NF.is_cuda:
        return (a_NF.float() * b_NF).sum(-1).to(a_NF.dtype)
    row_N = torch.arange(len(a_NF))
    summed, padding = 0, -1  # the mode; the row to leave out: none
    return embedding_weight_grad(a_NF, b_NF, row_N, row_N, row_N, summed, padding)


def matmul_experts(x_TD: Tensor, plan: Plan, w13_E2FD: Tensor, w2_EDF: Tensor) -> Tensor:
    """As grouped_experts, with one plain matrix product per expert instead of a grouped one: on a
    GPU, cuBLAS between two Triton kernels. The host reads the loads, so a GPU is waited for."""
    x_ND = dispatch(x_TD, plan)
    load_E = plan.load().tolist()
    rows = zip(
        x_ND.split(load_E), plan.weight.split(load_E), w13_E2FD.unbind(0), w2_EDF.unbind(0),
        strict=True,
    )  # fmt: skip
    y_ND = [
        (swiglu(x_nD @ w13_2FD.T) * weight_n[:, None].to(x_nD.dtype)) @ w2_DF.T
        for x_nD, weight_n, w13_2FD, w2_DF in rows
    ]
    return combine(torch.cat(y_ND), plan)


def triton_experts(x_TD: Tensor, plan: Plan, w13_E2FD: Tensor, w2_EDF: Tensor) -> Tensor:
    """The kernels of kernels/moeviz_kernels, forward and backward."""
    names = ("token", "weight", "offsets", "inverse", "token_offsets")
    return kernels().experts(x_TD, w13_E2FD, w2_EDF, **{n: getattr(plan, n) for n in names})


def dispatch(x_TD: Tensor, plan: Plan) -> Tensor:
    """Each row's token, x_ND."""
    return _Dispatch.apply(x_TD, plan)


def combine(y_ND: Tensor, plan: Plan) -> Tensor:
    """Each token's rows added up, y_TD."""
    return _Combine.apply(y_ND, plan)


class _Dispatch(torch.autograd.Function):
    """gather, whose transpose is gather_sum: torch would scatter-add the gradient instead."""

    @staticmethod
    def forward(ctx, x_TD: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return gather(x_TD, plan.token)

    @staticmethod
    def backward(ctx, grad_ND: Tensor) -> tuple[Tensor, None]:
        return gather_sum(grad_ND, ctx.plan.inverse, ctx.plan.token_offsets), None


class _Combine(torch.autograd.Function):
    """gather_sum, whose transpose is gather."""

    @staticmethod
    def forward(ctx, y_ND: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return gather_sum(y_ND, plan.inverse, plan.token_offsets)

    @staticmethod
    def backward(ctx, grad_TD: Tensor) -> tuple[Tensor, None]:
        return gather(grad_TD, ctx.plan.token), None


def soft_experts(x_TD: Tensor, plan: SoftPlan, w13_E2FD: Tensor, w2_EDF: Tensor) -> Tensor:
    """Soft MoE (Puigcerver et al. 2023): in each group slots mix its tokens, and its tokens mix the
    slots. An expert takes the slots of all groups at once."""
    groups, _, num_experts, slots = plan.dispatch.shape
    x_GSD = plan.by_place(x_TD)
    x_EGPD = torch.einsum("gsep,gsd->egpd", plan.dispatch.to(x_TD.dtype), x_GSD)
    x_END = x_EGPD.reshape(num_experts, groups * slots, -1)
    y_END = torch.bmm(swiglu(torch.bmm(x_END, w13_E2FD.mT)), w2_EDF.mT)
    y_EGPD = y_END.view(num_experts, groups, slots, -1)
    return plan.by_token(torch.einsum("gsep,egpd->gsd", plan.combine.to(x_TD.dtype), y_EGPD))


def _check(x_TD: Tensor, plan: Plan | SoftPlan, w13_E2FD: Tensor, w2_EDF: Tensor) -> None:
    tensors = {"x_TD": x_TD, "w13_E2FD": w13_E2FD, "w2_EDF": w2_EDF}
    for name, tensor in tensors.items():
        ndim = 2 if tensor is x_TD else 3
        if tensor.ndim != ndim:
            raise ValueError(
                f"{name} must have {ndim} dimensions, as its name says, got shape "
                f"{tuple(tensor.shape)}."
            )
        if tensor.dtype not in DTYPES:
            allowed = ", ".join(str(dtype) for dtype in DTYPES)
            raise ValueError(f"{name} must be of {allowed}, got {tensor.dtype}.")
    num_experts, num_tokens, d_model = plan.num_experts, plan.num_tokens, x_TD.shape[1]
    d_expert = w2_EDF.shape[2]
    want = {
        "x_TD": (num_tokens, w2_EDF.shape[1]),
        "w13_E2FD": (num_experts, 2 * d_expert, d_model),
        "w2_EDF": (num_experts, d_model, d_expert),
    }
    for name, shape in want.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"{name} must be {shape} for this plan of {num_tokens} tokens and {num_experts} "
                f"experts, got {tuple(tensors[name].shape)}."
            )
    if isinstance(plan, Plan) and can_look(plan.offsets):
        rows = int(plan.offsets[-1])
        if rows != len(plan.token):
            raise ValueError(
                f"The plan's offsets must end at its number of rows, {len(plan.token)}, got {rows}."
            )
    parts = {f"plan.{f.name}": getattr(plan, f.name) for f in dataclasses.fields(plan)}
    parts = {name: part for name, part in parts.items() if part is not None}
    for what, alike in (("dtype", tensors), ("device", tensors | parts)):
        given = {name: getattr(tensor, what) for name, tensor in alike.items()}
        if len(set(given.values())) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in given.items())
            raise ValueError(f"All tensors must share one {what}, got {listed}.")
