"""Several routers on the same tokens, side by side; and all of them in one table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from moeviz.pictures.plot import Key, box, expert_box, heat_bar, legend, paragraph
from moeviz.pictures.routing.names import bytes_note, named
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, heat_colour, shorten
from moeviz.records.metrics import drop_rate, max_violation, noise_floor
from moeviz.records.routes import Decision
from moeviz.words import percent

WIDTH = 560
LEFT = 100.0  # of the first block; token names and names of facts stand before it
TABLE_ROW = 22.0
MARKS = 32.0  # room for the two badges of a row
GAP = 8.0
LETTER, BOLD = 6.9, 7.8  # width of most letters of 12 pixels
BAR = 48.0  # height of the tallest bar
ROW = 16.0
AHEAD, NOBODY = "#d55e00", "#6e6e6e"
LEARN_NOTHING = "learn nothing"
# Names of marks.
EVEN, SLOTS, HOLLOW = "even share", "slots of an expert", "asked for, dropped"
UNSERVED, DROPPED = "no expert takes it", "dropped: no slot left"
BEFORE = "MaxVio, before drops"
NAMES = ("sees later tokens", "dropped", "no expert", f"{BEFORE} (even: 0)")
KEY_COLUMNS = (0.0, 215.0, 390.0)


def compare(
    decisions: Sequence[Decision], rules: Sequence[str], *, heading: str, note: str = "",
    press: Mapping[str, Mapping[str, object]] | None = None, hint: str = "",
) -> Picture:  # fmt: skip
    """Routers side by side: what they are, how loaded their experts are, who takes which token.
    All decisions are of the same tokens and number of experts; rules: one short text for each.
    press: what a click on a router's name sets the panel's controls to, by its label, which hint
    tells."""
    tokens, num_experts = decisions[0].tokens, decisions[0].score.shape[1]
    block = (WIDTH - LEFT) / len(decisions)
    cell = min(34.0, (block - MARKS - GAP) / num_experts)
    peak = max(int(d.demand.max(initial=1)) for d in decisions)
    facts = [facts_of(d) for d in decisions]
    rules = [f"{rule}{_own_heat(d)}" for rule, d in zip(rules, decisions, strict=True)]
    notes = [[_said(d, t) for t in range(len(tokens))] for d in decisions]
    summary = f"{heading}. " + " ".join(
        f"{what.capitalize()}: {', '.join(names) or 'none'}."
        for what, names in _who(decisions).items()
        if what != LEARN_NOTHING
    )
    above = textwrap.wrap(" ".join(filter(None, [note, bytes_note(tokens)])), int(WIDTH / LETTER))
    texts = _head(decisions, rules, facts, block)
    keys = _keys(decisions, peak)
    key = 40 + 18 * len(above) + 6  # y of its first line
    head = key + _legend_height(decisions, keys)
    rows = head + 26 + sum(_height(*row) for row in texts) + BAR + 12
    svg = Svg(WIDTH, rows + len(tokens) * ROW + 4, "Routers on the same tokens", summary)
    svg.text(0, 16, heading, size=14, bold=True)
    paragraph(svg, 0, 36, above, fill=MUTED)
    _legend(svg, key, decisions, keys)
    bars = _draw_head(svg, head + 26, decisions, rules, texts, block, press or {}, hint)
    for text, y in (("load", bars + BAR), ("token / expert", rows - 8)):
        svg.text(LEFT - 10, y, text, anchor="end", fill=MUTED)
    for t, token in enumerate(tokens):
        y = rows + t * ROW
        svg.line(0, y, WIDTH, y, width=0.5)
        fates = [f"{one.label}: {notes[i][t]}" for i, one in enumerate(decisions)]
        with svg.thing(f"t{t}", tip="\n".join([named(t, token), *fates])):
            svg.text(LEFT - 10, y + 12.5, shorten(token, 12), anchor="end", mono=True)
    for i, one in enumerate(decisions):
        x = LEFT + i * block
        _bars(svg, one, x, bars, cell, peak)
        _rows(svg, one, x, rows, cell, notes[i])
    columns = ("#", "token", *(d.label for d in decisions))
    loads = [" ".join(map(str, d.load)) for d in decisions]
    first = [("", name, *row) for name, row in zip(NAMES, zip(*facts, strict=True), strict=True)]
    each = ((t, token, *(column[t] for column in notes)) for t, token in enumerate(tokens))
    return svg.picture(columns, (*first, ("", "load", *loads), *each))


# A name in lines, and for each router the lines that answer it.
Head = list[tuple[list[str], list[list[str]]]]


def _head(
    decisions: Sequence[Decision], rules: Sequence[str], facts: list[tuple[str, ...]], block: float
) -> Head:
    """What stands above the loads: each router's name, rule and facts, in lines that fit."""

    def lines(texts: Iterable[str], letter: float) -> list[list[str]]:
        return [textwrap.wrap(text, int((block - GAP) / letter)) for text in texts]

    return [
        ([], lines((d.label for d in decisions), 9.6)),
        ([], lines(rules, LETTER)),
        *(
            (textwrap.wrap(name, 12), lines((fact.removesuffix(" tokens") for fact in row), BOLD))
            for name, row in zip(NAMES, zip(*facts, strict=True), strict=True)
        ),
    ]


