"""Published models and figures, which the formulas must give, each to a stated tolerance."""

import pytest

from moeviz.costs import (
    DEVICES,
    MODELS,
    active_parameters,
    all_to_all,
    cache_baselines,
    decode_step,
    hours_bill,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    model,
    offload_bound,
    parameters,
    six_n_d_flops,
    training_flops_per_token,
    weight_bytes,
)
from moeviz.costs.cost.compute import decode_flops_per_token
from moeviz.costs.cost.traffic import destinations
from moeviz.costs.known.catalogue import Figure
from moeviz.costs.known.models import shape_of
from moeviz.costs.known.models_early import t5
from moeviz.costs.shape.feedforward import FFN, MoE

GIB = 2**30
SIZED = [m.name for m in MODELS.values() if m.architecture is not None]
V3 = "DeepSeek-V3 / R1"

# Billions of parameters, all and active, counted independently of this package by closed forms or
# on transformers' meta device; bytes of cache that a token adds when every window is full. V3,
# Llama: Insights into DeepSeek-V3, 2505.09343, table 1; V2: 34.6K elements, its table 9.
MODELS_COUNTED = {
    "GPT-3 175B": (174.604, 174.604, 4_718_592),
    "Llama 3.1 405B": (405.853, 405.853, 516_096),
    "Switch-C 1.6T": (1571.309, 1.728, None),
    "Switch-XXL 395B": (394.675, 11.148, None),
    "GLaM 64B/64E": (1161.756, 96.604, 4_194_304),
    "Mixtral 8x7B": (46.703, 12.880, 131_072),
    "Mixtral 8x22B": (140.621, 39.152, 229_376),
    "DeepSeek-V2-Lite": (15.706, 2.661, 31_104),
    "DeepSeek-V2": (235.741, 21.376, 2 * 34_560),
    "DeepSeek-V3 / R1": (671.026, 37.552, 70_272),
    "DeepSeek-V3.2": (671.878, 38.404, 85_888),
    "DeepSeek-V4-Flash": (284.332, 13.800, 6_880),
    "DeepSeek-V4-Pro": (1572.997, 49.779, 9_848),
    "Qwen1.5-MoE-A2.7B": (14.316, 2.689, 196_608),
    "Qwen2-57B-A14B": (57.409, 14.249, 57_344),
    "Qwen3-30B-A3B": (30.532, 3.353, 98_304),
    "Qwen3-235B-A22B": (235.094, 22.191, 192_512),
    "Qwen3-Next-80B-A3B": (79.674, 3.875, 24_576),
    "Qwen3.5-397B-A17B": (396.346, 17.349, 30_720),
    "OLMoE-1B-7B": (6.919, 1.282, 131_072),
    "gpt-oss-120b": (116.829, 5.712, 36_864),
    "gpt-oss-20b": (20.915, 4.187, 24_576),
    "Grok-1": (315.685, 83.757, 262_144),
    "Llama 4 Maverick": (400.712, 17.185, 196_608 / 4),
    "GLM-5.2": (743.377, 41.251, 95_232),
    "MiniMax-M2": (228.690, 11.031, 253_952),
}


@pytest.mark.parametrize(("name", "counted"), MODELS_COUNTED.items())
def test_counts_agree_with_independent_ones(name, counted):
    shape, (total, active, cache) = shape_of(name), counted
    assert parameters(shape).total / 1e9 == pytest.approx(total, abs=1.1e-3)
    assert active_parameters(shape).total / 1e9 == pytest.approx(active, abs=1.1e-3)
    if cache is not None:
        assert kv_cache_bytes_per_token(shape, context_tokens=10**6).total == cache


def test_a_model_is_reproduced_or_says_why_not():
    """Within what print rounds; a reason excuses rounding, never a wrong shape."""
    errors = {name: model(name).compare() for name in SIZED}
    sizes = {
        name: (abs(c.total_error or 0), abs(c.active_error or 0)) for name, c in errors.items()
    }
    off = {name for name, (total, active) in sizes.items() if total > 0.005 or active > 0.02}
    assert off == {m.name for m in MODELS.values() if m.reason}
    assert len(off) <= len(SIZED) / 3
    assert all(total < 0.035 and active < 0.09 for total, active in sizes.values())


