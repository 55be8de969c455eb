"""Small cases by hand: parts of a layer, memory, a step of decoding."""

import dataclasses
import random
import subprocess
import sys

import pytest

from moeviz.costs import (
    DEVICES,
    Architecture,
    LatentAttention,
    Layer,
    critical_batch,
    decode_step,
    distinct_experts,
    fit,
    kv_cache_bytes,
    parameters,
    weight_bytes,
)
from moeviz.costs.cost.compute import decode_flops_per_token
from moeviz.costs.cost.quantisation import FORMATS, QuantPlan
from moeviz.costs.known.models import shape_of
from moeviz.costs.shape.compressed import CompressedAttention
from moeviz.costs.shape.feedforward import FFN
from moeviz.costs.shape.mixers import Attention, Indexer
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.recurrent import gated_delta_net, lightning, mamba, mamba2

H100, H200 = DEVICES["H100 SXM"], DEVICES["H200 SXM"]
MIXTRAL, LLAMA8 = shape_of("Mixtral 8x7B"), shape_of("Llama 3.1 8B")
GQA = Attention(8, 2, 16)
LAYER = Layer(GQA, FFN(32))

# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunked", "seen"), [(True, [1, 2, 3, 4, 1, 2]), (False, [1, 2, 3, 4, 4, 4])]
)
def test_a_window_slides_and_a_chunk_starts_afresh(chunked, seen):
    mixer = Attention(1, 1, 1, window=4, chunked=chunked)
    assert [mixer.score_flops(Positions(i, i), False) / 4 for i in range(1, 7)] == seen


def test_sparse_latents_score_all_keys_and_look_at_few():
    mixer = LatentAttention(2, 8, 3, 2, 4, top_k=10, indexer=Indexer(3, 5))
    assert mixer.score_flops(Positions(100, 100), False) == 2 * 2 * 9 * 10 + 2 * 3 * 5 * 100
    assert mixer.score_flops(Positions(100, 100), True) == 2 * 2 * 18 * 10 + 2 * 3 * 5 * 100
    shared = dataclasses.replace(mixer, indexer=None)
    assert shared.score_flops(Positions(100, 100), False) == 2 * 2 * 9 * 10
    assert [sum(c.growth(5) for c in m.caches()) for m in (shared, mixer)] == [10, 15]


def test_compressed_attention():
    sizes = dict(heads=4, head_dim=8, q_rank=6, out_groups=2, out_rank=3, window=10)
    window, heavy = CompressedAttention(**sizes), CompressedAttention(**sizes, every=16)
    sparse = CompressedAttention(**sizes, every=4, top_k=5, indexer=Indexer(2, 4))
    for mixer, keys, scored in ((window, 10, 0), (heavy, 10 + 6, 0), (sparse, 10 + 5, 25)):
        flops = 4 * 4 * 8 * keys + 2 * 2 * 4 * scored
        assert mixer.score_flops(Positions(100, 100), True) == flops
    caches = [m.caches() for m in (window, heavy, sparse)]
    kept = [sum(c.width * c.entries(100) for c in each) for each in caches]
    assert kept == [80, 80 + 6 * 8, 80 + 25 * 8 + 25 * 4]
    read = [sum(c.elements_read(100) for c in each) for each in caches]
    assert read == [80, 80 + 6 * 8, 80 + 5 * 8 + 25 * 4]
    assert [sum(c.growth(100) for c in each) for each in caches] == [0, 0.5, 3]


@pytest.mark.parametrize(
    ("mixer", "state", "conv", "products"),
    [
        (gated_delta_net(64, 2, 4, 8, 8, 4), 4 * 8 * 8, (2 * 16 + 32) * 3, 3),
        (mamba(64, 4, 4, 2, 3, conv_bias=True, proj_bias=False), 128 * 4, 128 * 3, 2),
        (mamba2(64, 4, 8, 4, 2, 4, conv_bias=True, proj_bias=True), 32 * 4, (32 + 16) * 3, 2),
        (lightning(64, 2, 8), 2 * 8 * 8, 0, 2),
    ],
)
def test_a_hybrid_keeps_states_in_float32(mixer, state, conv, products):
    hybrid = Architecture("mine", 64, 100, (Layer(mixer, FFN(8)), LAYER))
    assert kv_cache_bytes(hybrid, 10).total == 4 * (state + conv) + 2 * (2 * 2 * 16 * 10)
    assert kv_cache_bytes(hybrid, 10, state_bits=16).total == 2 * (state + conv) + 1280
    updates = [t.value for t in decode_flops_per_token(hybrid, 10).terms if "state" in t.label]
    assert updates == [2 * products * state]


def test_an_encoder_belongs_to_cross_attention():
    decoder = Layer(GQA, FFN(32), 3, GQA)
    both = Architecture("t5", 64, 100, (decoder,), encoder=(LAYER,), relative_buckets=32)
    block, ffn = 2 * 64 * 128 + 2 * 64 * 32, 3 * 64 * 32
    expected = 3 * block + 2 * ffn + 5 * 64 + 2 * 64 + 2 * 32 * 8 + 2 * 6400
    assert parameters(both).total == expected


