"""A batch under a limit of slots: in which order its assignments come, and what becomes of them."""

from __future__ import annotations

import math

from moeviz.pictures.colours import expert_colour, ink_on
from moeviz.pictures.plot import expert_box, flow
from moeviz.pictures.routing.names import named
from moeviz.pictures.svg import INK, MUTED, RULE, Svg, shorten
from moeviz.records.routes import Decision

WIDTH = 560
SHOWN_TOKENS = 128
DROPPED = "#d55e00"
SOME, NOBODY = "not all its experts", "no expert"  # of a token that lost an assignment

Row = tuple[int, int, int]  # expert, token, choice
Rows = list[Row]


def parts_of(decision: Decision) -> int:
    """In how many parts slots are counted apart: 1 where the whole batch is the pool."""
    return max(decision.meta["part"], default=0) + 1


def limit_of(factor: float, even: float) -> int:
    """The slots of an expert whose even share is so many assignments (routing.capacity_of)."""
    return max(1, math.ceil(factor * even - 1e-9))


def arrivals(decision: Decision) -> Rows:
    """All assignments in the order in which they ask for a slot (routing.capacity.Priority)."""
    score_TE, priority = decision.score, decision.meta["priority"]

    def key(row: Row) -> tuple[float, ...]:
        e, t, k = row
        return {
            "position": (t, k),
            "choice": (k, t),
            "probability": (-float(score_TE[t, e]), t, k),
            "batch": (k, -float(score_TE[t].max()), t),
        }[priority]

    rows = [*decision.meta["placed"], *decision.meta["lost"]]
    return sorted(((e, t, k) for e, t, k in rows), key=key)


def so_far(decision: Decision, come: Rows) -> tuple[Rows, Rows]:
    """Of the assignments that have come, those with a slot and those without, in plan order."""
    there = {*come}
    placed, lost = (
        [(e, t, k) for e, t, k in decision.meta[name] if (e, t, k) in there]
        for name in ("placed", "lost")
    )
    return placed, lost


def laid_out(decision: Decision) -> tuple[list[tuple[float, float, float]], float]:
    """Where each token's box of batch_strip goes: (x, y, width), and the height of all."""
    labels = fates(decision, decision.meta["placed"], decision.meta["lost"])
    shown = [shorten(token, 20) for token in decision.tokens[:SHOWN_TOKENS]]
    part_T = decision.meta["part"]
    breaks = {t for t in range(1, len(shown)) if part_T[t] != part_T[t - 1]}
    boxes, height = flow(shown, [(label,) for label in labels[:SHOWN_TOKENS]], size=13, air=8,
                         room=WIDTH, line_height=44, breaks=breaks)  # fmt: skip
    return boxes, height + 20.0 * (len(decision.tokens) > SHOWN_TOKENS)


def fates(decision: Decision, placed: Rows, lost: Rows) -> list[str]:
    """Each token's experts, first choice first; × before one that had no slot for it."""
    names: list[list[tuple[int, str]]] = [[] for _ in decision.tokens]
    for sign, rows in (("", placed), ("×", lost)):
        for e, t, k in rows:
            names[t].append((k, f"{sign}{e}"))
    return [" ".join(name for _, name in sorted(row)) for row in names]


def batch_strip(
    svg: Svg, decision: Decision, boxes: list[tuple[float, float, float]], top: float,
    placed: Rows, lost: Rows, now: Row | None,
) -> None:  # fmt: skip
    """A batch in its order: one line through a token without all its experts, two through one
    without any; those that have not come yet are left empty, and the one that comes now framed."""
    labels, one = fates(decision, placed, lost), not any(decision.meta["part"])
    title = "The batch in its order" if one else "The sequences, one below another"
    svg.text(0, top - 30, title, size=13, bold=True)
    struck = f"one line: {SOME} · " if decision.meta["top_k"] > 1 else ""
    waits = "" if all(labels) else " · pale: to come"
    waits += " · framed: now" if now else ""
    svg.text(0, top - 12, f"two lines: {NOBODY} · {struck}×: no slot{waits}", fill=MUTED)
    first: dict[int, tuple[int, int]] = {}
    for e, t, k in placed:
        first[t] = min(first.get(t, (k, e)), (k, e))
    for t, (x, y, width) in enumerate(boxes):
        expert = first[t][1] if t in first else -1
        fate = NOBODY if t not in first else SOME if "×" in labels[t] else "placed"
        if not labels[t]:
            fate = "not come yet"
        words = f"{labels[t]} " if labels[t] else ""
        kin = [f"e{name.lstrip('×')}" for name in labels[t].split()]
        with svg.thing(f"t{t}", *kin, tip=f"{named(t, decision.tokens[t])}: {words}({fate})"):
            _token(svg, x, y + top, width, shorten(decision.tokens[t], 20), labels[t], expert)
            if now and now[1] == t:
                svg.rect(x - 1.5, y + top - 1.5, width + 3, 25, "none", stroke=INK, stroke_width=3)
    if len(decision.tokens) > SHOWN_TOKENS:
        bottom = top + boxes[-1][1] + 58
        svg.text(0, bottom, f"and {len(decision.tokens) - SHOWN_TOKENS} more tokens", fill=MUTED)


def _token(svg: Svg, x: float, y: float, width: float, text: str, fate: str, expert: int) -> None:
    """A token over its fate; what strikes it out lies under its text."""
    if not fate:
        svg.rect(x, y, width, 22, "none", radius=3, stroke=RULE)
        ink = MUTED
    else:
        expert_box(svg, x, y, width, 22, expert, radius=3)
        ink = ink_on(expert_colour(expert)) if expert >= 0 else "#000000"
        strike = ink if expert >= 0 else DROPPED
        if "×" in fate:
            svg.line(x, y + 22, x + width, y, stroke=strike)
        if expert < 0:
            svg.line(x, y, x + width, y + 22, stroke=strike)
    middle = x + width / 2
    svg.text(middle, y + 15.8, text, size=13, mono=True, anchor="middle", fill=ink)
    svg.text(middle, y + 36, fate, anchor="middle", mono=True)
