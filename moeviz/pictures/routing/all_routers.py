"""All routers on the same tokens, in one table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from moeviz.pictures.plot import paragraph
from moeviz.pictures.routing.router_facts import BEFORE, NAMES, facts_of, who_does
from moeviz.pictures.svg import INK, Picture, Svg
from moeviz.records.metrics import max_violation
from moeviz.records.routes import Decision

ROW = 22.0


def overview(decisions: Sequence[Decision], *, heading: str) -> Picture:
    """Every router's answers to the same questions, in one table; the busiest expert as a bar."""
    columns = (
        "router", *NAMES[:3], "experts a token", "learned numbers", "generates", BEFORE
    )  # fmt: skip
    rows = tuple(_answers(d) for d in decisions)
    summary = f"{heading}. " + " ".join(
        f"{len(who)} of {len(decisions)} {what}: {', '.join(who) or 'none'}."
        for what, who in who_does(decisions).items()
    )
    height = 58 + len(rows) * ROW + 8
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
            y, answers = 58 + i * ROW, dict(zip(columns, row, strict=True))
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
