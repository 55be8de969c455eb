"""Several routers on the same tokens, side by side; and all of them in one table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from moeviz.pictures.plot import Key, box, expert_box, heat_bar, legend, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, heat_colour, shorten
from moeviz.records.metrics import drop_rate, max_violation, noise_floor
from moeviz.records.routes import Decision

WIDTH = 900
LEFT = 122.0  # of the first block; token names and names of facts stand before it
TABLE_ROW = 22.0
MARKS = 34.0  # room for the two badges of a row
GAP = 20.0
KEYS, NAME, FACTS, BARS, ROWS = 38.0, 92.0, 140.0, 210.0, 290.0  # where each part begins
BAR = 48.0  # height of the tallest bar
ROW = 16.0
AHEAD, NOBODY = "#d55e00", "#6e6e6e"
LEARN_NOTHING = "learn nothing"
NAMES = ("sees later tokens", "dropped", "no expert", "MaxVio (even: 0)")


def compare(
    decisions: Sequence[Decision], rules: Sequence[str], *, heading: str, note: str = "",
) -> Picture:  # fmt: skip
    """Routers side by side: what they are, how loaded their experts are, who takes which token.
    All decisions are of the same tokens and number of experts; rules: one short text for each."""
    tokens, num_experts = decisions[0].tokens, decisions[0].score.shape[1]
    block = (WIDTH - LEFT) / len(decisions)
    cell = min(34.0, (block - MARKS - GAP) / num_experts)
    peak = max(int(d.demand.max(initial=1)) for d in decisions)
    facts = [facts_of(d) for d in decisions]
    notes = [[_said(d, t) for t in range(len(tokens))] for d in decisions]
    summary = f"{heading}. " + " ".join(
        f"{what.capitalize()}: {', '.join(names) or 'none'}."
        for what, names in _who(decisions).items()
        if what != LEARN_NOTHING
    )
    bottom = ROWS + len(tokens) * ROW
    below = textwrap.wrap(note, int(WIDTH / 6.6))
    svg = Svg(WIDTH, bottom + 8 + 18 * len(below), "Routers on the same tokens", summary)
    svg.text(0, 16, heading, size=14, bold=True)
    _legend(svg, KEYS, decisions)
    paragraph(svg, 0, bottom + 18, below, fill=MUTED)
    paragraph(svg, LEFT - 10, FACTS, NAMES, 17, anchor="end", fill=MUTED)
    svg.text(LEFT - 10, BARS + BAR, "load", anchor="end", fill=MUTED)
    svg.text(LEFT - 10, ROWS - 8, "token / expert", anchor="end", fill=MUTED)
    for t, token in enumerate(tokens):
        y = ROWS + t * ROW
        svg.line(0, y, WIDTH, y, width=0.5)
        svg.text(LEFT - 10, y + 12.5, shorten(token, 14), anchor="end", mono=True)
    for i, one in enumerate(decisions):
        x = LEFT + i * block
        svg.text(x, NAME, one.label, size=14, bold=True)
        paragraph(
            svg, x, NAME + 16, textwrap.wrap(rules[i], int((block - 8) / 6.6))[:2], 15, fill=MUTED
        )
        for n, fact in enumerate(facts[i]):
            svg.text(x, FACTS + n * 17, fact, bold=n == 0 and fact != "no")
        _bars(svg, one, x, cell, peak)
        _rows(svg, one, x, cell, notes[i])
    columns = ("#", "token", *(d.label for d in decisions))
    loads = [" ".join(map(str, d.load)) for d in decisions]
    above = [("", name, *row) for name, row in zip(NAMES, zip(*facts, strict=True), strict=True)]
    each = ((t, token, *(column[t] for column in notes)) for t, token in enumerate(tokens))
    return svg.picture(columns, (*above, ("", "load", *loads), *each))


def facts_of(one: Decision) -> tuple[str, ...]:
    """NAMES of one decision, in words."""
    dropped, unserved = int(one.dropped.sum()), int((~one.visits.any(1)).sum())
    asked = int(one.demand.sum())
    return (
        sees_later(one),
        f"{dropped} of {asked} ({drop_rate(one.demand, one.load):.0%})" if dropped else "nothing",
        f"{unserved} of {len(one.tokens)} tokens" if unserved else "none",
        f"{max_violation(one.load):.2f}" if one.load.any() else "no load",
    )


def sees_later(one: Decision) -> str:
    """Whether decisions depend on later tokens: what was proven here, else what is declared."""
    if one.leaks.any():
        return f"yes: {int(one.leaks.sum())} of {len(one.tokens)} tokens"
    if one.causal:
        return "no"
    if one.meta.get("substitute") and not one.meta.get("training", True):
        return "no: another rule"
    return "may, not caught here"


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


def _bars(svg: Svg, one: Decision, x: float, cell: float, peak: int) -> None:
    """Load of each expert; hollow on top, what was dropped; the even share and the places."""
    base, num_experts = BARS + BAR, len(one.load)
    for e in range(num_experts):
        load, demand = (BAR * int(v[e]) / peak for v in (one.load, one.demand))
        left, width = x + e * cell + 1, cell - 3
        tip = f"expert {e}: {int(one.load[e])} of {int(one.demand[e])} assignments"
        svg.rect(left, base - demand, width, demand, "none", stroke=INK, stroke_width=0.75)
        expert_box(svg, left, base - load, width, load, e, tip=tip)
        svg.text(x + (e + 0.5) * cell, ROWS - 8, str(e), anchor="middle", fill=MUTED)
    right = x + num_experts * cell
    even = base - BAR * float(one.load.mean()) / peak
    svg.line(x - 2, even, right, even, stroke=INK, dash="4 3")
    if one.capacity is not None and one.capacity <= peak:
        limit = base - BAR * one.capacity / peak
        svg.line(x - 2, limit, right, limit, stroke=AHEAD, width=1.5)
    svg.line(x - 2, base, right, base)


def _rows(svg: Svg, one: Decision, x: float, cell: float, said: list[str]) -> None:
    """A row for each token: weights as heat, the dropped crossed out, badges on the right."""
    num_tokens, num_experts = one.visits.shape
    height = ROW - 2
    whole = bool(one.visits.all())
    if whole:  # mixtures: one image, for hundreds of marks would say no more
        svg.heat(x, ROWS, num_experts * cell, num_tokens * ROW, one.weight)
    for t in range(num_tokens):
        y = ROWS + t * ROW + 1
        for e in [] if whole else np.flatnonzero(one.visits[t]):
            weight = float(one.weight[t, e])
            written = f"{weight:.1f}" if weight >= 0.995 else f"{weight:.2f}".lstrip("0")
            box(svg, x + int(e) * cell + 1, y, cell - 2, height, heat_colour(weight),
                written if cell >= 25 else "")  # fmt: skip
        for e in np.flatnonzero(one.dropped[t]):
            _cross(svg, x + int(e) * cell + 2, y + 1, cell - 4, height - 2)
        marks = x + num_experts * cell + 4
        if not one.visits[t].any():
            _badge(svg, marks, y, "∅", NOBODY)
        if one.leaks[t]:
            _badge(svg, marks + 15, y, "↓", AHEAD)
        # On top of the row, for the mouse: all about it in words.
        tip = f"{one.tokens[t]}: {said[t]}"
        svg.rect(x, y - 1, num_experts * cell + MARKS, ROW, "transparent", tip=tip)


def _cross(svg: Svg, x: float, y: float, width: float, height: float) -> None:
    svg.rect(x, y, width, height, "none", stroke=INK, stroke_width=0.75)
    centre = (x + width / 2, y + height / 2)
    corners = [(x, y), (x + width, y + height), centre, (x, y + height), (x + width, y)]
    svg.polyline(corners, stroke=INK, width=1.25)


def _badge(svg: Svg, x: float, y: float, mark: str, colour: str) -> None:
    box(svg, x, y, 14, ROW - 2, colour, mark, radius=3, bold=True)


def _legend(svg: Svg, y: float, decisions: Sequence[Decision]) -> None:
    """What the marks mean, in two lines."""
    heat_bar(svg, 59, y - 11, 77, 12, "weight 0", "1 or more")
    _cross(svg, 218, y - 10, 14, 11)
    svg.text(238, y, "dropped: no place left", fill=MUTED)
    _badge(svg, 386, y - 11, "∅", NOBODY)
    svg.text(406, y, "no expert takes it", fill=MUTED)
    _badge(svg, 526, y - 11, "↓", AHEAD)
    svg.text(546, y, "sees later tokens: changed when they were replaced", fill=MUTED)
    y += 24
    lines = Key("even share", INK, "4 3", width=1), Key("places of an expert", AHEAD, width=1.5)
    legend(svg, 0, y, lines, fill=MUTED)
    top_k = decisions[0].meta.get("top_k", 1)
    tokens, num_experts = decisions[0].score.shape
    floor = noise_floor(tokens, num_experts, min(top_k, num_experts))
    violation = "MaxVio: busiest expert over the even share, minus 1; chance alone reaches about"
    svg.text(288, y, f"{violation} {floor:.2f}", fill=MUTED)


def overview(decisions: Sequence[Decision], *, heading: str) -> Picture:
    """Every router's answers to the same questions, in one table; the busiest expert as a bar."""
    columns = (
        "router", *NAMES[:3], "experts a token", "learned numbers", "generates", "MaxVio"
    )  # fmt: skip
    place = (0.0, 116.0, 246.0, 356.0, 436.0, 550.0, 672.0, 790.0)
    rows = tuple(_answers(d) for d in decisions)
    summary = f"{heading}. " + " ".join(
        f"{len(who)} of {len(decisions)} {what}: {', '.join(who) or 'none'}."
        for what, who in _who(decisions).items()
    )
    svg = Svg(WIDTH, 54 + len(rows) * TABLE_ROW + 8, "All routers on the same tokens", summary)
    svg.text(0, 16, heading, size=14, bold=True)
    for x, name in zip(place, columns, strict=True):
        svg.text(x, 42, name.removesuffix(" (even: 0)"), bold=True)
    worst = max([max_violation(d.load) for d in decisions if d.load.any()], default=1) or 1
    for i, (one, row) in enumerate(zip(decisions, rows, strict=True)):
        y = 54 + i * TABLE_ROW
        svg.line(0, y, WIDTH, y, width=0.5)
        for x, column, value in zip(place, columns, row, strict=True):
            bold = column == "router" or value.startswith("yes:")
            bold |= column in NAMES[1:3] and value not in ("nothing", "none")
            svg.text(x, y + 15, value, bold=bold)
        if one.load.any():
            length = 56 * max_violation(one.load) / worst
            svg.rect(place[-1] + 38, y + 5, length, 12, "#56b4e9")
    return svg.picture(columns, rows)


def _answers(one: Decision) -> tuple[str, ...]:
    experts = f"{one.visits.sum(1).mean():.2f}" if not one.soft else "mixtures"
    otherwise = "by another rule" if one.meta.get("substitute") else "no"
    generates = "yes" if one.causal else otherwise
    sees, dropped, unserved, violation = facts_of(one)
    learned = f"{one.meta['learned']:,}" if one.meta.get("learned") else "none"
    short = [fact.removesuffix(" tokens") for fact in (sees, dropped, unserved)]
    return one.label, *short, experts, learned, generates, violation
