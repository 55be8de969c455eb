"""moeviz's own models, counted from their configuration, against the real ones."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moeviz.costs import active_parameters, parameters
from moeviz.costs.cost.compute import forward_flops_per_token
from moeviz.model.architecture import architecture_of
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import ROUTERS

SIZES = dict(vocab_size=50, d_model=16, num_layers=3, num_heads=2, d_ff=24)
# What each parameter of the real model is called here, by the first that its name contains.
PARTS = {
    "embedding": "embedding", "head": "head", "norm": "norms", "attention": "attention",
    "router": "router", "shared_gate": "router", "shared": "shared_experts",
    "_E": "routed_experts", "": "dense_ffn",
}  # fmt: skip


def sparse(router="token_choice", *, dense_layers=(), **options):
    top_k = 1 if router in ("switch", "base", "mixture_of_depths") else 2
    own = dict(vocab_size=50) if router == "hash" else {}
    moe = dict(num_experts=8, top_k=top_k, d_expert=8, router=router, options=own) | options
    return ModelConfig(**SIZES, moe=MoEConfig(**moe), dense_layers=dense_layers)


CONFIGS = {
    "dense": ModelConfig(**SIZES),
    "first dense": sparse(dense_layers=(0,)),
    "all experts": sparse(top_k=8),
    "shared": sparse(num_shared=2),
    "shared, sigmoid gate": sparse(num_shared=1, shared_gate="sigmoid"),
    "shared, softmax gate": sparse(num_shared=3, shared_gate="softmax"),
    **{name: sparse(name) for name, router in ROUTERS.items() if router.matrices is not None},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_are_the_real_models(name):
    config = CONFIGS[name]
    architecture, real = architecture_of(config), LanguageModel(config)
    parts = Counter()
    for label, value in real.named_parameters():
        parts[next(part for key, part in PARTS.items() if key in label)] += value.numel()
    assert parameters(architecture).components == parts
    assert parameters(architecture).total == real.num_parameters()
    assert active_parameters(architecture).total == real.num_active_parameters()
    if "gate" not in name:  # the config's short form leaves a shared gate out
        for length in (1, 7, 64):
            flops = forward_flops_per_token(architecture, length).total
            assert flops == pytest.approx(config.flops_per_token(length))


@pytest.mark.parametrize("router", sorted(set(ROUTERS) - set(CONFIGS)))
def test_a_router_without_a_closed_form_is_refused_by_name(router):
    with pytest.raises(ValueError, match=f"router must be one of .* got '{router}'"):
        architecture_of(sparse(router))


class FlopCounter(TorchDispatchMode):
    """FLOPs of every matrix product that really runs: torch's own counter counts none of grouped
    products and of attention on a CPU. Causal attention counts (S + 1) / 2 keys a query."""

    def __init__(self):
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if name in ("mm", "bmm"):
            self.flops += 2 * args[0].numel() * args[1].shape[-1]
        elif name == "addmm":
            self.flops += 2 * args[1].numel() * args[2].shape[-1]
        elif name == "_grouped_mm":
            self.flops += 2 * args[0].numel() * out.shape[-1]
        elif name.startswith("_scaled_dot_product"):
            batch, heads, length, width = args[0].shape
            self.flops += 4 * batch * heads * length * width * (length + 1) / 2
        return out


@pytest.mark.parametrize("backend", ["reference", "grouped"])
@pytest.mark.parametrize("options", [{}, dict(num_shared=2, dense_layers=(0,))])
def test_flops_are_those_that_run(backend, options):
    torch.manual_seed(0)
    config = sparse(backend=backend, **options)
    with torch.no_grad(), FlopCounter() as counter:
        LanguageModel(config).eval()(torch.randint(0, 50, (1, 12)))
    assert counter.flops == 12 * forward_flops_per_token(architecture_of(config), 12).total