def test_every_figure_has_a_source_and_a_model_its_weakest_confidence():
    for entry in MODELS.values():
        figures = [value for value in vars(entry).values() if isinstance(value, Figure)]
        assert figures and all(f.source and f.value > 0 for f in figures), entry.name
        assert bool(entry.sizes) == (entry.architecture is not None)
        assert (entry.kind == "moe") == entry.architecture.is_moe if entry.sizes else True
    words = ("GPT-4 (rumour)", "Inferrix-72B (article)", "Mixtral 8x7B")
    assert [MODELS[w].confidence for w in words] == ["rumour", "unverifiable", "official"]


def test_the_switch_papers_table_cannot_be_right():
    """64 experts, as it prints them, make 201B; the released 128 make the 395B it also prints."""
    halved = t5("Switch-XXL", 4096, 64, 24, (FFN(10240), MoE(64, 1, 10240)), tied=False)
    assert parameters(halved).total / 395e9 == pytest.approx(0.51, abs=0.005)


def decoded(name, machine, plan, **options):
    step = decode_step(shape_of(name), DEVICES[machine], plan=plan,
                       **{**dict(batch=1, context_tokens=1), **options})  # fmt: skip
    return step.tokens_per_s


def on_h200s(batch):
    return decoded(V3, "H200 SXM", "fp8", batch=batch, context_tokens=4096, devices=8)


def offloaded(name, bytes_per_s, plan="bf16", hit_rate=0.0):
    return offload_bound(shape_of(name), bytes_per_s, plan=plan, hit_rate=hit_rate).tokens_per_s


def trained(name):
    return training_flops_per_token(shape_of(name), 4096).total


def checkpoint(name):
    return weight_bytes(shape_of(name), "mxfp4_experts").total / GIB


def growing_cache(name):
    """GiB of a million tokens, without windows of recent ones."""
    terms = kv_cache_bytes(shape_of(name), 2**20).terms
    return sum(t.value for t in terms if "window" not in t.label) / GIB


def times_smaller(baseline):
    return cache_baselines(shape_of(V3))[baseline].ratio


def latent_products(absorbed):
    terms = decode_flops_per_token(shape_of(V3), 4096, absorbed=absorbed).terms
    return sum(t.value for t in terms if t.label.startswith("MLA: "))


def at_tdp(hours, watts):
    return hours_bill(hours, usd_per_hour=2, watts=watts, pue=1.0)


def copied():
    return all_to_all(shape_of(V3), tokens_per_device=1, nodes=8, devices_per_node=8)


