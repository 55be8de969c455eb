"""What makes no sense is refused in one sentence that names it."""

import dataclasses
import re

import pytest

from moeviz.costs import (
    DEVICES,
    Architecture,
    Device,
    LatentAttention,
    Layer,
    MoE,
    active_parameters,
    all_to_all,
    bill,
    cache_baselines,
    critical_batch,
    decode_step,
    device,
    distinct_experts,
    evaluate,
    hours_bill,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    model,
    offload_bound,
    parameters,
    six_n_d_flops,
)
from moeviz.costs.cost.compute import decode_flops_per_token, forward_flops_per_token
from moeviz.costs.cost.quantisation import QuantPlan
from moeviz.costs.known.models import published, shape_of
from moeviz.costs.shape.compressed import CompressedAttention
from moeviz.costs.shape.feedforward import FFN
from moeviz.costs.shape.mixers import Attention, Indexer
from moeviz.costs.shape.positions import Positions

H100, LLAMA8, SWITCH = DEVICES["H100 SXM"], shape_of("Llama 3.1 8B"), shape_of("Switch-C 1.6T")
MIXTRAL, V3 = shape_of("Mixtral 8x7B"), shape_of("DeepSeek-V3 / R1")
GQA, LATENT = Attention(8, 2, 16, window=4), LatentAttention(1, 1, 1, 1, 1, 1, top_k=1)
LAYER = Layer(GQA, FFN(32))
MESH = dict(tokens_per_device=1, nodes=2, devices_per_node=2)
RATES = dict(usd_per_hour=2, watts=500)
FLOPS = dict(flops=1e20, peak_flops_per_s=1e15, utilisation=0.5, **RATES)


def build(*layers, **options):
    return Architecture("mine", 64, 100, layers or (LAYER,), **options)


def small(num_experts, top_k):
    return Architecture("x", 8, 4, (Layer(Attention(1, 1, 8), MoE(num_experts, top_k, 4)),))


def own(**values):
    return Device("own", **{**dict(memory_bytes=1e9, bytes_per_s=1, bf16_flops_per_s=1), **values})


