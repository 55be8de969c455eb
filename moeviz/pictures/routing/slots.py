"""The experts' buffers with their slots, who got none, and what the factor trades against what."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from moeviz.pictures.axes import Scale, axes
from moeviz.pictures.plot import Key, curve, mark, paragraph
from moeviz.pictures.routing.batch import (
    DROPPED,
    WIDTH,
    Row,
    Rows,
    arrivals,
    batch_strip,
    fates,
    laid_out,
    limit_of,
    parts_of,
    so_far,
)
from moeviz.pictures.routing.buffers import ROW, TOP, buffers
from moeviz.pictures.routing.names import bytes_note, named
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.records.metrics import expected_drop_rate, padding_waste
from moeviz.records.routes import Decision
from moeviz.words import percent

TRADE = 300  # width of the part that says what the factor trades
LOST = Key("dropped", DROPPED, mark="circle")
EMPTY = Key("empty slots", "#0072b2", "6 3", mark="square")
FACTORS = tuple(round(0.05 * i, 2) for i in range(5, 81))
COLUMNS = ("#", "token", "asked for", "placed at", "dropped", "looks ahead")


def slots(
    decision: Decision, *, step: int | None = None, offered: Sequence[float] = (), note: str = ""
) -> Picture:
    """A decision of experiments.slots: the buffers in order of placement, the tokens with lines
    through those that got no slot, and the drop rate beside its closed form.

    step: so many assignments have come, by default all. offered: the factors that a panel's
    control has, some of FACTORS; the line of the limit can be dragged over them. note: what the
    tokens are."""
    come = arrivals(decision)
    now = come[step - 1] if step and step < len(come) else None
    placed, lost = so_far(decision, come[:step])
    summary, told = _summary(decision), _outcome(decision)
    if step is not None and step < len(come):
        summary = _of_step(decision, step, len(come), now, lost)
        told = f"{step:,} of {len(come):,} assignments have come; {len(lost)} found no slot."
    boxes, height = laid_out(decision)
    bottom = TOP + len(decision.load) * ROW
    note = note or bytes_note(decision.tokens)
    below = bottom + 52 + 18 * bool(note)
    svg = Svg(WIDTH, below + height, "Who gets a slot", summary)
    paragraph(svg, 0, 16, textwrap.wrap(told, 68), size=13, bold=True)
    svg.text(0, 54, _rule(decision), fill=MUTED)
    arrive = buffers(svg, decision, placed, lost, now, offered)
    svg.text(0, bottom + 18, note, fill=MUTED)
    batch_strip(svg, decision, boxes, below, placed, lost, now)
    if now and arrive:
        box = dict(enumerate(boxes)).get(now[1])  # not every token of a long batch is shown
        arrive((box[0], box[1] + below) if box else None)
    _trade(svg.beside(TRADE, 258), decision, offered)
    return svg.picture(COLUMNS, _table(decision, placed, lost))


def _outcome(decision: Decision) -> str:
    """What was dropped and what it cost."""
    asked, lost = int(decision.demand.sum()), len(decision.meta["lost"])
    alone = int((~decision.visits.any(1)).sum())
    told = f"All {asked:,} assignments find a slot"
    if lost:
        tokens = f"{alone} token{'s' * (alone != 1)}"
        told = f"{lost:,} of {asked:,} assignments find no slot, {tokens} no expert"
    if decision.capacity is None:
        return f"{told}: there is no limit, and no slot is set up in vain."
    return f"{told}; {percent(waste_share(decision), 1)} of the slots are computed for nothing."


def _of_step(decision: Decision, step: int, total: int, now: Row | None, lost: Rows) -> str:
    """What the last of so many assignments found."""
    if now is None:
        return f"0 of {total:,} assignments have come: all slots are empty."
    e, t, _ = now
    found = "finds it full and is dropped" if now in lost else "takes its next slot"
    return (
        f"{step:,} of {total:,} assignments have come, {len(lost)} of them dropped. "
        f"Now {named(t, decision.tokens[t])} asks expert {e} and {found}."
    )


def drop_share(decision: Decision) -> float:
    """The share of assignments that found no slot."""
    return len(decision.meta["lost"]) / max(int(decision.demand.sum()), 1)


def waste_share(decision: Decision) -> float:
    """The share of slots that stay empty; 0 without a limit, where no slot is set up in vain."""
    if decision.capacity is None:
        return 0.0
    return padding_waste(decision.load, decision.capacity * parts_of(decision))


@lru_cache(maxsize=64)
def trade_off(
    visits: tuple[float, ...], num_tokens: int, top_k: int, parts: int
) -> tuple[tuple[float, float], ...]:
    """(drop rate, share of empty slots) expected at each of FACTORS, for independent tokens with
    these chances to ask for each expert."""
    asked, shares = num_tokens * top_k, {}
    limits = [limit_of(f, asked / len(visits) / parts) for f in FACTORS]
    for limit in set(limits):
        drop = expected_drop_rate(visits, max(1, round(num_tokens / parts)), limit)
        shares[limit] = drop, 1 - asked * (1 - drop) / (len(visits) * limit * parts)
    return tuple(shares[limit] for limit in limits)


def expected_drop(decision: Decision) -> float:
    """The closed form at this decision's own limit; 0 without one."""
    if decision.capacity is None or decision.meta["overflow"] == "pad":
        return 0.0
    per_part = max(1, round(len(decision.tokens) / parts_of(decision)))
    return expected_drop_rate(decision.meta["visits"], per_part, decision.capacity)