GPT3, LLAMA, LAPTOP = "GPT-3 175B", "Llama 3.1 405B", "Laptop CPU, DDR5-5600 x2"
# What is published, our sum, its value, and how far it may be off, as a share.
FIGURES = [
    ("GPT-3 paper: 3,640 PF/s-days",
     lambda: six_n_d_flops(active_parameters(shape_of(GPT3)).total, 300e9).total / 8.64e19,
     3640, 1e-3),
    ("The Llama 3 herd: FLOPs", lambda: six_n_d_flops(405.85e9, 15.6e12).total, 3.8e25, 5e-3),
    ("2505.09343, table 2, causal: 250 GFLOPs a token", lambda: trained(V3), 250.46e9, 2e-5),
    ("the same of Llama: 2,448, off by 1 %", lambda: trained(LLAMA), 2448e9, 0.011),
    ("gpt-oss card: 60.8 GiB", lambda: checkpoint("gpt-oss-120b"), 60.768, 1e-5),
    ("gpt-oss card: 12.8 GiB", lambda: checkpoint("gpt-oss-20b"), 12.816, 4e-5),
    ("57 times: 2 x 128 x 128 / (512 + 64)", lambda: times_smaller(0), 56.889, 1e-5),
    ("with V3's real keys", lambda: times_smaller(1), 71.111, 1e-5),
    ("against GQA with 8 groups", lambda: times_smaller(2), 3.5556, 2e-5),
    ("V4's release notes: 9.62 GiB", lambda: growing_cache("DeepSeek-V4-Pro"), 9.617, 5e-5),
    ("V4's release notes: 8.7 times more", lambda: growing_cache("DeepSeek-V3.2"), 83.87, 1e-4),
    ("H (2 r_kv + rope) over H (d_qk + d_v)",
     lambda: latent_products(True) / latent_products(False), 1088 / 320, 1e-9),
    ("Llama 3.1 405B at its TDP: 21.59 GWh", lambda: at_tdp(30.84e6, 700).kwh, 21.588e6, 1e-4),
    ("Llama's card: 8,930 t of CO2", lambda: at_tdp(30.84e6, 700).carbon_kg, 8.93e6, 2e-3),
    ("GLaM: 213 MWh in 574 h on 1,024", lambda: at_tdp(1024 * 574, 362.4).kwh, 213e3, 2e-4),
    ("open-infra-index, day 6: $87,072", lambda: at_tdp(226.75 * 8 * 24, 700).usd, 87_072, 0),
    ("V3 on 8 H200, batch 1", lambda: on_h200s(1), 1040, 1e-3),
    ("V3 on 8 H200, batch 32", lambda: on_h200s(32), 2777, 4e-4),
    ("V3 on 8 H200, batch 512", lambda: on_h200s(512), 24051, 4e-5),
    ("a laptop", lambda: decoded("Qwen3-30B-A3B", LAPTOP, "q4_k_m"), 48.6, 2e-3),
    ("a T4", lambda: decoded("OLMoE-1B-7B", "T4", "bf16"), 135.7, 7e-4),
    ("V3: bytes of a copy out", lambda: copied().dispatch_bytes_per_copy, 7392, 0),
    ("V3: bytes of a copy back", lambda: copied().combine_bytes_per_copy, 14336, 0),
    ("top-8 of 256 experts over 8 nodes", lambda: destinations(256, 8, 8), 5.295, 1e-4),
    ("over 32 nodes", lambda: destinations(256, 8, 32), 7.267, 1e-4),
    ("Mixtral offloaded: 2 to 3 measured",
     lambda: offloaded("Mixtral 8x7B", 12e9, "q2.6_experts", 0.5), 6.55, 2e-3),
    ("Fiddler: above 3 measured", lambda: offloaded("Mixtral 8x7B", 256e9), 11.35, 1e-3),
    ("KTransformers: 8.7 measured", lambda: offloaded(V3, 307.2e9, "q4_k_m"), 24.8, 2e-3),
    ("Kimi K2: 10 measured", lambda: offloaded("Kimi K2", 307.2e9, "q4_k_m"), 23.97, 2e-3),
]  # fmt: skip


@pytest.mark.parametrize(("what", "call", "value", "share"), FIGURES, ids=[f[0] for f in FIGURES])
def test_a_published_figure_is_what_the_formula_gives(what, call, value, share):
    assert call() == pytest.approx(value, rel=share)


def test_devices_have_dense_peaks():
    for entry in DEVICES.values():
        assert entry.source
        if entry.fp8_flops_per_s:
            assert entry.fp8_flops_per_s == pytest.approx(2 * entry.bf16_flops_per_s, rel=0.01)
    expected = {
        "T4": 203.1, "L4": 403.3, "A100-80G SXM": 153.0, "H100 SXM": 295.2, "H800 SXM": 295.2,
        "H200 SXM": 206.0, "B200 SXM": 292.2, "MI300X": 246.6, "RTX 4090": 163.7,
        "Apple M3 Ultra": 69.6, "Apple M4 Max": 62.3, "Laptop CPU, DDR5-5600 x2": 11.2,
        "Raspberry Pi 5, 8 GB": 17.5, "Raspberry Pi 5, 16 GB": 17.5,
        "Phone, Snapdragon 8 Elite": 35.4, "Laptop CPU, DDR4-3200 x2": 9.8,
        "MacBook Air M4": 66.7,
    }  # fmt: skip
    ridges = {name: entry.ridge() for name, entry in DEVICES.items()}
    assert ridges == pytest.approx(expected, abs=0.06)
