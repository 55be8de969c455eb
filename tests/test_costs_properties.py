"""What must hold of every architecture: hypothesis builds them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.costs import (
    MODELS,
    Architecture,
    LatentAttention,
    Layer,
    MoE,
    active_parameters,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    parameters,
    weight_bytes,
)
from moeviz.costs.cost.compute import decode_flops_per_token, forward_flops_per_token
from moeviz.costs.cost.parameters import active_share
from moeviz.costs.shape.feedforward import FFN
from moeviz.costs.shape.mixers import Attention, Indexer
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.terms import COMPONENTS

few = settings(max_examples=40, deadline=None)
SMALL, FLAG = st.integers(1, 8), st.booleans()
ATTENTIONS = st.builds(
    lambda kv_heads, times, **rest: Attention(kv_heads * times, kv_heads, **rest),
    st.integers(1, 4), st.integers(1, 3), head_dim=SMALL, qkv_bias=FLAG, out_bias=FLAG,
    qk_norm=st.sampled_from(["none", "head", "width"]), output_gate=FLAG, sinks=FLAG,
    window=st.none() | st.integers(1, 40),
)  # fmt: skip
SPARSE = st.none() | st.tuples(SMALL, st.none() | st.builds(Indexer, SMALL, SMALL))
LATENTS = st.builds(
    lambda sparse, **rest: LatentAttention(
        **rest, top_k=sparse and sparse[0], indexer=sparse and sparse[1]
    ),
    SPARSE, heads=SMALL, kv_rank=SMALL, nope_dim=SMALL, rope_dim=SMALL, value_dim=SMALL,
    q_rank=st.none() | SMALL, bias=FLAG,
)  # fmt: skip


@st.composite
def experts(draw):
    num_experts, shared = draw(st.integers(1, 9)), draw(st.integers(0, 2))
    return MoE(
        num_experts=num_experts,
        top_k=draw(st.integers(1, num_experts)),
        expert_width=draw(SMALL),
        gated=draw(FLAG),
        shared_experts=shared,
        shared_width=shared * draw(SMALL),
        expert_bias=draw(FLAG),
        router_bias=draw(FLAG),
        latent_width=draw(st.none() | SMALL),
    )


@st.composite
def architectures(draw):
    ffns = experts() | st.builds(FFN, SMALL, st.booleans(), st.booleans())
    layers = st.builds(Layer, ATTENTIONS | LATENTS, ffns, st.integers(0, 4))
    return Architecture(
        "drawn",
        d_model=draw(SMALL),
        vocab=draw(st.integers(1, 50)),
        layers=tuple(draw(st.lists(layers, min_size=1, max_size=4))),
        tied=draw(FLAG),
        norm_vectors=draw(st.integers(0, 2)),
        positions=draw(st.integers(0, 3)),
        head_bias=draw(FLAG),
        streams=draw(st.sampled_from([1, 1, 4])),
    )


@few
@given(architectures())
def test_conventions_differ_by_the_tables_alone(architecture):
    everything, no_input, neither = (
        active_parameters(architecture, convention)
        for convention in ("all", "ex_input_embedding", "ex_embeddings")
    )
    table, head = everything.part("embedding"), everything.part("head")
    assert everything.total - no_input.total == (0 if architecture.tied else table)
    assert everything.total - neither.total == table + head
    assert 0 < active_share(architecture).total <= 1


SIZED = [entry.shape for entry in MODELS.values() if entry.architecture is not None]


@pytest.mark.parametrize("architecture", SIZED, ids=lambda shape: shape.name)
def test_terms_multiply_out_to_their_values_and_add_up_to_the_total(architecture):
    for result in (parameters(architecture), active_parameters(architecture)):
        assert sum(result.components.values()) == result.total
        assert set(result.components) <= set(COMPONENTS)
    for term in parameters(architecture).terms:
        product = 1
        for factor in term.formula.split(" × "):
            numbers = [w.replace(",", "") for w in factor.split()]
            numbers = [int(w) for w in numbers if w.isdigit()]
            product *= numbers[-1] if factor[-1].isdigit() else numbers[0]
        assert product == term.value > 0 and term.label, term


@few
@given(architectures(), st.integers(1, 60), st.integers(1, 5))
def test_the_cache_is_what_its_tokens_added(architecture, context, batch):
    added = sum(
        kv_cache_bytes_per_token(architecture, context_tokens=seen).total for seen in range(context)
    )
    whole = kv_cache_bytes(architecture, context, batch)
    assert whole.total == pytest.approx(batch * added)
    assert kv_cache_bytes(architecture, context, batch, bits=8).total == whole.total / 2


@few
@given(architectures())
def test_bytes_scale_with_bits(architecture):
    full = weight_bytes(architecture, "fp32").total
    assert full == 4 * parameters(architecture).total
    assert weight_bytes(architecture, "bf16").total == full / 2
    assert weight_bytes(architecture, "fp8").total == full / 4
    for plan in ("fp8_block", "int8", "mxfp4_experts", "int4_zero", "nvfp4"):
        assert weight_bytes(architecture, plan).total <= full / 2


@few
@given(architectures(), st.integers(1, 50))
def test_a_token_costs_two_flops_a_weight_and_the_mean_over_its_positions(architecture, length):
    """Every matrix once, tables and vectors not at all; decoding each token in turn is the same."""
    each = forward_flops_per_token(architecture, length).total
    turns = [
        decode_flops_per_token(architecture, seen + 1, absorbed=False).total
        for seen in range(length)
    ]
    assert each == pytest.approx(sum(turns) / length)
    matrices = sum(n * w.active for n, w in architecture.weights() if w.matmul)
    products = sum(
        t.value for t in forward_flops_per_token(architecture, 1).terms if ": " in t.label
    )
    assert forward_flops_per_token(architecture, 1).total == pytest.approx(2 * matrices + products)


@few
@given(architectures())
def test_a_dense_twin_costs_the_same(architecture):
    routed = [v.ffn for v in architecture.layers if isinstance(v.ffn, MoE)]
    if not routed or any(ffn.latent_width for ffn in routed):
        with pytest.raises(ValueError, match=r"twin"):
            architecture.dense_twin()
        return
    twin = architecture.dense_twin()
    assert not twin.is_moe
    for part in ("attention", "embedding", "norms", "residual", "head"):
        assert parameters(twin).part(part) == parameters(architecture).part(part)
    ours = active_parameters(architecture)
    ffn = ours.part("routed_experts") + ours.part("shared_experts") + ours.part("dense_ffn")
    assert parameters(twin).part("dense_ffn") == ffn


@few
@given(st.integers(1, 60), st.integers(0, 60), st.none() | st.integers(0, 20), st.integers(1, 9))
def test_mean_keys_is_the_plain_mean(first, more, cap, every):
    last = first + more
    seen = [i // every if cap is None else min(i // every, cap) for i in range(first, last + 1)]
    assert Positions(first, last).mean_keys(cap, every) == pytest.approx(sum(seen) / len(seen))
    chunked = [(i - 1) % every + 1 for i in range(first, last + 1)]
    mean = sum(chunked) / len(chunked)
    assert Positions(first, last).mean_chunked(every) == pytest.approx(mean)