def _height(name: list[str], row: list[list[str]]) -> float:
    return 15.0 * max(map(len, (name, *row))) + 4


def _draw_head(
    svg: Svg, y: float, decisions: Sequence[Decision], rules: Sequence[str], texts: Head,
    block: float, press: Mapping[str, Mapping[str, object]], hint: str,
) -> float:  # fmt: skip
    """Draws it from y on; returns where it ends."""
    for n, (name, row) in enumerate(texts):
        paragraph(svg, LEFT - 10, y, name, 15, anchor="end", fill=MUTED)
        for i, lines in enumerate(row):
            style: dict[str, Any] = {"bold": n == 2 and lines != ["no"]}
            if n < 2:
                style = {"fill": MUTED} if n else {"size": 14, "bold": True}
            label, x = decisions[i].label, LEFT + i * block
            pressed = None if n else press.get(label)
            tip = f"{label}: {rules[i]}{f'; {hint}' if pressed else ''}"
            with svg.thing(label, tip=tip, press=pressed):
                if pressed:
                    svg.rect(x - 5, y - 16, block - 4, 15 * len(lines) + 8, "none", stroke=MUTED,
                             radius=4)  # fmt: skip
                paragraph(svg, x, y, lines, 15, **style)
        y += _height(name, row)
    return y - 12


def _own_heat(one: Decision) -> str:
    """Mixtures have small weights alone, so their heat ends at the largest of them."""
    return f"; heat here: 0 to {float(one.weight.max()):.2f}" if one.visits.all() else ""


def facts_of(one: Decision) -> tuple[str, ...]:
    """NAMES of one decision, in words."""
    dropped, unserved = int(one.dropped.sum()), int((~one.visits.any(1)).sum())
    asked = int(one.demand.sum())
    return (
        sees_later(one),
        f"{dropped} of {asked} ({percent(drop_rate(one.demand, one.load))})"
        if dropped
        else "nothing",
        f"{unserved} of {len(one.tokens)} tokens" if unserved else "none",
        f"{max_violation(one.demand):.2f}" if one.demand.any() else "no load",
    )


def sees_later(one: Decision) -> str:
    """Whether decisions depend on later tokens: what was proven here, else what is declared."""
    if one.leaks.any():
        return f"yes: {int(one.leaks.sum())} of {len(one.tokens)} tokens"
    if one.causal:
        return "no"
    if one.meta.get("substitute") and not one.meta.get("training", True):
        return "no: another rule"
    return "can, but not seen here"


def _who(decisions: Sequence[Decision]) -> dict[str, list[str]]:
    """Which routers do what."""
    return {
        "see later tokens": [d.label for d in decisions if d.leaks.any()],
        "drop assignments": [d.label for d in decisions if d.dropped.any()],
        "leave tokens without an expert": [d.label for d in decisions if not d.visits.any(1).all()],
        LEARN_NOTHING: [d.label for d in decisions if not d.meta.get("learned", 1)],
    }


def _said(one: Decision, token: int) -> str:
    """All about one token in one decision."""
    visited = np.flatnonzero(one.visits[token])
    parts = [", ".join(f"e{e} {one.weight[token, e]:.2f}" for e in visited) or "no expert"]
    if one.dropped[token].any():
        lost = ", ".join(f"e{e}" for e in np.flatnonzero(one.dropped[token]))
        parts.append(f"dropped at {lost}")
    if one.leaks[token]:
        parts.append("sees later tokens")
    return "; ".join(parts)


def _bars(svg: Svg, one: Decision, x: float, top: float, cell: float, peak: int) -> None:
    """Load of each expert; hollow on top, what was dropped; the even share of all that was asked
    for, as MaxVio has it, and the places."""
    base, num_experts = top + BAR, len(one.load)
    each = math.ceil(13 / cell)  # number one in so many: for more there is no room
    for e in range(num_experts):
        load, demand = (BAR * int(v[e]) / peak for v in (one.load, one.demand))
        left, width = x + e * cell + 1, cell - 2
        tip = f"{one.label}, expert {e}: {int(one.load[e])} of {int(one.demand[e])} assignments"
        with svg.thing(f"e{e}", one.label, tip=tip):
            svg.rect(left, base - demand, width, demand, "none", stroke=INK, stroke_width=0.75)
            expert_box(svg, left, base - load, width, load, e)
            label = str(e) if e % each == 0 else ""
            svg.text(x + (e + 0.5) * cell, base + 16, label, anchor="middle", fill=MUTED)
    right = x + num_experts * cell
    even = base - BAR * float(one.demand.mean()) / peak
    svg.line(x - 2, even, right, even, stroke=INK, dash="4 3")
    if one.capacity is not None and one.capacity <= peak:
        limit = base - BAR * one.capacity / peak
        svg.line(x - 2, limit, right, limit, stroke=AHEAD, width=1.5)
    svg.line(x - 2, base, right, base)


