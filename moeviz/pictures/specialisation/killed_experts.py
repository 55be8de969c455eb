"""What each expert is worth to each domain, beside how many tokens it gets."""

from __future__ import annotations

import math

import numpy as np

from moeviz.pictures.axes import Scale, axes, padded
from moeviz.pictures.colours import expert_colour, ink_on
from moeviz.pictures.plot import box, heading, mark
from moeviz.pictures.specialisation.domain_table import Head, domain_table, table_size
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg
from moeviz.records.compare import LEVEL, holm
from moeviz.records.killed import Killed
from moeviz.words import percent

PEAK = 0.4  # nats per token, from which on a cell is as bright as can be
ROOM = (70.0, 384.0), (232.0, 60.0)
FRAMED = "framed: not by chance"
CHIP, CHIPS_LEFT = 34.0, 46.0  # a layer to press, and where the first one stands
RADIUS, AWAY = 9.0, (22.0, 34.0)  # of an expert's circle, and how far it moves from another
LEAST = 0.005  # nats: a fall that is 0.01 in the heading


def killed_experts(
    killed: Killed, place: int, *, note: str = "", pressable: bool = False
) -> Picture:
    """One layer, by its place in `layers`: the rise of the loss without each expert, and the mean
    rise against the expert's load. pressable: the layers stand above the table, to be pressed."""
    cost_DE, verdict = killed.cost[place].T, killed.verdicts(place)
    gaps, layer = killed.gaps(place), killed.layers[place]
    head = Head(
        "Is the busiest expert missed most?",
        f"layer {layer} · a cell: rise of the loss without the expert, nats per token · "
        f"{note or FRAMED}",
        _finding(killed, place),
    )
    top = head.top(cost_DE.shape[1])
    chips_at = top - 52
    size = table_size(cost_DE, top)
    if pressable:
        top += 28 * math.ceil(len(killed.layers) / _in_a_row(size[0]))
    svg = Svg(*table_size(cost_DE, top), "What each expert is worth", told_killed(killed, place))
    if pressable:
        _layers(svg, killed, place, chips_at)
    framed_DE = np.array([[verdict[e, d] != "open" for e in range(cost_DE.shape[1])]
                          for d in range(cost_DE.shape[0])])  # fmt: skip
    tips = [
        [
            f"{cost:+.3f} nats ({gaps[e, d].low:+.3f} to {gaps[e, d].high:+.3f}), "
            f"{percent(killed.load[place, d, e])} of its load"
            for e, cost in enumerate(row)
        ]
        for d, row in enumerate(cost_DE)
    ]
    domain_table(svg, cost_DE, killed.domains, head, peak=PEAK, decimals=2, tips=tips,
                 ends=("0", f"+{PEAK:g} nats or more"), framed_DE=framed_DE, top=top,
                 below=f"-{PEAK:g} or less")  # fmt: skip
    _scatter(svg.beside(400, 290), killed, place)
    columns = ("domain", "expert", "share of its load", "rise, nats", "low", "high", "verdict")
    rows = (
        (name, e, percent(killed.load[place, d, e], 1), f"{gaps[e, d].mean:+z.3f}",
         f"{gaps[e, d].low:+z.3f}", f"{gaps[e, d].high:+z.3f}", verdict[e, d])
        for d, name in enumerate(killed.domains) for e in range(cost_DE.shape[1])
    )  # fmt: skip
    return svg.picture(columns, rows)


def _in_a_row(width: float) -> int:
    return int((width - CHIPS_LEFT) / CHIP)


def _layers(svg: Svg, killed: Killed, place: int, y: float) -> None:
    """The layers by their numbers, the one shown filled."""
    svg.text(0, y + 15, "layer", fill=MUTED)
    for n, layer in enumerate(killed.layers):
        row, column = divmod(n, _in_a_row(svg.width))
        colour, edge = ("#0072b2", "#0072b2") if n == place else ("none", RULE)
        cost_E = killed.cost[n].mean(-1)
        most = int(cost_E.argmax())
        tip = f"Show layer {layer}: without expert {most} the loss {_moves(cost_E[most])}"
        with svg.thing(f"l{n}", tip=tip, press={"layer": n}):
            box(svg, CHIPS_LEFT + column * CHIP, y + 28 * row, CHIP - 4, 22, colour, str(layer),
                radius=4, stroke=edge)  # fmt: skip


def _moves(cost: float, decimals: int = 2) -> str:
    return f"{'falls' if round(cost, decimals) < 0 else 'rises'} by {abs(cost):.{decimals}f}"


def _harmful(killed: Killed, place: int) -> int | None:
    """The expert without which the mean loss falls most, if it falls beyond chance in a domain."""
    cost_E, verdict = killed.cost[place].mean(-1), killed.verdicts(place)
    worst = int(cost_E.argmin())
    lower = any(verdict[worst, d] == "lower" for d in range(len(killed.domains)))
    return worst if lower and cost_E[worst] < 0 else None


def _finding(killed: Killed, place: int) -> str:
    """The answer in one sentence: the expert that is missed most, beside the busiest one. Before
    it stands an expert that does harm, for that is worth more to know."""
    load_E, cost_E = killed.load[place].mean(0), killed.cost[place].mean(-1)
    missed, busiest = int(cost_E.argmax()), int(load_E.argmax())
    worst = _harmful(killed, place)
    harm = ""
    if worst is not None and cost_E[worst] <= -LEAST:
        harm = f"Without expert {worst} the loss {_moves(cost_E[worst])}: it does harm. "
    if cost_E[missed] <= 0:
        return f"{harm}No expert is missed."
    who = f"expert {missed} ({percent(load_E[missed])} of the load)"
    most = f"without {who} the loss rises most, by {cost_E[missed]:.2f}"
    if missed == busiest:
        return f"{harm}{'The busiest is missed most' if harm else 'Yes'}: {most} nats."
    return (
        f"{harm}{'The busiest is not missed most' if harm else 'No'}: {most}; without the busiest, "
        f"expert {busiest} ({percent(load_E[busiest])}), it {_moves(cost_E[busiest])}."
    )


