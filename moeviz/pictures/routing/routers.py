"""Several routers on the same tokens, side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from moeviz.pictures.colours import heat_colour
from moeviz.pictures.plot import Key, box, expert_box, heat_bar, legend, paragraph
from moeviz.pictures.routing.names import bytes_note, named
from moeviz.pictures.routing.router_facts import (
    LEARN_NOTHING,
    NAMES,
    facts_of,
    fate_of,
    finding,
    most_telling,
    who_does,
)
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten
from moeviz.records.metrics import noise_floor
from moeviz.records.routes import Decision

WIDTH = 560
LEFT = 100.0  # of the first block; token names and names of facts stand before it
MARKS = 32.0  # room for the two badges of a row
GAP = 8.0
LETTER, BOLD = 6.9, 7.8  # width of most letters of 12 pixels
BAR = 48.0  # height of the tallest bar
ROW = 16.0
AHEAD, NOBODY = "#d55e00", "#6e6e6e"
QUESTION = "Who takes which token?"
GRID = "row: a token · column, colour: an expert · box: a visit, its heat the weight"
# Names of marks.
SLOTS, HOLLOW = "slots of an expert", "asked for, dropped"
UNSERVED, DROPPED, SEES = "no expert takes it", "dropped: no slot left", "sees later tokens"
BADGES = {UNSERVED: ("∅", NOBODY), SEES: ("↓", AHEAD)}
KEY_COLUMNS = (0.0, 215.0, 390.0)
FEW = 12  # tokens of a first look


def compare(
    decisions: Sequence[Decision], rules: Sequence[str], *, heading: str, note: str = "",
    press: Mapping[str, Mapping[str, object]] | None = None, hint: str = "",
    rows: str = "all", pressed: bool = False,
) -> Picture:  # fmt: skip
    """Routers side by side: what sets them apart, how loaded their experts are, who takes which
    token. All decisions are of the same tokens and number of experts; rules: one short text for
    each. press: what a click on a router's name sets the panel's controls to, by its label, which
    hint tells. rows: "all", or "few": those FEW tokens that tell most; pressed: whether a click
    sets the panel's control of this name to the other one."""
    tokens, num_experts = decisions[0].tokens, decisions[0].score.shape[1]
    block = (WIDTH - LEFT) / len(decisions)
    cell = min(34.0, (block - MARKS - GAP) / num_experts)
    peak = max(int(d.demand.max(initial=1)) for d in decisions)
    facts = [facts_of(d) for d in decisions]
    rules = [f"{rule}{_own_heat(d)}" for rule, d in zip(rules, decisions, strict=True)]
    fates = [[fate_of(d, t) for t in range(len(tokens))] for d in decisions]
    summary = f"{heading}. " + " ".join(
        f"{what.capitalize()}: {', '.join(names) or 'none'}."
        for what, names in who_does(decisions).items()
        if what != LEARN_NOTHING
    )
    shown = most_telling(decisions, FEW) if rows == "few" else range(len(tokens))
    told = textwrap.wrap(finding(decisions), int(WIDTH / BOLD))
    notes = filter(None, [note, bytes_note([tokens[t] for t in shown])])
    above = [heading, *textwrap.wrap(" ".join(notes), int(WIDTH / LETTER))]
    texts = _head(decisions, rules, facts, block)
    keys = _keys(decisions, peak)
    key = 40 + 18 * len(told + above) + 6  # y of its first line
    head = key + _legend_height(keys)
    top = head + 10 + sum(_height(*row) for row in texts) + BAR + 12
    bottom = top + len(shown) * ROW
    some = pressed and len(tokens) > FEW
    svg = Svg(WIDTH, bottom + 4 + 32 * some, "Routers on the same tokens", summary)
    svg.text(0, 16, QUESTION, size=14, bold=True)
    paragraph(svg, 0, 38, told, bold=True)
    paragraph(svg, 0, 38 + 18 * len(told), above, fill=MUTED)
    _legend(svg, key, keys)
    bars = _draw_head(svg, head + 10, decisions, rules, texts, block, press or {}, hint)
    svg.text(LEFT - 10, top - 8, "token / expert", anchor="end", fill=MUTED)
    for place, t in enumerate(shown):
        y = top + place * ROW
        svg.line(0, y, WIDTH, y, width=0.5)
        words = [f"{one.label}: {fates[i][t]}" for i, one in enumerate(decisions)]
        with svg.thing(f"t{t}", tip="\n".join([named(t, tokens[t]), *words])):
            svg.text(LEFT - 10, y + 12.5, shorten(tokens[t], 12), anchor="end", mono=True)
    for i, one in enumerate(decisions):
        x = LEFT + i * block
        _bars(svg, one, x, bars, cell, peak, first=not i)
        _rows(svg, one, x, top, cell, shown, fates[i])
    if some:
        _turn_over(svg, bottom + 8, len(tokens), shown)
    columns = ("#", "token", *(d.label for d in decisions))
    loads = [" ".join(map(str, d.load)) for d in decisions]
    begin = [("", name, *row) for name, row in zip(NAMES, zip(*facts, strict=True), strict=True)]
    each = ((t, token, *(column[t] for column in fates)) for t, token in enumerate(tokens))
    return svg.picture(columns, (*begin, ("", "load", *loads), *each))


