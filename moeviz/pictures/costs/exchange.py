"""The all-to-all of expert parallelism: who sends how many bytes to whom in one MoE layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moeviz.costs import Traffic, all_to_all
from moeviz.costs.cost.traffic import BF16_COMBINE_BITS, FP8_DISPATCH_BITS, Copies
from moeviz.pictures.costs.model_parts import sparse_sizes_of
from moeviz.pictures.costs.one_token import (
    BETWEEN,
    WAY_HEIGHT,
    WAY_TOP,
    WITHIN,
    WORDS,
    chosen_experts,
    device_name,
    draw_way,
    way_of,
)
from moeviz.pictures.plot import box, heading, heat_bar, legend, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, si
from moeviz.words import percent

# What all tokens add up to, and one token's way; on demand, beside it, who sends to whom.
WIDTH, SUMS = 560.0, 380.0
LEFT, TOP, SIDE = 56.0, 70.0, 228.0
# Bytes a second of one device, one direction: usable NVLink and InfiniBand of an H800 as DeepEP's
# README gives them, a figure of its makers.
LINK, NETWORK = 160e9, 50e9
FREE = 1e30  # of a link that nobody waits for
# How a token travels, in two lines for each way.
WAY_OF: dict[Copies, tuple[str, str]] = {
    "expert": (
        "Each expert: a token is sent once for every expert that it",
        "chose, and not at all to those on its own device.",
    ),
    "device": (
        "Each device: a token is sent once to every device with",
        "experts that it chose.",
    ),
    "node": (
        "Each node: a token crosses once, to the device there with",
        "its sender's number, which passes it on.",
    ),
}
COLUMNS = (
    "device", "node", "sends inside its node", "sends to other nodes", "receives inside its node",
    "receives from other nodes",
)  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A way to send, with its sums: over 64 devices they are worth computing once. near, far:
    bytes inside nodes and between them; seconds: the least, in all, inside, between."""

    label: Copies
    traffic: Traffic
    near: float
    far: float
    seconds: float
    near_seconds: float
    far_seconds: float

    def copies(self, size: float, tokens: int) -> float:
        """Of one token, the copies that such bytes are, each with its result."""
        each = self.traffic.dispatch_bytes_per_copy + self.traffic.combine_bytes_per_copy
        return size / each / tokens / self.traffic.devices


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
    node_limit: int, fp8: bool, skew: float = 0.0, seed: int = 0, step: int = 0, source: int = 1,
    table: bool = False,
) -> Picture:  # fmt: skip
    """Which links all wait for, and the way of one token of device `source` at a step of
    one_token.STEPS. table: beside it the bytes of all tokens, dispatch and combine together, and
    who sends them to whom.

    node_limit: nodes that a token may visit; 0: no limit. It is left out under skewed routing,
    where only visits of single experts are known. seed: of the one token, and of which experts are
    popular.
    """
    architecture = sparse_sizes_of(model_name)
    moe = architecture.moe
    limit = node_limit if node_limit and node_limit < nodes and not skew else None
    bits = FP8_DISPATCH_BITS if fp8 else BF16_COMBINE_BITS
    share_E = visits(moe.num_experts, moe.top_k, skew, seed)

    def sent(how: Copies, limited: int | None, dispatch_bits: float) -> Sent:
        traffic = all_to_all(
            architecture, tokens_per_device=tokens, nodes=nodes,
            devices_per_node=devices_per_node, copies=how, node_limit=limited,
            dispatch_bits=dispatch_bits, share_E=share_E,
        )  # fmt: skip
        near, far = traffic.within_node_bytes, traffic.between_nodes_bytes
        return Sent(
            how, traffic, near, far, traffic.seconds(LINK, NETWORK), traffic.seconds(LINK, FREE),
            traffic.seconds(FREE, NETWORK),
        )  # fmt: skip

    plainest, chosen = sent("expert", None, BF16_COMBINE_BITS), sent(copies, limit, bits)
    bytes_RC = _sent_between(chosen.traffic)
    summary = _summary(model_name, chosen, plainest, bytes_RC, step)
    svg = Svg(WIDTH, WAY_TOP + WAY_HEIGHT + 50, "All-to-all traffic", summary)
    precision = "FP8 + scales" if fp8 else "BF16"
    reach = f"at most {limit} nodes a token" if limit else "any node"
    routing = f"skew {skew:g}" if skew else "even routing"
    machine = f"{nodes} {'node' if nodes == 1 else 'nodes'} × {devices_per_node} devices"
    heading(svg, "Which link do all wait for when tokens go to their experts?")
    svg.text(0, 38, _outcome(chosen), bold=True)
    where = f"{model_name}, one MoE layer · {machine}, {tokens:,} tokens on each"
    note = f"dispatch in {precision}, combine in BF16 · {reach} · {routing}"
    paragraph(svg, 0, 57, (where, note), fill=MUTED)
    _times(svg, chosen, plainest, tokens, nodes)
    experts = chosen_experts(moe, nodes, limit, share_E, seed)
    way = way_of(experts, moe.num_experts, nodes, devices_per_node, copies, source)
    received_C = np.nansum(bytes_RC, axis=0)
    uneven = received_C.max() > 1.01 * received_C.mean()
    draw_way(svg, way, chosen.traffic, step, received_C if uneven else None)
    speeds = f"H800, official (DeepEP): {LINK / 1e9:g} GB/s inside, {NETWORK / 1e9:g} GB/s between"
    notes = (*WAY_OF[copies], f"{speeds} nodes, for each device.")
    paragraph(svg, 0, WAY_TOP + WAY_HEIGHT + 4, notes, fill=MUTED)
    if table:
        _who_sends(svg, bytes_RC, nodes, source)
    return svg.picture(COLUMNS, _table(chosen.traffic))


