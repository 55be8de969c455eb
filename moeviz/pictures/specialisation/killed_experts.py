"""What each expert is worth to each domain, beside how many tokens it gets."""

from __future__ import annotations

import math

import numpy as np

from moeviz.pictures.axes import Scale, axes, padded
from moeviz.pictures.plot import heading, mark
from moeviz.pictures.specialisation.domain_table import Head, domain_table, table_size
from moeviz.pictures.svg import INK, Picture, Svg, expert_colour, ink_on
from moeviz.records.compare import LEVEL, holm
from moeviz.records.killed import Killed
from moeviz.words import percent

PEAK = 0.4  # nats per token, from which on a cell is as bright as can be
ROOM = (70.0, 384.0), (232.0, 60.0)
FRAMED = "framed: not by chance"


def killed_experts(killed: Killed, place: int, *, note: str = "") -> Picture:
    """One layer, by its place in `layers`: the rise of the loss without each expert, and the mean
    rise against the expert's load."""
    cost_DE, verdict = killed.cost[place].T, killed.verdicts(place)
    gaps, layer = killed.gaps(place), killed.layers[place]
    head = Head(
        "Is the busiest expert missed most?",
        f"layer {layer} · a cell: rise of the loss without the expert, nats per token · "
        f"{note or FRAMED}",
        _finding(killed, place),
    )
    size = table_size(cost_DE, head.top(cost_DE.shape[1]))
    svg = Svg(*size, "What each expert is worth", told_killed(killed, place))
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
                 ends=("+0", f"+{PEAK:g} nats or more"), framed_DE=framed_DE)  # fmt: skip
    _scatter(svg.beside(400, 290), killed, place)
    columns = ("domain", "expert", "share of its load", "rise, nats", "low", "high", "verdict")
    rows = (
        (name, e, percent(killed.load[place, d, e], 1), f"{gaps[e, d].mean:+z.3f}",
         f"{gaps[e, d].low:+z.3f}", f"{gaps[e, d].high:+z.3f}", verdict[e, d])
        for d, name in enumerate(killed.domains) for e in range(cost_DE.shape[1])
    )  # fmt: skip
    return svg.picture(columns, rows)


def _finding(killed: Killed, place: int) -> str:
    """The answer in one sentence: the expert that is missed most, beside the busiest one."""
    load_E, cost_E = killed.load[place].mean(0), killed.cost[place].mean(-1)
    missed, busiest = int(cost_E.argmax()), int(load_E.argmax())
    who = f"expert {missed} ({percent(load_E[missed])} of the load)"
    most = f"without {who} the loss rises most, by {cost_E[missed]:.2f}"
    if missed == busiest:
        return f"Yes: {most} nats."
    return (
        f"No: {most}; without the busiest, expert {busiest} ({percent(load_E[busiest])}), by "
        f"{cost_E[busiest]:.2f}."
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
    for expert, (load, cost) in enumerate(zip(load_E, cost_E, strict=True)):
        tip = f"expert {expert}: {percent(load, 1)} of the load, {cost:+.3f} nats without it"
        with svg.thing(f"e{expert}", tip=tip):
            numbered, colour = len(load_E) <= 16, expert_colour(expert)
            mark(svg, "circle", x(load), y(cost), colour, 9 if numbered else 4, stroke=INK)
            label, ink = str(expert) if numbered else "", ink_on(colour)
            svg.text(x(load), y(cost) + 4.5, label, anchor="middle", fill=ink)


def told_killed(killed: Killed, place: int) -> str:
    """Who is missed most, and whether load tells it."""
    load_E, cost_E = killed.load[place].mean(0), killed.cost[place].mean(-1)
    missed, busiest = int(cost_E.argmax()), int(load_E.argmax())
    verdict = killed.verdicts(place)
    counts, sick = [*verdict.values()], int(cost_E.argmin())
    words = [
        f"Layer {killed.layers[place]}: without expert {missed} the loss rises most, by "
        f"{cost_E[missed]:.3f} nats per token",
        f"It has {percent(load_E[missed], 1)} of the load",
    ]
    if missed == busiest:
        words.append("No other expert has more")
    else:
        words.append(
            f"The busiest one, expert {busiest}, has {percent(load_E[busiest], 1)} and costs "
            f"{cost_E[busiest]:.3f}"
        )
    if cost_E[sick] < 0 and any(verdict[sick, d] == "lower" for d in range(len(killed.domains))):
        words.append(f"Without expert {sick} it falls, by {-cost_E[sick]:.3f}")
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
