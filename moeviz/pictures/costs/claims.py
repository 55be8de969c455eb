"""A claim, the sum that tests it, the verdict, and how the verdict hangs on what is assumed."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import groupby

from moeviz.costs import CLAIMS, SOURCES, VERDICTS, Assumption, Evaluation, evaluate
from moeviz.pictures.costs.model_parts import count, money
from moeviz.pictures.plot import box, heading, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg

WIDTH, HEIGHT = 900.0, 560.0
STEPS = 20
MANTISSAS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
# A colour and a sign each: never colour alone.
STYLES = {
    "holds": ("#009e73", "✓"),
    "off": ("#e69f00", "≈"),
    "contradicted": ("#d55e00", "✗"),
    "unverifiable": ("#6e6e6e", "?"),
}
COLUMNS = ("claim", "where it stands", "what is claimed", "formula", "computed", "claimed",
           "verdict", "why", "evidence")  # fmt: skip


def ladder(assumption: Assumption) -> tuple[float, ...]:
    """Round values that an assumption can take, its own one and both ends among them: every year or
    month, ten a decade, or twenty even steps where the range begins at 0."""
    low, high = assumption.low, assumption.high
    if assumption.unit in ("year", "month"):
        return tuple(range(int(low), int(high) + 1))
    stops = {low, high, assumption.value}
    if low == 0:
        stops |= {_plain(high * i / STEPS) for i in range(STEPS)}
    else:
        decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
        each = {_plain(m * 10.0**power) for power in decades for m in MANTISSAS}
        stops |= {value for value in each if low <= value <= high}
    return tuple(sorted(_plain(value) for value in stops))


def _plain(value: float) -> float:
    """Without the dust of binary fractions, and whole where it is, so that it reads well in a state
    string."""
    rounded = float(f"{value:.6g}") if value < 1e6 else value
    return int(rounded) if rounded == int(rounded) else rounded


@lru_cache(maxsize=512)
def _verdict_along(claim_id: str, name: str, others: tuple[tuple[str, float], ...]) -> tuple:
    """(value, verdict) at every step of one assumption, the others held."""
    claim = CLAIMS[claim_id]
    steps = ladder(next(a for a in claim.assumptions if a.name == name))
    held = dict(others)
    return tuple((v, evaluate(claim, **{**held, name: v}).verdict) for v in steps)


def amount(value: float | None, unit: str) -> str:
    """A value of the ledger in its unit, short."""
    if value is None:
        return "nothing to compute"
    if unit == "USD":
        return money(value)
    if unit in ("share", "active share", "share of peak"):
        return f"{100 * value:.3g} %"
    if unit == "USD/h":
        return f"${value:g} an hour"
    if unit == "year":
        return f"{value:g}"
    words = f"{value:,.4g}" if abs(value) < 1e3 else f"{value:,.0f}" if abs(value) < 1e6 else ""
    unit = unit.removesuffix("s") if value == 1 else unit
    return f"{words or count(value)} {unit}".strip()


def claims(chosen: str, assumed: Mapping[str, float]) -> Picture:
    """The chosen claim under what is assumed, and the verdicts of all. ValueError as evaluate."""
    claim = CLAIMS[chosen]
    finding = evaluate(claim, **assumed)
    all_found = {name: evaluate(name) for name in CLAIMS} | {chosen: finding}
    summary = f"{claim.text}: {finding.verdict}; {finding.why}."
    svg = Svg(WIDTH, HEIGHT, "The ledger of claims", summary)
    _claim(svg, finding)
    _along(svg, finding)
    _tally(svg, all_found, chosen)
    rows = (
        (f.claim.id, SOURCES[f.claim.source], f.claim.text, f.claim.formula,
         "" if f.value is None else amount(f.value, f.claim.unit),
         amount(f.claim.stated, f.claim.unit) if f.claim.stated else "",
         f.verdict, f.why, f.claim.evidence)
        for f in all_found.values()
    )  # fmt: skip
    return svg.picture(COLUMNS, rows)


def _claim(svg: Svg, found: Evaluation) -> None:
    claim = found.claim
    number = [*CLAIMS].index(claim.id) + 1
    heading(svg, f"{number} · {claim.text}")
    facts = (
        ("stands in", SOURCES[claim.source]),
        ("test", claim.formula),
        ("claimed", amount(claim.stated, claim.unit) if claim.stated else "no figure"),
        ("computed", amount(found.value, claim.unit)),
        ("against", claim.evidence),
    )
    for i, (name, words) in enumerate(facts):
        lines = textwrap.wrap(words, 88)
        svg.text(0, 44 + 19 * i, name, fill=MUTED)
        svg.text(72, 44 + 19 * i, lines[0] + (" …" if len(lines) > 1 else ""),
                 bold=name == "computed")  # fmt: skip
    colour, sign = STYLES[found.verdict]
    box(svg, 722, 40, 178, 34, colour, f"{sign} {found.verdict}", size=15, bold=True, radius=4)
    paragraph(svg, 0, 150, textwrap.wrap(found.why, 118))


def _along(svg: Svg, found: Evaluation) -> None:
    """One strip for each assumption: the verdict at every value that its slider has."""
    assumed = dict(found.assumptions)
    if assumed:
        svg.text(0, 208, "The verdict along each assumption, the others held", bold=True)
    else:
        words = "Nothing is assumed here: the figures are published or counted."
        svg.text(0, 208, words, fill=MUTED)
    for i, assumption in enumerate(found.claim.assumptions):
        others = tuple((n, v) for n, v in assumed.items() if n != assumption.name)
        steps = _verdict_along(found.claim.id, assumption.name, others)
        top = 226.0 + 50 * i
        assumed_value, unit = assumed[assumption.name], assumption.unit
        svg.text(0, top + 13, f"{assumption.name.replace('_', ' ')}: {amount(assumed_value, unit)}")
        svg.text(0, top + 29, assumption.meaning, fill=MUTED)
        x, wide = 320.0, 560.0 / len(steps)
        for verdict, run in groupby(verdict for _, verdict in steps):
            (colour, sign), span = STYLES[verdict], wide * len(list(run))
            box(svg, x, top, span, 20, colour, sign if span > 14 else "")
            x += span
        at = min(range(len(steps)), key=lambda j: abs(steps[j][0] - assumed_value))
        x = 320 + (at + 0.5) * wide
        svg.line(x, top - 5, x, top + 25, stroke=INK, width=3)
        svg.text(320, top + 36, amount(assumption.low, unit), fill=MUTED)
        svg.text(880, top + 36, amount(assumption.high, unit), fill=MUTED, anchor="end")


def _tally(svg: Svg, all_found: Mapping[str, Evaluation], chosen: str) -> None:
    """Every claim as a square with the sign of its verdict, by where it stands."""
    top = 396.0
    svg.text(0, top, "All claims, under their own assumptions", bold=True)
    x = 300.0
    for verdict in VERDICTS:
        colour, sign = STYLES[verdict]
        there = sum(f.verdict == verdict for f in all_found.values())
        box(svg, x, top - 13, 16, 16, colour, sign)
        svg.text(x + 22, top, f"{there} {verdict}")
        x += 150
    numbers = {name: i + 1 for i, name in enumerate(all_found)}
    most = max(Counter(f.claim.source for f in all_found.values()).values())
    pitch = min(25.0, (WIDTH - 177) / most)
    for row, (source, title) in enumerate(SOURCES.items()):
        y = top + 32 + 34 * row
        first, *more = textwrap.wrap(title, 22)
        svg.text(0, y - 2, first, fill=MUTED)
        if more:
            svg.text(0, y + 12, more[0] + (" …" if more[1:] else ""), fill=MUTED)
        findings = [f for f in all_found.values() if f.claim.source == source]
        for i, finding in enumerate(findings):
            colour, sign = STYLES[finding.verdict]
            left = 174 + pitch * i
            tip = f"{numbers[finding.claim.id]}: {finding.claim.text}: {finding.verdict}"
            box(svg, left, y - 10, pitch - 4, 21, colour, sign, tip=tip)
            if finding.claim.id == chosen:
                svg.rect(left - 2.5, y - 12.5, pitch + 1, 26, "none", stroke=INK, stroke_width=2.5)