def _rows(svg: Svg, one: Decision, x: float, top: float, cell: float, said: list[str]) -> None:
    """A row for each token: weights as heat, the dropped crossed out, badges on the right."""
    num_experts = one.visits.shape[1]
    whole = bool(one.visits.all())
    bottom = top + len(one.tokens) * ROW
    if not whole:
        _grid(svg, x, top, bottom, cell, num_experts)
    for t, token in enumerate(one.tokens):
        y = top + t * ROW + 1
        marks = x + num_experts * cell + 4
        with svg.thing(f"t{t}", one.label, tip=f"{named(t, token)}: {said[t]}"):
            svg.rect(x, y - 1, num_experts * cell + MARKS, ROW, "transparent")
            if whole:  # mixtures: one image, for hundreds of marks would say no more
                shares = one.weight[t][None] / float(one.weight.max())
                svg.heat(x, y, num_experts * cell, ROW - 2, shares)
                svg.rect(x, y, num_experts * cell, ROW - 2, "none", stroke=MUTED)
            if not one.visits[t].any():
                _badge(svg, marks, y, "∅", NOBODY)
            if one.leaks[t]:
                _badge(svg, marks + 14, y, "↓", AHEAD)
        for e in [] if whole else np.flatnonzero(one.visits[t]):
            weight = float(one.weight[t, e])
            written = f"{weight:.1f}" if weight >= 0.995 else f"{weight:.2f}".lstrip("0")
            # The edge shows a weight of nearly 0 where the page is dark.
            tip = f"'{shorten(token, 12)}' → expert {e}, {weight:.2f}"
            with svg.thing(f"t{t}", f"e{e}", one.label, tip=tip):
                box(svg, x + int(e) * cell + 1, y, cell - 2, ROW - 2, heat_colour(weight),
                    written if cell >= 22 else "", stroke=MUTED)  # fmt: skip
        for e in np.flatnonzero(one.dropped[t]):
            tip = f"'{shorten(token, 12)}' dropped at expert {e}"
            with svg.thing(f"t{t}", f"e{e}", one.label, tip=tip):
                _cross(svg, x + int(e) * cell + 2, y + 1, cell - 4, ROW - 4)
    if whole:
        _grid(svg, x, top, bottom, cell, num_experts)


def _grid(svg: Svg, x: float, top: float, bottom: float, cell: float, num_experts: int) -> None:
    """Which column is whose, far below the experts' numbers too."""
    for e in range(num_experts + 1):
        svg.line(x + e * cell, top, x + e * cell, bottom, width=0.5)


def _cross(svg: Svg, x: float, y: float, width: float, height: float) -> None:
    svg.rect(x, y, width, height, "none", stroke=INK, stroke_width=0.75)
    centre = (x + width / 2, y + height / 2)
    corners = [(x, y), (x + width, y + height), centre, (x, y + height), (x + width, y)]
    svg.polyline(corners, stroke=INK, width=1.25)


def _badge(svg: Svg, x: float, y: float, mark: str, colour: str) -> None:
    box(svg, x, y, 14, ROW - 2, colour, mark, radius=3, bold=True)


def _keys(decisions: Sequence[Decision], peak: int) -> list[tuple[str, Key | None]]:
    """The short names of the marks that are on screen; a badge or a cross has no Key."""
    limits = [d.capacity for d in decisions if d.capacity is not None and d.capacity <= peak]
    dropped = any(d.dropped.any() for d in decisions)
    hollow = any((d.demand > d.load).any() for d in decisions)
    shown = (
        (True, EVEN, Key(EVEN, INK, "4 3", width=1)),
        (bool(limits), SLOTS, Key(SLOTS, AHEAD, width=1.5)),
        (hollow, HOLLOW, Key(HOLLOW, "none", mark="box", width=0)),
        (any(not d.visits.any(1).all() for d in decisions), UNSERVED, None),
        (dropped, DROPPED, None),
    )
    return [(name, key) for on_screen, name, key in shown if on_screen]


