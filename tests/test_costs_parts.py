"""Architectures built by hand: what they count, and what cannot be built."""

import dataclasses
import subprocess
import sys

import pytest

from moeviz.costs import (
    Architecture,
    LatentAttention,
    Layer,
    MoE,
    active_parameters,
    kv_cache_bytes,
    parameters,
)
from moeviz.costs.cost.compute import decode_flops_per_token
from moeviz.costs.shape.compressed import CompressedAttention
from moeviz.costs.shape.feedforward import FFN
from moeviz.costs.shape.mixers import Attention, Indexer
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.recurrent import gated_delta_net

GQA = Attention(8, 2, 16)
LAYER = Layer(GQA, FFN(32))


def build(*layers, **options):
    return Architecture("mine", 64, 100, layers or (LAYER,), **options)


def test_a_layer_by_hand():
    """Attention 2 d H h + 2 d G h, gated FFN 3 d f, two norms, two tables, a final norm."""
    expected = 2 * 64 * 128 + 2 * 64 * 32 + 3 * 64 * 32 + 2 * 64 + 2 * 6400 + 64
    assert parameters(build()).total == expected
    assert parameters(build(tied=True)).total == expected - 6400
    assert parameters(build(norm_vectors=2, head_bias=True)).total == expected + 3 * 64 + 100
    assert parameters(build(norm_vectors=0, positions=7)).total == expected - 3 * 64 + 7 * 64
    assert parameters(build(final_norm=False)).total == expected - 64


def test_experts_by_hand():
    """E 3 d f + shared 3 d f_s + router d E + shared gate d; a latent width adds 2 d l."""
    moe = MoE(8, 2, 16, shared_experts=1, shared_width=24, shared_gates=1)
    found = parameters(build(Layer(GQA, moe)))
    assert found.part("routed_experts") == 8 * 3 * 64 * 16 == 8 * moe.expert_parameters(64)
    assert found.part("shared_experts") == 3 * 64 * 24
    assert found.part("router") == 64 * 8 + 64
    latent = dataclasses.replace(moe, latent_width=8, gated=False)
    found = parameters(build(Layer(GQA, latent)))
    assert found.part("routed_experts") == 8 * 2 * 8 * 16
    assert found.part("shared_experts") == 2 * 64 * 24 + 2 * 64 * 8
    biased = dataclasses.replace(moe, expert_bias=True, router_bias=True, score_bias=True)
    found = build(Layer(GQA, biased))
    assert parameters(found).part("biases") == 8 * (2 * 16 + 64) + 8 + 8
    assert active_parameters(found).part("biases") == 2 * (2 * 16 + 64) + 8 + 8


def test_a_model_knows_its_experts():
    moe = MoE(8, 2, 16)
    mixed = build(LAYER, Layer(GQA, moe), LAYER, Layer(GQA, moe))
    assert (mixed.moe_layers, mixed.is_moe, mixed.moe) == ((1, 3), True, moe)
    assert build().moe_layers == () and not build().is_moe
    assert mixed.dense_twin().layers[1].ffn == FFN(32)
    assert mixed.mixers() == [(4, GQA)]


def test_kinds_of_attention():
    assert [Attention(8, n, 4).kind for n in (8, 2, 1)] == ["MHA", "GQA", "MQA"]
    latent = LatentAttention(8, 16, 4, 4, 4, top_k=5)
    assert (latent.kind, dataclasses.replace(latent, top_k=None).kind) == ("MLA, sparse", "MLA")


def test_chunks_see_their_own_stretch():
    chunked = Attention(1, 1, 1, window=4, chunked=True)
    seen = [chunked.score_flops(Positions(i, i), False) / 4 for i in range(1, 10)]
    assert seen == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    sliding = Attention(1, 1, 1, window=4)
    seen = [sliding.score_flops(Positions(i, i), False) / 4 for i in range(1, 7)]
    assert seen == [1, 2, 3, 4, 4, 4]


def test_sparse_latents_score_all_keys_and_look_at_few():
    mixer = LatentAttention(2, 8, 3, 2, 4, top_k=10, indexer=Indexer(3, 5))
    assert mixer.score_flops(Positions(100, 100), False) == 2 * 2 * 9 * 10 + 2 * 3 * 5 * 100
    assert mixer.score_flops(Positions(100, 100), True) == 2 * 2 * 18 * 10 + 2 * 3 * 5 * 100
    shared = dataclasses.replace(mixer, indexer=None)
    assert shared.score_flops(Positions(100, 100), False) == 2 * 2 * 9 * 10
    assert [sum(c.growth(5) for c in m.caches()) for m in (shared, mixer)] == [10, 15]


def test_compressed_attention_by_hand():
    sizes = dict(heads=4, head_dim=8, q_rank=6, out_groups=2, out_rank=3, window=10)
    window, heavy = CompressedAttention(**sizes), CompressedAttention(**sizes, every=16)
    sparse = CompressedAttention(**sizes, every=4, top_k=5, indexer=Indexer(2, 4))
    assert [m.kind for m in (window, heavy, sparse)] == ["window", "HCA", "CSA"]
    for mixer, keys, scored in ((window, 10, 0), (heavy, 10 + 6, 0), (sparse, 10 + 5, 25)):
        flops = 4 * 4 * 8 * keys + 2 * 2 * 4 * scored
        assert mixer.score_flops(Positions(100, 100), True) == flops
    caches = [m.caches() for m in (window, heavy, sparse)]
    kept = [sum(c.width * c.entries(100) for c in each) for each in caches]
    assert kept == [80, 80 + 6 * 8, 80 + 25 * 8 + 25 * 4]
    read = [sum(c.elements_read(100) for c in each) for each in caches]
    assert read == [80, 80 + 6 * 8, 80 + 5 * 8 + 25 * 4]
    assert [sum(c.growth(100) for c in each) for each in caches] == [0, 0.5, 3]


