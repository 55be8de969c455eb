"""Bytes between devices when experts lie on different ones, and behind the link of an offload."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from moeviz.checks import check_choice, check_number, check_whole
from moeviz.costs.cost.quantisation import QuantPlan, plan_of
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.feedforward import MoE
from moeviz.costs.shape.terms import Term, Total

Copies = Literal["expert", "device", "node"]
Matrix = tuple[tuple[float, ...], ...]
# DeepSeek-V3 (2412.19437), section 3.2: FP8 with a float32 scale for 128 values out, bf16 back.
FP8_DISPATCH_BITS = 8 + 32 / 128
BF16_COMBINE_BITS = 16


def hit_probability(num_experts: int, top_k: int, here: int) -> float:
    """That a token which picks top_k of num_experts evenly, none twice, picks one of `here`:
    1 - C(E - here, K) / C(E, K)."""
    return 1 - math.comb(num_experts - here, top_k) / math.comb(num_experts, top_k)


def destinations(num_experts: int, top_k: int, places: int, limit: int | None = None) -> float:
    """Distinct places (nodes, devices), of `places` that share the experts evenly, to which a token
    is sent on average under even routing: N [1 - C(E-E/N, K) / C(E, K)].

    limit: a token chooses so many places, evenly, and its experts inside them (group-limited
    routing, DeepSeek-V2 and V3). ValueError where K does not fit.
    """
    chosen = places if limit is None else check_whole("limit", limit)
    if chosen > places:
        raise ValueError(f"limit must be at most places = {places}, got {limit}.")
    per_place = num_experts // places
    if top_k > chosen * per_place:
        raise ValueError(
            f"limit must leave room for top_k = {top_k} experts, got {chosen} places of "
            f"{per_place}."
        )
    return chosen * hit_probability(chosen * per_place, top_k, per_place)


@dataclass(frozen=True)
class Traffic:
    """Expected bytes of one MoE layer's exchange, bytes[source][destination]; the diagonal stays on
    the device. devices are numbered node by node, devices_per_node in each."""

    dispatch_bytes: Matrix
    combine_bytes: Matrix
    devices_per_node: int
    copies_per_token: float
    dispatch_bytes_per_copy: float
    combine_bytes_per_copy: float

    @property
    def terms(self) -> tuple[Term, ...]:
        """Where the bytes of dispatch and combine go: on the device, in the node, between nodes."""
        each = f"{self.dispatch_bytes_per_copy:,.0f} + {self.combine_bytes_per_copy:,.0f} bytes"
        ways = {
            "stays": "to the own device",
            "within nodes": "to another device of the node",
            "between nodes": "to another node",
        }
        return tuple(
            Term(label, value, f"copies {where} × ({each})")
            for (label, where), value in zip(ways.items(), self._split(), strict=True)
        )

    @property
    def devices(self) -> int:
        return len(self.dispatch_bytes)

    @property
    def total_bytes(self) -> Matrix:
        """Dispatch and combine together."""
        pairs = zip(self.dispatch_bytes, self.combine_bytes, strict=True)
        return tuple(tuple(map(sum, zip(a, b, strict=True))) for a, b in pairs)

    @property
    def within_node_bytes(self) -> float:
        """Between devices of a node, both directions of the exchange."""
        return self._split()[1]

    @property
    def between_nodes_bytes(self) -> float:
        return self._split()[2]

    def seconds(self, link_bytes_per_s: float, network_bytes_per_s: float) -> float:
        """Dispatch and combine one after the other, each as long as its busiest port: a device's
        link inside the node and its share of the network outside, one direction each."""
        check_number("link_bytes_per_s", link_bytes_per_s, open_low=True)
        check_number("network_bytes_per_s", network_bytes_per_s, open_low=True)
        return sum(
            max(
                max(near / link_bytes_per_s, far / network_bytes_per_s)
                for lines in (matrix, zip(*matrix, strict=True))
                for near, far in map(self._near_and_far, range(self.devices), lines)
            )
            for matrix in (self.dispatch_bytes, self.combine_bytes)
        )

    def _split(self) -> tuple[float, ...]:
        """Bytes that stay on their device, that go to others of its node, and to other nodes."""
        rows = enumerate(self.total_bytes)
        each = ((row[device], *self._near_and_far(device, row)) for device, row in rows)
        return tuple(map(sum, zip(*each, strict=True)))

    def _near_and_far(self, device: int, sent: Sequence[float]) -> tuple[float, float]:
        """Bytes between a device and the others of its node, and those of other nodes."""
        first = device // self.devices_per_node * self.devices_per_node
        inside = sum(sent[first : first + self.devices_per_node])
        return inside - sent[device], sum(sent) - inside


def all_to_all(
    architecture: Architecture,
    *,
    tokens_per_device: int,
    nodes: int,
    devices_per_node: int,
    copies: Copies = "device",
    node_limit: int | None = None,
    dispatch_bits: float = FP8_DISPATCH_BITS,
    combine_bits: float = BF16_COMBINE_BITS,
    share_E: Sequence[float] | None = None,
    share_R: Sequence[float] | None = None,
) -> Traffic:
    """What one MoE layer sends when its experts are spread evenly over nodes x devices_per_node.

    copies: how often a token's vector travels: once for each chosen "expert", once for each
    "device" that has some, or once for each "node", to the device there of the sender's own number,
    which passes it on inside (DeepEP). node_limit: nodes that a token may visit. share_E: share of
    tokens that visit each expert, from a measured router; places are then taken as independent,
    unless share_R says which share visits each device, for a copy for each "device". The combine
    goes back the same ways. ValueError on what cannot be spread.
    """
    moe = architecture.moe
    check_whole("tokens_per_device", tokens_per_device)
    check_whole("nodes", nodes)
    check_whole("devices_per_node", devices_per_node)
    check_choice("copies", copies, get_args(Copies))
    check_number("dispatch_bits", dispatch_bits, open_low=True)
    check_number("combine_bits", combine_bits, open_low=True)
    devices = nodes * devices_per_node
    if moe.num_experts % devices:
        raise ValueError(
            f"nodes x devices_per_node must divide the {moe.num_experts} experts, got {devices}."
        )
    if node_limit is not None and share_E is not None:
        raise ValueError("node_limit must be None with share_E: a measured router had its own.")
    on_device, on_node = _visits(moe, nodes, devices_per_node, copies, node_limit, share_E)
    if share_R is not None:
        if copies != "device" or node_limit is not None or len(share_R) != devices:
            raise ValueError(
                f'share_R must have one share for each of {devices} devices, with copies="device" '
                f"and without a node_limit, got {len(share_R)} with {copies!r}."
            )
        on_device = [check_number("share_R", v, 0, 1) for v in share_R]
    pattern = _pattern(nodes, devices_per_node, copies, on_device, on_node)
    out, back = (architecture.d_model * bits / 8 for bits in (dispatch_bits, combine_bits))
    dispatch, combine = (
        tuple(tuple(tokens_per_device * each * v for v in row) for row in rows)
        for each, rows in ((out, pattern), (back, zip(*pattern, strict=True)))
    )
    each_token = sum(map(sum, pattern)) / devices
    return Traffic(dispatch, combine, devices_per_node, each_token, out, back)


def _visits(
    moe: MoE, nodes: int, per_node: int, copies: Copies, limit: int | None,
    share_E: Sequence[float] | None,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Expected copies of one token to each device, and to each node."""
    devices = nodes * per_node
    held = moe.num_experts // devices
    if share_E is not None:
        if len(share_E) != moe.num_experts:
            raise ValueError(
                f"share_E must have one share for each of {moe.num_experts} experts, got "
                f"{len(share_E)}."
            )
        shares = [check_number("share_E", v, 0, 1) for v in share_E]

        def met(first: int, count: int) -> float:
            chosen = shares[first : first + count]
            return sum(chosen) if copies == "expert" else 1 - math.prod(1 - v for v in chosen)

        wide = held * per_node
        on_device = [met(i * held, held) for i in range(devices)]
        return on_device, [met(i * wide, wide) for i in range(nodes)]
    by_node = destinations(moe.num_experts, moe.top_k, nodes, limit) / nodes
    if copies == "expert":
        by_device = moe.top_k / devices
    else:
        chosen = nodes if limit is None else limit
        by_device = chosen / nodes * hit_probability(chosen * held * per_node, moe.top_k, held)
    return [by_device] * devices, [by_node] * nodes