def _lines(decisions: Sequence[Decision]) -> list[str]:
    """What MaxVio is, in lines."""
    top_k = decisions[0].meta.get("top_k", 1)
    tokens, num_experts = decisions[0].score.shape
    floor = noise_floor(tokens, num_experts, min(top_k, num_experts))
    violation = (
        "MaxVio: what the busiest expert is asked for, over the even share, minus 1; both before "
        f"drops. Chance alone reaches about {floor:.2f}"
    )
    return textwrap.wrap(violation, int(WIDTH / LETTER))


def _legend_height(decisions: Sequence[Decision], keys: Sequence[object]) -> float:
    rows = 1 + len(keys) // len(KEY_COLUMNS)
    ahead = any(d.leaks.any() for d in decisions)
    return 20.0 * (rows + ahead) + 18 * len(_lines(decisions)) - 14


def _legend(
    svg: Svg, y: float, decisions: Sequence[Decision], keys: Sequence[tuple[str, Key | None]]
) -> None:
    """What the marks mean that are on screen: the heat and short names in columns, then lines."""
    heat_bar(svg, 59, y - 11, 77, 12, "weight 0", "1 or more")
    for n, (name, key) in enumerate(keys, 1):
        row, column = divmod(n, len(KEY_COLUMNS))
        x, at = KEY_COLUMNS[column], y + 20 * row
        if key is not None:
            legend(svg, x, at, [key], fill=MUTED)
            continue
        if name == UNSERVED:
            _badge(svg, x, at - 11, "∅", NOBODY)
        else:
            _cross(svg, x, at - 10, 14, 11)
        svg.text(x + 20, at, name, fill=MUTED)
    y += 20 * (1 + len(keys) // len(KEY_COLUMNS))
    if any(d.leaks.any() for d in decisions):
        _badge(svg, 0, y - 11, "↓", AHEAD)
        svg.text(20, y, "sees later tokens: changed when they were replaced", fill=MUTED)
        y += 20
    paragraph(svg, 0, y, _lines(decisions), fill=MUTED)


def overview(decisions: Sequence[Decision], *, heading: str) -> Picture:
    """Every router's answers to the same questions, in one table; the busiest expert as a bar."""
    columns = (
        "router", *NAMES[:3], "experts a token", "learned numbers", "generates", BEFORE
    )  # fmt: skip
    rows = tuple(_answers(d) for d in decisions)
    summary = f"{heading}. " + " ".join(
        f"{len(who)} of {len(decisions)} {what}: {', '.join(who) or 'none'}."
        for what, who in _who(decisions).items()
    )
    height = 58 + len(rows) * TABLE_ROW + 8
    svg = Svg(430, height, "All routers on the same tokens", summary)
    svg.text(0, 16, heading, size=14, bold=True)
    # Two tables beside each other, each with the routers' names.
    parts = (svg, columns[1:4], (100.0, 240.0, 364.0)), (
        svg.beside(520, height), columns[4:], (100.0, 206.0, 318.0, 424.0),
    )  # fmt: skip
    worst = max([max_violation(d.demand) for d in decisions if d.demand.any()], default=1) or 1
    for part, names, places in parts:
        for x, name in zip((0.0, *places), (columns[0], *names), strict=True):
            lines = textwrap.wrap(name, 12)
            paragraph(part, x, 66 - 15 * len(lines), lines, 15, bold=True)
        for i, (one, row) in enumerate(zip(decisions, rows, strict=True)):
            y, answers = 58 + i * TABLE_ROW, dict(zip(columns, row, strict=True))
            part.line(0, y, part.width, y, width=0.5)
            tip = ", ".join(f"{name} {answers[name]}" for name in names)
            with part.thing(one.label, tip=f"{one.label}: {tip}"):
                part.text(0, y + 15, one.label, bold=True)
                for x, name in zip(places, names, strict=True):
                    value = answers[name]
                    bold = value.startswith("yes:")
                    bold |= name in NAMES[1:3] and value not in ("nothing", "none")
                    part.text(x, y + 15, value, bold=bold)
                if BEFORE in names and one.demand.any():
                    length = 40 * max_violation(one.demand) / worst
                    part.rect(places[-1] + 34, y + 5, length, 12, "#56b4e9", stroke=INK)
    return svg.picture(columns, rows)


def _answers(one: Decision) -> tuple[str, ...]:
    experts = f"{one.visits.sum(1).mean():.2f}" if not one.soft else "mixtures"
    otherwise = "by another rule" if one.meta.get("substitute") else "no"
    generates = "yes" if one.causal else otherwise
    sees, dropped, unserved, violation = facts_of(one)
    learned = f"{one.meta['learned']:,}" if one.meta.get("learned") else "none"
    short = [fact.removesuffix(" tokens") for fact in (sees, dropped, unserved)]
    return one.label, *short, experts, learned, generates, violation
