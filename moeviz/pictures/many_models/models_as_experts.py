"""Models that learned apart, put together in every way, beside models that learned everything."""

from __future__ import annotations

import textwrap
from typing import Any

from moeviz.pictures.axes import Scale, padded, x_axis
from moeviz.pictures.many_models.models_on_a_text import (
    UNREAD,
    draw_text,
    draw_unread,
    text_rows,
    told_text,
)
from moeviz.pictures.many_models.models_told import BASE, told
from moeviz.pictures.over_seeds import VERDICTS, dots, gap_cell, mean_sd
from moeviz.pictures.plot import mark, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg
from moeviz.pictures.training.arms import origin, seeds_words
from moeviz.records.models_as_experts import (
    BY_PROMPT,
    DENSE_ALL,
    EVEN,
    GATED,
    HINDSIGHT,
    MIXED,
    MOE_ALL,
    ONE_SET,
    PICKED,
    SOUP,
    START,
    TOLD,
    TUNED,
    MixedText,
)
from moeviz.words import percent

Recorded = dict[str, Any]
WIDTH, ROW = 560.0, 22.0
PLOT = (214.0, 418.0)  # x of the losses
ANSWER, TRAINED = 474.0, 556.0  # where two columns end
QUESTION = "Three models learned apart. How should one use them together?"
GROUPS = {
    "Whole models": {
        TOLD: "told the domain", PICKED: "one picked", MIXED: "mixed by the router",
        BY_PROMPT: "mixed by the prompt's loss", EVEN: "mixed evenly",
        HINDSIGHT: "best in hindsight (bound)",
    },
    "Their weights in one model": {
        SOUP: "averaged", ONE_SET: "FFNs as experts, one a text",
        GATED: "FFNs as experts, router trained", TUNED: "all trained (Branch-Train-MiX)",
    },
    "Learned everything": {DENSE_ALL: "one dense model", MOE_ALL: "one MoE", START: "common start"},
}  # fmt: skip
# Rows that are a way to weigh a text's models: a press shows it.
WAY_OF = {PICKED: "picked", MIXED: "router", BY_PROMPT: "prompt", EVEN: "even"}
# What the losses are of: as a control names it, and as the axis does.
WHERE = {"seen": "the three learned domains", "unseen": "three that nobody learned"}
COLUMNS = ("way, or token", "loss, or of the first model", "minus the dense control",
           "FLOPs of an answer", "training", "parameters")  # fmt: skip


def models_as_experts(
    recorded: Recorded,
    text: MixedText | None,
    *,
    where: str = "seen",
    way: str = "router",
    note: str = "",
) -> Picture:
    """A row for each way to put three models together: a tick a seed, the spread, the verdict
    beside the dense control as the mark, what an answer and the training cost; then the models on
    one text, if they have read one. where: "seen", "unseen" or a domain; way: one of
    models_on_a_text.WAYS."""
    models = tuple(recorded["seen"])
    headline = told(recorded)
    lines = [QUESTION, *textwrap.wrap(headline, 72)]
    top = 66.0 + 17 * len(lines)
    rows = sum(len(group) for group in GROUPS.values())
    bottom = top + rows * ROW + 28 * len(GROUPS)
    of_text = told_text(text, models, way) if text else UNREAD
    words = f"{QUESTION} {headline} {of_text}"
    svg = Svg(WIDTH, bottom + 92, "Models as experts", words)
    paragraph(svg, 0, 16, lines, size=13, bold=True)
    made = origin(recorded, seeds_words(len(recorded["seeds"])))
    svg.text(0, 20 + 17 * len(lines), made, fill=MUTED)
    for end, title in ((ANSWER, "an answer"), (TRAINED, "training")):
        svg.text(end, top - 10, title, anchor="end", fill=MUTED)
    figures = {arm: _figure(recorded, arm, where) for group in GROUPS.values() for arm in group}
    shown = [f for f in figures.values() if f]
    x = Scale(*padded([v for f in shown for v in f["values"]]), *PLOT)
    x_axis(svg, x, bottom, f"loss after the prompt, {WHERE.get(where, where)} (nats per token)",
           top=top)  # fmt: skip
    if control := figures[DENSE_ALL]:
        svg.line(x(control["mean"]), top, x(control["mean"]), bottom, stroke=INK, dash="4 3")
    y = top
    for title, group in GROUPS.items():
        svg.text(0, y + 20, title, bold=True)
        y += 28
        for arm, words in group.items():
            _draw_row(svg, x, y + ROW / 2, recorded, arm, words, where, way)
            y += ROW
    _draw_keys(svg, bottom + 62)
    if text is None:
        draw_unread(svg, note)
    else:
        draw_text(svg, text, models, way, note)
    cells = [_cells(recorded, arm, where) for group in GROUPS.values() for arm in group]
    read = text_rows(text, models, way) if text else []
    tokens = [(*values, *[""] * (len(COLUMNS) - len(values))) for values in read]
    return svg.picture(COLUMNS, [*cells, *tokens])


def _figure(recorded: Recorded, arm: str, where: str) -> Recorded | None:
    of = recorded["arms"][arm]
    return of.get(where) or of["domains"].get(where)


def _draw_row(
    svg: Svg, x: Scale, y: float, recorded: Recorded, arm: str, words: str, where: str, way: str
) -> None:
    of, figure = recorded["arms"][arm], _figure(recorded, arm, where)
    gap = recorded["gaps"].get(where, {}).get(arm)
    beside = f"; minus {BASE}: {gap_cell(gap)}" if gap else ""
    loss = mean_sd(figure, 3) if figure else "no model has learned this"
    tip = f"{arm}: loss {loss}{beside}; {of['parameters'] / 1e6:.2f} M parameters"
    press = {"way": WAY_OF[arm]} if arm in WAY_OF else None
    with svg.thing(arm, tip=f"{tip}; press to weigh the text so" if press else tip, press=press):
        edge = INK if WAY_OF.get(arm) == way else RULE if press else "none"
        svg.rect(1, y - ROW / 2 + 1, WIDTH - 2, ROW - 2, "transparent", radius=4, stroke=edge)
        svg.text(8, y + 4, words)
        if figure:
            dots(svg, x, y, figure, *(VERDICTS[gap["verdict"]] if gap else (MUTED, "diamond")))
        else:
            svg.text(PLOT[0] + 6, y + 4, "nobody to be told of", fill=MUTED)
        svg.text(ANSWER, y + 4, f"× {of['answer']:.3g}", anchor="end")
        svg.text(TRAINED - 4, y + 4, percent(of["training"]), anchor="end")


def _draw_keys(svg: Svg, y: float) -> None:
    names = {"lower": "below the dense control (dashed)", "higher": "above", "open": "open"}
    at = 0.0
    for verdict, name in names.items():
        colour, shape = VERDICTS[verdict]
        mark(svg, shape, at + 6, y - 4, colour, stroke=INK)
        svg.text(at + 16, y, name)
        at += 236 if verdict == "lower" else 76
    words = "answer: FLOPs, in those of a dense model · training: share of the controls' FLOPs"
    svg.text(0, y + 20, words, fill=MUTED)


def _cells(recorded: Recorded, arm: str, where: str) -> tuple[object, ...]:
    of, figure = recorded["arms"][arm], _figure(recorded, arm, where)
    gap = recorded["gaps"].get(where, {}).get(arm)
    return (
        arm,
        mean_sd(figure, 3) if figure else "",
        gap_cell(gap) if gap else "",
        f"× {of['answer']:.3g}",
        percent(of["training"]),
        f"{of['parameters']:,}",
    )
