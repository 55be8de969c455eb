"""Does a router look into the future? Change the later tokens, compare the earlier decisions."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from moeviz.routing.context import RouteContext
from moeviz.routing.out import RouterOut
from moeviz.routing.plan import Plan


@torch.no_grad()
def leaking_tokens(
    router: nn.Module, x_TD: Tensor, context: RouteContext, *, cuts: int = 8, seed: int = 0
) -> Tensor:
    """bool [T]: the tokens whose routing changed when tokens after them were replaced.

    1. cut the T tokens at `cuts` places, evenly spread
    2. behind each cut put other tokens in: hidden states and ids of the same text's real tokens,
       shuffled, the states scaled by two so that none is only moved
    3. a token before the cut leaks where its row of the decision differs
    A False proves nothing by itself; a True is proof. Noise is the same in all calls, and so is the
    number of tokens.
    """
    num_tokens = len(x_TD)
    real_T = torch.ones(num_tokens, dtype=torch.bool) if context.mask is None else context.mask
    real_t = real_T.nonzero()[:, 0]
    shuffler = torch.Generator().manual_seed(seed)
    before = _decision(router(x_TD, _seeded(context, seed)))
    leaks_T = torch.zeros(num_tokens, dtype=torch.bool, device=x_TD.device)
    for cut in torch.linspace(1, num_tokens - 1, min(cuts, num_tokens - 1)).long().tolist():
        drawn_t = torch.randint(len(real_t), (num_tokens - cut,), generator=shuffler)
        other_t = real_t[drawn_t.to(real_t.device)]
        x_changed_TD = x_TD.clone()
        x_changed_TD[cut:] = 2 * x_TD[other_t]
        changed = _seeded(context, seed)
        if context.token_ids is not None:
            ids_T = context.token_ids.clone()
            ids_T[cut:] = context.token_ids[other_t]
            changed = dataclasses.replace(changed, token_ids=ids_T)
        after = _decision(router(x_changed_TD, changed))
        differs_T = (before[:cut] - after[:cut]).abs().amax(1) > 1e-6
        leaks_T[:cut] |= differs_T
    return leaks_T


def _seeded(context: RouteContext, seed: int) -> RouteContext:
    device = "cpu" if context.generator is None else context.generator.device
    return dataclasses.replace(context, generator=torch.Generator(device).manual_seed(seed))


def _decision(out: RouterOut) -> Tensor:
    """All that is decided for each token, as rows [T, anything]: which experts with which weight,
    or which mixtures it goes into and gets."""
    if isinstance(out.plan, Plan):
        return out.plan.dense_weights()
    parts = (out.plan.by_token(v) for v in (out.plan.dispatch, out.plan.combine))
    return torch.cat([part.flatten(1) for part in parts], dim=1)
