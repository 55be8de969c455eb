"""The MoE layer around any router: its cost, its shared experts, what it adds without an FFN."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.routers import context, normal
from moeviz.model.layer import DenseFFN, MoEConfig, MoEFFN
from moeviz.model.transformer import ModelConfig
from moeviz.routing import ROUTERS, Capacity
from moeviz.watch.text import trace_text

D, E, F, T = 12, 8, 16, 24


# Routers whose every token, or every pool, costs the same; by options under which T = 24 divides.
# What a rule without a fixed number of rows costs depends on the tokens: there rows are counted.
VARIABLE = ("remoe", "null_experts", "expert_threshold")


@pytest.mark.parametrize("num_shared", [0, 1])
@pytest.mark.parametrize("router", [*ROUTERS, None])
def test_flops_are_those_that_torch_counts(router, num_shared):
    """B sequences cost B times one: no router may mix or pad across them."""
    B, S = 8, 16
    config, layer = None, DenseFFN(D, 2 * F)
    if router is not None:
        config = MoEConfig(E, 2, F, router=router, num_shared=num_shared, backend="reference")
        layer = MoEFFN(D, config)
    training = router in ("noisy_topk", "mixture_of_depths")  # elsewhere training drops
    with FlopCounterMode(display=False) as counter:
        _, route = layer(normal(B * S, D), context(B * S, training, length=S))
    if config is None:
        want = 6 * D * 2 * F * B * S
    elif router in VARIABLE:
        rows = int(route.stats.load.sum()) + num_shared * B * S
        want = layer.router.flops(S) * B * S + 6 * D * F * rows
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
        router(normal(T, D), context(T, True, length=T))
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
