"""The experts' buffers: their slots in order of placement, and the limit that can be dragged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise

from moeviz.pictures.colours import expert_colour, ink_on
from moeviz.pictures.plot import NOBODY, expert_box, paragraph
from moeviz.pictures.routing.batch import DROPPED, WIDTH, Row, Rows, limit_of, parts_of
from moeviz.pictures.routing.names import named
from moeviz.pictures.svg import INK, MUTED, RULE, Svg, text_width
from moeviz.records.routes import Decision

TOP, ROW, SLOT = 130.0, 26.0, 20.0
LEFT, RIGHT = 66.0, WIDTH - 4.0
BLOCK_GAP = 10.0
# Slots narrower than this are drawn as one bar: thousands of marks would be too many.
NARROW = 8.0
Place = tuple[float, float]
Arrive = Callable[[Place | None], None]
# Each costs more of the string than its mark.
MOST_THINGS = 300


def buffers(
    svg: Svg, decision: Decision, placed: Rows, lost: Rows, now: Row | None,
    offered: Sequence[float],
) -> Arrive | None:  # fmt: skip
    """Each expert's slots with the assignments so far, and those that found none behind them.
    Returns what draws the one that comes now, from a place (None: none is shown): last, for it
    passes over all."""
    parts, num_experts = parts_of(decision), len(decision.load)
    part_T = decision.meta["part"]
    cells = [(p, e) for p in range(parts) for e in range(num_experts)]
    kept, gone, asked = _by_cell(placed, part_T), _by_cell(lost, part_T), Counter[tuple[int, int]]()
    for name in ("placed", "lost"):
        asked.update((part_T[t], e) for e, t, _ in decision.meta[name])
    limit = decision.capacity
    longest = max(*asked.values(), limit or 0, 1)
    block = (RIGHT - LEFT - BLOCK_GAP * (parts - 1)) / parts
    unit = min(26.0, block / longest)
    wide = unit >= text_width(str(len(decision.tokens) - 1), 12) + 2
    numbered = wide and decision.meta["top_k"] == 1  # else the bars below need the room
    paragraph(svg, 0, TOP - 56, _legend(decision, numbered, unit >= NARROW), 16, fill=MUTED)
    for e in range(num_experts):
        got, left_out = (sum(row[0] == e for row in rows) for rows in (placed, lost))
        tip = f"expert {e}: {got} placed, {left_out} without a slot"
        with svg.thing(f"e{e}", tip=tip):
            svg.text(LEFT - 8, TOP + e * ROW + 15, f"expert {e}", anchor="end")
    arrive: Arrive | None = None
    for p, e in cells:
        x, y = LEFT + p * (block + BLOCK_GAP), TOP + e * ROW
        served, dropped = kept[p, e], gone[p, e]
        if limit is not None and len(served) < limit:
            empty = limit - len(served)
            left, width = x + len(served) * unit, empty * unit - 1
            with svg.thing(f"e{e}", tip=f"expert {e}: {empty} empty"):
                svg.rect(left, y, width, SLOT, RULE, opacity=0.4)
                svg.hatch(left, y, width, SLOT, "#ffffff")  # in the theme's own ink
        if unit < NARROW:
            _bars(svg, x, y, unit, e, len(served), len(dropped))
        else:
            for i, row in enumerate(served + dropped):
                draw = partial(_slot, svg, decision, row, x + i * unit, y, unit,
                               i if i < len(served) else None, numbered)  # fmt: skip
                if row == now:
                    arrive = partial(draw, True)
                else:
                    draw()
    if limit is not None:
        for p in range(parts):
            x = LEFT + p * (block + BLOCK_GAP)
            _line(svg, decision, x, unit, block, limit, offered)
    return arrive


def _by_cell(rows: Rows, part_T: Sequence[int]) -> defaultdict[tuple[int, int], Rows]:
    """Rows by the part of the pool that their token is of, and their expert."""
    found: defaultdict[tuple[int, int], Rows] = defaultdict(list)
    for e, t, k in rows:
        found[part_T[t], e].append((e, t, k))
    return found


def _line(
    svg: Svg, decision: Decision, left: float, unit: float, block: float, limit: int,
    offered: Sequence[float],
) -> None:  # fmt: skip
    """The limit, and its handle with the zones of other limits that there is room for."""
    x, end = left + limit * unit - 0.5, TOP + len(decision.load) * ROW - 2
    svg.line(x, TOP - 6, x, end, stroke=INK, width=2)
    svg.text(min(x, WIDTH - 26), TOP - 14, f"C = {limit}", anchor="middle", bold=True)
    if not offered or decision.meta["overflow"] == "pad":
        return
    svg.polygon([(x - 6, TOP - 11), (x + 6, TOP - 11), (x, TOP - 3)], fill=INK)
    even = int(decision.demand.sum()) / len(decision.load) / parts_of(decision)
    # Of factors with the same limit the last; the present one where it is among them.
    factor_of = {limit_of(f, even): f for f in offered} | {limit: decision.meta["factor"]}
    there = sorted(c for c in factor_of if c * unit <= block + 1)
    ends = [left + (a + b) / 2 * unit for a, b in pairwise(there)]
    now = decision.meta["factor"]
    with svg.thing(tip=f"C = {limit}: factor {now:g}", press={"factor": now}, drag=True):
        svg.rect(x - 7, TOP - 2, 14, end - TOP + 2, "transparent")
    for c, start, stop in zip(there, [left, *ends], [*ends, left + block], strict=True):
        factor = factor_of[c]
        tip = f"C = {c}: factor {factor:g}"
        with svg.thing(tip=tip, press={"factor": factor}, drag=True):
            svg.rect(start, TOP - 26, stop - start, 24, "transparent")


def _legend(decision: Decision, numbered: bool, single: bool) -> list[str]:
    """What the marks of the buffers mean, of those that are there, in lines."""
    parts = ["box: an assignment, first placed first" if single else "bar: all assignments"]
    if numbered:
        parts.append("number: its token")
    if decision.meta["lost"]:
        parts.append("one line: no slot")
    if decision.capacity is not None:
        parts.append("hatched: empty, yet computed")
    if single and decision.meta["top_k"] > 1:
        parts.append("bar below: a later choice")
    return [" · ".join(parts[:3]), " · ".join(parts[3:])]


def _slot(
    svg: Svg, decision: Decision, row: Row, x: float, y: float, unit: float, slot: int | None,
    numbered: bool, now: bool = False, start: Place | None = None,
) -> None:  # fmt: skip
    """The mark of a row in a slot of its expert or without one (None), with the token's place where
    it fits; what strikes it lies under that. now: it is framed, and comes from `start`."""
    (e, t, k), served = row, slot is not None
    few = int(decision.demand.sum()) <= MOST_THINGS
    fate = f"slot {slot} of expert {e}" if served else f"no slot with expert {e}"
    tip = f"{named(t, decision.tokens[t])}: choice {k + 1}, {fate}"
    come = svg.arriving(start[0] - x, start[1] - y) if start else nullcontext()
    with svg.thing(f"t{t}", f"e{e}", tip=tip) if few else nullcontext(), come:
        expert_box(svg, x, y, unit - 1, SLOT, e if served else -1)
        ink = ink_on(expert_colour(e) if served else NOBODY)
        if k:
            svg.rect(x + 1, y + SLOT - 3, unit - 3, 2, ink)
        if not served:
            svg.line(x, y + SLOT, x + unit - 1, y, stroke=DROPPED, width=1.5)
        label = str(t) if numbered else ""
        svg.text(x + (unit - 1) / 2, y + 14.4, label, anchor="middle", mono=True, fill=ink)
        if now:
            svg.rect(x - 1, y - 1.5, unit + 1, SLOT + 3, "none", stroke=INK, stroke_width=3)


def _bars(svg: Svg, x: float, y: float, unit: float, e: int, kept: int, gone: int) -> None:
    with svg.thing(f"e{e}", tip=f"expert {e}: {kept} placed"):
        expert_box(svg, x, y, kept * unit, SLOT, e)
    if gone:
        left, width = x + kept * unit, gone * unit
        with svg.thing(f"e{e}", tip=f"expert {e}: {gone} without a slot"):
            expert_box(svg, left, y, width, SLOT, -1)
            svg.line(left, y + SLOT, left + width, y, stroke=DROPPED, width=1.5)
