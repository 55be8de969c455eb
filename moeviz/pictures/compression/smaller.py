"""What a smaller model costs: recorded recipes at all amounts, and one model that was made so."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moeviz.pictures.axes import RootScale, Scale, x_axis
from moeviz.pictures.compression.names import AMOUNTS, BITS, KEYS, REGIMES, SHORT, Figures, loss_of
from moeviz.pictures.over_seeds import about, mean_sd
from moeviz.pictures.plot import heading, mark, paragraph, row
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten
from moeviz.records.compressed import Compressed
from moeviz.words import percent

WIDTH, SIDE, HEIGHT = 560.0, 372.0, 480.0
LEFT, RIGHT, TOP, BOTTOM = 196.0, 518.0, 114.0, 416.0
LINE, TAKEN, WROTE = 15.0, 53, 3  # between names of curves; letters of a line, and lines of a text
ROW = 24.0
COLUMNS = ("recipe", "amount", "experts' bytes left", "rise of the loss, nats per token")


@dataclass(frozen=True)
class Point:
    """A recipe with one of its amounts: the share of the experts' bytes that it leaves, and the
    rise of the loss over seeds."""

    recipe: str
    amount: str
    share: float
    loss: Figures


def points(figures: Figures, regime: str) -> dict[str, list[Point]]:
    """Every recipe of KEYS, its amounts from much to little."""
    return {
        recipe: [
            Point(recipe, amount, share, loss_of(figures, recipe, amount, regime))
            for amount, share in figures["shares"][recipe].items()
        ]
        for recipe in KEYS
    }


def smaller(
    figures: Figures | None, found: Compressed, words: str, *, regime: str = "batch",
    presses: dict[tuple[str, str], dict[str, Any]] | None = None,
) -> Picture:  # fmt: skip
    """The rise of the loss against the bytes that are left: a curve for each recorded recipe, and
    the model that was made smaller, by domain too, with what it writes.

    figures: see experiments.compression, None where nothing is recorded: then without curves;
    words: what was done to the model, empty for nothing;
    presses: by recipe and amount, what a press on its mark sets the panel's controls to.
    """
    curves = points(figures, regime) if figures else {}
    recorded = "No curves are recorded yet"
    if figures:
        recorded = f"Curves: {about(figures, curves[BITS][0].loss)}"
    now = told(found, words) if words else f"Nothing is compressed yet. {_half(curves)}"
    svg = Svg(WIDTH, HEIGHT, "What a smaller model costs", now)
    heading(svg, "What do fewer bytes of experts cost?")
    svg.text(0, 38, f"{_cost(found)}." if words else _half(curves), bold=True)
    notes = (
        words or "all experts, 16 bits a weight",
        recorded,
        f"balanced by {REGIMES[regime]}. Large ring: the model that ships, computed here.",
    )
    paragraph(svg, 0, 57, notes, 17, fill=MUTED)
    every = [point for each in curves.values() for point in each]
    tops = [point.loss["mean"] + (point.loss["sd"] or 0) for point in every]
    most = max([*tops, found.cost, 1.0])
    x, y = Scale(0.1, 1.03, LEFT, RIGHT), RootScale(0, 1.05 * most, BOTTOM, TOP + 8)
    ticks = [t for t in (0, 0.01, 0.1, 0.5, 1, 2, 4, 8) if t < y.high]
    label = "experts' bytes that are left, of those at 16 bits"
    x_axis(svg, x, BOTTOM, label, ticks=(0.25, 0.5, 0.75, 1), form=percent)
    for tick in ticks:  # on the right: at the left the names lead to their curves
        svg.line(LEFT, y(tick), RIGHT, y(tick), width=0.5)
        svg.text(RIGHT + 6, y(tick) + 4, f"{tick:g}", fill=MUTED)
    title = "rise of the loss, nats per token (square-root scale)"
    svg.text(WIDTH - 4, TOP, title, anchor="end")
    for recipe, each in curves.items():
        _curve(svg, x, y, recipe, each, presses or {})
    _names(svg, x, y, curves)
    at, height = x(found.share), y(max(found.cost, 0.0))
    with svg.thing("here", tip=f"the model that ships: {_cost(found)}"):
        svg.circle(at, height, 9, "none", stroke=INK)
        svg.circle(at, height, 11, "none", stroke=INK)
    side = svg.beside(SIDE, HEIGHT)
    _domains(side, found)
    _writes(side, found)
    return svg.picture(COLUMNS, (*_rows(every), _own_row(found, words)))


def _half(curves: dict[str, list[Point]]) -> str:
    """What the recorded recipes cost that leave about half of the experts' bytes."""
    means = {
        KEYS[point.recipe].name: point.loss["mean"]
        for each in curves.values()
        for point in each
        if abs(point.share - 0.5) < 0.05
    }
    if not means:
        return "Choose a way, or press a mark."
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return f"Half the bytes cost {means[low]:+z.3f} ({low}) to {means[high]:+z.3f} nats ({high})."


def _cost(found: Compressed) -> str:
    return f"{found.cost:+z.3f} nats per token at {percent(found.share)} of the experts' bytes"


