"""A claim, the sum that tests it, the verdict, and how the verdict hangs on what is assumed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from moeviz.costs import CLAIMS, SOURCES, VERDICTS, Assumption, Evaluation, evaluate
from moeviz.pictures.costs.model_parts import count, money
from moeviz.pictures.plot import box, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg

# The list begins on the left; the chosen claim stands beside it, and the rest of the list below
# that, so that a press seldom changes what is out of sight.
WIDTH, LINE = 470.0, 17.0
CHOSEN = 548.0  # how high the chosen claim is
TOP, REST = 62.0, CHOSEN + 62.0  # where the list's lines begin, left and right
SLIDERS = ("first", "second", "third")  # the panel's names for what a claim assumes, no more
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


def sentence(found: Evaluation) -> str:
    """What is claimed and what was found of it."""
    return f"{found.claim.text}: {found.verdict}; {found.why}."


def claims(chosen: str, assumed: Mapping[str, float]) -> Picture:
    """The chosen claim under what is assumed, and the verdicts of all. ValueError as evaluate."""
    finding = evaluate(CLAIMS[chosen], **assumed)
    all_found = {name: evaluate(name) for name in CLAIMS} | {chosen: finding}
    left, rest = _columns([*_entries(all_found)])
    svg = Svg(WIDTH, _bottom(TOP, left), "The ledger of claims", sentence(finding))
    _tally(svg, all_found, finding)
    _list(svg, TOP, left, chosen)
    beside = svg.beside(WIDTH, _bottom(REST, rest))
    _claim(beside, finding)
    _along(beside, finding)
    beside.text(0, REST - 23, "All claims, continued", fill=MUTED)
    _list(beside, REST, rest, chosen)
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
    for i, words in enumerate(textwrap.wrap(f"{number} · {claim.text}", 56)):
        svg.text(0, 16 + 19 * i, words, size=14, bold=True)
    colour, sign = STYLES[found.verdict]
    box(svg, 0, 46, 172, 34, colour, f"{sign} {found.verdict}", size=15, bold=True, radius=4)
    paragraph(svg, 0, 102, textwrap.wrap(found.why, 62), LINE)
    facts = (
        ("stands in", SOURCES[claim.source]),
        ("test", claim.formula),
        ("claimed", amount(claim.stated, claim.unit) if claim.stated else "no figure"),
        ("computed", amount(found.value, claim.unit)),
        ("against", claim.evidence),
    )
    y = 182.0
    for name, words in facts:
        svg.text(0, y, name, fill=MUTED)
        for line in textwrap.wrap(words, 52):
            svg.text(72, y, line, bold=name == "computed")
            y += 19


def _along(svg: Svg, found: Evaluation) -> None:
    """One strip for each assumption: the verdict at every value that its slider has, which a drag
    along it sets."""
    assumed = dict(found.assumptions)
    if assumed:
        svg.text(0, 356, "The verdict along each assumption, the others held: drag", bold=True)
    else:
        words = "Nothing is assumed here: the figures are published or counted."
        svg.text(0, 356, words, fill=MUTED)
    for i, (control, assumption) in enumerate(zip(SLIDERS, found.claim.assumptions, strict=False)):
        others = tuple((n, v) for n, v in assumed.items() if n != assumption.name)
        steps = _verdict_along(found.claim.id, assumption.name, others)
        top = 386.0 + 58 * i
        assumed_value, unit = assumed[assumption.name], assumption.unit
        name = assumption.meaning
        svg.text(0, top - 7, f"{name}: {amount(assumed_value, unit)}")
        x, wide = 2.0, (WIDTH - 4) / len(steps)
        for verdict, run in groupby(verdict for _, verdict in steps):
            (colour, sign), span = STYLES[verdict], wide * len(list(run))
            box(svg, x, top, span, 20, colour, sign if span > 14 else "")
            x += span
        at = min(range(len(steps)), key=lambda j: abs(steps[j][0] - assumed_value))
        x = 2 + (at + 0.5) * wide
        svg.line(x, top - 3, x, top + 23, stroke=INK, width=3)
        for j, (value, verdict) in enumerate(steps):
            tip = f"{name} {amount(value, unit)}: {verdict}"
            with svg.thing(tip=tip, press={control: value}, drag=True):
                svg.rect(2 + j * wide, top - 3, wide, 26, "transparent")
        svg.text(0, top + 36, amount(assumption.low, unit), fill=MUTED)
        svg.text(WIDTH, top + 36, amount(assumption.high, unit), fill=MUTED, anchor="end")


@dataclass(frozen=True)
class Entry:
    """What stands in the list: a claim with its number and finding, or the title of an article."""

    lines: list[str]
    number: int = 0
    finding: Evaluation | None = None


def _entries(all_found: Mapping[str, Evaluation]) -> Iterator[Entry]:
    numbers = {name: i + 1 for i, name in enumerate(all_found)}
    for source, title in SOURCES.items():
        yield Entry(textwrap.wrap(title, 66))
        for finding in all_found.values():
            if finding.claim.source == source:
                words = textwrap.wrap(finding.claim.text, 56, break_on_hyphens=False)
                yield Entry(words, numbers[finding.claim.id], finding)


def _columns(entries: Sequence[Entry]) -> tuple[Sequence[Entry], Sequence[Entry]]:
    """What of the list stands left, and the rest below the chosen claim, about as far down."""
    fits = [
        i for i in range(len(entries)) if _bottom(TOP, entries[:i]) <= _bottom(REST, entries[i:])
    ]
    return entries[: fits[-1]], entries[fits[-1] :]


def _bottom(top: float, entries: Sequence[Entry]) -> float:
    return top + sum(LINE * len(entry.lines) + 3 for entry in entries)


def _list(svg: Svg, y: float, entries: Sequence[Entry], chosen: str) -> None:
    """Claims in their own words with the sign of their verdict, by where they stand."""
    for entry in entries:
        if entry.finding is None:
            paragraph(svg, 0, y, entry.lines, LINE, fill=MUTED)
        else:
            _entry(svg, y, entry, entry.finding, chosen)
        y += LINE * len(entry.lines) + 3


def _entry(svg: Svg, y: float, entry: Entry, finding: Evaluation, chosen: str) -> None:
    claim, verdict = finding.claim, finding.verdict
    colour, sign = STYLES[verdict]
    tip = f"{entry.number}: {claim.text}: {verdict}"
    height = LINE * len(entry.lines) + 2
    with svg.thing(claim.id, claim.source, verdict, tip=tip, press={"claim": claim.id}):
        edge = INK if claim.id == chosen else "transparent"
        svg.rect(1, y - 14, WIDTH - 2, height, "none", stroke=edge, stroke_width=2, radius=4)
        box(svg, 4, y - 12, 16, 15, colour, sign)
        svg.text(46, y, str(entry.number), fill=MUTED, anchor="end")
        paragraph(svg, 54, y, entry.lines, LINE, bold=claim.id == chosen)


def _tally(svg: Svg, all_found: Mapping[str, Evaluation], chosen: Evaluation) -> None:
    """How many claims have each verdict, which lights them."""
    words = "All claims, under their own assumptions: press one"
    if any(dict(chosen.assumptions)[a.name] != a.value for a in chosen.claim.assumptions):
        number = [*all_found].index(chosen.claim.id) + 1
        words = f"All claims, number {number} as you set it: press one"
    svg.text(0, 16, words, bold=True)
    x = 0.0
    for verdict in VERDICTS:
        colour, sign = STYLES[verdict]
        there = sum(f.verdict == verdict for f in all_found.values())
        with svg.thing(verdict, tip=f"{there} claims: {verdict}"):
            box(svg, x, 26, 16, 16, colour, sign)
            svg.text(x + 22, 39, f"{there} {verdict}")
        x += 60 + 7.2 * len(verdict)