# --- memory ---------------------------------------------------------------------------------------


def test_distinct_experts_are_what_a_simulation_counts():
    rng = random.Random(0)
    for num_experts, top_k, batch in ((8, 2, 3), (64, 8, 20), (256, 8, 32)):
        counts = [
            len({e for _ in range(batch) for e in rng.sample(range(num_experts), top_k)})
            for _ in range(400)
        ]
        mean = sum(counts) / len(counts)
        assert mean == pytest.approx(distinct_experts(num_experts, top_k, batch).total, rel=0.02)


def test_bits_with_scales_and_zero_points():
    bits = dict(
        bf16=16, mxfp4=4.25, nvfp4=4.5, int4_g32=4.5, int4=4.125, int4_zero=4.156, nf4=4.127,
        fp8_block=8.002, mxfp8=8.25, int8=8.125, q4_k=4.5, q4_k_m=4.85,
    )  # fmt: skip
    assert {name: FORMATS[name].bits for name in bits} == pytest.approx(bits, abs=5e-4)


def test_a_mixed_plan():
    plan = QuantPlan.mixed("mine", "fp8", routed_experts="int4", head="bf16")
    size = weight_bytes(MIXTRAL, plan)
    assert size.part("head") == 32000 * 4096 * 2
    assert size.part("attention") == parameters(MIXTRAL).part("attention")


def test_fit_leaves_what_is_left():
    room = fit(MIXTRAL, H100, context_tokens=4096, batch=8, devices=2)
    left = 160e9 - room.weights.total
    assert room.free_bytes == left - room.cache.total
    assert room.fits and room.max_batch == int(left // (131072 * 4096))
    assert sum(t.value for t in room.terms) == pytest.approx(room.capacity_bytes) == 160e9
    alone = fit(MIXTRAL, H100, context_tokens=4096)
    assert not alone.fits and alone.max_batch == 0 and alone.free_bytes < 0
    assert fit(MIXTRAL, H100, context_tokens=4096, plan="mxfp4_experts").fits


# --- a step ---------------------------------------------------------------------------------------


def read_of(step):
    """Bytes by what is read; the caches by their kind."""
    return {term.label: term.value for term in step.bytes.terms}


def test_a_step_reads_what_its_tokens_need():
    step = decode_step(MIXTRAL, H100, batch=1, context_tokens=1000, devices=2)
    expected = 2 * (12_879_925_248 - 32000 * 4096) + 131072 * 1000
    assert step.bytes.total == pytest.approx(expected)
    assert step.distinct == 2
    assert step.memory_seconds == pytest.approx(expected / 6.7e12)
    assert step.tokens_per_s == step.tokens_per_s_per_sequence == 1 / step.seconds
    assert [t.value for t in step.terms] == [step.memory_seconds, step.compute_seconds]


def test_a_step_reads_a_recurrent_layers_whole_state():
    nemotron = shape_of("Nemotron 3 Ultra")
    read = read_of(decode_step(nemotron, H200, batch=1, context_tokens=7, devices=8))
    inner, channels = 256 * 64, 256 * 64 + 2 * 8 * 128
    assert read["cache, Mamba-2"] == 48 * 2 * (inner * 128 + channels * 3)
    assert read["cache, GQA"] == 12 * 2 * (2 * 2 * 128 * 7)


def test_a_sparse_step_reads_only_the_keys_that_are_looked_at():
    v32 = shape_of("DeepSeek-V3.2")
    read = read_of(decode_step(v32, H200, batch=1, context_tokens=100_000, devices=8, plan="fp8"))
    assert read["cache, MLA, sparse"] == 61 * 2 * (576 * 2048 + 128 * 100_000)


def test_biases_of_experts_are_read_with_their_experts():
    read = read_of(decode_step(shape_of("gpt-oss-20b"), H100, batch=1, context_tokens=1))
    assert read["biases touched"] == pytest.approx(2 * 24 * 4 * 3 * 2880)
    assert read["routed_experts touched"] == pytest.approx(2 * 24 * 4 * 3 * 2880 * 2880)


def test_many_tokens_turn_memory_into_compute():
    turn = critical_batch(H100).total
    steps = [
        decode_step(LLAMA8, H100, batch=batch, context_tokens=1).bound
        for batch in (1, int(0.8 * turn), int(1.3 * turn), 4096)
    ]
    assert steps == ["memory", "memory", "compute", "compute"]
    assert critical_batch(H100, LLAMA8).total == turn
    assert critical_batch(H100, MIXTRAL).total == 4 * turn
    fp8 = critical_batch(H100, weight_bits=8, compute="fp8").total
    assert fp8 == pytest.approx(turn, rel=0.001)


def test_the_ground_is_light():
    """Nothing but the standard library is needed to count."""
    code = (
        "import sys, moeviz.costs\n"
        "print(*{'torch', 'numpy', 'transformers', 'IPython'} & set(sys.modules))"
    )
    command = [sys.executable, "-P", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
