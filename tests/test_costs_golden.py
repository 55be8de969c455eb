"""Published figures that the formulas must give, each by its exact formula and stated tolerance."""

import pytest

from moeviz.costs import (
    DEVICES,
    all_to_all,
    bill,
    cache_baselines,
    critical_batch,
    decode_step,
    distinct_experts,
    hours_bill,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    model,
    offload_bound,
    six_n_d_flops,
    training_flops_per_token,
    weight_bytes,
)
from moeviz.costs.cost.compute import decode_flops_per_token
from moeviz.costs.cost.money import cost_usd, device_hours, energy_kwh
from moeviz.costs.cost.parameters import active_parameters
from moeviz.costs.cost.traffic import BF16_COMBINE_BITS, FP8_DISPATCH_BITS, destinations

GIB = 2**30


def arch(name):
    return model(name).architecture


V3, LLAMA, V2, GPT3 = map(arch, ("DeepSeek-V3 / R1", "Llama 3.1 405B", "DeepSeek-V2", "GPT-3 175B"))
H100, H200 = DEVICES["H100 SXM"], DEVICES["H200 SXM"]


def test_gpt3_training_compute():
    """GPT-3 paper: 3,640 PF/s-days; 6 N D on the counted 174.6B makes 3,637.5."""
    days = six_n_d_flops(active_parameters(GPT3).total, 300e9).total / (1e15 * 86_400)
    assert days == pytest.approx(3637.5, rel=1e-4)
    assert days == pytest.approx(3640, rel=1e-3)


def test_llama_training_compute():
    """The Llama 3 herd: 3.8e25 FLOPs."""
    assert six_n_d_flops(405.85e9, 15.6e12).total == pytest.approx(3.8e25, rel=0.005)


@pytest.mark.parametrize(("name", "gib"), [("gpt-oss-120b", 60.768), ("gpt-oss-20b", 12.816)])
def test_gpt_oss_checkpoints(name, gib):
    """Model card: 60.8 and 12.8 GiB, experts in MXFP4 and everything else in bf16."""
    size = weight_bytes(arch(name), "mxfp4_experts").total / GIB
    assert size == pytest.approx(gib, abs=5e-4)
    assert round(size, 1) == {"gpt-oss-120b": 60.8, "gpt-oss-20b": 12.8}[name]


def test_the_57_times_and_its_baselines():
    """2 x 128 x 128 / (512 + 64) = 56.9; 71.1 with V3's real keys; 3.6 against 8 groups."""
    ratios = {b.label: b.ratio for b in cache_baselines(V3)}
    assert list(ratios.values()) == pytest.approx(
        [56.889, 71.111, 3.5556, 1.7778, 0.4444], abs=1e-3
    )


def test_v2_against_the_67b_as_deployed():
    """DeepSeek-V2: 93.3 % less cache: GQA-8 in bf16 against latents of 6 bits."""
    before = kv_cache_bytes_per_token(arch("DeepSeek 67B")).total
    after = kv_cache_bytes_per_token(V2, bits=6).total
    assert 100 * (1 - after / before) == pytest.approx(93.34, abs=0.005)
    assert 100 * (1 - kv_cache_bytes_per_token(V2).total / before) == pytest.approx(
        82.24, abs=0.005
    )


def test_v2_ablations():
    """DeepSeek-V2, table 9: 34.6K elements with latents."""
    assert kv_cache_bytes_per_token(V2).total / 2 == 34_560


# V3, Llama: Insights into DeepSeek-V3, 2505.09343, table 1.
KV = {
    "DeepSeek-V3 / R1": 70_272,
    "Llama 3.1 405B": 516_096,
    "GPT-3 175B": 4_718_592,
    "GLaM 64B/64E": 4_194_304,
    "Mixtral 8x7B": 131_072,
    "Mixtral 8x22B": 229_376,
    "DeepSeek-V2-Lite": 31_104,
    "DeepSeek-V3.2": 85_888,
    "Qwen1.5-MoE-A2.7B": 196_608,
    "Qwen2-57B-A14B": 57_344,
    "Qwen3-30B-A3B": 98_304,
    "Qwen3-235B-A22B": 192_512,
    "Qwen3-Next-80B-A3B": 24_576,
    "Qwen3.5-397B-A17B": 30_720,
    "OLMoE-1B-7B": 131_072,
    "Grok-1": 262_144,
    "Llama 4 Maverick": 196_608,
    "GLM-5.2": 95_232,
    "MiniMax-M2": 253_952,
}