def _outcome(chosen: Sent) -> str:
    """Where the longest wait is."""
    return f"For the links {_link(chosen)}: at least {_time(chosen.seconds)}."


def _link(chosen: Sent) -> str:
    return "between nodes" if chosen.far_seconds > chosen.near_seconds else "inside a node"


def _who_sends(svg: Svg, bytes_RC: np.ndarray, nodes: int, source: int) -> None:
    is_even = _is_even(bytes_RC)
    side = svg.beside(SUMS, TOP + (16 if is_even else SIDE + 28))
    side.text(0, 16, "Who sends how much to whom, all tokens", size=14, bold=True)
    if is_even:
        side.text(0, 44, _each_to_each(bytes_RC))
    else:
        _matrix(side, bytes_RC, nodes, source)


def _sent_between(traffic: Traffic) -> np.ndarray:
    """Bytes from device (row) to device (column), NaN for what stays on one."""
    bytes_RC = np.array(traffic.total_bytes)
    np.fill_diagonal(bytes_RC, np.nan)
    return bytes_RC


def _is_even(bytes_RC: np.ndarray) -> bool:
    """Whether every device sends every other as much: then a sentence says it all."""
    return bool(np.nanmax(bytes_RC) - np.nanmin(bytes_RC) < 0.01 * np.nanmax(bytes_RC))


def _each_to_each(bytes_RC: np.ndarray) -> str:
    return f"Every device sends every other device {si(float(np.nanmax(bytes_RC)), 'B')}."


def _summary(name: str, chosen: Sent, plainest: Sent, bytes_RC: np.ndarray, step: int) -> str:
    sentence = (
        f"{name}: all wait for the links {_link(chosen)}, at least {_time(chosen.seconds)} on "
        f"H800s. One layer moves {si(chosen.near, 'B')} inside nodes and {si(chosen.far, 'B')} "
        "between them."
    )
    saved = 1 - chosen.far / plainest.far if plainest.far else 0.0
    if saved:
        more = "less" if saved > 0 else "more"
        sentence += f" Between nodes {percent(abs(saved))} {more} than a BF16 copy for each expert."
    received_C = np.nansum(bytes_RC, axis=0)
    most = received_C.max() / received_C.mean()
    if _is_even(bytes_RC):
        sentence += f" {_each_to_each(bytes_RC)}"
    elif most > 1.01:
        name = device_name(int(received_C.argmax()), chosen.traffic.devices_per_node).capitalize()
        sentence += f" {name} gets most, {most:.1f} times the mean: all wait for it."
    return f"{sentence} One token: {WORDS[step][0].lower()}{WORDS[step][1:]}"


def _time(seconds: float) -> str:
    micro = seconds * 1e6
    return f"{micro:.3g} µs" if micro < 1000 else f"{micro / 1000:.3g} ms"


