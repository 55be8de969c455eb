"""What becomes of a model's predictions when its routing is changed by hand.

One set of changes for the lab's own models and for real checkpoints. A change gets what a layer
decided, expert_TK and weight_TK, and gives it back changed; nothing else in the model is touched.
So what a capacity has dropped stays dropped, and the changed choices may go beyond it.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.checks import LARGEST_SEED, brief, check_whole
from moeviz.model.transformer import LanguageModel
from moeviz.records.store import Record
from moeviz.routing import Plan, RouterOut
from moeviz.watch.pretrained.capture import WITHOUT_CHOICES, Site, places, sites
from moeviz.watch.pretrained.model import Pretrained
from moeviz.watch.text import moe_layers, rows_by_token

Table = tuple[Tensor, Tensor]
Change = Callable[[Tensor, Tensor, int], Table]


# --- changes --------------------------------------------------------------------------------------


def kill(expert: int) -> Change:
    """What this expert adds is left out; the others keep their weights."""
    check_whole("expert", expert, low=0)

    def change(expert_TK: Tensor, weight_TK: Tensor, num_experts: int) -> Table:
        _check_expert(expert, num_experts)
        return expert_TK, weight_TK.masked_fill(expert_TK == expert, 0)

    return change


def first_only(expert_TK: Tensor, weight_TK: Tensor, _: int) -> Table:
    """Only each token's first choice, with the weight of all its choices together."""
    first_T1 = weight_TK.argmax(-1, keepdim=True)
    sum_T1 = weight_TK.sum(-1, keepdim=True)
    return expert_TK, torch.zeros_like(weight_TK).scatter(1, first_T1, sum_T1)


def without_first(expert_TK: Tensor, weight_TK: Tensor, _: int) -> Table:
    """All but each token's first choice; the others share its weight in their proportions. A token
    that has one choice only is left without any."""
    first_T1 = weight_TK.argmax(-1, keepdim=True)
    kept_TK = weight_TK.scatter(1, first_T1, 0)
    sum_T1 = kept_TK.sum(-1, keepdim=True)
    share_TK = torch.where(sum_T1 > 0, kept_TK / sum_T1.clamp(min=1e-20), kept_TK)
    return expert_TK, share_TK * weight_TK.sum(-1, keepdim=True)


def at_random(seed: int) -> Change:
    """Each token's weights go to as many experts drawn at random, all of them equally likely: other
    ones in every layer and text, where other experts were chosen, and the same again for the same.
    """
    check_whole("seed", seed, low=0, high=LARGEST_SEED)

    def change(expert_TK: Tensor, weight_TK: Tensor, num_experts: int) -> Table:
        chosen = expert_TK.cpu().numpy().tobytes()
        generator = torch.Generator().manual_seed(zlib.crc32(chosen, seed))
        order_TE = torch.rand(len(expert_TK), num_experts, generator=generator).argsort(-1)
        return order_TE[:, : expert_TK.shape[1]].to(expert_TK), weight_TK

    return change


def _check_expert(expert: int, num_experts: int) -> None:
    if expert >= num_experts:
        raise ValueError(f"expert must lie in 0..{num_experts - 1}, got {expert}.")


# --- effect ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect(Record):
    """What a change did to the prediction of each next token, float32 [T], T tokens of all texts.

    before, after: cross-entropy in nats; kl: KL divergence of the prediction after the change from
    the one before, in nats: how far it moved, whether or not it became worse.
    """

    kind: ClassVar[str] = "effect"
    before: np.ndarray
    after: np.ndarray
    kl: np.ndarray

    @property
    def cost(self) -> float:
        """Mean rise of the loss in nats; below 0 where the change helped."""
        return float((self.after - self.before).mean(dtype=np.float64))


