"""Expert parallelism: bytes between devices, and bounds by a link."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.costs import Architecture, Layer, MoE, all_to_all, model, offload_bound
from moeviz.costs.cost.traffic import destinations, hit_probability
from moeviz.costs.shape.feedforward import FFN
from moeviz.costs.shape.mixers import Attention

few = settings(max_examples=40, deadline=None)
V3 = model("DeepSeek-V3 / R1").architecture


def small(num_experts, top_k):
    return Architecture("x", 8, 4, (Layer(Attention(1, 1, 8), MoE(num_experts, top_k, 4)),))


@st.composite
def meshes(draw):
    nodes, per_node, here = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
    )
    experts = nodes * per_node * here
    top_k = draw(st.integers(1, min(experts, 6)))
    return small(experts, top_k), nodes, per_node


def simulated(num_experts, top_k, nodes, per_node, copies, limit, tokens=20_000):
    """Copies of a token of device 0, hop by hop, by routing tokens for real."""
    rng = random.Random(0)
    devices, here = nodes * per_node, num_experts // (nodes * per_node)
    sent = [[0.0] * devices for _ in range(devices)]
    for _ in range(tokens):
        pool = range(num_experts)
        if limit is not None:
            wide = here * per_node
            chosen = rng.sample(range(nodes), limit)
            pool = [e for n in chosen for e in range(n * wide, (n + 1) * wide)]
        picked = [e // here for e in rng.sample(pool, top_k)]
        if copies == "expert":
            for device in picked:
                sent[0][device] += 1
        elif copies == "device":
            for device in set(picked):
                sent[0][device] += 1
        else:
            for node in {device // per_node for device in picked}:
                relay = node * per_node
                if node:
                    sent[0][relay] += 1
                for device in {d for d in picked if d // per_node == node}:
                    if device != relay or node == 0:
                        sent[relay][device] += 1
    return [[v / tokens for v in row] for row in sent]


@pytest.mark.parametrize("copies", ["expert", "device", "node"])
@pytest.mark.parametrize("limit", [None, 2])
def test_one_tokens_copies_are_what_routing_makes(copies, limit):
    architecture = small(24, 4)
    found = all_to_all(architecture, tokens_per_device=1, nodes=3, devices_per_node=2,
                       copies=copies, node_limit=limit)  # fmt: skip
    sent = simulated(24, 4, 3, 2, copies, limit)
    each = found.dispatch_bytes_per_copy
    # Device 0 sends and relays; by symmetry all do, so that totals are six times one token's.
    total = sum(map(sum, sent))
    assert sum(map(sum, found.dispatch_bytes)) / each == pytest.approx(6 * total, rel=0.02)
    assert found.copies_per_token == pytest.approx(total, rel=0.02)
    if copies != "node":
        row = [value / each for value in found.dispatch_bytes[0]]
        assert row == pytest.approx(sent[0], abs=0.02)
    else:
        crossing = sum(sent[0][device] for device in (2, 3, 4, 5))
        own = sum(found.dispatch_bytes[0][d] for d in (2, 3, 4, 5)) / each
        assert own == pytest.approx(crossing, rel=0.03)


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
    found = all_to_all(
        architecture,
        tokens_per_device=tokens,
        nodes=nodes,
        devices_per_node=per_node,
        copies=copies,
        node_limit=limit,
    )
    out, back = found.dispatch_bytes_per_copy, found.combine_bytes_per_copy
    for a in range(devices):
        for b in range(devices):
            copied = found.dispatch_bytes[a][b] / out
            assert found.combine_bytes[b][a] / back == pytest.approx(copied)
    whole = sum(map(sum, found.total_bytes))
    copied = devices * tokens * found.copies_per_token
    assert whole == pytest.approx(copied * (out + back))
    stays = sum(found.total_bytes[d][d] for d in range(devices))
    assert found.within_node_bytes + found.between_nodes_bytes + stays == pytest.approx(whole)
    if copies == "expert":
        assert found.copies_per_token == pytest.approx(architecture.moe.top_k)


@few
@given(meshes())
def test_sending_once_never_sends_more(mesh):
    architecture, nodes, per_node = mesh

    def sent(copies):
        return all_to_all(
            architecture, tokens_per_device=1, nodes=nodes, devices_per_node=per_node, copies=copies
        )

    expert, device, node = map(sent, ("expert", "device", "node"))
    assert device.copies_per_token <= expert.copies_per_token + 1e-9
    assert node.between_nodes_bytes <= device.between_nodes_bytes + 1e-9
    assert device.between_nodes_bytes <= expert.between_nodes_bytes + 1e-9


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


def test_a_skewed_router_fills_one_device():
    share_E = [0.9, 0.9, *[0.2 / 14] * 14]
    found = all_to_all(small(16, 2), tokens_per_device=8, nodes=1, devices_per_node=8,
                       copies="expert", share_E=share_E)  # fmt: skip
    received = [sum(row[d] for row in found.dispatch_bytes) for d in range(8)]
    assert received[0] > 50 * received[1]


def test_limits_and_fewer_copies_save_network_bytes():
    """V3 on 8 nodes of 8: experts, devices, nodes, and nodes limited to 4."""
    common = dict(tokens_per_device=128, nodes=8, devices_per_node=8)
    kinds = [("expert", None), ("device", None), ("node", None), ("node", 4)]
    sent = [all_to_all(V3, copies=c, node_limit=n, **common).between_nodes_bytes for c, n in kinds]
    assert sent == sorted(sent, reverse=True)
    assert sent[2] / sent[0] == pytest.approx(4.633 / 7, abs=5e-4)
    fp8 = all_to_all(V3, **common)
    bf16 = all_to_all(V3, dispatch_bits=16, **common)
    assert fp8.between_nodes_bytes / bf16.between_nodes_bytes == pytest.approx(24.25 / 32)


def test_an_exchange_takes_as_long_as_its_busiest_port():
    found = all_to_all(small(4, 2), tokens_per_device=10, nodes=2, devices_per_node=2,
                       copies="expert", dispatch_bits=8, combine_bits=16)  # fmt: skip
    # 10 tokens, 2 copies over 4 devices: 5 copies to each, of 8 bytes out and 16 back.
    assert found.dispatch_bytes[0] == pytest.approx([40] * 4)
    assert found.seconds(1, 1) == pytest.approx(80 + 160)
    assert found.seconds(1, 1e9) == pytest.approx(40 + 80)
    assert found.within_node_bytes == pytest.approx(4 * (40 + 80))
    assert found.between_nodes_bytes == pytest.approx(8 * (40 + 80))


def test_hits_are_hypergeometric():
    assert hit_probability(10, 3, 0) == 0
    assert hit_probability(10, 3, 10) == hit_probability(10, 3, 8) == 1
    assert hit_probability(10, 1, 4) == pytest.approx(0.4)
    rng = random.Random(2)
    seen = sum(any(e < 4 for e in rng.sample(range(12), 3)) for _ in range(20_000)) / 20_000
    assert hit_probability(12, 3, 4) == pytest.approx(seen, abs=0.01)


# --- links ----------------------------------------------------------------------------------------


def test_a_cache_saves_its_hits():
    whole = offload_bound(V3, 64e9, plan="fp8")
    half = offload_bound(V3, 64e9, plan="fp8", hit_rate=0.5)
    assert half.tokens_per_s == pytest.approx(2 * whole.tokens_per_s)
    assert whole.bytes.total == 58 * 8 * 3 * 7168 * 2048
    assert offload_bound(V3, 64e9, hit_rate=1.0).tokens_per_s == float("inf")


DENSE = Architecture("dense", 8, 4, (Layer(Attention(1, 1, 8), FFN(8)),))
MESH = dict(tokens_per_device=1, nodes=2, devices_per_node=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: all_to_all(DENSE, **MESH), "dense has no experts"),
        (lambda: all_to_all(small(6, 1), **MESH), "nodes x devices_per_node must divide the 6"),
        (lambda: all_to_all(small(8, 1), **{**MESH, "nodes": 0}), "nodes must be a whole number"),
        (lambda: all_to_all(small(8, 1), copies="rank", **MESH), "copies must be one of expert"),
        (lambda: all_to_all(small(8, 1), dispatch_bits=0, **MESH), "dispatch_bits must be a finit"),
        (lambda: all_to_all(small(8, 1), node_limit=3, **MESH), "limit must be at most places = 2"),
        (lambda: all_to_all(small(8, 5), node_limit=1, **MESH), "limit must leave room for top_k"),
        (lambda: all_to_all(small(8, 1), share_E=[1.0], **MESH), "share_E must have one share for"),
        (lambda: all_to_all(small(8, 1), share_E=[0.1] * 8, node_limit=1, **MESH),
         "node_limit must be None with share_E"),
        (lambda: all_to_all(small(8, 1), **MESH).seconds(0, 1), "link_bytes_per_s must be"),
        (lambda: destinations(10, 2, 3), "places must divide num_experts = 10, got 3"),
        (lambda: hit_probability(4, 5, 1), "top_k and here must be at most num_experts = 4, got 5"),
        (lambda: offload_bound(V3, 0), "link_bytes_per_s must be a finite number above 0, got 0"),
        (lambda: offload_bound(V3, 1e9, hit_rate=1.1), "hit_rate must be .* at most 1, got 1.1"),
        (lambda: offload_bound(DENSE, 1e9), "dense has no experts"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_result_shows_its_terms():
    found = all_to_all(V3, tokens_per_device=4, nodes=8, devices_per_node=8)
    stays, within, between = (term.value for term in found.terms)
    assert (within, between) == (found.within_node_bytes, found.between_nodes_bytes)
    assert stays + within + between == pytest.approx(sum(map(sum, found.total_bytes)))
    places = destinations(256, 8, 8, 4)
    assert [t.value for t in places.terms] == [places.expected, places.remote, 3.5]
