"""The way of one token to its experts on other devices and back, leg by leg."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from moeviz.costs import MoE, Traffic
from moeviz.costs.cost.traffic import Copies
from moeviz.pictures.plot import Key, box, paragraph, stages
from moeviz.pictures.svg import INK, MUTED, RULE, Svg, si

STEPS = ("choose", "cross", "spread", "compute", "gather", "return")
WORDS = (
    "The router has chosen: a square for each expert.",
    "Copies cross to other nodes.",
    "Copies go on inside each node.",
    "The experts compute.",
    "Results come together inside each node.",
    "Results cross back, and the token adds them up.",
)
OUT = ("cross", "spread")  # the steps in which copies leave
WAITS = {"spread": "cross", "return": "gather"}  # what came in the step before and is still there
TOKEN, EXPERT = "#0072b2", "#e69f00"
WITHIN = Key("inside nodes", "#56b4e9", mark="box")
BETWEEN = Key("between nodes", "#d55e00", mark="box", hatched=True)
LEFT, TALL = 74.0, 216.0
WAY_TOP, WAY_HEIGHT = 180.0, 398.0  # of a token's way within its picture
STAGES_TOP, TOP = WAY_TOP, WAY_TOP + 62
BUSY = "#cc79a7"


@dataclass(frozen=True)
class Leg:
    """Copies that go from one device to another in one of STEPS."""

    step: str
    source: int
    target: int
    copies: int
    crosses: bool


@dataclass(frozen=True)
class Way:
    """A token on device `source`: how many of its experts each device holds, and how its copies
    travel out; results go back the same ways."""

    source: int
    experts: Counter[int]
    legs: tuple[Leg, ...]

    def copies(self, step: int, *, crossing: bool) -> tuple[int, int]:
        """Copies out and results back that have gone up to a step, between nodes or inside."""
        gone = [leg for leg in self.legs if STEPS.index(leg.step) <= step]
        gone = [leg for leg in gone if leg.crosses == crossing]
        out = sum(leg.copies for leg in gone if leg.step in OUT)
        return out, sum(leg.copies for leg in gone) - out

    def present(self, step: str) -> list[Leg]:
        """Legs whose copies are on their targets: those that come now, and those that came before.
        Copies stay until the experts compute; of results those that the token is to add."""
        return [
            leg
            for leg in self.legs
            if leg.step == step
            or (leg.step == WAITS.get(step) and (leg.step in OUT or leg.target == self.source))
        ]


def chosen_experts(
    moe: MoE, nodes: int, limit: int | None, share_E: Sequence[float] | None, seed: int
) -> list[int]:
    """The experts of one token, drawn by the seed: evenly, within `limit` nodes if there is a
    limit, or as popular as share_E says."""
    random = np.random.default_rng(seed)
    score_E = random.gumbel(size=moe.num_experts)
    if share_E is not None:
        score_E += np.log(share_E)
    elif limit is not None:
        node_E = np.arange(moe.num_experts) * nodes // moe.num_experts
        score_E[~np.isin(node_E, random.permutation(nodes)[:limit])] = -np.inf
    return sorted(int(e) for e in np.argsort(-score_E)[: moe.top_k])


def way_of(
    experts: Sequence[int], num_experts: int, nodes: int, per_node: int, how: Copies, source: int
) -> Way:
    """How the copies of a token of device `source` travel; how: as moeviz.costs.all_to_all has
    it."""
    held = Counter(e * nodes * per_node // num_experts for e in experts)
    out: Counter[tuple[str, int, int]] = Counter()
    for device, count in held.items():
        copies = count if how == "expert" else 1
        node = device // per_node
        if node == source // per_node:
            out["spread", source, device] = copies
        elif how == "node":
            relay = node * per_node + source % per_node
            out["cross", source, relay] = 1
            out["spread", relay, device] = 1
        else:
            out["cross", source, device] = copies
    legs = []
    for (step, start, target), copies in out.items():
        if start != target:
            crosses = step == "cross"
            back = "return" if crosses else "gather"
            legs += [Leg(step, start, target, copies, crosses)]
            legs += [Leg(back, target, start, copies, crosses)]
    return Way(source, held, tuple(legs))


def draw_way(
    svg: Svg, way: Way, traffic: Traffic, step: int, received_C: np.ndarray | None
) -> None:
    """Nodes as columns of devices, and the copies that travel in this step; each has come from
    where its line begins. Those that came before have no line. received_C: bytes that each device
    gets of all tokens, where some get more than others: a bar under it."""
    per_node = traffic.devices_per_node
    nodes = traffic.devices // per_node
    sets = {name: {"step": i} for i, name in enumerate(STEPS)}
    stages(svg, svg.width, STEPS, STEPS[step], sets.__getitem__, top=STAGES_TOP)
    svg.text(0, TOP - 12, f"One token: {WORDS[step]}", bold=True)
    pitch = min((svg.width - LEFT) / nodes, 124.0)
    places = {
        device: (
            LEFT + (device // per_node + 0.5) * pitch,
            TOP + (device % per_node + 0.5) * TALL / per_node + 18,
        )
        for device in range(traffic.devices)
    }
    for node in range(nodes):
        x = LEFT + node * pitch
        svg.rect(x + 3, TOP, pitch - 6, TALL + 22, "none", stroke=RULE, radius=6)
        svg.text(x + pitch / 2, TOP + 15, f"node {node}", anchor="middle", fill=MUTED)
    for row in range(per_node):
        svg.text(LEFT - 8, places[row][1] + 4, f"device {row}", anchor="end", fill=MUTED)
    wide = min(pitch - 16, 84)
    legs = way.present(STEPS[step])
    for leg, at_C in zip(legs, _side_by_side(way.source, legs, places, wide), strict=True):
        x, y = places[leg.source]
        start = x - wide / 2 + 9, y  # where a token lies in its device
        _travel(svg, leg, start, (at_C, places[leg.target][1]), traffic,
                moves=leg.step == STEPS[step])  # fmt: skip
    for device, at in places.items():
        _device(svg, device, at, wide, way, step, per_node)
    if received_C is not None:
        _received(svg, places, wide, received_C, per_node)
    _key(svg, TOP + TALL + 42)
    words = ("Press a device to follow a token of its own.",)
    if received_C is not None:
        words = (f"{words[0]} Bar under a device: what it gets of all tokens.",)
    paragraph(svg, 0, TOP + TALL + 64, (*_sums(way, traffic, step), *words), 18)


def _received(
    svg: Svg, places: dict[int, tuple[float, float]], wide: float, received_C: np.ndarray,
    per_node: int,
) -> None:  # fmt: skip
    """What each device gets, as a share of the most, and the busiest by name."""
    busiest = int(received_C.argmax())
    for device, (x, y) in places.items():
        tip = f"{device_name(device, per_node)} gets {si(float(received_C[device]), 'B')} in all"
        with svg.thing(f"d{device}", tip=tip):
            length = wide * float(received_C[device] / received_C[busiest])
            svg.rect(x - wide / 2, y + 13, length, 5, BUSY, stroke=MUTED)
    x, y = places[busiest]
    if TALL / per_node > 40 and wide > 60:
        times = received_C[busiest] / received_C.mean()
        svg.text(x, y + 31, f"busiest: {times:.1f}×", anchor="middle", bold=True, halo=True)


def _key(svg: Svg, y: float) -> None:
    """What circles and squares are."""
    svg.circle(7, y - 4, 6, TOKEN, stroke=INK)
    svg.text(20, y, "the token and its copies", fill=MUTED)
    box(svg, 180, y - 9, 9, 9, "none", stroke=INK)
    svg.text(196, y, "an expert that it chose", fill=MUTED)
    svg.circle(347, y - 4, 6, EXPERT, stroke=INK)
    svg.text(360, y, "a result", fill=MUTED)


def device_name(device: int, per_node: int) -> str:
    return f"device {device % per_node} of node {device // per_node}"


def _side_by_side(
    source: int, legs: Sequence[Leg], places: dict[int, tuple[float, float]], wide: float
) -> list[list[float]]:
    """The x of each leg's copies: inside their device, and right of the token where it is there."""
    room = Counter({source: 1})
    for leg in legs:
        room[leg.target] += leg.copies
    taken = Counter({source: 1})
    at = []
    for leg in legs:
        first, left = taken[leg.target], places[leg.target][0] - wide / 2 + 9
        apart = min(7, (wide - 18) / max(room[leg.target] - 1, 1))
        at.append([left + apart * i for i in range(first, first + leg.copies)])
        taken[leg.target] += leg.copies
    return at