def _times(svg: Svg, chosen: Sent, plainest: Sent, tokens: int, nodes: int) -> None:
    """How long the busiest link of each kind needs, and what goes over all of them; once the way is
    another, the line of one BF16 copy for each expert."""
    rows = [
        (BETWEEN, chosen.far_seconds, plainest.far_seconds, chosen.far),
        (WITHIN, chosen.near_seconds, plainest.near_seconds, chosen.near),
    ][nodes == 1 :]
    most = max(max(own, base) for _, own, base, _ in rows) or 1.0
    for i, (key, own, base, size) in enumerate(rows):
        y = 108.0 + 28 * i
        copies = f"{chosen.copies(size, tokens):.2f} copies a token"
        tip = f"{key.name}: {_time(own)}, {si(size, 'B')}, {copies}, each with its result"
        with svg.thing(key.name, tip=tip):
            legend(svg, 0, y, (key,))
            box(svg, 116, y - 14, 140 * own / most, 20, key.colour, hatched=key.hatched)
            words = f"{_time(own)} · {si(size, 'B')} · {copies}"
            svg.text(WIDTH, y, words, anchor="end", bold=own == max(row[1] for row in rows))
            if chosen.traffic != plainest.traffic:
                at = 116 + 140 * base / most
                svg.line(at, y - 18, at, y + 10, stroke=INK, width=2)
    if chosen.traffic != plainest.traffic:
        svg.line(5, 154, 5, 168, stroke=INK, width=2)
        svg.text(16, 166, "one BF16 copy for each expert, any node")


def _matrix(svg: Svg, bytes_RC: np.ndarray, nodes: int, source: int) -> None:
    """A block for each pair of nodes, or, of one node, for each pair of devices; a press makes its
    sender the token's device. The row of that device is framed."""
    devices, most = len(bytes_RC), float(np.nanmax(bytes_RC))
    unit, blocks = ("node", nodes) if nodes > 1 else ("device", devices)
    cell, wide, each = SIDE / devices, SIDE / blocks, devices // blocks
    for row, column in np.ndindex(blocks, blocks):
        x, y = LEFT + column * wide, TOP + row * wide
        block = bytes_RC[row * each : (row + 1) * each, column * each : (column + 1) * each]
        way = WITHIN if nodes == 1 or row == column else BETWEEN
        press = {"source": row * each + source % each}
        tip = _pair_words(block, row, column, unit)
        with svg.thing(f"{row} to {column}", way.name, tip=tip, press=press):
            svg.heat(x, y, wide, wide, block / most)
            for i in range(each if row == column else 0):
                at = i * cell
                svg.rect(x + at, y + at, cell, cell, "#ffffff")
                svg.hatch(x + at, y + at, cell, cell, "#ffffff")
    for i in range(blocks):
        at, middle = i * wide, (i + 0.5) * wide
        if i:
            svg.line(LEFT + at, TOP, LEFT + at, TOP + SIDE, stroke="#ffffff", width=1.5)
            svg.line(LEFT, TOP + at, LEFT + SIDE, TOP + at, stroke="#ffffff", width=1.5)
        svg.text(LEFT + middle, TOP - 6, str(i), anchor="middle", fill=MUTED)
        svg.text(LEFT - 8, TOP + middle + 4, str(i), anchor="end", fill=MUTED)
    svg.rect(LEFT - 2, TOP + source * cell - 1, SIDE + 4, cell + 2, "none", stroke=INK,
             stroke_width=2)  # fmt: skip
    whom = "device" if nodes == 1 else "the devices of node"
    svg.text(LEFT + SIDE / 2, TOP - 22, f"to {whom}", anchor="middle")
    svg.text(LEFT - 34, TOP + SIDE / 2, f"from {whom}", anchor="middle", rotate=-90)
    right = LEFT + SIDE + 12
    heat_bar(svg, right, TOP, 12, 110, "0 B", si(most, "B"))
    svg.rect(right, TOP + 128, 12, 12, "none", stroke=INK, stroke_width=2)
    paragraph(svg, right + 18, TOP + 138, ("the token's", "device"), 15, fill=MUTED)
    box(svg, right, TOP + 170, 12, 12, "#ffffff", hatched=True, stroke=MUTED)
    paragraph(svg, right + 18, TOP + 180, ("stays on", "its device"), 15, fill=MUTED)


def _pair_words(block: np.ndarray, row: int, column: int, unit: str) -> str:
    """What goes from one node or device to another."""
    if np.isnan(block).all():
        return f"{unit} {row}: what stays there crosses no link"
    ends = f"inside {unit} {row}" if row == column else f"{unit} {row} to {unit} {column}"
    return f"{ends}: {si(float(np.nansum(block)), 'B')}"


def _table(traffic: Traffic) -> Iterator[tuple[object, ...]]:
    bytes_RC = np.array(traffic.total_bytes)
    np.fill_diagonal(bytes_RC, 0.0)
    node_R = np.arange(traffic.devices) // traffic.devices_per_node
    near_RC = np.where(node_R[:, None] == node_R, bytes_RC, 0.0)
    ways = [m.sum(axis) for axis in (1, 0) for m in (near_RC, bytes_RC - near_RC)]
    for d, sums in enumerate(zip(*ways, strict=True)):
        yield d, int(node_R[d]), *(si(float(v), "B") for v in sums)
