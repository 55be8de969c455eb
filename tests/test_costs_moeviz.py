"""moeviz's own models, counted from their configuration, against the real ones."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moeviz.costs import Architecture, active_parameters, parameters
from moeviz.costs.cost.compute import decode_flops_per_token, forward_flops_per_token
from moeviz.model.architecture import architecture_of
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel, ModelConfig
from moeviz.routing import ROUTERS

SIZES = dict(vocab_size=50, d_model=16, num_layers=3, num_heads=2, d_ff=24)


def moe(**options):
    return MoEConfig(**{**dict(num_experts=8, top_k=2, d_expert=8), **options})


CONFIGS = {
    "dense": ModelConfig(**SIZES),
    "all sparse": ModelConfig(**SIZES, moe=moe()),
    "first dense": ModelConfig(**SIZES, moe=moe(), dense_layers=(0,)),
    "shared": ModelConfig(**SIZES, moe=moe(num_shared=2)),
    "shared, sigmoid gate": ModelConfig(**SIZES, moe=moe(num_shared=1, shared_gate="sigmoid")),
    "shared, softmax gate": ModelConfig(**SIZES, moe=moe(num_shared=3, shared_gate="softmax")),
    "switch": ModelConfig(**SIZES, moe=moe(router="switch", top_k=1)),
    "noisy": ModelConfig(**SIZES, moe=moe(router="noisy_topk")),
    "hash": ModelConfig(**SIZES, moe=moe(router="hash", options=dict(vocab_size=50))),
    "all experts": ModelConfig(**SIZES, moe=moe(top_k=8)),
}


def names(config):
    """What each parameter of the real model is called here."""
    parts: dict[str, int] = {}
    for name, value in LanguageModel(config).named_parameters():
        if name.startswith("embedding"):
            part = "embedding"
        elif name.startswith("head"):
            part = "head"
        elif "norm" in name:
            part = "norms"
        elif "attention" in name:
            part = "attention"
        elif "router" in name or "shared_gate" in name:
            part = "router"
        elif "shared" in name:
            part = "shared_experts"
        elif "_E" in name:
            part = "routed_experts"
        else:
            part = "dense_ffn"
        parts[part] = parts.get(part, 0) + value.numel()
    return parts


@pytest.mark.parametrize("name", CONFIGS)
def test_every_component_has_the_real_models_parameters(name):
    config = CONFIGS[name]
    architecture = architecture_of(config)
    assert parameters(architecture).components == names(config)
    real = LanguageModel(config)
    assert parameters(architecture).total == real.num_parameters()
    assert active_parameters(architecture).total == real.num_active_parameters()


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_a_router_is_counted_exactly_or_refused_by_name(router):
    top_k = 1 if router in ("switch", "base", "mixture_of_depths") else 2
    options = dict(vocab_size=50) if router == "hash" else {}
    config = ModelConfig(**SIZES, moe=moe(router=router, top_k=top_k, options=options))
    if ROUTERS[router].matrices is None:
        with pytest.raises(ValueError, match=f"router must be one of .* got '{router}'"):
            architecture_of(config)
        return
    architecture, real = architecture_of(config), LanguageModel(config)
    assert parameters(architecture).total == real.num_parameters()
    assert active_parameters(architecture).total == real.num_active_parameters()


@pytest.mark.parametrize("name", [n for n in CONFIGS if "gate" not in n])
@pytest.mark.parametrize("length", [1, 7, 64])
def test_flops_are_the_models_own_formula(name, length):
    config = CONFIGS[name]
    architecture = architecture_of(config)
    each = forward_flops_per_token(architecture, length)
    assert each.total == pytest.approx(config.flops_per_token(length))


class Counter(TorchDispatchMode):
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


@pytest.mark.parametrize(
    "config",
    [
        CONFIGS["dense"],
        *(
            ModelConfig(**SIZES, moe=moe(backend=backend, **options), dense_layers=dense)
            for backend in ("reference", "grouped")
            for options, dense in (({}, ()), (dict(num_shared=2), (0,)))
        ),
    ],
)
def test_flops_are_those_that_run(config):
    torch.manual_seed(0)
    model = LanguageModel(config).eval()
    with torch.no_grad(), Counter() as counter:
        model(torch.randint(0, 50, (1, 12)))
    expected = 12 * forward_flops_per_token(architecture_of(config), 12).total
    assert counter.flops == expected


TINY = dict(
    vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4
)
FOREIGN = {
    "llama": dict(num_key_value_heads=2),
    "mixtral": dict(num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2),
    "gpt_oss": dict(
        num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2
    ),
    "qwen2_moe": dict(
        num_key_value_heads=2, moe_intermediate_size=16, shared_expert_intermediate_size=20,
        num_experts=4, num_experts_per_tok=2,
    ),
    "deepseek_v3": dict(
        moe_intermediate_size=16, num_key_value_heads=4, n_routed_experts=8,
        num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=1, kv_lora_rank=8,
        q_lora_rank=12, qk_rope_head_dim=4, qk_nope_head_dim=6, v_head_dim=6,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", FOREIGN)
def test_flops_of_transformers_modules_are_counted_alike(model_type):
    """Eager attention multiplies every query with every key, masked or not: S tokens that each see
    S keys."""
    transformers = pytest.importorskip("transformers", minversion="5.20")
    from torch.utils.flop_counter import FlopCounterMode

    length = 10
    config = transformers.AutoConfig.for_model(model_type, **TINY, **FOREIGN[model_type])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randint(0, 64, (1, length)), use_cache=False)
    architecture = Architecture.from_hf(config.to_dict())
    each = decode_flops_per_token(architecture, length, absorbed=False).total
    assert counter.get_total_flops() == length * each
