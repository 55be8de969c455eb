"""The all-to-all of expert parallelism: who sends how many bytes to whom in one MoE layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moeviz.costs import Traffic, all_to_all
from moeviz.costs.cost.traffic import BF16_COMBINE_BITS, FP8_DISPATCH_BITS, Copies
from moeviz.pictures.costs.model_parts import sparse_sizes_of
from moeviz.pictures.plot import Key, box, heading, heat_bar, legend, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, si

WIDTH, HEIGHT = 900.0, 540.0
LEFT, TOP, SIDE = 62.0, 84.0, 392.0
WITHIN = Key("inside nodes", "#56b4e9", mark="box")
BETWEEN = Key("between nodes", "#d55e00", mark="box", hatched=True)
# Bytes a second of one device, one direction: usable NVLink and InfiniBand of an H800 as DeepEP's
# README gives them, a figure of its makers.
LINK, NETWORK = 160e9, 50e9
COLUMNS = (
    "device", "node", "sends inside its node", "sends to other nodes", "receives inside its node",
    "receives from other nodes",
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A way to send, with its sums: over 64 devices they are worth computing once."""

    label: str
    traffic: Traffic
    near: float
    far: float
    seconds: float


@lru_cache(maxsize=64)
def visits(num_experts: int, top_k: int, skew: float, seed: int) -> tuple[float, ...] | None:
    """Share of tokens that visit each expert, in sum K and none above 1: the r-th most popular in
    proportion to 1 / r^skew, popularity dealt out by the seed. None for even routing."""
    if not skew:
        return None
    weight_E = np.arange(1, num_experts + 1) ** -float(skew)
    share_E = np.zeros(num_experts)
    # What an expert that every token visits cannot take goes to the others.
    for _ in range(num_experts):
        open_E = share_E < 1
        missing = top_k - share_E.sum()
        if missing < 1e-12:
            break
        share_E[open_E] += missing * weight_E[open_E] / weight_E[open_E].sum()
        share_E = share_E.clip(0, 1)
    order_E = np.random.default_rng(seed).permutation(num_experts)
    return tuple(float(share_E[i]) for i in order_E)


def exchange(
    *, model_name: str, nodes: int, devices_per_node: int, tokens: int, copies: Copies,
    node_limit: int, fp8: bool, skew: float = 0.0, seed: int = 0,
) -> Picture:  # fmt: skip
    """The matrix of bytes, dispatch and combine together, and what it adds up to.

    node_limit: nodes that a token may visit; 0: no limit. It is left out under skewed routing,
    where only visits of single experts are known.
    """
    architecture = sparse_sizes_of(model_name)
    moe = architecture.moe
    limit = node_limit if node_limit and node_limit < nodes and not skew else None
    bits = FP8_DISPATCH_BITS if fp8 else BF16_COMBINE_BITS

    def way(label: str, how: Copies, limited: int | None, dispatch_bits: float) -> Way:
        traffic = all_to_all(
            architecture, tokens_per_device=tokens, nodes=nodes,
            devices_per_node=devices_per_node, copies=how, node_limit=limited,
            dispatch_bits=dispatch_bits,
            share_E=visits(moe.num_experts, moe.top_k, skew, seed),
        )  # fmt: skip
        near, far = traffic.within_node_bytes, traffic.between_nodes_bytes
        return Way(label, traffic, near, far, traffic.seconds(LINK, NETWORK))

    plainest = way("a BF16 copy an expert, no limit", "expert", None, BF16_COMBINE_BITS)
    hows: dict[Copies, str] = {"expert": "an expert", "device": "a device", "node": "a node"}
    ways = {how: way(f"one copy {name}", how, limit, bits) for how, name in hows.items()}
    exchanged = ways[copies]
    summary = _summary(model_name, exchanged, plainest, len(architecture.moe_layers))
    svg = Svg(WIDTH, HEIGHT, "All-to-all traffic", summary)
    precision = "FP8 + scales" if fp8 else "BF16"
    reach = f"at most {limit} nodes a token" if limit else "any node"
    routing = f"skew {skew:g}" if skew else "even routing"
    machine = f"{nodes} nodes × {devices_per_node} devices, {tokens:,} tokens on each"
    note = f"dispatch in {precision}, combine in BF16 · {reach} · {routing}"
    heading(svg, f"{model_name}, one MoE layer: {machine}", note)
    _matrix(svg, exchanged.traffic, nodes)
    _totals(svg, (plainest, *ways.values()), exchanged)
    return svg.picture(COLUMNS, _table(exchanged.traffic))


