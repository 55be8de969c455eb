"""The pictures of 08_hardware: pure, readable, and with the numbers of the calculators."""

from pathlib import Path

import numpy as np
import pytest

from helpers.picture_cases import FIT, LINK, SEND, STEP
from moeviz.costs import (
    DEVICES,
    active_parameters,
    all_to_all,
    critical_batch,
    decode_step,
    device,
    fit,
    model,
    offload_bound,
)
from moeviz.costs.cost.quantisation import PLANS as ALL_PLANS
from moeviz.panels import hardware_choice as offered
from moeviz.pictures.costs.decode_batch import BATCHES, curves, decode_batch
from moeviz.pictures.costs.exchange import exchange, visits
from moeviz.pictures.costs.memory_fit import PLANS, memory_fit
from moeviz.pictures.costs.offloading import LINKS, even_hit_rate, offloading, speed

V3 = STEP["model_name"]
SOURCE = Path(__file__).parents[1] / "notebooks" / "src" / "08_hardware.md"
DRAW = {"fit": (memory_fit, FIT), "step": (decode_batch, STEP), "send": (exchange, SEND),
        "link": (offloading, LINK)}  # fmt: skip


def test_the_fit_says_what_the_calculator_says():
    found = fit(model("gpt-oss-120b").architecture, device("H100 SXM"), context_tokens=32768,
                batch=8, plan="mxfp4_experts")  # fmt: skip
    said = memory_fit(**FIT).summary
    assert f"weights {found.weights.total / 1e9:.1f} GB" in said
    assert f"{found.free_bytes / 1e9:.1f} GB stay free; at most {found.max_batch} such" in said
    said = memory_fit(**FIT | {"plan": "bf16"}).summary
    assert "does not fit: 163.4 GB are missing, and not even one" in said
    assert "fits, 163" not in said
    long = memory_fit(**FIT | {"model_name": "Mixtral 8x7B", "context": 131072}).summary
    assert "made for 32,768 tokens at most" in long
    with pytest.raises(ValueError, match="The sizes of Qwen2.5-Max are not public"):
        memory_fit(**FIT | {"model_name": "Qwen2.5-Max"})


def test_the_step_is_the_calculators_and_ends_where_the_memory_does():
    sparse, dense = curves(V3, "H200 SXM", 32, "fp8_block", 4096)
    architecture, chip = model(V3).architecture, device("H200 SXM")
    for batch in (1, 64, 4096):
        step = decode_step(architecture, chip, batch=batch, context_tokens=4096,
                           plan="fp8_block", devices=32)  # fmt: skip
        assert sparse.steps[batch] == step
    assert list(sparse.steps) == [b for b in BATCHES if b <= sparse.max_batch] != list(BATCHES)
    ratio = [sparse.steps[b].seconds / dense.steps[b].seconds for b in sparse.steps]
    assert ratio[0] == pytest.approx(1, abs=0.02) == ratio[-1] and max(ratio) > 10
    assert dense.steps[64].distinct == 0
    said = decode_batch(**STEP).summary
    critical = critical_batch(chip, architecture, weight_bits=8).total
    assert "222.4 experts" in said and f"{critical:,.0f}, dense 103" in said
    assert "does not fit" in decode_batch(**STEP | {"batch": 16384}).summary
    assert "even one" in decode_batch(**STEP | {"devices": 1}).summary
    with pytest.raises(ValueError, match="has no experts"):
        decode_batch(**STEP | {"model_name": "Llama 3.1 8B"})


@pytest.mark.parametrize("plan", PLANS)
def test_the_twin_has_the_same_active_weights_and_bits(plan):
    """At batch 1 it moves as many bytes but for the router's."""
    for name in ("Mixtral 8x7B", "gpt-oss-120b", V3):
        sparse, dense = curves(name, "B200 SXM", 64, plan, 128)
        assert sparse.steps[1].seconds == pytest.approx(dense.steps[1].seconds, rel=0.02)