def _rule(decision: Decision) -> str:
    """The arithmetic of the limit, with these numbers."""
    num_tokens, num_experts = len(decision.tokens), len(decision.load)
    top_k, factor, parts = decision.meta["top_k"], decision.meta["factor"], parts_of(decision)
    if decision.capacity is None:
        return f"No limit: each expert takes all that come, {int(decision.load.max())} at most"
    if decision.meta["overflow"] == "pad":
        return f"Padded: each expert gets the {decision.capacity} slots that the busiest needs"
    over = f" / {parts}" if parts > 1 else ""
    each = "in each sequence" if parts > 1 else "an expert"
    return (
        f"C = ⌈factor · T · K / E⌉ = ⌈{factor:g} · {num_tokens} · {top_k} / {num_experts}{over}⌉ "
        f"= {decision.capacity} slots {each}"
    )


def _summary(decision: Decision) -> str:
    asked, lost = int(decision.demand.sum()), len(decision.meta["lost"])
    if not lost:
        what = f"All {asked:,} assignments find a slot"
        what += "" if decision.meta["factor"] is None else _against(decision)
    else:
        share = percent(lost / asked, 1)
        what = f"{lost:,} of {asked:,} assignments are dropped: {share}{_against(decision)}"
        nowhere = np.flatnonzero(~decision.visits.any(axis=1))
        if len(nowhere):
            gets = "1 token gets" if len(nowhere) == 1 else f"{len(nowhere)} tokens get"
            what += f". {gets} no expert at all; the first is number {nowhere[0]}"
    empty = f"{percent(waste_share(decision), 1)} of the slots stay empty"
    if decision.capacity is None:
        empty = "Without a limit no slot is set up in vain"
    return f"{what}. {empty}. {_future(decision)}"


def _against(decision: Decision) -> str:
    if decision.meta["overflow"] == "pad":
        return ""
    return f". The closed form expects that {percent(expected_drop(decision), 1)} are dropped"


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


def _trade(svg: Svg, decision: Decision, offered: Sequence[float]) -> None:
    """Drop rate and empty slots against the factor: what is expected, and this decision."""
    svg.text(0, 16, "What the factor trades", size=13, bold=True)
    x, y = Scale(0, 4, 56, TRADE - 8), Scale(0, 100, 160, 34)
    axes(svg, x, y, x_label="capacity factor", y_label="per cent")
    visits, top_k = tuple(decision.meta["visits"]), decision.meta["top_k"]
    expected = trade_off(visits, len(decision.tokens), top_k, parts_of(decision))
    for key, shares in zip((LOST, EMPTY), 100 * np.array(expected).T, strict=True):
        curve(svg, x, y, zip(FACTORS, shares, strict=True), key)
    if decision.capacity is not None:
        slots_in_all = decision.capacity * parts_of(decision) * len(decision.load)
        at = min(slots_in_all / max(int(decision.demand.sum()), 1), 4.0)
        if decision.meta["overflow"] != "pad":
            at = decision.meta["factor"]
        svg.line(x(at), y.start, x(at), y.end, stroke=INK, dash="2 3")
        lost, empty = y(100 * drop_share(decision)), y(100 * waste_share(decision))
        # The square stands on the circle and leaves its rim where both are at one place.
        mark(svg, LOST.mark, x(at), lost, LOST.colour, 5, stroke=INK)
        mark(svg, EMPTY.mark, x(at), empty, EMPTY.colour, 3.5, stroke=INK)
    known = dict(zip(FACTORS, expected, strict=True))
    zones = offered or FACTORS[::5]
    ends = [x((a + b) / 2) for a, b in pairwise(zones)]
    for factor, start, stop in zip(zones, [x.start, *ends], [*ends, x.end], strict=True):
        lost, empty = known[factor]
        shares = f"{percent(lost, 1)} dropped, {percent(empty, 1)} of the slots empty"
        tip = f"factor {factor:g}: {shares}, expected"
        press = {"factor": factor} if offered else None
        with svg.thing(tip=tip, press=press, drag=bool(offered)):
            svg.rect(start, y.end, stop - start, y.start - y.end, "transparent",
                     tip="" if offered else tip)  # fmt: skip
    first, last = expected[0], expected[-1]
    svg.text(x(FACTORS[0]) + 16, y(100 * first[0]) + 2, LOST.name, halo=True, bold=True)
    svg.text(x.end, y(100 * last[1]) + 26, EMPTY.name, anchor="end", halo=True, bold=True)
    words = "dropped: of all assignments", "empty: of all slots"
    paragraph(svg, 20, 214, (*words, "line: expected · mark: these tokens"), fill=MUTED)


def _table(decision: Decision, placed: Rows, lost: Rows) -> Iterator[tuple[object, ...]]:
    slot: dict[tuple[int, str], int] = {}
    used: Counter[tuple[int, int]] = Counter()
    for e, t, _ in placed:
        cell = (decision.meta["part"][t], e)
        slot[t, str(e)] = used[cell]
        used[cell] += 1
    for t, (token, fate) in enumerate(
        zip(decision.tokens, fates(decision, placed, lost), strict=True)
    ):
        asked = fate.replace("×", "")
        taken = ", ".join(f"expert {e} slot {slot[t, e]}" for e in fate.split() if e[0] != "×")
        without = " ".join(e[1:] for e in fate.split() if e[0] == "×")
        yield t, token, asked, taken or "none", without, "yes" if decision.leaks[t] else ""
