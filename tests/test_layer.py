"""The MoE layer around any router: its cost, its shared experts, what it adds without an FFN."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.routers import normal
from moeviz.model.layer import DenseFFN, MoEConfig, MoEFFN
from moeviz.model.transformer import ModelConfig
from moeviz.routing import ROUTERS, Capacity, RouteContext
from moeviz.watch.text import trace_text

D, E, F, T = 12, 8, 16, 24


def context(training=True):
    return RouteContext(
        token_ids=torch.arange(T) * 7 % 50,
        sequence=torch.zeros(T, dtype=torch.int64),
        position=torch.arange(T),
        training=training,
        generator=torch.Generator().manual_seed(0),
    )


# Routers whose every token, or every pool, costs the same; by options under which T = 24 divides.
CONSTANT = {
    "token_choice": {},
    "deepseek_v3": {},
    "expert_prototyping": {},
    "hierarchical": {},
    "noisy_topk": {},
    "hash": {},
    "base": {},
    "sinkhorn": {},
    "expert_choice": {},
    "soft_moe": {"slots": 3},
    "mixture_of_tokens": {"group_size": T},
    "mixture_of_depths": {"capacity_factor": 0.5},
    "dense_mixture": {},
    "sequence_level": {},
}


@pytest.mark.parametrize("num_shared", [0, 1])
@pytest.mark.parametrize("router", CONSTANT)
def test_flops_are_those_that_torch_counts(router, num_shared):
    config = MoEConfig(
        E, 2, F, router=router, options=CONSTANT[router], num_shared=num_shared, backend="reference"
    )
    layer = MoEFFN(D, config)
    with FlopCounterMode(display=False) as counter:
        layer(normal(T, D), context())
    assert counter.get_total_flops() == pytest.approx(config.flops_per_token(D, T) * T)


# What a rule without a fixed number of rows costs depends on the tokens: there rows are counted.
VARIABLE = ("remoe", "null_experts", "expert_threshold")


@pytest.mark.parametrize("router", [*ROUTERS, None])
def test_flops_of_a_batch_are_those_that_torch_counts(router):
    """B sequences cost B times one: no router may mix or pad across them."""
    B, S = 8, 16
    if router is None:
        config, layer = None, DenseFFN(D, 2 * F)
    else:
        config = MoEConfig(E, 2, F, router=router, backend="reference")
        layer = MoEFFN(D, config)
    batch = RouteContext(
        token_ids=torch.arange(B * S) * 7 % 50,
        sequence=torch.arange(B).repeat_interleave(S),
        position=torch.arange(S).repeat(B),
        training=router in ("noisy_topk", "mixture_of_depths"),  # elsewhere training drops
        generator=torch.Generator().manual_seed(0),
    )
    with FlopCounterMode(display=False) as counter:
        _, route = layer(normal(B * S, D), batch)
    if config is None:
        want = 6 * D * 2 * F * B * S
    elif router in VARIABLE:
        want = layer.router.flops(S) * B * S + 6 * D * F * int(route.stats.load.sum())
    else:
        want = config.flops_per_token(D, S) * B * S
    assert counter.get_total_flops() == pytest.approx(want)


def test_flops_of_null_experts_are_counted_at_an_even_load():
    """K of E + Z experts on average do not give a whole number of rows; with as many null experts
    as FFN ones, half of all choices are rows."""
    config = MoEConfig(
        E, 2, F, router="null_experts", options={"zero": E - 2, "copy": 1, "constant": 1}
    )
    router = config.build_router(D)
    assert router.active_experts(T) == 1.0
    with FlopCounterMode(display=False) as counter:
        router(normal(T, D), context())
    assert counter.get_total_flops() == router.flops(T) * T


def test_a_config_survives_json_and_the_random_numbers_of_its_process():
    config = MoEConfig(
        E, 2, F, options={"weighting": "raw"}, capacity=Capacity(1.5, priority="batch")
    )
    state = torch.get_rng_state()
    again = MoEConfig.from_dict(dataclasses.asdict(config))
    assert again == config
    again.flops_per_token(D, 9)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("gate", ["one", "sigmoid", "softmax"])
def test_shared_experts_by_the_formula(gate):
    config = MoEConfig(E, 2, F, num_shared=2, shared_gate=gate, backend="reference")
    layer, x_TD = MoEFFN(D, config), normal(T, D)
    bare = MoEFFN(D, dataclasses.replace(config, num_shared=0))
    bare.load_state_dict(layer.state_dict(), strict=False)
    y_TD, _ = bare(x_TD, context())
    w13, w2 = layer.shared.w13_2FD, layer.shared.w2_DF
    assert w2.shape == (D, 2 * F)
    gated_TF, up_TF = (x_TD @ w13.T).chunk(2, dim=-1)
    shared_TD = (torch.nn.functional.silu(gated_TF) * up_TF) @ w2.T
    if gate == "one":
        want_TD = y_TD + shared_TD
    else:
        with torch.no_grad():
            layer.shared_gate_GD.copy_(normal(*layer.shared_gate_GD.shape, seed=1))
        scores_TG = x_TD @ layer.shared_gate_GD.T
        if gate == "sigmoid":
            want_TD = y_TD + scores_TG.sigmoid() * shared_TD
        else:
            weight_TG = scores_TG.softmax(-1)
            want_TD = weight_TG[:, :1] * y_TD + weight_TG[:, 1:] * shared_TD
    got_TD, _ = layer(x_TD, context())
    assert torch.allclose(got_TD, want_TD, atol=1e-5)


def test_shared_experts_count_as_active():
    experts = MoEConfig(E, 2, F, num_shared=1)
    model = ModelConfig(vocab_size=50, d_model=D, num_layers=2, num_heads=2, moe=experts)
    assert model.dense_twin().d_ff == 3 * F


def test_a_soft_route_cannot_be_traced():
    from moeviz.model.transformer import LanguageModel
    from moeviz.text.tokenizer import Tokenizer

    experts = MoEConfig(E, 2, F, router="soft_moe")
    model = LanguageModel(ModelConfig(d_model=D, num_layers=1, num_heads=2, moe=experts))
    with pytest.raises(ValueError, match="sends no token to an expert"):
        trace_text(model, Tokenizer.default(), "a few words")