PARTS = [
    GQA, LATENT, CompressedAttention(4, 8, 6, 2, 3, 10, 4, 5, Indexer(1, 1)), Indexer(1, 1), FFN(8),
    MoE(8, 2, 4, latent_width=2, shared_experts=1, shared_width=4), LAYER,
    build(context_tokens=8), own(watts=1, link_bytes_per_s=1), Positions(1, 2),
]  # fmt: skip
WRONG = {
    "int": (-1, True, 1.5, "2", None),
    "int | None": (-1, 0, True, 1.5),
    "float": (0, -1, float("nan"), float("inf"), "2", None),
    "float | None": (0, -1, float("nan")),
    "bool": (1, 0, "yes", None),
}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_a_size_that_is_none_and_a_flag_that_is_none_are_refused_by_name(part):
    for field in dataclasses.fields(part):
        for value in WRONG.get(field.type, ()):
            with pytest.raises(
                ValueError, match=rf"\b{field.name} must be .*{re.escape(repr(value))}"
            ):
                dataclasses.replace(part, **{field.name: value})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # Parts of a layer.
        (lambda: Attention(0, 1, 1), "heads must be a whole number of at least 1, got 0"),
        (lambda: Attention(8, 3, 1), "kv_heads must divide heads, got 3 key heads for 8 heads"),
        (lambda: Attention(8, 8, 1, qk_norm="layer"), "qk_norm must be one of none, head, width"),
        (lambda: Attention(8, 8, 1, chunked=True), "window must be given where"),
        (lambda: LatentAttention(1, 1, 1, 1, 1, indexer=Indexer(1, 1)), "top_k must be given"),
        (lambda: CompressedAttention(4, 8, 6, 3, 3, 10), "out_groups must divide heads, got 3"),
        (lambda: CompressedAttention(4, 8, 6, 2, 3, 10, 4, 5), "top_k and indexer must be"),
        (lambda: CompressedAttention(4, 8, 6, 2, 3, 10, None, 5, Indexer(1, 1)), "every must be"),
        (lambda: MoE(8, 9, 4), "top_k must be at most num_experts = 8, got 9"),
        (lambda: MoE(8, 2, 4, shared_experts=1), "shared_experts and shared_width must both be 0"),
        (lambda: MoE(8, 2, 4, shared_gates=1), "shared_width must be above 0 where there is a"),
        (lambda: MoE(8, 2, 4, groups=3), "groups must divide num_experts = 8, got 3"),
        (lambda: MoE(8, 2, 4, groups=2, top_groups=3), "top_groups must be at most groups = 2"),
        (lambda: MoE(8, 2, 4, groups=8, top_groups=1), "top_k must fit the 1 of 8 groups"),
        (lambda: Layer(None, None), "mixer or ffn must be given"),
        (lambda: Layer(None, FFN(8)).heads, "mixer must be Attention here"),
        (lambda: Architecture("x", 64, 10, ()), "layers must be a non-empty tuple of Layer"),
        (lambda: Architecture("x", 64, 10, (GQA,)), "layers must be a non-empty tuple of Layer"),
        (lambda: build(Layer(GQA, FFN(32), 3, GQA)), "encoder must be given where decoder layers"),
        (lambda: build(LAYER, encoder=(LAYER,)), "encoder must be given where decoder layers"),
        (lambda: build().moe, "mine has no experts; this needs one shape of expert layer"),
        (lambda: build(Layer(GQA, MoE(2, 1, 1)), Layer(GQA, MoE(4, 1, 1))).moe, "several shapes"),
        (lambda: build().dense_twin(), "mine is dense already; a twin needs experts"),
        (lambda: build(Layer(GQA, MoE(2, 1, 1, latent_width=4))).dense_twin(), "latent_width must"),
        (lambda: Positions(3, 2), "last must be a whole number of at least 3, got 2"),
        # Compute and memory.
        (lambda: parameters(LLAMA8).part("experts"), "component must be one of embedding"),
        (lambda: active_parameters(LLAMA8, "vendor"), "convention must be one of all, ex_input"),
        (lambda: forward_flops_per_token(LLAMA8, 0), "sequence_tokens must be a whole number"),
        (lambda: decode_flops_per_token(LLAMA8, 0), "context_tokens must be a whole number"),
        (lambda: forward_flops_per_token(SWITCH, 10), "Switch-C has an encoder"),
        (lambda: kv_cache_bytes(SWITCH, 10), "Switch-C has an encoder"),
        (lambda: kv_cache_bytes(LLAMA8, 10, 0), "batch must be a whole number"),
        (lambda: kv_cache_bytes(LLAMA8, 10, bits=0), "bits must be a finite number above 0"),
        (lambda: kv_cache_bytes(LLAMA8, 10, state_bits=0), "state_bits must be a finite number"),
        (lambda: kv_cache_bytes_per_token(LLAMA8, bits=0), "bits must be a finite number above 0"),
        (lambda: cache_baselines(LLAMA8), "Llama 3.1 8B has no latent attention"),
        (lambda: QuantPlan("x", "int1"), "default must be one of"),
        (lambda: QuantPlan.mixed("x", experts="int4"), "component must be one of embedding, att"),
        (lambda: QuantPlan.mixed("x", head="int1"), "head must be one of fp32"),
        (lambda: QuantPlan("x", "bf16", (("head", "fp8"), ("head", "fp8"))), "each component once"),
        (lambda: six_n_d_flops(0, 1), "active_parameters must be a finite number above 0, got 0"),
        (lambda: six_n_d_flops(1, 0), "tokens must be a finite number above 0, got 0"),
        # Decoding.
        (lambda: distinct_experts(8, 9, 1), "top_k must be at most num_experts = 8, got 9"),
        (lambda: distinct_experts(8, 2, -1), "batch must be a finite number of at least 0, got -1"),
        (lambda: distinct_experts(0, 2, 1), "num_experts must be a whole number of at least 1"),
        (lambda: decode_step(MIXTRAL, H100, batch=1, context_tokens=100),
         "batch 1 of 100 tokens does not fit 1 × H100 SXM: weights take 93.4 GB .* batch is 0"),
        (lambda: decode_step(LLAMA8, H100, batch=10**6, context_tokens=4096), "batch 1000000 of"),
        (lambda: decode_step(LLAMA8, H100, batch=0, context_tokens=1), "batch must be a whole"),
        (lambda: decode_step(LLAMA8, H100, batch=1, context_tokens=0), "context_tokens must be a"),
        (lambda: decode_step(LLAMA8, H100, batch=1, context_tokens=1, devices=0), "devices must"),
        (lambda: decode_step(LLAMA8, H100, batch=1, context_tokens=1, compute="fp4"),
         "compute must be a format that H100 SXM has, got 'fp4'"),
        (lambda: decode_step(LLAMA8, H100, batch=1, context_tokens=1, plan="int3"),
         "plan must be one of fp32, bf16, .* got 'int3'"),
        (lambda: critical_batch(H100, weight_bits=0), "weight_bits must be a finite number"),
        # Traffic.
        (lambda: all_to_all(LLAMA8, **MESH), "Llama 3.1 8B has no experts"),
        (lambda: all_to_all(small(6, 1), **MESH), "nodes x devices_per_node must divide the 6"),
        (lambda: all_to_all(small(8, 1), **{**MESH, "nodes": 0}), "nodes must be a whole number"),
        (lambda: all_to_all(small(8, 1), copies="rank", **MESH), "copies must be one of expert"),
        (lambda: all_to_all(small(8, 1), dispatch_bits=0, **MESH), "dispatch_bits must be a finit"),
        (lambda: all_to_all(small(8, 1), combine_bits=0, **MESH), "combine_bits must be a finite"),
        (lambda: all_to_all(small(8, 1), node_limit=3, **MESH), "limit must be at most places = 2"),
        (lambda: all_to_all(small(8, 1), node_limit=0, **MESH), "limit must be a whole number"),
        (lambda: all_to_all(small(8, 5), node_limit=1, **MESH), "limit must leave room for top_k"),
        (lambda: all_to_all(small(8, 1), share_E=[1.0], **MESH), "share_E must have one share for"),
        (lambda: all_to_all(small(8, 1), share_E=[1.1] * 8, **MESH), "share_E must .* at most 1"),
        (lambda: all_to_all(small(8, 1), share_E=[0.1] * 8, node_limit=1, **MESH),
         "node_limit must be None with share_E"),
        (lambda: all_to_all(small(8, 1), share_R=[0.1] * 3, copies="device", **MESH),
         "share_R must have one share for each of 4 devices, .* got 3 with 'device'"),
        (lambda: all_to_all(small(8, 1), share_R=[0.1] * 4, copies="expert", **MESH),
         "share_R must have one share for each of 4 devices, .* got 4 with 'expert'"),
        (lambda: all_to_all(small(8, 1), share_R=[1.1] * 4, copies="device", **MESH),
         "share_R must be .* at most 1, got 1.1"),
        (lambda: all_to_all(small(8, 1), **MESH).seconds(0, 1), "link_bytes_per_s must be"),
        (lambda: all_to_all(small(8, 1), **MESH).seconds(1, 0), "network_bytes_per_s must be"),
        (lambda: offload_bound(V3, 0), "link_bytes_per_s must be a finite number above 0, got 0"),
        (lambda: offload_bound(V3, 1e9, hit_rate=1.1), "hit_rate must be .* at most 1, got 1.1"),
        (lambda: offload_bound(LLAMA8, 1e9), "Llama 3.1 8B has no experts"),
        # Money.
        (lambda: hours_bill(1, usd_per_hour=-2, watts=1), "usd_per_hour must .* got -2"),
        (lambda: hours_bill(-1, **RATES), "hours must be a finite number of at least 0, got -1"),
        (lambda: hours_bill(1, usd_per_hour=2, watts=0), "watts must be .* above 0, got 0"),
        (lambda: hours_bill(1, **RATES, pue=0.9), "pue must be a finite number of at least 1, got"),
        (lambda: hours_bill(1, **RATES, kg_per_kwh=-0.1), "kg_per_kwh must be .* got -0.1"),
        (lambda: bill(**{**FLOPS, "utilisation": 0}), "utilisation must be .* got 0"),
        (lambda: bill(**{**FLOPS, "utilisation": 1.2}), "utilisation must be .* got 1.2"),
        (lambda: bill(**{**FLOPS, "flops": 0}), "flops must be a finite number above 0, got 0"),
        (lambda: bill(**{**FLOPS, "peak_flops_per_s": 0}), "peak_flops_per_s must be .* got 0"),
        # Devices, models, claims.
        (lambda: device("TPU v9"), "device must be one of T4, L4"),
        (lambda: own(usd_per_hour=(-1, 2)), "usd_per_hour must .* got -1"),
        (lambda: own(usd_per_hour=(3, 2)), "usd_per_hour must .* got 2"),
        (lambda: own(confidence="sure"), "confidence must be one of official, estimate, rumour"),
        (lambda: model("GPT-5"), r"model must be one of GPT-3 175B, .* got 'GPT-5'\."),
        (lambda: model("Gemini 1.5 Pro").compare(), "sizes of Gemini 1.5 Pro are not public"),
        (lambda: published("Mixtral 8x7B", "tokens"), "tokens of Mixtral 8x7B are not public"),
        (lambda: evaluate("perpetuum"), "claim must be one of arxiv_number"),
        (lambda: evaluate("v3_cost", mfu=0.3), "v3_cost assumes usd_per_hour; it has no .* 'mfu'"),
        (lambda: evaluate("gemini15", x=1), "gemini15 assumes nothing; it has no assumption 'x'"),
        (lambda: evaluate("v3_cost", usd_per_hour=-1), "usd_per_hour must be .* got -1"),
        (lambda: evaluate("v3_cost", usd_per_hour=float("nan")), "usd_per_hour must be a finite"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
