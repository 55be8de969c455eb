"""A dense model grown into a sparse one, whose experts begin as copies of the trained FFN.

Sparse upcycling (Komatsuzaki et al. 2022, 2212.05055). In every layer:

1. copies: each of E experts gets the FFN's W1, W3 and W2; the router is new
2. a token t then gets y_t = s_t FFN(x_t), where s_t is the sum of its weights. What s_t is on
   average, c, divides W2 (weight scaling, He et al. 2024, 2410.07524)
3. where s_t is the same for all tokens, as with renormalised weights, the sparse model answers as
   the dense one did. Where it is not, the scale of the answer is right on average alone

Copies alike in all of this differ in one thing: which tokens the gate sends to them. Two ways make
them differ from the start, and give up the equal answer for it:

    noise   every weight gets Gaussian noise, of a share of its own matrix's standard deviation
    drop    Drop-Upcycling (Nakamura et al. 2025, 2502.19261): in each expert a share of the F
            neurons, chosen at random, is drawn anew: their rows of W1 and W3 and their columns of
            W2, each from a normal distribution with the mean and the standard deviation that those
            very weights had
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from moeviz.checks import check_number
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig, MoEFFN
from moeviz.model.scale import SEED, sample_text
from moeviz.model.transformer import LanguageModel
from moeviz.routing import ROUTERS, RouteContext
from moeviz.routing.plan import Plan

ALIKE = 1e-5  # sums of weights that differ from 1 by less are 1, and their rounding


@torch.no_grad()
def upcycled(
    model: LanguageModel,
    experts: MoEConfig,
    *,
    noise: float = 0.0,
    drop: float = 0.0,
    seed: int = 0,
) -> LanguageModel:
    """A sparse model of these experts, each a copy of the layer's FFN; the model that was given
    stays as it is, and so do the process's random numbers.

    noise: standard deviation of what is added to a copy's weights, as a share of the standard
    deviation of their matrix; drop: share of a copy's neurons that are drawn anew, 0 to 1; seed:
    of these draws, and of the routers.

    ValueError for a model that has experts already, for experts of another width than the FFN's and
    shared ones, and for routers under which no copy could answer like the FFN: those that mix
    tokens before an expert reads them, and those that have experts without an FFN.
    """
    check_number("noise", noise)
    check_number("drop", drop, 0, 1)
    config = _grown_config(model.config, experts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = LanguageModel(dataclasses.replace(config, ffn_scale=None))
    grown.config = config
    grown.to(next(model.parameters()))
    for name, value in model.named_parameters():
        if ".ffn." not in name:
            grown.get_parameter(name).copy_(value)
    generator = torch.Generator().manual_seed(seed)
    for dense, sparse in zip(model.blocks, grown.blocks, strict=True):
        _take_copies(sparse.ffn, dense.ffn.w13_2FD, dense.ffn.w2_DF, config.ffn_scale)
    _fix_totals(grown)
    for block in grown.blocks:
        if noise:
            _add_noise(block.ffn, noise, generator)
        if drop:
            _draw_anew(block.ffn, drop, generator)
    return grown.train(model.training)


def expert_cosine(ffn: MoEFFN) -> Tensor:
    """How alike the experts of a layer are, float [E, E]: the cosine of all weights of each two,
    neuron by neuron in the order in which they stand; 1 for copies."""
    weights_EN = torch.cat((ffn.w13_E2FD.flatten(1), ffn.w2_EDF.flatten(1)), dim=1).detach()
    unit_EN = F.normalize(weights_EN.float(), dim=1)
    return unit_EN @ unit_EN.T


def totals(plan: Plan) -> Tensor:
    """The sum s_T of each token's weights, over the experts that took it; 0 where none did."""
    weight_N = plan.weight.detach()
    return weight_N.new_zeros(plan.num_tokens).index_add(0, plan.token.long(), weight_N)