def test_a_hybrid_keeps_states_in_float32():
    linear = gated_delta_net(64, 2, 4, 8, 8, 4)
    hybrid = build(Layer(linear, FFN(8)), LAYER)
    state, conv = 4 * 8 * 8, (2 * 16 + 32) * 3
    kept = kv_cache_bytes(hybrid, 10)
    assert kept.total == 4 * (state + conv) + 2 * (2 * 2 * 16 * 10)
    assert kv_cache_bytes(hybrid, 10, state_bits=16).total == 2 * (state + conv) + 1280
    updates = [t.value for t in decode_flops_per_token(hybrid, 10).terms if "state" in t.label]
    assert updates == [6 * state]


def test_an_encoder_belongs_to_cross_attention():
    decoder = Layer(GQA, FFN(32), 3, GQA)
    both = Architecture("t5", 64, 100, (decoder,), encoder=(LAYER,), relative_buckets=32)
    block, ffn = 2 * 64 * 128 + 2 * 64 * 32, 3 * 64 * 32
    expected = 3 * block + 2 * ffn + 5 * 64 + 2 * 64 + 2 * 32 * 8 + 2 * 6400
    assert parameters(both).total == expected
    message = "encoder must be given where decoder layers have cross attention"
    with pytest.raises(ValueError, match=message):
        build(decoder)
    with pytest.raises(ValueError, match=message):
        build(LAYER, encoder=(LAYER,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(0, 1, 1), "heads must be a whole number of at least 1, got 0"),
        (lambda: Attention(True, 1, 1), "heads must be a whole number of at least 1, got True"),
        (lambda: Attention(8, 3, 1), "kv_heads must divide heads, got 3 key heads for 8 heads"),
        (lambda: Attention(8, 8, 1, qk_norm="layer"), "qk_norm must be one of none, head, width"),
        (lambda: Attention(8, 8, 1, window=0), "window must be a whole number"),
        (lambda: Attention(8, 8, 1, chunked=True), "window must be given where"),
        (lambda: Attention(8, 8, 1, sinks=1), "sinks must be True or False, got 1"),
        (lambda: Indexer(0, 1), "indexer heads must be a whole number"),
        (lambda: LatentAttention(1, 1, 1, 1, 0), "value_dim must be a whole number"),
        (lambda: LatentAttention(1, 1, 1, 1, 1, q_rank=0), "q_rank must be a whole number"),
        (lambda: LatentAttention(1, 1, 1, 1, 1, indexer=Indexer(1, 1)), "top_k must be given"),
        (lambda: CompressedAttention(4, 8, 6, 3, 3, 10), "out_groups must divide heads, got 3"),
        (lambda: CompressedAttention(4, 8, 6, 2, 3, 10, 4, 5), "top_k and indexer must be"),
        (lambda: CompressedAttention(4, 8, 6, 2, 3, 10, None, 5, Indexer(1, 1)), "every must be"),
        (lambda: FFN(0), "width must be a whole number of at least 1, got 0"),
        (lambda: FFN(8, gated="yes"), "gated must be True or False, got 'yes'"),
        (lambda: MoE(8, 9, 4), "top_k must be at most num_experts = 8, got 9"),
        (lambda: MoE(8, 0, 4), "top_k must be a whole number of at least 1, got 0"),
        (lambda: MoE(8, 2, 4, shared_experts=1), "shared_experts and shared_width must both be 0"),
        (lambda: MoE(8, 2, 4, shared_gates=1), "shared_width must be above 0 where there is a"),
        (lambda: MoE(8, 2, 4, groups=3), "groups must divide num_experts = 8, got 3"),
        (lambda: MoE(8, 2, 4, groups=2, top_groups=3), "top_groups must be at most groups = 2"),
        (lambda: MoE(8, 2, 4, groups=8, top_groups=1), "top_k must fit the 1 of 8 groups"),
        (lambda: MoE(8, 2, 4, latent_width=0), "latent_width must be a whole number"),
        (lambda: Layer(None, None), "mixer or ffn must be given"),
        (lambda: Layer(GQA, None, norms=-1), "norms must be a whole number of at least 0, got -1"),
        (lambda: Layer(None, FFN(8)).heads, "mixer must be Attention here"),
        (lambda: Architecture("x", 0, 10, (LAYER,)), "d_model must be a whole number"),
        (lambda: Architecture("x", 64, 10, ()), "layers must be a non-empty tuple of Layer"),
        (lambda: Architecture("x", 64, 10, (GQA,)), "layers must be a non-empty tuple of Layer"),
        (lambda: build(tied=0), "tied must be True or False, got 0"),
        (lambda: build(streams=0), "streams must be a whole number of at least 1"),
        (lambda: build(context_tokens=0), "context_tokens must be a whole number"),
        (lambda: build().moe, "mine has no experts; this needs one shape of expert layer"),
        (lambda: build(Layer(GQA, MoE(2, 1, 1)), Layer(GQA, MoE(4, 1, 1))).moe, "several shapes"),
        (lambda: build().dense_twin(), "mine is dense already; a twin needs experts"),
        (lambda: build(Layer(GQA, MoE(2, 1, 1, latent_width=4))).dense_twin(), "latent_width must"),
        (lambda: Positions(0, 3), "first must be a whole number of at least 1, got 0"),
        (lambda: Positions(3, 2), "last must be a whole number of at least 3, got 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_ground_is_light():
    """Nothing but the standard library is needed to count."""
    code = (
        "import sys, moeviz.costs\n"
        "print(*{'torch', 'numpy', 'transformers', 'IPython'} & set(sys.modules))"
    )
    command = [sys.executable, "-P", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
