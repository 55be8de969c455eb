"""Expert parallelism: bytes between devices, and bounds by a link."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.costs import Architecture, Layer, MoE, all_to_all, model, offload_bound
from moeviz.costs.shape.mixers import Attention

few = settings(max_examples=40)
V3 = model("DeepSeek-V3 / R1").architecture


def small(num_experts, top_k):
    return Architecture("x", 8, 4, (Layer(Attention(1, 1, 8), MoE(num_experts, top_k, 4)),))


@st.composite
def meshes(draw):
    nodes, per_node, here = (draw(st.integers(1, most)) for most in (4, 4, 3))
    experts = nodes * per_node * here
    top_k = draw(st.integers(1, min(experts, 6)))
    return small(experts, top_k), nodes, per_node


def enumerated(num_experts, top_k, nodes, per_node, copies, limit):
    """Copies of a token of each device, hop by hop, averaged over all that it may choose."""
    devices, here = nodes * per_node, num_experts // (nodes * per_node)
    choices = [
        [expert // here for expert in picked]
        for chosen in combinations(range(nodes), limit or nodes)
        for picked in combinations(
            [e for e in range(num_experts) if e // (here * per_node) in chosen], top_k
        )
    ]
    sent = np.zeros((devices, devices))
    for source, picked in product(range(devices), choices):
        for device in picked if copies == "expert" else set(picked):
            relay = device // per_node * per_node + source % per_node
            if copies == "node" and source // per_node != relay // per_node:
                sent[relay, device] += device != relay
            else:
                sent[source, device] += 1
        for node in {d // per_node for d in picked} - {source // per_node}:
            if copies == "node":
                sent[source, node * per_node + source % per_node] += 1
    return sent / len(choices)


@pytest.mark.parametrize("copies", ["expert", "device", "node"])
@pytest.mark.parametrize("limit", [None, 2])
def test_copies_are_what_routing_makes(copies, limit):
    found = all_to_all(small(12, 3), tokens_per_device=1, nodes=3, devices_per_node=2,
                       copies=copies, node_limit=limit)  # fmt: skip
    sent = enumerated(12, 3, 3, 2, copies, limit)
    ours = np.array(found.dispatch_bytes) / found.dispatch_bytes_per_copy
    assert ours == pytest.approx(sent)
    assert found.copies_per_token == pytest.approx(sent.sum() / 6)


@few
@given(meshes(), st.sampled_from(["expert", "device", "node"]), st.integers(1, 9), st.data())
def test_bytes_are_conserved(mesh, copies, tokens, data):
    """What is sent is received; what goes out comes back the same ways."""
    architecture, nodes, per_node = mesh
    devices = nodes * per_node
    limit = None
    if data.draw(st.booleans()):
        fewest = -(-architecture.moe.top_k * nodes // architecture.moe.num_experts)
        limit = data.draw(st.integers(fewest, nodes))
    found = all_to_all(architecture, tokens_per_device=tokens, nodes=nodes,
                       devices_per_node=per_node, copies=copies, node_limit=limit)  # fmt: skip
    out, back = found.dispatch_bytes_per_copy, found.combine_bytes_per_copy
    assert np.array(found.combine_bytes).T / back == pytest.approx(
        np.array(found.dispatch_bytes) / out
    )
    whole = sum(map(sum, found.total_bytes))
    copied = devices * tokens * found.copies_per_token
    assert whole == pytest.approx(copied * (out + back))
    stays, within, between = (term.value for term in found.terms)
    assert stays == pytest.approx(sum(found.total_bytes[d][d] for d in range(devices)))
    assert (within, between) == (found.within_node_bytes, found.between_nodes_bytes)
    assert stays + within + between == pytest.approx(whole)
    if copies == "expert":
        assert found.copies_per_token == pytest.approx(architecture.moe.top_k)


@few
@given(meshes(), st.sampled_from(["expert", "device", "node"]))
def test_even_measured_shares_send_as_much_as_even_routing(mesh, copies):
    """Exactly where copies are counted one by one; else up to drawing with replacement."""
    architecture, nodes, per_node = mesh
    moe = architecture.moe
    common = dict(tokens_per_device=3, nodes=nodes, devices_per_node=per_node, copies=copies)
    share_E = [moe.top_k / moe.num_experts] * moe.num_experts
    measured = all_to_all(architecture, share_E=share_E, **common)
    even = all_to_all(architecture, **common)
    if copies == "expert":
        for ours, theirs in zip(measured.total_bytes, even.total_bytes, strict=True):
            assert ours == pytest.approx(theirs)
    assert measured.copies_per_token <= even.copies_per_token + 1e-9


@few
@given(meshes(), st.data())
def test_measured_visits_of_devices_are_sent_as_they_are(mesh, data):
    architecture, nodes, per_node = mesh
    size = nodes * per_node
    share_R = data.draw(st.lists(st.floats(0, 1), min_size=size, max_size=size))
    found = all_to_all(
        architecture, tokens_per_device=3, nodes=nodes, devices_per_node=per_node, copies="device",
        dispatch_bits=32, combine_bits=16, share_R=share_R,
    )  # fmt: skip
    rows_RC = np.tile(3 * np.array(share_R), (size, 1))  # every device's tokens are routed alike
    assert np.allclose(found.dispatch_bytes, rows_RC * 8 * 4)
    assert np.allclose(found.combine_bytes, rows_RC.T * 8 * 2)


def test_a_skewed_router_fills_one_device():
    share_E = [0.9, 0.9, *[0.2 / 14] * 14]
    found = all_to_all(small(16, 2), tokens_per_device=8, nodes=1, devices_per_node=8,
                       copies="expert", share_E=share_E)  # fmt: skip
    received = np.sum(found.dispatch_bytes, axis=0)
    assert received[0] > 50 * received[1]
    both_ways = 1 + found.combine_bytes_per_copy / found.dispatch_bytes_per_copy
    assert found.seconds(1, 1) == pytest.approx(7 / 8 * received[0] * both_ways)


def test_an_exchange_takes_as_long_as_its_busiest_port():
    found = all_to_all(small(4, 2), tokens_per_device=10, nodes=2, devices_per_node=2,
                       copies="expert", dispatch_bits=8, combine_bits=16)  # fmt: skip
    # 10 tokens, 2 copies over 4 devices: 5 copies to each, of 8 bytes out and 16 back.
    assert found.dispatch_bytes[0] == pytest.approx([40] * 4)
    assert found.seconds(1, 1) == pytest.approx(80 + 160)
    assert found.seconds(1, 1e9) == pytest.approx(40 + 80)
    assert found.within_node_bytes == pytest.approx(4 * (40 + 80))
    assert found.between_nodes_bytes == pytest.approx(8 * (40 + 80))


def test_a_cache_saves_its_hits():
    whole = offload_bound(V3, 64e9, plan="fp8")
    half = offload_bound(V3, 64e9, plan="fp8", hit_rate=0.5)
    assert half.tokens_per_s == pytest.approx(2 * whole.tokens_per_s)
    assert whole.bytes.total == 58 * 8 * 3 * 7168 * 2048
    assert offload_bound(V3, 64e9, hit_rate=1.0).tokens_per_s == float("inf")
