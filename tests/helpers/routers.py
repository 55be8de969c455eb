"""What the tests of routers share: numbers from a seed, and a decision read as a table."""

import pytest
import torch

from moeviz.routing.capacity import WithCapacity


def every(names):
    return pytest.mark.parametrize("name", names)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inner(router):
    """The router itself, without its capacity."""
    while isinstance(router, WithCapacity):
        router = router.router
    return router


def decision(out):
    """What is decided for each token, [T, anything]."""
    if hasattr(out.plan, "dispatch"):
        parts = (out.plan.by_token(v).flatten(1) for v in (out.plan.dispatch, out.plan.combine))
        return torch.cat(list(parts), 1)
    return out.plan.dense_weights()


def visited(out):
    """bool [T, E]: who visits whom, weight or none."""
    visits_TE = torch.zeros(out.plan.num_tokens, out.plan.num_experts, dtype=torch.bool)
    visits_TE[out.plan.token.long(), out.plan.expert.long()] = True
    return visits_TE