def _summary(name: str, found: Way, plainest: Way, layers: int) -> str:
    saved = 1 - found.far / plainest.far if plainest.far else 0.0
    sentence = (
        f"{name}: one layer moves {si(found.near, 'B')} inside nodes and {si(found.far, 'B')} "
        f"between them, {si((found.near + found.far) * layers, 'B')} in its {layers} MoE layers; "
        f"{found.traffic.copies_per_token:.2f} copies a token."
    )
    if saved:
        more = "less" if saved > 0 else "more"
        sentence += f" Between nodes {abs(saved):.0%} {more} than a BF16 copy for every expert."
    return f"{sentence} On H800s at least {_time(found)} a layer."


def _time(way: Way) -> str:
    micro = way.seconds * 1e6
    return f"{micro:.3g} µs" if micro < 1000 else f"{micro / 1000:.3g} ms"


def _matrix(svg: Svg, found: Traffic, nodes: int) -> None:
    bytes_RC = np.array(found.total_bytes)
    np.fill_diagonal(bytes_RC, np.nan)  # grey: what stays on the device crosses no link
    devices, per_node = found.devices, found.devices_per_node
    most = float(np.nanmax(bytes_RC)) if devices > 1 else 0.0
    svg.heat(LEFT, TOP, SIDE, SIDE, bytes_RC / (most or 1.0))
    cell = SIDE / devices
    for node in range(nodes):
        at, middle = node * per_node * cell, (node + 0.5) * per_node * cell
        if node:
            svg.line(LEFT + at, TOP, LEFT + at, TOP + SIDE, stroke="#ffffff", width=1.5)
            svg.line(LEFT, TOP + at, LEFT + SIDE, TOP + at, stroke="#ffffff", width=1.5)
        svg.text(LEFT + middle, TOP - 6, str(node), anchor="middle", fill=MUTED)
        svg.text(LEFT - 8, TOP + middle + 4, str(node), anchor="end", fill=MUTED)
    svg.text(LEFT + SIDE / 2, TOP - 22, "to the devices of node", anchor="middle")
    svg.text(LEFT - 34, TOP + SIDE / 2, "from the devices of node", anchor="middle", rotate=-90)
    bottom = TOP + SIDE + 14
    heat_bar(svg, LEFT + 60, bottom, 200, 12, "0 B", f"{si(most, 'B')} a pair")
    svg.text(LEFT, bottom + 30, "grey: stays on the device", fill=MUTED)


def _totals(svg: Svg, ways: tuple[Way, ...], found: Way) -> None:
    """The ways to send as bars, inside and between nodes; the chosen one framed."""
    left, right = 500.0, 890.0
    most = max(max(way.near, way.far) for way in ways)
    svg.text(left, 62, "Bytes of the layer, all devices", bold=True)
    svg.text(right, 62, "time at least", bold=True, anchor="end")
    legend(svg, left, 85, (WITHIN, BETWEEN))
    for i, way in enumerate(ways):
        top, is_chosen = 100 + i * 84, way is found
        if is_chosen:
            svg.rect(left - 10, top - 2, right - left + 19, 80, "none", stroke=INK, radius=6)
        head = f"{way.label}: {way.traffic.copies_per_token:.2f} copies a token"
        svg.text(left, top + 14, head, bold=is_chosen)
        svg.text(right, top + 14, _time(way), bold=is_chosen, anchor="end")
        for j, (size, key) in enumerate(((way.near, WITHIN), (way.far, BETWEEN))):
            y = top + 23 + j * 25
            width = (right - left - 86) * size / (most or 1.0)
            box(svg, left, y, width, 19, key.colour, hatched=key.hatched)
            svg.text(left + width + 6, y + 14, si(size, "B"))
    notes = (
        "One copy a node: a token crosses once, to the device there",
        "with its sender's number, which passes it on (DeepEP).",
        f"Time: the busiest link, {LINK / 1e9:g} GB/s inside and {NETWORK / 1e9:g} GB/s",
        "between nodes (H800, confidence official: DeepEP).",
    )
    paragraph(svg, left, 456, notes, 20, fill=MUTED)


def _table(traffic: Traffic) -> Iterator[tuple[object, ...]]:
    bytes_RC = np.array(traffic.total_bytes)
    np.fill_diagonal(bytes_RC, 0.0)
    node_R = np.arange(traffic.devices) // traffic.devices_per_node
    near_RC = np.where(node_R[:, None] == node_R, bytes_RC, 0.0)
    ways = [m.sum(axis) for axis in (1, 0) for m in (near_RC, bytes_RC - near_RC)]
    for d, sums in enumerate(zip(*ways, strict=True)):
        yield d, int(node_R[d]), *(si(float(v), "B") for v in sums)
