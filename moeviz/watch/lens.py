"""What an expert writes: the words that it makes likelier where it is chosen.

The logit lens (nostalgebraist 2020) reads the residual stream of any layer as if it were the last;
here it is read before and after one expert has added its part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moeviz.checks import check_choice
from moeviz.model.transformer import LanguageModel
from moeviz.routing import Plan
from moeviz.watch.text import moe_layers, row_outputs

AT_ONCE = 512  # rows: each has a value for every word


@torch.no_grad()
def writes(
    model: LanguageModel, ids_BS: Tensor, *, layer: int, null: str = "", seed: int = 0
) -> Tensor:
    """How much the experts of a layer raise the log-probability of each word, float32 [E, V]: the
    mean over the tokens that visit the expert, NaN for one that none visits. In nats.

    For each such token, x is what the layer adds to, w the token's weight and f the expert:
    log_softmax(head(norm(x + w f(x)))) - log_softmax(head(norm(x))).
    null: what of it is left to chance. "visits": each visit is put down to another visit's expert,
    so that an expert has as many, drawn by lot. "direction": w f(x) is as long as it was, but for
    all tokens of an expert in one direction, drawn at random.
    ValueError where the layer has no experts, or a soft router.
    """
    check_choice("layer", str(layer), [str(n) for n in moe_layers(model)])
    check_choice("null", null, ("", "visits", "direction"))
    block = model.blocks[layer]
    seen: dict[str, Tensor] = {}
    hooks = [
        block.ffn_norm.register_forward_pre_hook(lambda _, args: seen.update(before=args[0])),
        block.ffn.register_forward_pre_hook(lambda _, args: seen.update(inside=args[0])),
    ]
    try:
        with model.evaluating():
            plan = model(ids_BS.to(model.head.weight.device)).routes[layer].plan
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(plan, Plan):
        raise ValueError("This model's router is a soft one: no expert is chosen by a token.")
    x_TD, factor = seen["before"].flatten(0, 1), block.ffn.factor_P
    part_ND = row_outputs(seen["inside"], plan, block.ffn) * plan.weight[:, None]
    part_ND = part_ND if factor is None else part_ND * factor[0]
    expert_N, draws = plan.expert.long(), torch.Generator().manual_seed(seed)
    if null == "visits":
        expert_N = expert_N[torch.randperm(len(expert_N), generator=draws).to(expert_N.device)]
    elif null == "direction":
        direction_ED = torch.randn(plan.num_experts, x_TD.shape[1], generator=draws).to(x_TD)
        direction_ED /= direction_ED.norm(dim=1, keepdim=True)
        part_ND = direction_ED[expert_N] * part_ND.norm(dim=1, keepdim=True)
    raised_EV = x_TD.new_zeros(plan.num_experts, model.head.weight.shape[0])
    for rows in torch.arange(len(part_ND), device=x_TD.device).split(AT_ONCE):
        before_ND = x_TD[plan.token[rows].long()]
        rise_NV = _read(model, before_ND + part_ND[rows]) - _read(model, before_ND)
        raised_EV.index_add_(0, expert_N[rows], rise_NV)
    load_E = plan.load()
    return torch.where(load_E[:, None] > 0, raised_EV / load_E[:, None].clamp(min=1), torch.nan)


def _read(model: LanguageModel, x_ND: Tensor) -> Tensor:
    return model.head(model.norm(x_ND)).float().log_softmax(-1)
