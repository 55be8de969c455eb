"""What must hold of every architecture, on all known ones."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.costs import (
    MODELS,
    MoE,
    active_parameters,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    parameters,
    weight_bytes,
)
from moeviz.costs.cost.compute import decode_flops_per_token, forward_flops_per_token
from moeviz.costs.cost.parameters import active_share
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.terms import COMPONENTS

SIZED = [entry.shape for entry in MODELS.values() if entry.architecture is not None]
# Each kind of layer twice, which is quicker to count again and again.
SHORT = [
    dataclasses.replace(shape, layers=tuple(dict.fromkeys(shape.layers)) * 2)
    for shape in SIZED
    if not shape.encoder
]
all_shapes, decoders = (
    pytest.mark.parametrize("shape", shapes, ids=lambda shape: shape.name)
    for shapes in (SIZED, SHORT)
)


@all_shapes
def test_conventions_differ_by_the_tables_alone(shape):
    everything, no_input, neither = (
        active_parameters(shape, convention)
        for convention in ("all", "ex_input_embedding", "ex_embeddings")
    )
    table, head = everything.part("embedding"), everything.part("head")
    assert everything.total - no_input.total == (0 if shape.tied else table)
    assert everything.total - neither.total == table + head
    assert 0 < active_share(shape).total <= 1


@all_shapes
def test_terms_multiply_out_to_their_values_and_add_up_to_the_total(shape):
    for result in (parameters(shape), active_parameters(shape)):
        assert sum(result.components.values()) == result.total
        assert set(result.components) <= set(COMPONENTS)
    for term in parameters(shape).terms:
        product = 1
        for factor in term.formula.split(" × "):
            numbers = [w.replace(",", "") for w in factor.split()]
            numbers = [int(w) for w in numbers if w.isdigit()]
            product *= numbers[-1] if factor[-1].isdigit() else numbers[0]
        assert product == term.value > 0 and term.label, term


@decoders
def test_the_cache_is_what_its_tokens_added_and_its_states(shape):
    """128 tokens fill an entry of every cache; then the shortest windows are full."""
    states = sum(
        4 * times * part.width for times, mixer in shape.mixers() for part in mixer.caches()
        if part.state
    )  # fmt: skip
    for context in (128, 256):
        added = sum(
            kv_cache_bytes_per_token(shape, context_tokens=seen).total for seen in range(context)
        )
        assert kv_cache_bytes(shape, context, 3).total == pytest.approx(3 * (added + states))
    halved = kv_cache_bytes(shape, 256, bits=8, state_bits=16).total
    assert halved == kv_cache_bytes(shape, 256).total / 2


@all_shapes
def test_bytes_scale_with_bits(shape):
    full = weight_bytes(shape, "fp32").total
    assert full == 4 * parameters(shape).total
    assert weight_bytes(shape, "bf16").total == full / 2
    assert weight_bytes(shape, "fp8").total == full / 4
    for plan in ("fp8_block", "int8", "mxfp4_experts", "int4_zero", "nvfp4"):
        assert weight_bytes(shape, plan).total <= full / 2


@decoders
def test_a_token_costs_two_flops_a_weight_and_the_mean_over_its_positions(shape):
    """Every matrix once, tables and vectors not at all; decoding each token in turn is the same."""
    flops = forward_flops_per_token(shape, 150)
    turns = [decode_flops_per_token(shape, seen + 1, absorbed=False).total for seen in range(150)]
    assert flops.total == pytest.approx(sum(turns) / 150)
    matrices = sum(n * w.active for n, w in shape.weights() if w.matmul)
    products = sum(t.value for t in flops.terms if ": " in t.label)
    assert flops.total == pytest.approx(2 * matrices + products)


@all_shapes
def test_a_dense_twin_costs_the_same(shape):
    routed = [v.ffn for v in shape.all_layers if isinstance(v.ffn, MoE)]
    if not routed or any(ffn.latent_width for ffn in routed):
        with pytest.raises(ValueError, match=r"twin"):
            shape.dense_twin()
        return
    twin = shape.dense_twin()
    assert not twin.is_moe
    for part in ("attention", "embedding", "norms", "residual", "head"):
        assert parameters(twin).part(part) == parameters(shape).part(part)
    ours = active_parameters(shape)
    ffn = ours.part("routed_experts") + ours.part("shared_experts") + ours.part("dense_ffn")
    assert parameters(twin).part("dense_ffn") == ffn


@settings(max_examples=100)
@given(st.integers(1, 60), st.integers(0, 60), st.none() | st.integers(0, 20), st.integers(1, 9))
def test_mean_keys_is_the_plain_mean(first, more, cap, every):
    last = first + more
    seen = [i // every if cap is None else min(i // every, cap) for i in range(first, last + 1)]
    assert Positions(first, last).mean_keys(cap, every) == pytest.approx(sum(seen) / len(seen))
    chunked = [(i - 1) % every + 1 for i in range(first, last + 1)]
    mean = sum(chunked) / len(chunked)
    assert Positions(first, last).mean_chunked(every) == pytest.approx(mean)