def _grown_config(dense: ModelConfig, experts: MoEConfig) -> ModelConfig:
    """The configuration of the grown model; ValueError where copies cannot make it."""
    if dense.moe is not None:
        raise ValueError("The model has experts already; give a dense one to grow from.")
    if experts.d_expert != dense.d_ff:
        raise ValueError(
            f"Experts are copies of an FFN of width {dense.d_ff}, got d_expert = "
            f"{experts.d_expert}; for finer ones split the grown model (surgery.split)."
        )
    if experts.num_shared:
        raise ValueError(
            "A shared expert would add the FFN's output once more; give num_shared = 0."
        )
    if ROUTERS[experts.router].soft:
        raise ValueError(
            f"Router {experts.router!r} mixes tokens before an expert reads them, so no copy of "
            "the FFN could answer like it; use one that sends whole tokens."
        )
    return dataclasses.replace(dense, moe=experts, dense_layers=())


def _take_copies(ffn: MoEFFN, w13_2FD: Tensor, w2_DF: Tensor, ffn_scale: float | None) -> None:
    ffn.w13_E2FD.copy_(w13_2FD.expand_as(ffn.w13_E2FD))
    ffn.w2_EDF.copy_(w2_DF.expand_as(ffn.w2_EDF))
    # The copies' factor is the FFN's own: what a fair start would measure is that of an untrained
    # layer.
    ffn.factor_P = None if ffn_scale is None else w2_DF.new_tensor([ffn_scale])


def _fix_totals(grown: LanguageModel) -> None:
    """Divide W2 by the mean sum of a token's weights on sample text, layer after layer."""

    def divide(ffn: MoEFFN, args: tuple[Tensor, RouteContext]) -> None:
        state = [buffer.clone() for buffer in ffn.router.buffers()]
        route = ffn.router(*args)
        for buffer, before in zip(ffn.router.buffers(), state, strict=True):
            buffer.copy_(before)
        if route.bypass is not None:
            assert grown.config.moe is not None
            raise ValueError(
                f"Router {grown.config.moe.router!r} has experts without an FFN, which no copy of "
                "the dense one's can stand for; use a router whose experts all have one."
            )
        s_T = totals(route.plan)
        if not s_T.any():
            raise ValueError("At the start no token has an expert; change the router's options.")
        if (s_T - 1).abs().max() > ALIKE:
            ffn.w2_EDF.div_(s_T.mean())

    hooks = [block.ffn.register_forward_pre_hook(divide) for block in grown.blocks]
    device = next(grown.parameters()).device
    try:
        with grown.evaluating():
            generator = torch.Generator(device).manual_seed(SEED)
            grown(sample_text(grown.config.vocab_size).to(device), generator=generator)
    finally:
        for hook in hooks:
            hook.remove()


def _add_noise(ffn: MoEFFN, share: float, generator: torch.Generator) -> None:
    for weight in _matrices(ffn):
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        weight += share * weight.std(dim=(1, 2), keepdim=True) * drawn


def _draw_anew(ffn: MoEFFN, share: float, generator: torch.Generator) -> None:
    """In each expert draw round(share F) neurons anew, others in every expert."""
    experts, _, width = ffn.w2_EDF.shape
    count = round(share * width)
    for e in range(experts):
        chosen_f = torch.randperm(width, generator=generator)[:count]
        for weight in _matrices(ffn):
            part = weight[e].T if weight is ffn.w2_EDF else weight[e]  # neurons down, views
            kept_fD = part[chosen_f]
            if not kept_fD.numel():
                continue
            std = kept_fD.std(correction=0)
            drawn = torch.randn(kept_fD.shape, generator=generator).to(kept_fD)
            part[chosen_f] = kept_fD.mean() + std * drawn


def _matrices(ffn: MoEFFN) -> tuple[Tensor, Tensor, Tensor]:
    """W1 [E, F, D], W3 [E, F, D] and W2 [E, D, F], as views."""
    gate_EFD, up_EFD = ffn.w13_E2FD.data.chunk(2, dim=1)
    return gate_EFD, up_EFD, ffn.w2_EDF