def test_the_exchange_adds_up():
    architecture = model(V3).architecture
    found = all_to_all(architecture, tokens_per_device=128, nodes=8, devices_per_node=8,
                       copies="node", node_limit=4)  # fmt: skip
    said = exchange(**SEND | dict(copies="node", node_limit=4, fp8=True)).summary
    assert f"{found.between_nodes_bytes / 1e6:.0f} MB between" in said
    assert "66% less" in said and f"{found.seconds(160e9, 50e9) * 1e6:.0f} µs a layer" in said
    rows = exchange(**SEND).rows
    assert len(rows) == 64 and [row[1] for row in rows] == [d // 8 for d in range(64)]
    # One node has nothing to send to another, and a limit beyond the nodes is none.
    alone = exchange(**SEND | dict(nodes=1))
    assert "0 B between" in alone.summary
    assert exchange(**SEND | dict(nodes=4, node_limit=4)) == exchange(**SEND | dict(nodes=4))


@pytest.mark.parametrize("skew", [0.1, 1.0, 2.0])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (128, 4), (256, 8)])
def test_skewed_visits_are_shares_of_tokens(experts, top_k, skew):
    share_E = np.array(visits(experts, top_k, skew, 0))
    assert share_E.sum() == pytest.approx(top_k) and 0 < share_E.min() < share_E.max() <= 1
    other_E = np.array(visits(experts, top_k, skew, 1))
    assert (other_E != share_E).any() and np.allclose(np.sort(other_E), np.sort(share_E))
    assert visits(experts, top_k, 0.0, 5) is None


def test_a_link_bounds_until_the_devices_memory_does():
    mixtral, chip = model("Mixtral 8x7B").architecture, device("T4")
    link = LINKS["pcie3"]
    bound = offload_bound(mixtral, link.bytes_per_s, plan="int4").tokens_per_s
    assert speed(mixtral, chip, link, "int4", 0.0) == bound
    assert speed(mixtral, chip, link, "int4", 0.5) == pytest.approx(2 * bound)
    own = sum(
        count * ALL_PLANS["int4"].format(part).bits / 8
        for part, count in active_parameters(mixtral, "ex_input_embedding").components.items()
    )
    assert speed(mixtral, chip, link, "int4", 1.0) == pytest.approx(chip.bytes_per_s / own)
    rates = [speed(mixtral, chip, LINKS["host"], "int4", hit) for hit in (0, 0.5, 1)]
    assert len(set(rates)) == 1
    assert 0.6 < even_hit_rate(mixtral, chip, "int4") < 0.7
    assert even_hit_rate(mixtral, device("B200 SXM"), "int4") == 1.0
    assert even_hit_rate(model("Kimi K2").architecture, chip, "bf16") == 0.0
    said = offloading(**LINK | {"model_name": "Kimi K2", "plan": "bf16"}).summary
    assert said.startswith("Even without its experts the model takes")


def test_the_device_is_named_with_its_source():
    for draw, values in (DRAW["fit"], DRAW["step"], DRAW["link"]):
        for name in offered.DEVICES.values():
            svg = draw(**values | {"device_name": name}).svg
            assert f"{name}, confidence {DEVICES[name].confidence}: " in svg
            assert "prices" not in svg


def test_the_text_quotes_what_is_computed():
    text = " ".join(SOURCE.read_text("utf-8").split())
    bf16, mxfp4 = memory_fit(**FIT | {"plan": "bf16"}).summary, memory_fit(**FIT).summary
    for figure, said in (
        ("233.7 GB", bf16), ("65.2 GB", mxfp4), ("5.0 GB", mxfp4),
        ("1.64 GB", exchange(**SEND).summary),
        ("1.25 GB", exchange(**SEND | {"fp8": True}).summary),
        ("825 MB", exchange(**SEND | {"fp8": True, "copies": "node"}).summary),
        ("565 MB", exchange(**SEND | dict(fp8=True, copies="node", node_limit=4)).summary),
        ("514 µs", exchange(**SEND).summary),
        ("177 µs", exchange(**SEND | dict(fp8=True, copies="node", node_limit=4)).summary),
        ("5.81 GB", offloading(**LINK).summary), ("2.75 tokens/s", offloading(**LINK).summary),
        ("5.5", offloading(**LINK | {"hit": 50}).summary),
    ):  # fmt: skip
        assert figure in text and figure in said, figure
    sparse, dense = curves(V3, "H200 SXM", 32, "fp8_block", 4096)
    ratio = {b: sparse.steps[b].seconds / dense.steps[b].seconds for b in sparse.steps}
    assert max(ratio.values()) == ratio[64] == pytest.approx(10.8, abs=0.05)
    turns = [b for b, step in sparse.steps.items() if step.bound == "compute"]
    assert turns[0] == 2048 and "10.8 times" in text and "from batch 2,048 on" in text
    for curve in (sparse, dense):
        assert curve.steps[1].seconds * 1e3 == pytest.approx(0.25, abs=0.005)
    mixtral, chip = model("Mixtral 8x7B").architecture, device("T4")
    host = speed(mixtral, chip, LINKS["host"], "int4", 0)
    assert speed(mixtral, chip, LINKS["pcie3"], "int4", 0.8) < host
    assert speed(mixtral, chip, LINKS["pcie3"], "int4", 0.85) > host
