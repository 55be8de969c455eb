"""Memory, decoding and its bounds."""

import random

import pytest

from moeviz.costs import (
    DEVICES,
    Device,
    cache_baselines,
    critical_batch,
    decode_step,
    device,
    distinct_experts,
    fit,
    kv_cache_bytes,
    model,
    parameters,
    weight_bytes,
)
from moeviz.costs.cost.compute import forward_flops_per_token
from moeviz.costs.cost.quantisation import FORMATS, Format, QuantPlan

H100, H200 = DEVICES["H100 SXM"], DEVICES["H200 SXM"]
MIXTRAL, V3 = model("Mixtral 8x7B").architecture, model("DeepSeek-V3 / R1").architecture
LLAMA8 = model("Llama 3.1 8B").architecture


# --- distinct experts -----------------------------------------------------------------------------


def test_distinct_experts_are_what_a_simulation_counts():
    rng = random.Random(0)
    for num_experts, top_k, batch in ((8, 2, 3), (64, 8, 20), (256, 8, 32)):
        counts = [
            len({e for _ in range(batch) for e in rng.sample(range(num_experts), top_k)})
            for _ in range(400)
        ]
        mean = sum(counts) / len(counts)
        assert mean == pytest.approx(distinct_experts(num_experts, top_k, batch).total, rel=0.02)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bits"),
    [("bf16", 16), ("mxfp4", 4.25), ("nvfp4", 4.5), ("int4_g32", 4.5), ("int4", 4.125),
     ("int4_zero", 4.156), ("nf4", 4.127), ("fp8_block", 8.002), ("mxfp8", 8.25), ("int8", 8.125),
     ("q4_k", 4.5), ("q4_k_m", 4.85)],
)  # fmt: skip
def test_bits_with_scales_and_zero_points(name, bits):
    assert FORMATS[name].bits == pytest.approx(bits, abs=5e-4)


def test_a_mixed_plan_by_hand():
    plan = QuantPlan.mixed("mine", "fp8", routed_experts="int4", head="bf16")
    size = weight_bytes(MIXTRAL, plan)
    assert size.part("head") == 32000 * 4096 * 2
    assert size.part("attention") == parameters(MIXTRAL).part("attention")