def told(found: Compressed, words: str) -> str:
    """What was done to the model, what it cost, and whom it hurt most."""
    worst = int(found.rise.argmax())
    sentence = f"The small model with {words}: the loss rises by {found.cost:z.3f} nats per token."
    if found.cost < 0:
        sentence = f"The small model with {words}: the loss changes by {found.cost:+z.3f} nats."
    return (
        f"{sentence} Of the experts' bytes {percent(found.share)} are left; the whole model has "
        f"{found.bytes / 1e6:.2f} MB instead of {found.whole / 1e6:.2f}. "
        f"{found.domains[worst]} loses most: {found.rise[worst]:+z.3f}."
    )


def _curve(
    svg: Svg, x: Scale, y: Scale, recipe: str, each: list[Point],
    presses: dict[tuple[str, str], dict[str, Any]],
) -> None:  # fmt: skip
    key = KEYS[recipe]
    with svg.thing(key.name):
        line = [(x(1.0), y(0.0)), *((x(p.share), y(max(p.loss["mean"], 0))) for p in each)]
        svg.polyline(line, stroke=key.colour, width=1.6, dash=key.dash)
    for point in each:
        mean, sd = point.loss["mean"], point.loss["sd"] or 0.0
        tip = (
            f"{key.name}, {AMOUNTS[point.amount]}: {mean_sd(point.loss, 3, '+')} nats per token, "
            f"{percent(point.share)} of the experts' bytes"
        )
        press = presses.get((recipe, point.amount))
        with svg.thing(f"{key.name} {point.amount}", key.name, tip=tip, press=press):
            at = x(point.share)
            svg.line(at, y(max(mean - sd, 0)), at, y(max(mean + sd, 0)), stroke=key.colour)
            mark(svg, key.mark, at, y(max(mean, 0)), key.colour, 4)
            svg.circle(at, y(max(mean, 0)), 7, "transparent")


def _names(svg: Svg, x: Scale, y: Scale, curves: dict[str, list[Point]]) -> None:
    """Each curve's name at the left, joined to its last point, the highest first."""
    if not curves:
        return
    lasts = sorted(curves.items(), key=lambda item: y(max(item[1][-1].loss["mean"], 0)))
    top = min(y(max(lasts[0][1][-1].loss["mean"], 0)), BOTTOM - LINE * len(lasts))
    for recipe, each in lasts:
        key, last = KEYS[recipe], each[-1]
        end = x(last.share), y(max(last.loss["mean"], 0))
        with svg.thing(key.name):
            svg.line(LEFT - 40, top, end[0] - 6, end[1], stroke=key.colour, width=0.7)
            mark(svg, key.mark, 8, top, key.colour, 4)
            svg.text(18, top + 4, key.name)
        top += LINE


def _domains(svg: Svg, found: Compressed) -> None:
    heading(svg, "Whom does it hurt?", "Rise of the loss by kind of text, nats per token")
    most = max(0.05, *found.rise.tolist())
    low = min(0.0, *found.rise.tolist())
    x, bottom = Scale(low, 1.05 * most, 90, SIDE - 62), 60 + ROW * len(found.domains)
    x_axis(svg, x, bottom, top=54, ticks=x.ticks(3), zero=True)
    for place, (name, rise) in enumerate(zip(found.domains, found.rise, strict=True)):
        at = 60 + (place + 0.5) * ROW
        with row(svg, at, ROW, name, tip=f"{name}: {rise:+z.3f} nats per token"):
            svg.text(0, at + 4, name)
            left, right = sorted((x(0), x(float(rise))))
            svg.rect(left, at - 6, right - left, 12, "#0072b2")
            svg.text(SIDE - 4, at + 4, f"{rise:+z.3f}", anchor="end")


def _writes(svg: Svg, found: Compressed) -> None:
    """What both models write after the prompt."""
    top = 60 + ROW * len(found.domains) + 54
    if not found.prompt:
        svg.text(0, top, "Choose something: both models then write here.", fill=MUTED)
        return
    svg.text(0, top, "What they write", bold=True)
    svg.text(0, top + 18, shorten(f"after: {_shown(found.prompt)}", TAKEN), fill=MUTED)
    for name, words in (("as it ships", found.wrote_before), ("smaller", found.wrote_after)):
        top += 44
        svg.text(0, top, name, bold=True)
        for line in textwrap.wrap(_shown(words), TAKEN - 4, drop_whitespace=False)[:WROTE]:
            top += 15
            svg.text(0, top, line, mono=True)


def _shown(words: str) -> str:
    """A text on one line, with nothing in it that a page would swallow."""
    signs = {"\n": "⏎", "\t": "⇥"}
    marked = (signs.get(letter, letter) for letter in words)
    return "".join(letter if letter.isprintable() else "·" for letter in marked)


def _rows(every: list[Point]) -> Iterator[tuple[object, ...]]:
    for point in every:
        loss = mean_sd(point.loss, 3, "+")
        yield SHORT[point.recipe], AMOUNTS[point.amount], percent(point.share, 1), loss


def _own_row(found: Compressed, words: str) -> tuple[object, ...]:
    cost = f"{found.cost:+z.3f}"
    return "the model that ships", words or "as it is", percent(found.share, 1), cost
