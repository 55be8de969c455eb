"""Ways to run one MoE FFN from the router's logits on, with the same weights and inputs for all.

Each does all of it: softmax, top-k with renormalised weights, sort, experts, combine. They share
the memory of their weights, in the layout of transformers' fused experts. Weights of its own has
the dense SwiGLU FFN of K * F hidden units, which costs the same FLOPs without any routing: the
honest ceiling of an MoE layer on a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layer_shapes import Shape, as_dense, route
from moeviz.backend import kernels, triton_refusal
from moeviz.experiments.backends_timed import naive_loop
from moeviz.model.experts import apply_experts, swiglu
from moeviz.routing import Plan
from moeviz.routing.token_choice import TokenChoice
from moeviz.watch.timing import Mark

DENSE = "dense, equal active FLOPs"
OURS = "moeviz triton"
DENSE_COMPILED = "dense compiled"
GROUPED_COMPILED = "torch grouped_mm compiled"
LIGER = "liger"
MIXTRAL = "transformers Mixtral {}"
EAGER = MIXTRAL.format("eager")
PACKAGES = ("triton", "transformers", "liger-kernel")  # whose code is timed, besides torch's
# What nobody can run beside this PyTorch, and why.
ABSENT = {
    "ScatterMoE": "not on the package registries that this project installs from",
    "SonicMoE": "sonic-moe 0.1.2.post1 needs PyTorch 2.9.1 or older, moeviz 2.11 or newer",
}
# What float64 may find: ||a - b|| / ||b||.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 3e-2}
SLOW_SECONDS = 0.5  # a loop that needs more for clearing memory alone is not run on a GPU
COPIED_GB = {"cuda": 8.0, "cpu": 1.0}  # what copies more weights than that is not run


class NotRun(Exception):
    """Why a contender is left out on purpose."""


@dataclass
class Problem:
    """The inputs of a layer and the gradient of its output."""

    top_k: int
    x_TD: Tensor
    logits_TE: Tensor  # float32
    w13_E2FD: nn.Parameter
    w2_EDF: nn.Parameter
    grad_TD: Tensor

    @staticmethod
    def random(shape: Shape, routing: str, device: torch.device, dtype: torch.dtype) -> Problem:
        tokens, d_model, d_expert, num_experts, top_k = shape
        generator = torch.Generator(device).manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, device=device, dtype=dtype)

        return Problem(
            top_k,
            normal(tokens, d_model).requires_grad_(),
            route(routing, tokens, num_experts, top_k).to(device).requires_grad_(),
            nn.Parameter(normal(num_experts, 2 * d_expert, d_model).mul_(d_model**-0.5)),
            nn.Parameter(normal(num_experts, d_model, d_expert).mul_(d_expert**-0.5)),
            normal(tokens, d_model),
        )

    def first(self, tokens: int) -> Problem:
        """The same layer on its first tokens."""
        x_TD, logits_TE = (
            v.detach()[:tokens].clone().requires_grad_() for v in (self.x_TD, self.logits_TE)
        )
        return replace(self, x_TD=x_TD, logits_TE=logits_TE, grad_TD=self.grad_TD[:tokens])


def load(problem: Problem) -> Tensor:
    """Assignments of each expert, int64 [E]."""
    expert_TK = problem.logits_TE.detach().topk(problem.top_k).indices
    return expert_TK.flatten().bincount(minlength=problem.logits_TE.shape[1])


@dataclass
class Contender:
    """forward: (x_TD, logits_TE) to y_TD. weights: those that it takes gradients of."""

    problem: Problem
    forward: Callable[[Tensor, Tensor], Tensor]
    weights: tuple[nn.Parameter, ...]
    routed: bool = True  # whether it uses the logits
    graph: bool = False  # whether it is also timed as a CUDA graph

    def output(self) -> Tensor:
        return self.forward(self.problem.x_TD, self.problem.logits_TE)

    def gradients(self, y_TD: Tensor) -> list[Tensor]:
        """Of x, the logits and the weights; autograd.grad leaves nothing on them."""
        inputs = (self.problem.x_TD, *([self.problem.logits_TE] * self.routed), *self.weights)
        return list(torch.autograd.grad(y_TD, inputs, self.problem.grad_TD))

    def run(self) -> list[Tensor]:
        """A training step: the output and all gradients."""
        y_TD = self.output()
        return [y_TD.detach(), *self.gradients(y_TD)]

    def training_step(self, mark: Mark) -> None:
        mark()
        y_TD = self.output()
        mark()
        self.gradients(y_TD)
        mark()

    def inference_step(self, mark: Mark) -> None:
        with torch.no_grad():
            mark()
            self.output()
            mark()


def choose(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """expert_TK and weight_TK, as Mixtral's router."""
    scores_TK, expert_TK = logits_TE.softmax(-1).topk(top_k)
    return expert_TK, scores_TK / scores_TK.sum(-1, keepdim=True)


