"""The experts' buffers with their slots, who got none, and what the factor trades against what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from moeviz.pictures.axes import Scale, axes
from moeviz.pictures.plot import NOBODY, Key, curve, expert_box, legend, mark
from moeviz.pictures.routing.tokens import DROPPED, batch_strip, fates, laid_out
from moeviz.pictures.svg import (
    INK,
    MUTED,
    RULE,
    Picture,
    Svg,
    expert_colour,
    ink_on,
    shorten,
    text_width,
)
from moeviz.records.metrics import expected_drop_rate, padding_waste
from moeviz.records.routes import Decision

WIDTH = 900
TOP, ROW, SLOT = 66.0, 26.0, 20.0
LEFT, RIGHT = 66.0, 586.0
BLOCK_GAP = 10.0
# Slots narrower than this are drawn as one bar: thousands of marks would be too many.
NARROW = 8.0
# Each costs as much of the string as its mark.
MOST_TIPS = 300
LOST = Key("dropped of all assignments", DROPPED, mark="circle")
EMPTY = Key("empty of all slots", "#0072b2", "6 3", mark="square")
FACTORS = tuple(round(0.05 * i, 2) for i in range(5, 81))
COLUMNS = ("#", "token", "asked for", "placed at", "dropped", "looks ahead")

Rows = list[tuple[int, int, int]]


def slots(decision: Decision) -> Picture:
    """A decision of experiments.slots: the buffers in order of placement, the drop rate beside its
    closed form, and the tokens with those that got no slot crossed out."""
    summary = _summary(decision)
    boxes, height = laid_out(decision)
    num_experts = len(decision.load)
    bottom = TOP + max(num_experts * ROW, 8 * ROW)
    svg = Svg(WIDTH, bottom + 42 + height, "Who gets a slot", summary)
    svg.text(0, 16, _rule(decision), size=14, bold=True)
    _buffers(svg, decision)
    _trade(svg, decision)
    batch_strip(svg, decision, boxes, bottom + 42)
    return svg.picture(COLUMNS, _table(decision))


def drop_share(decision: Decision) -> float:
    """The share of assignments that found no slot."""
    return len(decision.meta["lost"]) / max(int(decision.demand.sum()), 1)


def waste_share(decision: Decision) -> float:
    """The share of slots that stay empty; 0 without a limit, where no slot is set up in vain."""
    if decision.capacity is None:
        return 0.0
    return padding_waste(decision.load, decision.capacity * _parts(decision))


def _parts(decision: Decision) -> int:
    return max(decision.meta["part"], default=0) + 1


@lru_cache(maxsize=64)
def trade_off(
    visits: tuple[float, ...], num_tokens: int, top_k: int, parts: int
) -> tuple[tuple[float, float], ...]:
    """(drop rate, share of empty slots) expected at each of FACTORS, for independent tokens with
    these chances to ask for each expert."""
    asked, shares = num_tokens * top_k, {}
    limits = [max(1, math.ceil(f * asked / len(visits) / parts - 1e-9)) for f in FACTORS]
    for limit in set(limits):
        drop = expected_drop_rate(visits, max(1, round(num_tokens / parts)), limit)
        shares[limit] = drop, 1 - asked * (1 - drop) / (len(visits) * limit * parts)
    return tuple(shares[limit] for limit in limits)


def expected_drop(decision: Decision) -> float:
    """The closed form at this decision's own limit; 0 without one."""
    if decision.capacity is None or decision.meta["overflow"] == "pad":
        return 0.0
    per_part = max(1, round(len(decision.tokens) / _parts(decision)))
    return expected_drop_rate(decision.meta["visits"], per_part, decision.capacity)


def _rule(decision: Decision) -> str:
    """The arithmetic of the limit, with these numbers."""
    num_tokens, num_experts = len(decision.tokens), len(decision.load)
    top_k, factor, parts = decision.meta["top_k"], decision.meta["factor"], _parts(decision)
    if decision.capacity is None:
        return f"No limit: each expert takes all that come, {int(decision.load.max())} at most"
    if decision.meta["overflow"] == "pad":
        return f"Padded: each expert gets the {decision.capacity} slots that the busiest needs"
    over = f" / {parts}" if parts > 1 else ""
    each = "an expert and sequence" if parts > 1 else "an expert"
    return (
        f"C = ⌈factor · T · K / E⌉ = ⌈{factor:g} · {num_tokens} · {top_k} / {num_experts}{over}⌉ "
        f"= {decision.capacity} slots {each}"
    )