@torch.no_grad()
def effect(
    model: LanguageModel | Pretrained,
    ids_BS: Tensor,
    change: Change,
    *,
    layers: Sequence[int] | None = None,
) -> Effect:
    """Predict the texts with the routing as it is, and once more changed in these layers (None: in
    all that have experts). ids_BS: token ids, int64 [B, S]; each but the first of a text counts.

    ValueError for layers without experts, an expert that is not there, soft routers, and families
    whose experts are not called with their choices.
    """
    calls = []

    def counted(expert_TK: Tensor, weight_TK: Tensor, num_experts: int) -> Table:
        calls.append(num_experts)
        return change(expert_TK, weight_TK, num_experts)

    with changed(model, counted, layers):
        after_TV = _predictions(model, ids_BS)
    if not calls:
        raise ValueError(
            "The model's experts were not called as modules, so nothing was changed; load it "
            "without fused kernels."
        )
    before_TV = _predictions(model, ids_BS)
    next_T = ids_BS[:, 1:].flatten().to(before_TV.device)
    return Effect(
        before=F.nll_loss(before_TV, next_T, reduction="none").cpu().numpy(),
        after=F.nll_loss(after_TV, next_T, reduction="none").cpu().numpy(),
        kl=F.kl_div(after_TV, before_TV, log_target=True, reduction="none").sum(-1).cpu().numpy(),
    )


def _predictions(model: LanguageModel | Pretrained, ids_BS: Tensor) -> Tensor:
    """Log-probabilities of the token after each place but the last, float32 [T, V]."""
    if isinstance(model, Pretrained):
        logits = torch.cat([model.run(ids_S).logits for ids_S in ids_BS])
    else:
        with model.evaluating():
            logits = model(ids_BS.to(model.head.weight.device)).logits
    return logits[:, :-1].float().log_softmax(-1).flatten(0, 1)


@contextmanager
def changed(
    model: LanguageModel | Pretrained, change: Change, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Within, the model routes with this change; afterwards as before. Errors as `effect`."""
    if isinstance(model, Pretrained):
        hooks = _hooks_of_checkpoint(model, change, layers)
    else:
        hooks = _hooks_of_own(model, change, layers)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _chosen_layers(having: Sequence[int], layers: Sequence[int] | None) -> set[int]:
    wanted = set(having) if layers is None else set(layers)
    if not wanted or wanted - set(having):
        raise ValueError(
            f"layers must be some of those with experts, {brief(tuple(having))}, got "
            f"{brief(layers)}."
        )
    return wanted


def _hooks_of_own(model: LanguageModel, change: Change, layers: Sequence[int] | None) -> list[Any]:
    def after(_: nn.Module, args: Any, out: RouterOut) -> RouterOut:
        num_experts = out.plan.num_experts
        expert_TK, weight_TK = map(torch.from_numpy, rows_by_token(out.plan, len(out.logits)))
        absent_TK = expert_TK < 0
        expert_TK, weight_TK = change(expert_TK.long(), weight_TK, num_experts)
        weight_TK = weight_TK.masked_fill(absent_TK, 0)  # a change gives it no new choice
        assert isinstance(out.plan, Plan)  # as rows_by_token insists
        device, dtype = out.plan.weight.device, out.plan.weight.dtype
        plan = Plan.from_topk(
            expert_TK.clamp(min=0).to(device), weight_TK.to(device, dtype), num_experts=num_experts
        )
        return dataclasses.replace(out, plan=plan)

    routers, wanted = model.routers(), _chosen_layers(moe_layers(model), layers)
    return [routers[layer].register_forward_hook(after) for layer in sorted(wanted)]


def _hooks_of_checkpoint(
    model: Pretrained, change: Change, layers: Sequence[int] | None
) -> list[Any]:
    found = sites(model.model)
    wanted = _chosen_layers([site.layer for site in found], layers)
    for site in found:
        if type(site.experts).__name__.startswith(WITHOUT_CHOICES):
            raise ValueError(
                f"The experts of {model.name} ({model.model_type}) are not called with their "
                "choices, so their routing cannot be changed from outside."
            )
    return [
        site.experts.register_forward_pre_hook(_before(site, change), with_kwargs=True)
        for site in found
        if site.layer in wanted
    ]


def _before(site: Site, change: Change) -> Callable[..., Any]:
    def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
        names = list(kwargs)
        given = [*args, *kwargs.values()]
        _, expert, weight = places(site, given)
        given[expert], given[weight] = change(given[expert], given[weight], site.num_experts)
        return tuple(given[: len(args)]), dict(zip(names, given[len(args) :], strict=True))

    return before