def _travel(
    svg: Svg, leg: Leg, start: tuple[float, float], end: tuple[Sequence[float], float],
    traffic: Traffic, *, moves: bool,
) -> None:  # fmt: skip
    """A leg's copies at their target, and, while it moves, its line to the midst of them. end: the
    x of each copy, and their y."""
    (x, y), (at_C, to_y) = start, end
    to_x = sum(at_C) / len(at_C)
    each = traffic.dispatch_bytes_per_copy if leg.step in OUT else traffic.combine_bytes_per_copy
    key, per_node = BETWEEN if leg.crosses else WITHIN, traffic.devices_per_node
    what = "copy" if leg.step in OUT else "result"
    number = f"1 {what}" if leg.copies == 1 else f"{leg.copies} {what.replace('y', 'ie')}s"
    tip = f"{device_name(leg.source, per_node)} to {device_name(leg.target, per_node)}: {number}, "
    ends = f"d{leg.source}", f"d{leg.target}"
    with svg.thing(key.name, *ends, tip=tip + si(leg.copies * each, "B")):
        for colour, edge in ((INK, 1.4), (key.colour, 0.0)) if moves else ():
            svg.line(x, y, to_x, to_y, stroke=colour, width=1.5 + leg.copies + edge)
        with svg.arriving(x - to_x, y - to_y) if moves else nullcontext():
            for at in at_C:
                svg.circle(at, to_y, 6, TOKEN if leg.step in OUT else EXPERT, stroke=INK)