@pytest.mark.parametrize(("name", "size"), KV.items())
def test_cache_per_token_of_every_model(name, size):
    assert kv_cache_bytes_per_token(arch(name)).total == size


def test_cache_where_windows_are_full():
    """gpt-oss's 18 full layers; V4's compressed entries."""
    for name, size in (("gpt-oss-120b", 36_864), ("gpt-oss-20b", 24_576),
                       ("DeepSeek-V4-Pro", 9_848), ("DeepSeek-V4-Flash", 6_880)):  # fmt: skip
        assert kv_cache_bytes_per_token(arch(name), context_tokens=10**6).total == size


def test_v4_cache_at_a_million_tokens():
    """Release notes: 9.62 GiB, 8.7 times less than V3.2's 83.9."""
    pro = kv_cache_bytes(arch("DeepSeek-V4-Pro"), 2**20)
    growing = sum(t.value for t in pro.terms if "window" not in t.label.split(": ")[1])
    assert growing / GIB == pytest.approx(9.617, abs=5e-4)
    older = kv_cache_bytes(arch("DeepSeek-V3.2"), 2**20).total
    assert older / GIB == pytest.approx(83.9, abs=0.05)
    assert older / growing == pytest.approx(8.721, abs=5e-4)
    assert pro.total / GIB == pytest.approx(9.62, abs=0.01)  # with the windows of 128 tokens


def test_training_flops_per_token():
    """2505.09343, table 2, 4,096 tokens causal: V3 250 GFLOPs; Llama 2,448, off by 1 %."""
    assert training_flops_per_token(V3, 4096).total / 1e9 == pytest.approx(250.46, abs=0.005)
    llama = training_flops_per_token(LLAMA, 4096).total / 1e9
    assert llama == pytest.approx(2473.2, abs=0.1)
    assert llama == pytest.approx(2448, rel=0.011)


def test_absorbed_latent_attention_trades_flops_for_bytes():
    """H (2 r_kv + rope) against H (d_qk + d_v) a key: 3.4 times more."""

    def products(absorbed):
        terms = decode_flops_per_token(V3, 4096, absorbed=absorbed).terms
        return sum(t.value for t in terms if t.label.startswith("MLA: "))

    assert products(True) / products(False) == pytest.approx(1088 / 320)


def test_training_cost_and_serving():
    """V3: $5.576M; serving it, open-infra-index, day 6: $87,072 a day."""
    assert cost_usd(2.788e6, 2).total == pytest.approx(5.576e6)
    day = cost_usd(226.75 * 8 * 24, 2).total
    assert day == 87_072


def test_energy():
    """Llama 3.1 405B at its TDP: 21.59 GWh, and 8,930 t of CO2 are 0.414 kg a kWh; GLaM: 362 W a
    chip of 213 MWh in 574 hours on 1,024."""
    kwh = energy_kwh(30.84e6, 700).total
    assert kwh / 1e6 == pytest.approx(21.588)
    assert 8930e3 / kwh == pytest.approx(0.414, abs=5e-4)
    watts = 213e6 / (1024 * 574)
    assert watts == pytest.approx(362.4, abs=0.05)
    assert energy_kwh(1024 * 574, watts).total == pytest.approx(213_000)
    assert hours_bill(30.84e6, usd_per_hour=2, watts=700, pue=1.0).carbon_kg == pytest.approx(
        8.93e6, rel=0.002
    )


def test_distinct_experts():
    assert distinct_experts(256, 8, 32).total == pytest.approx(163.3, abs=0.05)


@pytest.mark.parametrize(("batch", "rate"), [(1, 1040), (32, 2777), (128, 7065), (512, 24051)])
def test_decoding_v3_on_eight_h200(batch, rate):
    step = decode_step(V3, H200, batch=batch, context_tokens=4096, plan="fp8", devices=8)
    assert step.tokens_per_s == pytest.approx(rate, abs=1)
    assert step.bound == "memory"