def behind_a_router(problem: Problem, experts: Callable[..., Tensor]) -> Contender:
    """experts: (x_TD, expert_TK, weight_TK, w13_E2FD, w2_EDF) to y_TD."""
    weights = (problem.w13_E2FD, problem.w2_EDF)

    def forward(x_TD: Tensor, logits_TE: Tensor) -> Tensor:
        return experts(x_TD, *choose(logits_TE, problem.top_k), *weights)

    return Contender(problem, forward, weights)


def moeviz(problem: Problem, backend: str) -> Contender:
    """As moeviz.model.layer.MoEFFN, without the router's linear map and losses."""
    num_experts, d_model, _ = problem.w2_EDF.shape
    router = TokenChoice(d_model=d_model, num_experts=num_experts, top_k=problem.top_k)
    weights = (problem.w13_E2FD, problem.w2_EDF)

    def forward(x_TD: Tensor, logits_TE: Tensor) -> Tensor:
        _, weight_TK, expert_TK = router.choose(logits_TE)
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=num_experts)
        return apply_experts(x_TD, plan, *weights, backend=backend)

    return Contender(problem, forward, weights, graph=backend == "triton")


def moeviz_triton(problem: Problem) -> Contender:
    if not problem.x_TD.is_cuda:
        raise NotRun("Triton kernels need an NVIDIA GPU; a run in Triton's interpreter is no speed")
    if kernels().interpreted():
        raise NotRun("TRITON_INTERPRET is set: a run in Triton's interpreter is no speed")
    refusal = triton_refusal(problem.x_TD, problem.w13_E2FD, problem.w2_EDF)
    if refusal:
        raise NotRun(refusal)
    return moeviz(problem, "triton")