def _summary(decision: Decision) -> str:
    asked, lost = int(decision.demand.sum()), len(decision.meta["lost"])
    if not lost:
        what = f"All {asked} assignments find a slot"
        what += "" if decision.meta["factor"] is None else _against(decision)
    else:
        what = f"{lost} of {asked} assignments are dropped, {lost / asked:.1%}{_against(decision)}"
        nowhere = np.flatnonzero(~decision.visits.any(axis=1))
        if len(nowhere):
            gets = "1 token gets" if len(nowhere) == 1 else f"{len(nowhere)} tokens get"
            what += f"; {gets} no expert at all, the first is number {nowhere[0]}"
    empty = f"{waste_share(decision):.1%} of the slots stay empty"
    if decision.capacity is None:
        empty = "Without a limit no slot is set up in vain"
    return f"{what}. {empty}. {_future(decision)}"


def _against(decision: Decision) -> str:
    if decision.meta["overflow"] == "pad":
        return ""
    return f" ({expected_drop(decision):.1%} expected)"


def _future(decision: Decision) -> str:
    known = int(decision.leaks.sum())
    if decision.causal:
        return "This order never looks at later tokens."
    if known:
        return (
            f"This order looks into the future: the slots of at least {known} of "
            f"{len(decision.tokens)} tokens depend on tokens after them."
        )
    return "This order may look into the future, but no slot here was found to depend on it."


def _buffers(svg: Svg, decision: Decision) -> None:
    parts, num_experts = _parts(decision), len(decision.load)
    part_T = decision.meta["part"]
    cells = [(p, e) for p in range(parts) for e in range(num_experts)]
    placed, lost = ({cell: Rows() for cell in cells} for _ in range(2))
    for name, rows in (("placed", placed), ("lost", lost)):
        for e, t, k in decision.meta[name]:
            rows[part_T[t], e].append((e, t, k))
    limit = decision.capacity
    longest = max(len(placed[cell]) + len(lost[cell]) for cell in cells)
    longest = max(longest, limit or 0, 1)
    block = (RIGHT - LEFT - BLOCK_GAP * (parts - 1)) / parts
    unit = min(26.0, block / longest)
    wide = unit >= text_width(str(len(decision.tokens) - 1), 12) + 2
    numbered = wide and decision.meta["top_k"] == 1  # else the bars below need the room
    svg.text(0, 36, _legend(decision, numbered, unit >= NARROW), fill=MUTED)
    for e in range(num_experts):
        svg.text(LEFT - 8, TOP + e * ROW + 15, f"expert {e}", anchor="end")
    for p, e in cells:
        x, y = LEFT + p * (block + BLOCK_GAP), TOP + e * ROW
        kept, gone = placed[p, e], lost[p, e]
        if limit is not None and len(kept) < limit:
            empty = limit - len(kept)
            left, width = x + len(kept) * unit, empty * unit - 1
            svg.rect(left, y, width, SLOT, RULE, opacity=0.4, tip=f"expert {e}: {empty} empty")
            svg.hatch(left, y, width, SLOT, "#ffffff")  # in the theme's own ink
        if unit < NARROW:
            _bars(svg, x, y, unit, e, len(kept), len(gone))
        else:
            _slots(svg, decision, x, y, unit, kept, gone, numbered)
    if limit is not None:
        for p in range(parts):
            x = LEFT + p * (block + BLOCK_GAP) + limit * unit - 0.5
            svg.line(x, TOP - 6, x, TOP + num_experts * ROW - 2, stroke=INK, width=2)
            svg.text(x, TOP - 10, f"C = {limit}", anchor="middle", bold=True)


