"""What published scaling laws say of one model as fewer of its parameters are met by a token."""

from __future__ import annotations

import math
import re
import textwrap

from moeviz.costs.laws.answers import Answer, answers, disagreement
from moeviz.costs.laws.law import Model, size
from moeviz.costs.laws.published import LAWS
from moeviz.pictures.axes import LogScale, Scale, axes, decades
from moeviz.pictures.colours import OKABE_ITO
from moeviz.pictures.plot import (
    Key,
    Stop,
    curve,
    heading,
    legend,
    mark,
    paragraph,
    row,
    spots,
    track,
)
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.words import percent

WIDTH, HEIGHT, SIDE, TOLD, MORE = 560.0, 532.0, 380.0, 70, 82
LEFT, RIGHT, TOP, BOTTOM = 50.0, 534.0, 158.0, 410.0
# From a half to 0.2 %, and the one of Krajewski's 64 experts.
SHARES = tuple(sorted([*(0.5 * 0.004 ** (i / 40) for i in range(41)), 12 / 516], reverse=True))
TICKS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
CHOICES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.013, 0.01, 0.005, 0.002)
TITLE, LAW, DENSE = 18.0, 44.0, 270.0
SHARE = "share of its parameters that a token meets"
COLUMNS = (
    "law", "dense model of equal loss", "times fewer FLOPs", "its loss", "loss of a dense model "
    "of all its parameters", "beyond its runs", "what to know", "formula", "paper",
)  # fmt: skip
KEYS = tuple(
    Key(name, OKABE_ITO[colour], mark=shape)
    for name, colour, shape in zip(
        LAWS, (4, 5, 2, 6, 7), ("circle", "square", "diamond", "cross", "ring"), strict=True
    )
)
ALL, MET = Key("all its parameters", INK, "7 4"), Key("those a token meets", INK, "2 3")


def scaling_laws(*, total: float, share: float, tokens: float, granularity: float) -> Picture:
    """For a model of this size: which dense model each law holds to be as good after as many
    tokens, from half the parameters met to 0.2 %, and beside it the answers at the chosen share.
    ValueError as Model and answers."""
    model = Model(total, share, tokens, granularity)
    told = answers(model)
    by_share = [answers(Model(total, each, tokens, granularity)) for each in SHARES]
    summary = disagreement(told)
    svg = Svg(WIDTH, HEIGHT, "Scaling laws beside each other", summary)
    heading(svg, "Which dense model is as good as a sparse one?")
    finding, rest = re.split(r"(?<=as large\.) ", summary)
    lines = textwrap.wrap(finding, TOLD)
    paragraph(svg, 0, 38, lines, bold=True)
    paragraph(svg, 0, 38 + TITLE * len(lines), textwrap.wrap(rest, MORE), fill=MUTED)
    x = LogScale(SHARES[0], SHARES[-1], LEFT, RIGHT)
    dense = [each.dense for laws in (*by_share, told) for each in laws if each.dense < math.inf]
    y = LogScale(*decades([*dense, total * SHARES[-1], total]), BOTTOM, TOP)
    axes(
        svg, x, y, y_label="dense parameters of equal loss", x_ticks=TICKS, y_form=_short,
        x_form=lambda value: f"{100 * value:g} %", above=True,
    )  # fmt: skip
    ends = SHARES[0], SHARES[-1]
    svg.text((LEFT + RIGHT) / 2, BOTTOM + 36, SHARE, anchor="middle")
    curve(svg, x, y, [(each, total) for each in ends], ALL)
    curve(svg, x, y, [(each, each * total) for each in ends], MET)
    if ends[1] <= share <= ends[0]:
        svg.line(x(share), TOP, x(share), BOTTOM, stroke=MUTED)
        stops = (Stop(x(each), f"{100 * each:g} % met", {"share": each}) for each in CHOICES)
        track(svg, BOTTOM + 52, [*stops], x(share))
    for i, key in enumerate(KEYS):
        _law(svg, x, y, [laws[i] for laws in by_share], told[i], key)
    legend(svg, LEFT, BOTTOM + 90, (ALL, MET), across=190)
    svg.text(LEFT, BOTTOM + 112, "thick: within a law's runs · thin: beyond them", fill=MUTED)
    _answers(svg, told)
    return svg.picture(COLUMNS, map(_row, told))


def _short(value: float) -> str:
    """A size that has room beside the axis."""
    return f"{value / 1e3:g}k" if 1e3 <= value < 1e6 else size(value)


def _law(svg: Svg, x: Scale, y: Scale, along: list[Answer], chosen: Answer, key: Key) -> None:
    """A law's line, thin where it was not fitted, and its answer at the chosen share."""
    values = [(each.model.share, each.dense) for each in along]
    known = [not each.law.beyond(each.model) for each in along]
    inside = [
        (share, value if within else math.nan)
        for (share, value), within in zip(values, known, strict=True)
    ]
    finite = [(share, value if value < math.inf else math.nan) for share, value in values]
    with svg.thing(key.name, tip=_tip(chosen)):
        curve(svg, x, y, finite, Key(key.name, key.colour, width=1.2))
        if any(known):
            curve(svg, x, y, inside, Key(key.name, key.colour, width=4))
        if chosen.dense < math.inf and x.low >= chosen.model.share >= x.high:
            mark(svg, key.mark, x(chosen.model.share), y(chosen.dense), key.colour, 5)
    shown = [each for each in along if each.dense < math.inf]
    places = [(x(each.model.share), y(each.dense)) for each in shown]
    spots(svg, (f"{key.name} at", key.name), places, [_tip(each) for each in shown])


def _tip(told: Answer) -> str:
    return (
        f"{told.law.short}, {percent(told.model.share, 1)} met: as good as a dense "
        f"{size(told.dense)}, {told.saving}"
    )


def _answers(svg: Svg, told: tuple[Answer, ...]) -> None:
    """Each law's answer at the chosen share, and where it was asked beyond its runs; the rest of
    it is hover text."""
    side = svg.beside(SIDE, 70 + LAW * len(told))
    share = percent(told[0].model.share, 1)
    side.text(0, 16, f"Where a token meets {share}", size=14, bold=True)
    for right, words in ((DENSE, ("a dense model", "as good")), (SIDE, ("times fewer", "FLOPs"))):
        paragraph(side, right, 36, words, 16, anchor="end", fill=MUTED)
    for i, (key, each) in enumerate(zip(KEYS, told, strict=True)):
        y = 64 + LAW * (i + 0.5)
        tip = f"{each.sentences} {each.law.note or each.law.paper}"
        with row(side, y, LAW, key.name, tip=tip):
            legend(side, 0, y - 2, [key])
            side.text(DENSE, y - 2, size(each.dense), anchor="end", bold=True)
            side.text(SIDE, y - 2, f"{each.fewer_flops:.3g}", anchor="end", bold=True)
            side.text(32, y + 15, _beyond(each), fill=MUTED)


def _beyond(told: Answer) -> str:
    """In what a law is asked beyond its runs."""
    ways = [each.name for each in told.law.ranges if each.beyond(told.model)]
    return f"beyond its runs: {', '.join(ways)}" if ways else "within its runs"


def _row(told: Answer) -> tuple[object, ...]:
    own, dense = ("", "") if told.losses is None else (f"{each:.3f}" for each in told.losses)
    return (
        told.law.short, size(told.dense), f"{told.fewer_flops:.3g}", own, dense,
        told.law.beyond(told.model), told.law.note, told.law.formula, told.law.paper,
    )  # fmt: skip
