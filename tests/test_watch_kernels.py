"""A watched dispatch is the real one: it equals the Plan and the reference, at any block."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from helpers.patience import PATIENCE
from moeviz.experiments.dispatch import FILES, RECORDED, dispatch_of, kept_bytes
from moeviz.host import data_path
from moeviz.model.experts import reference_experts
from moeviz.records.dispatch import STAGES, DispatchTrace
from moeviz.routing import Plan
from moeviz.watch.kernels import kernels_alone, own_experts, watch
from moeviz.watch.routers import synthetic_tokens


def watched(num_tokens=12, num_experts=5, top_k=2, sort_block=4, tile_block=4, skew=1.0, seed=0):
    tokens = synthetic_tokens(num_tokens, num_experts, skew=skew, seed=seed)
    experts = own_experts(num_experts, num_experts, seed=seed)
    trace = watch(tokens, *experts, top_k=top_k, sort_block=sort_block, tile_block=tile_block)
    return tokens, experts, trace


def check(tokens, experts, trace):
    num_rows, num_experts, top_k = len(trace.order), trace.num_experts, trace.top_k
    want = (tokens.x_TD @ tokens.gate_ED.T).softmax(-1).topk(top_k)
    np.testing.assert_array_equal(trace.expert, want.indices.numpy())
    np.testing.assert_allclose(trace.weight, want.values.numpy(), rtol=1e-5)
    # Histogram and scan, by hand.
    cuts = range(trace.sort_block, num_rows, trace.sort_block)
    blocks = np.array_split(trace.expert.reshape(-1), cuts)
    counts = np.array([np.bincount(b, minlength=num_experts) for b in blocks])
    np.testing.assert_array_equal(trace.count, counts)
    np.testing.assert_array_equal(trace.before, counts.cumsum(0) - counts)
    np.testing.assert_array_equal(trace.total, counts.sum(0))
    # The scatter is the Plan's.
    plan = Plan.from_topk(
        torch.from_numpy(trace.expert), torch.from_numpy(trace.weight), num_experts=num_experts
    )
    for ours, theirs in (
        (trace.offsets, plan.offsets),
        (trace.rank, plan.inverse),
        (trace.order // top_k, plan.token),
        (trace.order % top_k, plan.choice),
        (trace.row_expert, plan.expert),
        (trace.slot, plan.slot),
    ):
        np.testing.assert_array_equal(ours, theirs.numpy())
    # Every row is in one tile, of its own expert; a tile is no higher than it may be.
    tiles = [trace.tile_rows(g) for g in range(len(trace.tile_expert))]
    assert [row for rows in tiles for row in rows] == list(range(num_rows))
    for rows, e in zip(tiles, trace.tile_expert, strict=True):
        assert len(rows) <= trace.tile_block and (trace.row_expert[list(rows)] == e).all()
        assert (len(rows) > 0) == (e >= 0)
    y_TD = reference_experts(tokens.x_TD, plan, *experts)
    np.testing.assert_allclose(trace.y, y_TD.numpy(), atol=1e-5)
    rows_TKD = trace.rows[trace.rank].reshape(-1, top_k, trace.x.shape[1])
    np.testing.assert_allclose(trace.y, rows_TKD.sum(1), atol=1e-5)
    assert trace.error < 1e-5


@pytest.mark.parametrize(
    "shape",
    [
        dict(),
        dict(num_tokens=1, top_k=1),
        dict(num_tokens=24, num_experts=8, tile_block=16, sort_block=16),
        dict(num_experts=1, top_k=1, tile_block=8),
        dict(num_tokens=20, num_experts=8, skew=2.0, top_k=1),
    ],
    ids=str,
)
def test_a_watched_dispatch_is_the_plan_and_the_reference(shape):
    check(*watched(**shape))


@settings(max_examples=5, derandomize=True)
@given(
    st.integers(1, 20), st.integers(1, 9), st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 4, 8]), st.integers(0, 99), st.data(),
)  # fmt: skip
def test_any_batch_and_any_blocks(num_tokens, num_experts, sort_block, tile_block, seed, data):
    top_k = data.draw(st.integers(1, min(num_experts, 3)))
    check(*watched(num_tokens, num_experts, top_k, sort_block, tile_block, seed=seed))


def test_steps_walk_through_all_stages_once():
    _, _, trace = watched()
    walked = [trace.at(step) for step in range(trace.steps)]
    assert [*dict.fromkeys(stage for stage, _ in walked)] == list(STAGES)
    assert len(set(walked)) == trace.steps
    assert all(trace.step_at(*place) == step for step, place in enumerate(walked))
    assert trace.at(trace.steps + 5) == walked[-1]
    assert trace.step_at("scan", 99) == trace.step_at("scan", trace.num_experts - 1)


@pytest.mark.parametrize("block", [0, 3, -4])
@pytest.mark.parametrize("name", ["sort_block", "tile_block"])
def test_a_block_that_no_kernel_takes_is_refused(name, block):
    with pytest.raises(ValueError, match=f"^{name} must be a power of two, got {block}"):
        watched(**{name: block})


@pytest.mark.parametrize("source", RECORDED)
def test_the_recordings_are_what_this_code_makes(source):
    from moeviz.text.tokenizer import Tokenizer
    from moeviz.watch.text import load_model

    tokenizer = Tokenizer.default()
    model = load_model(data_path("models", "start_here.safetensors"), tokenizer)
    recorded = DispatchTrace.load_file(data_path("traces", f"{FILES[source]}.safetensors"))
    now = dispatch_of(RECORDED[source], (model, tokenizer))
    assert recorded.meta["controls"] == RECORDED[source]
    assert recorded.meta["triton"] and recorded.meta["where"]
    for name in ("tokens", "expert", "count", "before", "total", "order", "rank", "tile_row"):
        np.testing.assert_array_equal(getattr(recorded, name), getattr(now, name), err_msg=name)
    for name in ("weight", "x", "hidden", "rows", "y"):
        np.testing.assert_allclose(getattr(recorded, name), getattr(now, name), atol=1e-3)


def test_what_the_backward_pass_keeps():
    """The text of the notebook: the kernels keep x (known), z, 2 F numbers a row, and a tile map of
    two numbers a tile."""
    kept = {name: kept_bytes(name) for name in ("reference", "grouped", "triton")}
    z, tiles = 64 * 2 * 2 * 32 * 4, (64 * 2 + 4 * 15) // 16
    assert kept["triton"] == z + 2 * 4 * tiles
    # Gathered x, z, silu(gate), hidden rows: D + 2 F + F + F.
    assert kept["grouped"] == 2.5 * z and kept["reference"] > 3 * z


def test_one_thread_at_a_time_uses_the_interpreter():
    inside, late = threading.Event(), []

    def other():
        with kernels_alone():
            late.append(inside.is_set())

    with kernels_alone():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        assert not late
        inside.set()
    thread.join(PATIENCE)
    assert late == [True]
