"""Models on a small device: what fits, what the disk gives, and that more memory never hurts."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.pictures import texts
from moeviz.costs import decode_step, device, fit, offload_bound, weight_bytes
from moeviz.panels.costs.edge import DEVICES, Edge
from moeviz.pictures.costs.edge import FORMATS, MODELS, candidate, edge
from moeviz.pictures.costs.memory_fit import CONTEXTS
from moeviz.pictures.costs.model_parts import sizes_of


def with_memory(chip, part):
    return dataclasses.replace(chip, memory_bytes=chip.memory_bytes * part)


@given(
    st.sampled_from(MODELS), st.sampled_from([*DEVICES.values()]), st.sampled_from([*FORMATS]),
    st.sampled_from(CONTEXTS), st.floats(0.05, 20), st.floats(1, 2),
)  # fmt: skip
def test_more_memory_never_makes_a_model_slower(name, chip, plan, context, part, more):
    less, larger = (
        candidate(name, with_memory(device(chip), size), plan, context)
        for size in (part, part * more)
    )
    assert less.fits <= larger.fits
    assert (less.speed or 0) <= larger.speed * (1 + 1e-9) if larger.speed else not less.speed


@pytest.mark.parametrize(("name", "part"), [("Mixtral 8x7B", 1), ("Qwen3-30B-A3B", 0.75)])
def test_what_has_no_room_comes_from_the_disk(name, part):
    chip, sizes = with_memory(device("Phone, Snapdragon 8 Elite"), part), sizes_of(name)
    found = candidate(name, chip, "q4_k_m", 4096)
    room = fit(sizes, chip, context_tokens=4096, plan="q4_k_m")
    experts = weight_bytes(sizes, "q4_k_m").components["routed_experts"]
    hits = 1 + room.free_bytes / experts
    bound = offload_bound(sizes, chip.storage_bytes_per_s, plan="q4_k_m", hit_rate=hits)
    assert not found.fits and found.speed == pytest.approx(bound.tokens_per_s)


def test_a_dense_model_reads_all_that_has_no_room_and_none_runs_without_a_disk():
    phone = device("Phone, Snapdragon 8 Elite")
    missing = -fit(sizes_of("Llama 3.1 70B"), phone, context_tokens=4096).free_bytes
    found = candidate("Llama 3.1 70B", phone, "bf16", 4096)
    assert found.speed == pytest.approx(phone.storage_bytes_per_s / missing)
    without = dataclasses.replace(phone, storage_bytes_per_s=None)
    assert candidate("Llama 3.1 70B", without, "bf16", 4096).speed is None
    small = candidate("Mistral 7B", without, "q4_k_m", 4096)
    step = decode_step(sizes_of("Mistral 7B"), phone, batch=1, context_tokens=4096, plan="q4_k_m")
    assert small.fits and small.speed == step.tokens_per_s


@pytest.mark.parametrize("wanted", [1, 10, 50])
def test_the_finding_is_the_largest_model_that_is_fast_enough_and_the_largest_dense_one(wanted):
    picture = edge(**Edge().values | {"wanted": wanted})
    quick = [row for row in picture.rows if row[5] and float(row[5]) >= wanted]
    dense = [name for name, total, active, *_ in quick if total == active]
    largest, beside = texts(picture)[1:3]
    assert largest.startswith(f"{quick[-1][0]} (")
    if quick[-1][0] not in dense:
        word = f"one is {dense[-1]} (" if dense else "No dense one"
        assert word in beside


def test_it_opens_where_models_fit_and_says_which_comes_nearest_where_none_is_fast_enough():
    panel = Edge()
    picture = edge(**panel.values)
    assert (
        sum(row[4] == "yes" for row in picture.rows) >= 3 and "No dense one" not in picture.summary
    )
    assert "is the largest that may reach 10 tokens/s." in picture.svg
    slow = edge(**panel.values | {"plan": "bf16"})
    assert not any(row[4] == "yes" for row in slow.rows)
    fastest = max(slow.rows, key=lambda row: float(row[5] or 0))
    words = f"None reaches 10 tokens/s; {fastest[0]} comes nearest: {fastest[5]} tokens/s."
    assert words in slow.svg