def _legend(decision: Decision, numbered: bool, single: bool) -> str:
    """What the marks of the buffers mean, of those that are there."""
    parts = ["box: an assignment, first placed first" if single else "bar: all assignments"]
    if numbered:
        parts.append("number: its token")
    if decision.meta["lost"]:
        parts.append("crossed out: no slot")
    if decision.capacity is not None:
        parts.append("hatched: empty, yet computed")
    if single and decision.meta["top_k"] > 1:
        parts.append("bar below: a later choice")
    return " · ".join(parts)


def _slots(
    svg: Svg, decision: Decision, x: float, y: float, unit: float, kept: Rows, gone: Rows,
    numbered: bool,
) -> None:  # fmt: skip
    """One mark a row, with the token's place where it fits."""
    tips = int(decision.demand.sum()) <= MOST_TIPS
    for i, (e, t, k) in enumerate(kept + gone):
        left, served = x + i * unit, i < len(kept)
        fate = f"slot {i} of expert {e}" if served else f"no slot with expert {e}"
        tip = f"{t} {shorten(decision.tokens[t], 24)}: choice {k + 1}, {fate}" if tips else ""
        label, taker = str(t) if numbered else "", e if served else -1
        expert_box(svg, left, y, unit - 1, SLOT, taker, label, mono=True, tip=tip)
        if k:
            ink = ink_on(expert_colour(e) if served else NOBODY)
            svg.rect(left + 1, y + SLOT - 3, unit - 3, 2, ink)
        if not served:
            svg.line(left, y + SLOT, left + unit - 1, y, stroke=DROPPED, width=1.5)


def _bars(svg: Svg, x: float, y: float, unit: float, e: int, kept: int, gone: int) -> None:
    expert_box(svg, x, y, kept * unit, SLOT, e, tip=f"expert {e}: {kept} placed")
    if gone:
        left, width = x + kept * unit, gone * unit
        expert_box(svg, left, y, width, SLOT, -1, tip=f"expert {e}: {gone} without")
        svg.line(left, y + SLOT, left + width, y, stroke=DROPPED, width=1.5)


def _trade(svg: Svg, decision: Decision) -> None:
    """Drop rate and empty slots against the factor: what is expected, and this decision."""
    x, y = Scale(0, 4, 662, 888), Scale(0, 100, TOP + 132, TOP + 2)
    axes(svg, x, y, x_label="capacity factor", y_label="per cent")
    visits, top_k = tuple(decision.meta["visits"]), decision.meta["top_k"]
    expected = trade_off(visits, len(decision.tokens), top_k, _parts(decision))
    for key, shares in zip((LOST, EMPTY), 100 * np.array(expected).T, strict=True):
        curve(svg, x, y, zip(FACTORS, shares, strict=True), key)
    if decision.capacity is not None:
        slots_in_all = decision.capacity * _parts(decision) * len(decision.load)
        at = min(slots_in_all / max(int(decision.demand.sum()), 1), 4.0)
        if decision.meta["overflow"] != "pad":
            at = decision.meta["factor"]
        svg.line(x(at), y.start, x(at), y.end, stroke=INK, dash="2 3")
        lost, empty = y(100 * drop_share(decision)), y(100 * waste_share(decision))
        # The square stands on the circle and leaves its rim where both are at one place.
        mark(svg, LOST.mark, x(at), lost, LOST.colour, 5, stroke=INK)
        mark(svg, EMPTY.mark, x(at), empty, EMPTY.colour, 3.5, stroke=INK)
    legend(svg, 640, TOP + 184, (LOST, EMPTY), down=16)
    svg.text(640, TOP + 218, "line: expected · mark: these tokens", fill=MUTED)


def _table(decision: Decision) -> Iterator[tuple[object, ...]]:
    slot: dict[tuple[int, str], int] = {}
    used: Counter[tuple[int, int]] = Counter()
    for e, t, _ in decision.meta["placed"]:
        cell = (decision.meta["part"][t], e)
        slot[t, str(e)] = used[cell]
        used[cell] += 1
    for t, (token, fate) in enumerate(zip(decision.tokens, fates(decision), strict=True)):
        asked = fate.replace("×", "")
        taken = ", ".join(f"expert {e} slot {slot[t, e]}" for e in fate.split() if e[0] != "×")
        lost = " ".join(e[1:] for e in fate.split() if e[0] == "×")
        yield t, token, asked, taken or "none", lost, "yes" if decision.leaks[t] else ""