def _turn_over(svg: Svg, y: float, tokens: int, shown: range) -> None:
    """The button below the rows: for all of them, or for few."""
    few = len(shown) < tokens
    words = f"show the {FEW} tokens that tell most"
    if few:
        words = f"these {len(shown)} tokens tell most · show all {tokens}"
    with svg.thing(tip=words, press={"rows": "all" if few else "few"}):
        box(svg, LEFT, y, WIDTH - LEFT - 8, 22, "none", words, radius=6, stroke=MUTED)


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
            (textwrap.wrap(name, 12), lines(map(_short, row), BOLD))
            for name, row in zip(NAMES, zip(*facts, strict=True), strict=True)
        ),
    ]


def _short(fact: str) -> str:
    """Without what is clear, and a number with its sign in one line."""
    return fact.removesuffix(" tokens").replace(" %", "\u00a0%")


def _height(name: list[str], row: list[list[str]]) -> float:
    return 15.0 * max(map(len, (name, *row))) + 4


def _draw_head(
    svg: Svg, y: float, decisions: Sequence[Decision], rules: Sequence[str], texts: Head,
    block: float, press: Mapping[str, Mapping[str, object]], hint: str,
) -> float:  # fmt: skip
    """Draws it from y on; returns where it ends."""
    for n, (name, row) in enumerate(texts):
        with svg.thing(tip=_violation(decisions) if n == len(texts) - 1 else ""):
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


def _bars(
    svg: Svg, one: Decision, x: float, top: float, cell: float, peak: int, *, first: bool
) -> None:
    """Load of each expert; hollow on top, what was dropped; the even share of all that was asked
    for, as MaxVio has it, named in the first block, and the places."""
    base, num_experts = top + BAR, len(one.load)
    # Number one in so many: for more there is no room.
    each = math.ceil((6 + 7 * len(str(num_experts - 1))) / cell)
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
    if first:
        svg.text(x - 10, even + 4, "even load", anchor="end", fill=MUTED)
    if one.capacity is not None and one.capacity <= peak:
        limit = base - BAR * one.capacity / peak
        svg.line(x - 2, limit, right, limit, stroke=AHEAD, width=1.5)
    svg.line(x - 2, base, right, base)


def _rows(
    svg: Svg, one: Decision, x: float, top: float, cell: float, shown: range, fates: list[str]
) -> None:
    """A row for each token: weights as heat, the dropped crossed out, badges on the right."""
    num_experts = one.visits.shape[1]
    whole = bool(one.visits.all())
    bottom = top + len(shown) * ROW
    if not whole:
        _grid(svg, x, top, bottom, cell, num_experts)
    for place, t in enumerate(shown):
        y, token = top + place * ROW + 1, one.tokens[t]
        marks = x + num_experts * cell + 4
        with svg.thing(f"t{t}", one.label, tip=f"{named(t, token)}: {fates[t]}"):
            svg.rect(x, y - 1, num_experts * cell + MARKS, ROW, "transparent")
            if whole:  # mixtures: one image, for hundreds of marks would say no more
                shares = one.weight[t][None] / float(one.weight.max())
                svg.heat(x, y, num_experts * cell, ROW - 2, shares)
                svg.rect(x, y, num_experts * cell, ROW - 2, "none", stroke=MUTED)
            if not one.visits[t].any():
                _badge(svg, marks, y, UNSERVED)
            if one.leaks[t]:
                _badge(svg, marks + 14, y, SEES)
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


def _badge(svg: Svg, x: float, y: float, name: str) -> None:
    mark, colour = BADGES[name]
    box(svg, x, y, 14, ROW - 2, colour, mark, radius=3, bold=True)


def _keys(decisions: Sequence[Decision], peak: int) -> list[tuple[str, Key | None]]:
    """The short names of the marks that are on screen; a badge or a cross has no Key."""
    limits = [d.capacity for d in decisions if d.capacity is not None and d.capacity <= peak]
    dropped = any(d.dropped.any() for d in decisions)
    hollow = any((d.demand > d.load).any() for d in decisions)
    shown = (
        (bool(limits), SLOTS, Key(SLOTS, AHEAD, width=1.5)),
        (hollow, HOLLOW, Key(HOLLOW, "none", mark="box", width=0)),
        (any(not d.visits.any(1).all() for d in decisions), UNSERVED, None),
        (dropped, DROPPED, None),
        (any(d.leaks.any() for d in decisions), SEES, None),
    )
    return [(name, key) for on_screen, name, key in shown if on_screen]


def _violation(decisions: Sequence[Decision]) -> str:
    """What MaxVio is, and how much of it chance alone makes."""
    top_k = decisions[0].meta.get("top_k", 1)
    tokens, num_experts = decisions[0].score.shape
    floor = noise_floor(tokens, num_experts, min(top_k, num_experts))
    return (
        "MaxVio: what the busiest expert is asked for, over the even share, minus 1; both before "
        f"drops. Chance alone reaches about {floor:.2f}"
    )


def _legend_height(keys: Sequence[object]) -> float:
    return 20.0 * (2 + len(keys) // len(KEY_COLUMNS))


def _legend(svg: Svg, y: float, keys: Sequence[tuple[str, Key | None]]) -> None:
    """What the marks on screen mean: the grid, then the heat and short names in columns."""
    svg.text(0, y, GRID, fill=MUTED)
    y += 20
    heat_bar(svg, 59, y - 11, 77, 12, "weight 0", "1 or more")
    for n, (name, key) in enumerate(keys, 1):
        row, column = divmod(n, len(KEY_COLUMNS))
        x, at = KEY_COLUMNS[column], y + 20 * row
        if key is not None:
            legend(svg, x, at, [key], fill=MUTED)
            continue
        if name in BADGES:
            _badge(svg, x, at - 11, name)
        else:
            _cross(svg, x, at - 10, 14, 11)
        svg.text(x + 20, at, name, fill=MUTED)