def test_fit_leaves_what_is_left():
    found = fit(MIXTRAL, H100, context_tokens=4096, batch=8, devices=2)
    assert found.capacity_bytes == 160e9
    assert found.free_bytes == 160e9 - found.weights.total - found.cache.total
    assert found.fits and found.max_batch == int((160e9 - found.weights.total) // (131072 * 4096))
    assert [t.value for t in found.terms] == [found.weights.total, found.cache.total,
                                              found.free_bytes]  # fmt: skip
    assert sum(t.value for t in found.terms) == pytest.approx(found.capacity_bytes)
    alone = fit(MIXTRAL, H100, context_tokens=4096)
    assert not alone.fits and alone.max_batch == 0 and alone.free_bytes < 0
    assert fit(MIXTRAL, H100, context_tokens=4096, plan="mxfp4_experts").fits


# --- a step ---------------------------------------------------------------------------------------


def test_a_step_reads_what_its_tokens_need():
    step = decode_step(MIXTRAL, H100, batch=1, context_tokens=1000, devices=2)
    by_hand = 2 * (12_879_925_248 - 32000 * 4096) + 131072 * 1000
    assert step.bytes.total == pytest.approx(by_hand)
    assert step.distinct == 2
    assert step.memory_seconds == pytest.approx(by_hand / 6.7e12)
    assert step.tokens_per_s == step.tokens_per_s_per_sequence == 1 / step.seconds
    assert sum(t.value for t in step.bytes.terms) == step.bytes.total
    assert [t.value for t in step.terms] == [step.memory_seconds, step.compute_seconds]


def test_a_step_reads_a_recurrent_layers_whole_state():
    nemotron = model("Nemotron 3 Ultra").architecture
    step = decode_step(nemotron, H200, batch=1, context_tokens=7, devices=8)
    cache = {t.label: t.value for t in step.bytes.terms if t.label.startswith("cache")}
    inner, channels = 256 * 64, 256 * 64 + 2 * 8 * 128
    assert cache["cache, Mamba-2"] == 48 * 2 * (inner * 128 + channels * 3)
    assert cache["cache, GQA"] == 12 * 2 * (2 * 2 * 128 * 7)


def test_a_sparse_step_reads_only_the_keys_that_are_looked_at():
    v32, v4 = (model(name).architecture for name in ("DeepSeek-V3.2", "DeepSeek-V4-Flash"))
    step = decode_step(v32, H200, batch=1, context_tokens=100_000, devices=8, plan="fp8")
    cache = [term.value for term in step.bytes.terms if term.label.startswith("cache")]
    assert sum(cache) == 61 * 2 * (576 * 2048 + 128 * 100_000)
    step = decode_step(v4, H200, batch=1, context_tokens=100_000, devices=8, plan="fp8")
    cache = [term.value for term in step.bytes.terms if term.label.startswith("cache")]
    assert sum(cache) < kv_cache_bytes(v4, 100_000).total / 2


def test_biases_of_experts_are_read_with_their_experts():
    oss = model("gpt-oss-20b").architecture
    step = decode_step(oss, H100, batch=1, context_tokens=1)
    read = {term.label: term.value for term in step.bytes.terms}
    assert read["biases touched"] == pytest.approx(2 * 24 * 4 * 3 * 2880)
    assert read["routed_experts touched"] == pytest.approx(2 * 24 * 4 * 3 * 2880 * 2880)


def test_many_tokens_turn_memory_into_compute():
    small = decode_step(LLAMA8, H100, batch=1, context_tokens=1)
    large = decode_step(LLAMA8, H100, batch=4096, context_tokens=1)
    assert (small.bound, large.bound) == ("memory", "compute")
    turn = critical_batch(H100).total
    around = [decode_step(LLAMA8, H100, batch=int(turn * f), context_tokens=1).bound
              for f in (0.8, 1.3)]  # fmt: skip
    assert around == ["memory", "compute"]
    assert critical_batch(H100, LLAMA8).total == turn
    assert critical_batch(H100, MIXTRAL).total == 4 * turn
    fp8 = critical_batch(H100, weight_bits=8, compute="fp8").total
    assert fp8 == pytest.approx(turn, rel=0.001)


def test_the_dense_twin_reads_as_much_for_one_token_and_less_for_many():
    twin = MIXTRAL.dense_twin()
    alone = [decode_step(a, H200, batch=1, context_tokens=1, devices=2) for a in (MIXTRAL, twin)]
    router = parameters(MIXTRAL).part("router")
    assert alone[0].bytes.total - alone[1].bytes.total == 2 * router
    many = [decode_step(a, H200, batch=64, context_tokens=1, devices=2) for a in (MIXTRAL, twin)]
    assert many[0].bytes.total > 3 * many[1].bytes.total


def test_devices_have_dense_peaks():
    assert DEVICES["MI300X"].flops_per_s("bf16") == 1307e12
    assert H200.flops_per_s() == 989e12
    for entry in DEVICES.values():
        assert entry.source
        if entry.fp8_flops_per_s:
            assert entry.fp8_flops_per_s == pytest.approx(2 * entry.bf16_flops_per_s, rel=0.01)
    expected = {
        "T4": 203.1, "L4": 403.3, "A100-80G SXM": 153.0, "H100 SXM": 295.2, "H800 SXM": 295.2,
        "H200 SXM": 206.0, "B200 SXM": 292.2, "MI300X": 246.6, "RTX 4090": 163.7,
        "Apple M3 Ultra": 69.6, "Apple M4 Max": 62.3, "Laptop CPU, DDR5-5600 x2": 11.2,
    }  # fmt: skip
    found = {name: entry.ridge() for name, entry in DEVICES.items()}
    assert found == pytest.approx(expected, abs=0.06)


# --- refusals -------------------------------------------------------------------------------------

SWITCH = model("Switch-C 1.6T").architecture


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distinct_experts(8, 9, 1), "top_k must be at most num_experts = 8, got 9"),
        (lambda: distinct_experts(8, 2, -1), "batch must be a finite number of at least 0, got -1"),
        (lambda: distinct_experts(0, 2, 1), "num_experts must be a whole number of at least 1"),
        (lambda: decode_step(MIXTRAL, H100, batch=1, context_tokens=100),
         "batch 1 of 100 tokens does not fit 1 × H100 SXM: weights take 93.4 GB .* batch is 0"),
        (lambda: decode_step(LLAMA8, H100, batch=10**6, context_tokens=4096), "batch 1000000 of"),
        (lambda: decode_step(LLAMA8, H100, batch=0, context_tokens=1), "batch must be a whole"),
        (lambda: decode_step(LLAMA8, H100, batch=1, context_tokens=0), "context_tokens must be a"),
        (lambda: decode_step(LLAMA8, H100, batch=1, context_tokens=1, compute="fp4"),
         "compute must be a format that H100 SXM has, got 'fp4'"),
        (lambda: decode_step(LLAMA8, H100, batch=1, context_tokens=1, plan="int3"),
         "plan must be one of fp32, bf16, .* got 'int3'"),
        (lambda: QuantPlan("x", "int3"), "default must be one of"),
        (lambda: QuantPlan.mixed("x", experts="int4"), "component must be one of embedding, att"),
        (lambda: QuantPlan("x", "bf16", (("head", "fp8"), ("head", "fp8"))), "each component once"),
        (lambda: Format("x", 0), "weight_bits must be a finite number above 0, got 0"),
        (lambda: kv_cache_bytes(LLAMA8, 10, bits=0), "bits must be a finite number above 0"),
        (lambda: kv_cache_bytes(SWITCH, 10), "Switch-C has an encoder"),
        (lambda: forward_flops_per_token(SWITCH, 10), "Switch-C has an encoder"),
        (lambda: cache_baselines(LLAMA8), "Llama 3.1 8B has no latent attention"),
        (lambda: device("TPU v9"), "device must be one of T4, L4"),
        (lambda: Device("x", 1e9, -1, 1e12), "bytes_per_s must be a finite number above 0, got -1"),
        (lambda: Device("x", 1e9, 1e9, 1e12, watts=0), "watts must be a finite number above 0"),
        (lambda: Device("x", 1e9, 1e9, 1e12, usd_per_hour=(-1, 2)), "usd_per_hour must .* got -1"),
        (lambda: Device("x", 1e9, 1e9, 1e12, usd_per_hour=(3, 2)), "usd_per_hour must .* got 2"),
        (lambda: critical_batch(H100, weight_bits=0), "weight_bits must be a finite number"),
        (lambda: parameters(LLAMA8).part("experts"), "component must be one of embedding"),
        (lambda: parameters(LLAMA8).scaled(-1, "x"), "factor must be a finite number"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