def test_single_stream_bounds():
    """Bandwidth over the bytes of a token's weights; the input table is only looked up."""

    def rate(name, machine, plan):
        step = decode_step(arch(name), DEVICES[machine], batch=1, context_tokens=1, plan=plan)
        return step.tokens_per_s

    laptop = "Laptop CPU, DDR5-5600 x2"
    assert rate("Qwen3-30B-A3B", laptop, "q4_k_m") == pytest.approx(48.6, abs=0.1)
    assert rate("OLMoE-1B-7B", laptop, "bf16") == pytest.approx(38, abs=0.1)
    assert rate("OLMoE-1B-7B", "T4", "bf16") == pytest.approx(135.7, abs=0.1)


def test_critical_batches():
    """H100 in bf16: 295 tokens; Mixtral's experts 1.2 thousand, V3's 9.4 thousand."""
    assert critical_batch(H100).total == pytest.approx(295.2, abs=0.05)
    assert critical_batch(H100, arch("Mixtral 8x7B")).total == pytest.approx(1181, abs=1)
    assert critical_batch(H100, V3).total == pytest.approx(9447, abs=1)


def test_bytes_of_one_copy():
    """V3: 7,392 bytes out and 14,336 back."""
    sent = all_to_all(V3, tokens_per_device=1, nodes=8, devices_per_node=8)
    assert (sent.dispatch_bytes_per_copy, sent.combine_bytes_per_copy) == (7392, 14336)
    assert (FP8_DISPATCH_BITS, BF16_COMBINE_BITS) == (8.25, 16)


def test_destinations():
    """256 experts, top-8: 5.30, 6.52 and 7.27 of 8, 16 and 32 places; limited to 4, a token leaves
    for at most 3.50, 3.75 and 3.88 others, 24 % and 45 % fewer than free."""
    free = [destinations(256, 8, places) for places in (8, 16, 32)]
    assert [d.expected for d in free] == pytest.approx([5.295, 6.523, 7.267], abs=5e-4)
    assert [d.remote for d in free] == pytest.approx([4.633, 6.116, 7.040], abs=5e-4)
    limited = [destinations(256, 8, places, 4).remote_at_most for places in (8, 16, 32)]
    assert limited == pytest.approx([3.5, 3.75, 3.875])
    saved = [1 - limited[i] / free[i].remote for i in (0, 2)]
    assert saved == pytest.approx([0.24, 0.45], abs=0.005)


def test_offloading():
    """Byte bounds beside what was measured: Mixtral 2-3 of 6.5, Fiddler above 3 of 11.4,
    KTransformers 8.7 of 24.8 and 12 to 17 of 49.6, Kimi K2 10 of 24."""
    mixtral, k2 = arch("Mixtral 8x7B"), arch("Kimi K2")
    cached = offload_bound(mixtral, 12e9, plan="q2.6_experts", hit_rate=0.5)
    assert cached.tokens_per_s == pytest.approx(6.55, abs=0.01)
    assert offload_bound(mixtral, 256e9).tokens_per_s == pytest.approx(11.35, abs=0.01)
    rates = [offload_bound(a, s * 307.2e9, plan="q4_k_m").tokens_per_s
             for a, s in ((V3, 1), (V3, 2), (k2, 1), (k2, 2))]  # fmt: skip
    assert rates == pytest.approx([24.8, 49.6, 23.97, 47.9], abs=0.05)


def test_a_dense_trillion_and_its_price():
    """6 N D of 1.6T on 300B tokens: 2.9e24 FLOPs, 2.0M H100 hours at 40 %; on Chinchilla's 32T
    3.1e26, 216M hours, $431M."""
    run = bill(six_n_d_flops(1.6e12, 32e12).total, peak_flops_per_s=989e12, utilisation=0.4,
               usd_per_hour=2, watts=700)  # fmt: skip
    assert run.device_hours == pytest.approx(216e6, rel=0.002)
    assert run.usd == pytest.approx(431e6, rel=0.002)
    hours = device_hours(six_n_d_flops(1.6e12, 300e9).total, 989e12, 0.4).total
    assert hours == pytest.approx(2.02e6, rel=0.002)