def _pattern(
    nodes: int, per_node: int, copies: Copies, on_device: list[float], on_node: list[float]
) -> list[list[float]]:
    """Copies per token of each source, to each destination."""
    devices = range(nodes * per_node)
    if copies != "node":
        return [on_device for _ in devices]

    def sent(source: int, destination: int) -> float:
        if source // per_node != destination // per_node:
            relays = source % per_node == destination % per_node
            return on_node[destination // per_node] if relays else 0.0
        # A relay passes on what came from every node; its own experts cost no second trip.
        return on_device[destination] * (1 if source == destination else nodes)

    return [[sent(source, destination) for destination in devices] for source in devices]


@dataclass(frozen=True)
class OffloadBound:
    """bytes: what crosses the link for one token; tokens_per_s: at most."""

    bytes: Total
    link_bytes_per_s: float

    @property
    def tokens_per_s(self) -> float:
        return self.link_bytes_per_s / self.bytes.total if self.bytes.total else math.inf


def offload_bound(
    architecture: Architecture,
    link_bytes_per_s: float,
    *,
    plan: QuantPlan | str = "bf16",
    hit_rate: float = 0.0,
) -> OffloadBound:
    """Decoding one sequence while experts lie behind a link: each token's experts must come over
    it, save the share that is cached already. For experts computed on the host's processor the
    link is the host's memory, and there is no hit rate (KTransformers, Fiddler 2402.07033)."""
    check_number("link_bytes_per_s", link_bytes_per_s, open_low=True)
    check_number("hit_rate", hit_rate, 0, 1)
    moe, plan = architecture.moe, plan_of(plan)
    expert = moe.expert_parameters(architecture.d_model)
    bits = plan.format("routed_experts").bits
    layers = len(architecture.moe_layers)
    value = layers * moe.top_k * expert * bits / 8 * (1 - hit_rate)
    words = (
        f"{layers} MoE layers × {moe.top_k} experts × {expert:,} parameters × {bits:.4g} bits / 8 "
        f"× (1 - {hit_rate:g})"
    )
    terms = (Term("experts that must come", value, words, "routed_experts"),)
    return OffloadBound(Total("bytes", terms), link_bytes_per_s)