def torch_grouped_mm(problem: Problem) -> Contender:
    """What one would write with PyTorch alone: sort, index, two grouped_mm, gather-sum."""

    def experts(
        x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor
    ) -> Tensor:
        top_k = expert_TK.shape[1]
        expert_N, order_N = expert_TK.flatten().sort()
        ids_E = torch.arange(len(w2_EDF), device=x_TD.device)
        ends_E = torch.searchsorted(expert_N, ids_E, right=True, out_int32=True)
        x_ND = x_TD.index_select(0, order_N // top_k)
        hidden_NF = swiglu(F.grouped_mm(x_ND, w13_E2FD.transpose(1, 2), offs=ends_E))
        y_ND = F.grouped_mm(hidden_NF, w2_EDF.transpose(1, 2), offs=ends_E)
        y_TKD = y_ND.index_select(0, order_N.argsort()).unflatten(0, (-1, top_k))
        return (y_TKD * weight_TK[..., None].to(y_TKD.dtype)).sum(1)

    return behind_a_router(problem, experts)


def compiled(problem: Problem, build: Builder) -> Contender:
    plain = build(problem)
    return replace(plain, forward=torch.compile(plain.forward, dynamic=False), graph=False)


def mixtral(problem: Problem, implementation: str, copy_gb_per_s: float) -> Contender:
    """transformers' Mixtral experts behind the lines of its router, the linear map left out."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    weights, device = (problem.w13_E2FD, problem.w2_EDF), problem.w2_EDF.device.type
    num_experts, d_model, d_expert = problem.w2_EDF.shape
    expert_gb = 1e-9 * sum(w[0].numel() * w.element_size() for w in weights)
    # For each expert, the gradient of `weight[e]` fills one of all experts and adds it up: it is
    # written once and read twice and written in the sum.
    cleared = 4 * num_experts**2 * expert_gb
    if implementation == "eager" and device == "cuda" and cleared > SLOW_SECONDS * copy_gb_per_s:
        raise NotRun(f"a step would move {cleared:,.0f} GB for the gradients of `weight[e]` alone")
    copied = len(problem.logits_TE) * problem.top_k * expert_gb
    if implementation == "batched_mm" and copied > COPIED_GB[device]:
        raise NotRun(f"would copy {copied:,.1f} GB of weights: an expert for each assignment")
    config = MixtralConfig(
        hidden_size=d_model,
        intermediate_size=d_expert,
        num_local_experts=num_experts,
        num_experts_per_tok=problem.top_k,
        experts_implementation=implementation,
    )
    with torch.device("meta"):
        experts = MixtralExperts(config)
    experts.gate_up_proj, experts.down_proj = weights
    return behind_a_router(problem, lambda *call: experts(*call[:3]))


def liger(problem: Problem) -> Contender:
    """With the one cut that Liger has for each kernel. To choose among all of its own it compiles
    some 240 kernels for each pair of widths, which is minutes of a core."""
    os.environ.setdefault("LIGER_FUSED_MOE_AUTOTUNE", "0")  # read at the import
    from liger_kernel.ops import LigerFusedMoEFunction as Liger

    def experts(x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor, *weights: Tensor) -> Tensor:
        return Liger.apply(x_TD, *weights, expert_TK.int(), weight_TK)

    return behind_a_router(problem, experts)


def naive(problem: Problem) -> Contender:
    return behind_a_router(problem, naive_loop)


def dense(problem: Problem) -> Contender:
    """One expert of K * F hidden units, which takes every token."""
    x_TD, (num_experts, d_model, d_expert) = problem.x_TD, problem.w2_EDF.shape
    shape = as_dense(Shape(len(x_TD), d_model, d_expert, num_experts, problem.top_k))
    one = Problem.random(shape, "uniform", x_TD.device, x_TD.dtype)
    w13_2FD, w2_DF = (nn.Parameter(w.detach()[0]) for w in (one.w13_E2FD, one.w2_EDF))

    def forward(x_TD: Tensor, _: Tensor) -> Tensor:
        return swiglu(x_TD @ w13_2FD.T) @ w2_DF.T

    return Contender(problem, forward, (w13_2FD, w2_DF), routed=False, graph=True)


Builder = Callable[[Problem], Contender]


def builders(device: torch.device, copy_gb_per_s: float) -> dict[str, Builder]:
    """By name, in the order of running: on a GPU those that are quick."""
    peers: dict[str, Builder] = {"torch grouped_mm": torch_grouped_mm}
    for name in ("grouped_mm", "batched_mm"):
        peers[MIXTRAL.format(name)] = partial(
            mixtral, implementation=name, copy_gb_per_s=copy_gb_per_s
        )
    if device.type == "cuda":
        return {OURS: moeviz_triton, DENSE: dense, **peers}
    ours = {OURS: moeviz_triton, "moeviz grouped": partial(moeviz, backend="grouped")}
    slow = {EAGER: partial(mixtral, implementation="eager", copy_gb_per_s=copy_gb_per_s)}
    return {**ours, **peers, **slow, "naive loop over W[e]": naive, DENSE: dense}


def apart_builders(copy_gb_per_s: float) -> dict[str, Builder]:
    """On a GPU, those that compile for long, take long, or are not known to run there."""
    return {
        LIGER: liger,
        GROUPED_COMPILED: partial(compiled, build=torch_grouped_mm),
        DENSE_COMPILED: partial(compiled, build=dense),
        EAGER: partial(mixtral, implementation="eager", copy_gb_per_s=copy_gb_per_s),
    }


def relative_errors(contender: Contender) -> dict[str, float]:
    """||a - b|| / ||b|| of the output and of every gradient, b by plain float64 products.

    One expert at a time: the weights of all of them in float64 need not fit the device. Gradients
    of experts without tokens count too: they are to be zero.
    """
    problem = contender.problem
    out, dx, dlogits, *dweights = contender.run()
    x64, grad64 = problem.x_TD.detach().double(), problem.grad_TD.double()
    logits64 = problem.logits_TE.detach().double().requires_grad_()
    expert_TK, weight_TK = choose(logits64, problem.top_k)
    want_out, want_dx = torch.zeros_like(x64), torch.zeros_like(x64)
    dweight_TK = torch.zeros_like(weight_TK)
    squares = torch.zeros(2, 2, device=x64.device, dtype=torch.float64)  # of each bank: error, norm
    for e, weights in enumerate(zip(problem.w13_E2FD, problem.w2_EDF, strict=True)):
        token, choice = torch.where(expert_TK == e)
        parts = (x64[token], weight_TK[token, choice], *weights)
        x, weight, w13, w2 = leaves = [v.detach().double().requires_grad_() for v in parts]
        y = weight[:, None] * (swiglu(x @ w13.T) @ w2.T)
        want_out.index_add_(0, token, y.detach())
        dx_n, dweight_n, *want = torch.autograd.grad(y, leaves, grad64[token])
        want_dx.index_add_(0, token, dx_n)
        dweight_TK[token, choice] = dweight_n
        for square, got, exact in zip(squares, dweights, want, strict=True):
            square[0] += (got[e].double() - exact).square().sum()
            square[1] += exact.square().sum()
    (want_dlogits,) = torch.autograd.grad(weight_TK, logits64, dweight_TK)
    pairs = {"out": (out, want_out), "dx": (dx, want_dx), "dlogits": (dlogits, want_dlogits)}
    errors = {name: float((a.double() - b).norm() / b.norm()) for name, (a, b) in pairs.items()}
    dw13, dw2 = (squares[:, 0] / squares[:, 1]).sqrt().tolist()
    return {**errors, "dw13": dw13, "dw2": dw2}
