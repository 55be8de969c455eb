"""The MoE layer around any router: its cost, its shared experts, what it adds without an FFN."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from helpers.routers import context, normal
from moeviz.model.layer import DenseFFN, MoEConfig, MoEFFN
from moeviz.routing import ROUTERS

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
