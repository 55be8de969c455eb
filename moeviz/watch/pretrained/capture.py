"""What each MoE layer of a Hugging Face model does with its tokens, seen from outside by hooks.

Since transformers 5.0 nearly every family calls a module `experts` with the tokens, the chosen
experts and their weights. What goes into that call is what is computed, so it is read there and not
from `router_logits`: where a router corrects its scores, the K largest logits are not the choice.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ROUTER = re.compile(r"(Router|Gate|Gating)$")
BLOCK = re.compile(r"\.(\d+)\.")
MOE_OF_JETMOE = "JetMoeMoE"  # its experts are no module of their own


@dataclass(frozen=True)
class Captured:
    """One MoE layer's way with T tokens.

    x_TD: what its experts read; logits_TE: what its router calls logits, None where no router is
    seen; expert_TK: int64, -1 where a choice was not served; weight_TK; y_TD: what the experts made
    of the tokens; again_TD: the same once more, from expert_TK and weight_TK, one choice at a time:
    part_KTD, of each choice what its expert makes of the tokens, times factor_TK. scale: what the
    block then multiplies y_TD by.
    """

    layer: int
    x_TD: Tensor
    logits_TE: Tensor | None
    expert_TK: Tensor
    weight_TK: Tensor
    y_TD: Tensor
    again_TD: Tensor
    part_KTD: list[Tensor]
    factor_TK: Tensor
    scale: float = 1.0

    @property
    def error(self) -> float:
        """How far the second computation is from the model's own, in relation to its norm, for the
        token where it is furthest. A norm over all tokens would be that of the first one alone,
        which in real models is often a thousand times as large as the others."""
        y_TD, again_TD = self.y_TD.double(), self.again_TD.double()
        off_T, size_T = (again_TD - y_TD).norm(dim=-1), y_TD.norm(dim=-1)
        return float((off_T / size_T.clamp(min=1e-30)).max())


@dataclass
class Site:
    """A MoE layer of a model: its block's number, its experts and their router, and what the block
    multiplies the experts' sum by; what the experts and the router were given when the model last
    ran (`given`, `seen`), and what they said (`y`, `routed`)."""

    layer: int
    experts: nn.Module
    router: nn.Module | None
    scale: float = 1.0
    given: list[Any] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    routed: list[Any] = field(default_factory=list)
    y: Tensor | None = None

    @property
    def num_experts(self) -> int:
        """Those that a token may choose, with those that compute nothing."""
        return int(getattr(self.experts, "total_experts", 0) or self.experts.num_experts)


def sites(model: nn.Module) -> list[Site]:
    """The MoE layers of a model. The name `experts` must be exact: a module `shared_experts` has no
    router."""
    modules, found = dict(model.named_modules()), []
    for name, module in modules.items():
        block = BLOCK.search(name)
        own = type(module).__name__ == MOE_OF_JETMOE
        if block is None or not (own or name.endswith(".experts")):
            continue
        parent = module if own else modules[name.rpartition(".")[0]]
        if own or type(module).__name__ != "JetMoeMoA":  # experts of attention
            scale = float(getattr(parent, "routed_scaling_factor", 1.0))
            found.append(Site(int(block[1]), module, _router(parent), scale))
    return found


def _router(parent: nn.Module) -> nn.Module | None:
    """The router in a MoE block, by the name of its class; else a `gate` or `router` that is a
    matrix alone; None where there is neither."""
    inside = [(name, m) for name, m in parent.named_modules() if "expert" not in name]
    named = [m for _, m in inside if ROUTER.search(type(m).__name__)]
    plain = [m for name, m in inside if name in ("gate", "router")]
    return next(iter(named + plain), None)


@contextmanager
def watched(layers: list[Site]) -> Iterator[None]:
    """While the model runs within, each site keeps what its experts and router see and say."""
    hooks = []
    for site in layers:

        def before(_: nn.Module, args: Any, kwargs: Any, site: Site = site) -> None:
            site.given = [*args, *kwargs.values()]

        def after(_: nn.Module, args: Any, y: Any, site: Site = site) -> None:
            site.y = y[0] if isinstance(y, tuple) else y

        def routed(_: nn.Module, args: Any, out: Any, site: Site = site) -> None:
            site.seen = list(args)
            site.routed = list(out) if isinstance(out, tuple | list) else [out]

        hooks.append(site.experts.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(site.experts.register_forward_hook(after))
        if site.router is not None:
            hooks.append(site.router.register_forward_hook(routed))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def read(site: Site) -> Captured:
    """What a watched site did. ValueError where its experts were not called, as when a fused kernel
    takes their weights and goes past the module, or were called in a way that is not known."""
    if site.y is None:
        raise ValueError(
            f"The experts of layer {site.layer} were not called as a module, so nothing can be "
            "seen; load the model without fused kernels."
        )
    name = type(site.experts).__name__
    adapter = next((a for family, a in ADAPTERS.items() if name.startswith(family)), _chosen)
    return dataclasses.replace(adapter(site), scale=site.scale)


def in_order(found: Captured) -> Captured:
    """With each token's choices in the order of their weights: many families keep them in none, as
    after a top-k that does not sort, or one of corrected scores."""
    order_TK = found.weight_TK.sort(dim=-1, descending=True, stable=True).indices
    columns = {
        name: getattr(found, name).gather(1, order_TK)
        for name in ("expert_TK", "weight_TK", "factor_TK")
    }
    if found.part_KTD:
        part_KTD = torch.stack(found.part_KTD)
        order_KT1 = order_TK.T[..., None]
        columns["part_KTD"] = list(part_KTD.gather(0, order_KT1.expand_as(part_KTD)))
    return dataclasses.replace(found, **columns)


def _floats(values: list[Any]) -> list[Tensor]:
    return [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]


def flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def places(site: Site, given: list[Any]) -> tuple[int, int, int]:
    """Where in a call of experts the tokens, the chosen experts and their weights stand. ValueError
    where they do not."""
    tensors = [n for n, v in enumerate(given) if isinstance(v, Tensor)]
    floats = [n for n in tensors if given[n].is_floating_point()]
    whole = [n for n in tensors if n not in floats]
    weights = [n for n in floats[1:] if whole and given[n].shape == given[whole[0]].shape]
    if not weights:
        raise ValueError(
            f"The experts of layer {site.layer} ({type(site.experts).__name__}) are not called "
            "with chosen experts and weights; moeviz does not know this family's way."
        )
    return floats[0], whole[0], weights[0]


def _chosen(site: Site, columns: int = 1) -> Captured:
    """Experts that are called with tokens, chosen experts and weights: nearly every family.
    columns: the fewest choices that they can be called with; the surplus ones weigh 0."""
    x_TD, expert_TK, weight_TK = (site.given[n] for n in places(site, site.given))
    if not expert_TK.shape[1]:
        raise ValueError(
            f"Layer {site.layer} chooses 0 experts a token; its config.json must say 1 at least."
        )
    x_TD = flat(x_TD)
    alone_TC = torch.zeros_like(weight_TK[:, :1]).repeat(1, columns)
    alone_TC[:, 0] = 1
    parts = [
        site.experts(x_TD, expert_TK[:, k : k + 1].repeat(1, columns), alone_TC).reshape(x_TD.shape)
        for k in range(expert_TK.shape[1])
    ]
    return _captured(site, x_TD, logits_of(site), expert_TK, weight_TK, parts)


def logits_of(site: Site) -> Tensor | None:
    """The widest of what the router says: the others have one column a choice."""
    wide = [v for v in _floats(site.routed) if v.dim() > 1]
    return flat(max(wide, key=lambda v: v.shape[-1])) if wide else None


def _captured(
    site: Site,
    x_TD: Tensor,
    logits_TE: Tensor | None,
    expert_TK: Tensor,
    weight_TK: Tensor,
    parts: list[Tensor],
) -> Captured:
    """parts: K times [T, D], what the expert of each choice makes of the tokens."""
    assert site.y is not None
    again_TD = torch.zeros_like(parts[0], dtype=torch.float32)
    for k, part_TD in enumerate(parts):
        again_TD += part_TD.float() * weight_TK[:, k, None].float()
    y_TD = site.y.reshape(again_TD.shape)
    return Captured(
        site.layer, x_TD, logits_TE, expert_TK, weight_TK, y_TD, again_TD, parts, weight_TK
    )  # fmt: skip


def _llama4(site: Site) -> Captured:
    """Every expert reads every token, multiplied by its weight before and not after: the sigmoid
    of the chosen logits, 0 for the others."""
    score_TE, logits_TE = (flat(v) for v in _floats(site.routed))
    weight_TK, expert_TK = score_TE.topk(site.router.top_k, dim=-1)  # type: ignore[union-attr]
    x_TD, place_T = flat(site.seen[0]), torch.arange(len(score_TE), device=score_TE.device)
    parts = []
    for k in range(expert_TK.shape[1]):
        x_ETD = x_TD.new_zeros(score_TE.shape[1], *x_TD.shape)
        x_ETD[expert_TK[:, k], place_T] = x_TD * weight_TK[:, k, None]
        parts.append(site.experts(flat(x_ETD)).reshape(x_ETD.shape).sum(0))
    assert site.y is not None
    site.y = site.y.reshape(score_TE.shape[1], *x_TD.shape).sum(0)
    return dataclasses.replace(
        _captured(site, x_TD, logits_TE, expert_TK, torch.ones_like(weight_TK), parts),
        weight_TK=weight_TK,
    )


def _switch(site: Site) -> Captured:
    """One choice, told as a mask of one column an expert: empty where its expert was full."""
    x_TD, mask_T1E, weight_T1 = site.given
    expert_T1 = torch.where(mask_T1E.any(-1), mask_T1E.argmax(-1), -1)
    part_TD = site.experts(x_TD, mask_T1E, torch.ones_like(weight_T1))
    weight_T1 = weight_T1 * (expert_T1 >= 0)
    return _captured(site, flat(x_TD), logits_of(site), expert_T1, weight_T1, [part_TD])


def _jetmoe(site: Site) -> Captured:
    """The router sorts the rows by expert and says how many each has."""
    moe, x_TD = site.experts, flat(site.given[0])
    row_N, _, weight_N, size_E, logits_TE = site.routed
    sorted_N = torch.arange(len(size_E)).repeat_interleave(torch.tensor(size_E)).to(row_N.device)
    expert_TK = torch.empty_like(row_N).scatter(0, row_N, sorted_N).view(len(x_TD), -1)
    weight_TK = torch.empty_like(weight_N).scatter(0, row_N, weight_N).view(len(x_TD), -1)
    parts = []
    for k in range(expert_TK.shape[1]):
        order_T = expert_TK[:, k].argsort()
        sizes = expert_TK[:, k].bincount(minlength=len(size_E)).tolist()
        gate, up = moe.input_linear(x_TD[order_T], sizes).chunk(2, dim=-1)
        rows_TD = moe.output_linear(moe.activation(gate) * up, sizes)
        parts.append(torch.empty_like(rows_TD).index_copy(0, order_T, rows_TD))
    assert site.y is not None
    site.y = site.y - moe.bias
    return _captured(site, x_TD, logits_TE, expert_TK, weight_TK, parts)


def _longcat(site: Site) -> Captured:
    return _chosen(site, columns=2)


ADAPTERS = {
    "LongcatFlash": _longcat,
    "Llama4": _llama4,
    "SwitchTransformers": _switch,
    "JetMoe": _jetmoe,
}
# Whose experts are called without their choices, so that these cannot be changed on the way.
WITHOUT_CHOICES = ("Llama4", "SwitchTransformers", "JetMoe")