def _device(
    svg: Svg, device: int, at: tuple[float, float], wide: float, way: Way, step: int, per_node: int
) -> None:
    """A device with a square for each of the token's experts on it, filled once they compute."""
    (x, y), count = at, way.experts[device]
    tip = f"{device_name(device, per_node)}: {count or 'none'} of the token's experts"
    with svg.thing(f"d{device}", tip=tip, press={"source": device}):
        edge, width = (INK, 2.5) if device == way.source else (MUTED, 1)
        svg.rect(x - wide / 2, y - 11, wide, 22, "none", stroke=edge, radius=4, stroke_width=width)
        apart = min(11, (wide - 17) / max(count - 1, 1))
        for i in range(count):
            done = step >= STEPS.index("compute")
            box(svg, x + wide / 2 - 13 - apart * i, y - 5, 9, 9, EXPERT if done else "none",
                stroke=INK)  # fmt: skip
        if device == way.source:
            svg.circle(x - wide / 2 + 9, y, 6, TOKEN, stroke=INK)


def _sums(way: Way, traffic: Traffic, step: int) -> Iterator[str]:
    """What has travelled so far, in copies and bytes."""
    for key, crossing in ((BETWEEN, True), (WITHIN, False)):
        out, back = way.copies(step, crossing=crossing)
        size = out * traffic.dispatch_bytes_per_copy + back * traffic.combine_bytes_per_copy
        copies = f"{out} {'copy' if out == 1 else 'copies'} out"
        results = f"{back} {'result' if back == 1 else 'results'} back"
        yield f"{key.name}, so far: {copies}, {results}, {si(size, 'B')}"
