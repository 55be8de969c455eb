"""A claim, the sum that tests it, the verdict, and how the verdict hangs on what is assumed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from moeviz.costs import CLAIMS, SOURCES, VERDICTS, Assumption, Evaluation, evaluate
from moeviz.pictures.colours import ink_on
from moeviz.pictures.costs.model_parts import count, money
from moeviz.pictures.plot import bands, box, knob, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, SMALLEST, Picture, Svg, text_width

WIDTH, LINE, FACT = 470.0, 17.0, 19.0
VERDICT = 50.0  # where the verdict stands, under the claim
STRIP, EDGE = 70.0, 16.0  # from a strip to the next, the room for a knob at an end
TOP = 98.0  # where the list begins
SLIDERS = ("first", "second", "third")  # the panel's names for what a claim assumes, no more
STEPS = 20
COUNTED = ("tokens", "experts", "devices", "heads")  # units of which there is no half
MANTISSAS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
Steps = tuple[tuple[float, Evaluation], ...]  # values, each with what is found under it
# A colour and a sign each: never colour alone.
STYLES = {
    "holds": ("#009e73", "✓"),
    "inaccurate": ("#e69f00", "≈"),
    "contradicted": ("#d55e00", "✗"),
    "unverifiable": ("#6e6e6e", "?"),
}
MEANINGS = {
    "holds": "the sum agrees",
    "inaccurate": "a figure, a unit or a condition is wrong or left out",
    "contradicted": "the sum or the source itself says otherwise",
    "unverifiable": "there is nothing to test it against",
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
        whole = assumption.unit in COUNTED
        stops |= {v for v in each if low <= v <= high and not (whole and v % 1)}
    return tuple(sorted(_plain(value) for value in stops))


def _plain(value: float) -> float:
    """Without the dust of binary fractions, and whole where it is, so that it reads well in a state
    string."""
    rounded = float(f"{value:.6g}") if value < 1e6 else value
    return int(rounded) if rounded == int(rounded) else rounded


@lru_cache(maxsize=512)
def _found_along(claim_id: str, name: str, others: tuple[tuple[str, float], ...]) -> Steps:
    """What is found at every step of one assumption, the others held."""
    claim = CLAIMS[claim_id]
    steps = ladder(next(a for a in claim.assumptions if a.name == name))
    held = dict(others)
    return tuple((v, evaluate(claim, **{**held, name: v})) for v in steps)


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
    unit = unit.removesuffix("s") if value == 1 and "/" not in unit else unit
    return f"{words or count(value)} {unit}".strip()


def sentence(found: Evaluation) -> str:
    """What is claimed and what was found of it."""
    return f"{found.claim.text}: {found.verdict}; {found.why}."


def claims(chosen: str, assumed: Mapping[str, float]) -> Picture:
    """The chosen claim under what is assumed; beside it all that have its verdict under their own
    assumptions. ValueError as evaluate."""
    finding = evaluate(CLAIMS[chosen], **assumed)
    own = {name: evaluate(name) for name in CLAIMS}
    strips = _strips(finding)
    # What stands under the reasons keeps its place while an assumption is dragged.
    along = [finding, *(found for steps in strips for _, found in steps)]
    top = VERDICT + max(34.0, LINE * max(len(_reasons(found)) for found in along)) + 28
    facts, y = _facts(finding), top + 50 + STRIP * len(strips)
    svg = Svg(WIDTH, y + FACT * len(facts), "The ledger of claims", sentence(finding))
    _claim(svg, finding, strips, top)
    for i, (name, words) in enumerate(facts):
        svg.text(0, y + FACT * i, name, fill=MUTED)
        svg.text(72, y + FACT * i, words, bold=name == "computed")
    entries = [*_entries(own, own[chosen].verdict)]
    side = svg.beside(WIDTH, TOP + sum(map(_height, entries)))
    _verdicts(side, own, own[chosen].verdict)
    _list(side, entries, chosen)
    rows = (
        (f.claim.id, SOURCES[f.claim.source], f.claim.text, f.claim.formula,
         "" if f.value is None else amount(f.value, f.claim.unit),
         amount(f.claim.stated, f.claim.unit) if f.claim.stated else "",
         f.verdict, f.why, f.claim.evidence)
        for f in (own | {chosen: finding}).values()
    )  # fmt: skip
    return svg.picture(COLUMNS, rows)


def _strips(found: Evaluation) -> list[Steps]:
    """What is found along each assumption."""
    assumed = found.assumptions
    return [
        _found_along(
            found.claim.id, a.name, tuple(other for other in assumed if other[0] != a.name)
        )
        for a in found.claim.assumptions
    ]


def _reasons(found: Evaluation) -> list[str]:
    return textwrap.wrap(found.why, 40)


def _claim(svg: Svg, found: Evaluation, strips: Sequence[Steps], top: float) -> None:
    """What is claimed, the verdict with its reason, and a strip for each assumption from `top`
    on."""
    claim = found.claim
    number = [*CLAIMS].index(claim.id) + 1
    for i, words in enumerate(textwrap.wrap(f"{number} · {claim.text}", 56)):
        svg.text(0, 16 + 19 * i, words, size=14, bold=True)
    colour, sign = STYLES[found.verdict]
    box(svg, 0, VERDICT, 172, 34, colour, f"{sign} {found.verdict}", size=15, bold=True, radius=4)
    lines = _reasons(found)
    paragraph(svg, 186, VERDICT + (13 if len(lines) > 1 else 21), lines, LINE)
    words = "Drag what is assumed until the verdict tips:"
    if not claim.assumptions:
        words = "Nothing is assumed here: the figures are published or counted."
    svg.text(0, top, words, fill=MUTED)
    values = dict(found.assumptions)
    for i, (assumption, steps) in enumerate(zip(claim.assumptions, strips, strict=True)):
        y = top + 24 + STRIP * i
        _strip(svg, y, SLIDERS[i], assumption, values[assumption.name], steps)


def _facts(found: Evaluation) -> list[tuple[str, str]]:
    """Where the verdict comes from, in lines, each with its name where it begins."""
    claim = found.claim
    facts = (
        ("claimed", amount(claim.stated, claim.unit) if claim.stated else "no figure"),
        ("computed", amount(found.value, claim.unit)),
        ("test", claim.formula),
        ("against", claim.evidence),
        ("stands in", f"{SOURCES[claim.source]}: {claim.where}"),
    )
    wrapped = ((name, textwrap.wrap(words, 54)) for name, words in facts)
    return [("" if i else name, line) for name, lines in wrapped for i, line in enumerate(lines)]


def _strip(
    svg: Svg, y: float, control: str, assumption: Assumption, value: float, steps: Steps
) -> None:
    """The verdict at every value that an assumption can take, which a drag along it sets."""
    name, unit = assumption.meaning, assumption.unit
    svg.text(0, y + 4, f"{name}: {amount(value, unit)}", bold=True)
    wide = (WIDTH - 2 * EDGE) / len(steps)
    places = [EDGE + (i + 0.5) * wide for i in range(len(steps))]
    at = places[min(range(len(steps)), key=lambda i: abs(steps[i][0] - value))]
    x, begins = EDGE, []
    for verdict, run in groupby(steps, key=lambda step: step[1].verdict):
        values = [step for step, _ in run]
        begins.append(amount(values[0], unit))
        colour, _ = STYLES[verdict]
        box(svg, x, y + 14, wide * len(values), 24, colour)
        _beside_knob(svg, y + 30, verdict, (x, x + wide * len(values)), at)
        x += wide * len(values)
    svg.line(at, y + 8, at, y + 44, stroke=INK, width=3)
    knob(svg, at, y + 26)
    for (step, found), (left, right) in zip(steps, bands(places, wide / 2), strict=True):
        with svg.thing(tip=f"{name} {amount(step, unit)}: {found.verdict}",
                       press={control: step}, drag=True):  # fmt: skip
            svg.rect(left, y + 8, right - left, 36, "transparent")
    svg.text(EDGE, y + 53, begins[0], fill=MUTED)
    tips = f"tips at {' and '.join(begins[1:])}" if begins[1:] else "never tips"
    svg.text(WIDTH / 2, y + 53, tips, anchor="middle")
    svg.text(WIDTH - EDGE, y + 53, amount(steps[-1][0], unit), fill=MUTED, anchor="end")


def _beside_knob(svg: Svg, y: float, verdict: str, ends: tuple[float, float], at: float) -> None:
    """A verdict, or its sign alone, within its run, where the knob leaves room for it."""
    colour, sign = STYLES[verdict]
    for words in (f"{sign} {verdict}", sign):
        half = 0.47 * text_width(words, SMALLEST)
        away = half + 20
        for middle in (sum(ends) / 2, at + away, at - away):
            if ends[0] + half < middle < ends[1] - half and abs(middle - at) >= away:
                return svg.text(middle, y, words, anchor="middle", fill=ink_on(colour))


@dataclass(frozen=True)
class Entry:
    """What stands in the list: a claim with its number and finding, or the title of an article."""

    lines: list[str]
    number: int = 0
    finding: Evaluation | None = None


def _entries(own: Mapping[str, Evaluation], verdict: str) -> Iterator[Entry]:
    """The claims of a verdict, by source."""
    numbers = {name: i + 1 for i, name in enumerate(own)}
    for source, title in SOURCES.items():
        alike = [f for f in own.values() if (f.claim.source, f.verdict) == (source, verdict)]
        if alike:
            yield Entry(textwrap.wrap(title, 66))
        for finding in alike:
            words = textwrap.wrap(finding.claim.text, 56, break_on_hyphens=False)
            yield Entry(words, numbers[finding.claim.id], finding)


def _height(entry: Entry) -> float:
    return LINE * len(entry.lines) + 3


def _verdicts(svg: Svg, own: Mapping[str, Evaluation], chosen: str) -> None:
    """How many claims have each verdict; a press lists them and goes to the first."""
    svg.text(
        0, 16, f"{len(own)} claims of {len(SOURCES)} sources, by verdict: press one", bold=True
    )
    x = 1.0
    for verdict in VERDICTS:
        colour, sign = STYLES[verdict]
        alike = [name for name, f in own.items() if f.verdict == verdict]
        words = f"{len(alike)} {verdict}"
        bold = verdict == chosen
        wide = (0.97 if bold else 0.88) * text_width(words, SMALLEST) + 29
        tip = f"{words}: {MEANINGS[verdict]}"
        with svg.thing(tip=tip, press={"claim": alike[0]}):
            edge = {"stroke": INK, "stroke_width": 2} if bold else {"stroke": RULE}
            svg.rect(x, 27, wide, 26, "none", radius=4, **edge)
            box(svg, x + 4, 32, 15, 16, colour, sign)
            svg.text(x + 23, 44, words, bold=bold)
        x += wide + 4
    svg.text(0, 74, f"{chosen}: {MEANINGS[chosen]}", fill=MUTED)


def _list(svg: Svg, entries: Sequence[Entry], chosen: str) -> None:
    """Claims in their own words, by where they stand."""
    y = TOP
    for entry in entries:
        if entry.finding is None:
            paragraph(svg, 0, y, entry.lines, LINE, fill=MUTED)
        else:
            _entry(svg, y, entry, entry.finding, chosen)
        y += _height(entry)


def _entry(svg: Svg, y: float, entry: Entry, finding: Evaluation, chosen: str) -> None:
    claim, verdict = finding.claim, finding.verdict
    colour, sign = STYLES[verdict]
    tip = f"{entry.number}: {claim.text}: {verdict}"
    with svg.thing(claim.id, claim.source, tip=tip, press={"claim": claim.id}):
        edge = INK if claim.id == chosen else "transparent"
        svg.rect(1, y - 14, WIDTH - 2, _height(entry) - 1, "none", stroke=edge,
                 stroke_width=2, radius=4)  # fmt: skip
        box(svg, 4, y - 12, 16, 15, colour, sign)
        svg.text(46, y, str(entry.number), fill=MUTED, anchor="end")
        paragraph(svg, 54, y, entry.lines, LINE, bold=claim.id == chosen)