def _scatter(svg: Svg, killed: Killed, place: int) -> None:
    load_E, cost_E = killed.load[place].mean(0), killed.cost[place].mean(-1)
    heading(svg, "Load and worth", "circle: an expert, mean over domains · dashed: even share")
    x = Scale(*padded([0.0, *load_E]), *ROOM[0])
    y = Scale(*padded([0.0, *cost_E], 0.1), *ROOM[1])
    ticks = [tick for tick in x.ticks(4) if tick >= 0]
    axes(svg, x, y, x_label="share of the load", y_label="rise, nats per token", x_ticks=ticks,
         x_form=lambda share: percent(share), y_ticks=y.ticks(4))  # fmt: skip
    even = x(1 / len(load_E))
    svg.line(even, y.start, even, y.end, stroke=INK, dash="4 3")
    numbered = len(load_E) <= 16
    points = [(x(load), y(cost)) for load, cost in zip(load_E, cost_E, strict=True)]
    places = _apart(points) if numbered else points
    for expert, (load, cost) in enumerate(zip(load_E, cost_E, strict=True)):
        tip = f"expert {expert}: {percent(load, 1)} of the load, {cost:+.3f} nats without it"
        with svg.thing(f"e{expert}", tip=tip):
            colour, at, point = expert_colour(expert), places[expert], points[expert]
            if at != point:
                svg.line(*point, *at, stroke=INK)
                mark(svg, "circle", *point, colour, 3, stroke=INK)
            mark(svg, "circle", *at, colour, RADIUS if numbered else 4, stroke=INK)
            label, ink = str(expert) if numbered else "", ink_on(colour)
            svg.text(at[0], at[1] + 4.5, label, anchor="middle", fill=ink)


def _apart(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where circles stand so that none hides another: one that would is moved aside, to a free
    place near its point."""
    places: list[tuple[float, float]] = []
    for n, (x, y) in enumerate(points):
        if _clear((x, y), places):
            places.append((x, y))
            continue
        others, found = [*places, *points[n + 1 :]], (x, y)
        for far in reversed(AWAY):
            around = [
                (x + far * math.cos(turn * math.pi / 4), y + far * math.sin(turn * math.pi / 4))
                for turn in range(8)
            ]
            free = [at for at in around if _clear(at, others) and _inside(*at)]
            # Where there is most room no line to a point crosses another expert.
            found = max(free, key=lambda at: min(math.dist(at, o) for o in others), default=found)
        places.append(found)
    return places


def _clear(at: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    return all(math.dist(at, other) >= 1.6 * RADIUS for other in others)


def _inside(x: float, y: float) -> bool:
    (left, right), (bottom, top) = ROOM
    return left + RADIUS < x < right - RADIUS and top + RADIUS < y < bottom - RADIUS


def told_killed(killed: Killed, place: int) -> str:
    """Who is missed most, and whether load tells it."""
    load_E, cost_E = killed.load[place].mean(0), killed.cost[place].mean(-1)
    missed, busiest = int(cost_E.argmax()), int(load_E.argmax())
    verdict = killed.verdicts(place)
    counts, worst = [*verdict.values()], _harmful(killed, place)
    words = [f"Layer {killed.layers[place]}: no expert is missed"]
    if cost_E[missed] > 0:
        words = [
            f"Layer {killed.layers[place]}: without expert {missed} the loss rises most, by "
            f"{cost_E[missed]:.3f} nats per token",
            f"It has {percent(load_E[missed], 1)} of the load",
            "No other expert has more" if missed == busiest
            else f"Without the busiest one, expert {busiest} ({percent(load_E[busiest], 1)}), the "
            f"loss {_moves(cost_E[busiest], 3)}",
        ]  # fmt: skip
    if worst is not None:
        words.append(f"Without expert {worst} the loss falls by {-cost_E[worst]:.3f}: it does harm")
    words.append(
        f"Of {len(counts)} pairs with a domain the loss rises in {counts.count('higher')} and "
        f"falls in {counts.count('lower')}, beyond chance"
    )
    found = killed.load_and_cost(place)
    if not math.isnan(found.value):
        words.append(f"Rank correlation of load and worth: {found.value:+.2f} (p {found.p:.2f})")
    return ". ".join(words) + "."


def told_layers(killed: Killed) -> str:
    """Whether load tells importance, over all layers."""
    found = [killed.load_and_cost(place) for place in range(len(killed.layers))]
    corrected = holm([rank.p for rank in found])
    values = ", ".join(f"{rank.value:+.2f} (p {rank.p:.2f})" for rank in found)
    known = [
        f"layer {layer}" for layer, p in zip(killed.layers, corrected, strict=True) if p < LEVEL
    ]
    shown = f"load tells worth in {' and '.join(known)}; elsewhere it is open"
    if not known:
        shown = "it is open in every layer whether load tells worth"
    if len(known) == len(found):
        shown = "load tells worth in every layer"
    missed = {
        (place, expert)
        for place in range(len(found))
        for (expert, _), verdict in killed.verdicts(place).items()
        if verdict == "higher"
    }
    num_experts = killed.load.shape[2]
    return (
        f"Rank correlation of load and worth over {num_experts} experts, layer by layer: {values}. "
        f"Corrected for {len(found)} comparisons, {shown}: so few experts show only a strong "
        f"relation. {len(missed)} of {len(found) * num_experts} experts are missed by some domain, "
        "beyond chance."
    )
