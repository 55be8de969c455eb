"""A text under models that learned apart: who knows it best, token by token, and who is chosen."""

from __future__ import annotations

import textwrap

import numpy as np

from moeviz.pictures.plot import expert_box, flow, paragraph
from moeviz.pictures.svg import INK, MUTED, Svg, shorten
from moeviz.records.models_as_experts import PROMPT, MixedText
from moeviz.words import percent

WIDTH, LETTERS = 380.0, 56  # beside the recorded losses; of a line
COLUMNS = ("router", "prompt's loss", "loss of the rest")
AT = (104.0, 196.0, 288.0)  # where these columns begin
BAR = 42.0
WAYS = {
    "router": "the router", "prompt": "the prompt's loss", "even": "equal weights",
    "picked": "the router's first choice alone",
}  # fmt: skip

UNREAD = "Nobody has read this text yet."


def weight_of(text: MixedText, way: str) -> np.ndarray:
    """How much each model counts, by a name of WAYS: [M]."""
    if way == "router":
        return text.router
    if way == "prompt":
        return text.prompt
    if way == "even":
        return np.full(len(text.router), 1 / len(text.router))
    return np.eye(len(text.router))[text.router.argmax()]


def told_text(text: MixedText, models: tuple[str, ...], way: str) -> str:
    """Whom the router would pick, who is best after the prompt, and what the mixture loses."""
    after = [text.after(loss_S) for loss_S in text.loss]
    picked, best = int(text.router.argmax()), int(np.argmin(after))
    hit = "which is the best" if picked == best else f"and {models[best]} is the best"
    mixed = text.after(text.mixed(weight_of(text, way)))
    share = percent(text.router[picked])
    return (
        f"The router gives {models[picked]} {share}, {hit} after the prompt ({after[best]:.2f} "
        f"nats). Mixed by {WAYS[way]}, they have a loss of {mixed:.2f}."
    )


def draw_unread(svg: Svg, note: str) -> Svg:
    """That no models have read this text, as a further part of a picture."""
    part = svg.beside(WIDTH, 82)
    part.text(0, 16, UNREAD, bold=True)
    paragraph(part, 0, 36, textwrap.wrap(note, LETTERS), fill=MUTED)
    return part


def draw_text(svg: Svg, text: MixedText, models: tuple[str, ...], way: str, note: str) -> Svg:
    """As a further part of a picture; returns it."""
    mixed_S = text.mixed(weight_of(text, way))
    best_S = text.loss.argmin(0)
    shown = [shorten(token, 22) for token in text.tokens]
    labels = [("",), *((f"{loss:.1f}",) for loss in mixed_S)]
    breaks = {t + 1 for t, token in enumerate(text.tokens) if token.endswith("⏎")}
    boxes, height = flow(shown, labels, size=13, air=10, room=WIDTH, line_height=46, breaks=breaks)
    told = told_text(text, models, way)
    lines, notes = textwrap.wrap(told, LETTERS - 4), textwrap.wrap(note, LETTERS)
    words = "colour: the model with the least loss of this token · number: nats of the mixture"
    legend = textwrap.wrap(words, LETTERS)
    head = 18.0 * (len(lines) + len(notes) - 1)
    top = head + 64 + 24 * len(models) + 18 * len(legend)
    part = svg.beside(WIDTH, top + height + 26)
    paragraph(part, 0, 16, lines, bold=True)
    paragraph(part, 0, 18 + 18 * len(lines), notes, fill=MUTED)
    part.text(26, head + 42, "learned", fill=MUTED)
    for name, x in zip(COLUMNS, AT, strict=True):
        part.text(x, head + 42, name, fill=MUTED)
    for m, model in enumerate(models):
        y = head + 50 + 24 * m
        after = text.after(text.loss[m])
        tip = (
            f"{model}: {percent(text.router[m], 1)} by the router, {percent(text.prompt[m], 1)} by "
            f"the prompt's loss; {after:.3f} nats per token after the prompt"
        )
        with part.thing(f"m{m}", tip=tip):
            expert_box(part, 0, y, 18, 16, m)
            part.text(26, y + 13, model)
            for x, share in zip(AT, (text.router[m], text.prompt[m]), strict=False):
                expert_box(part, x, y, max(BAR * share, 1), 16, m)
                part.text(x + BAR * share + 5, y + 13, percent(share))
            part.text(AT[2], y + 13, f"{after:.2f} nats")
    paragraph(part, 0, top + 6 - 18 * len(legend), legend, fill=MUTED)
    for t, (x, y, width) in enumerate(boxes):
        y += top
        owner = int(best_S[t - 1]) if t else -1
        kin = [f"t{t}"] + [f"m{owner}"] * (t > 0)
        with part.thing(*kin, tip=_tip(text, models, t, mixed_S)):
            expert_box(part, x, y, width, 24, owner, shown[t], size=13, mono=True, radius=4)
            part.text(x + width / 2, y + 38, labels[t][0], anchor="middle", fill=MUTED)
        if t < PROMPT:
            part.line(x, y - 3, x + width, y - 3, stroke=INK, width=2)
    part.text(0, top + height + 14, f"Line above: the prompt, the first {PROMPT} tokens.",
              fill=MUTED)  # fmt: skip
    return part


def _tip(text: MixedText, models: tuple[str, ...], t: int, mixed_S: np.ndarray) -> str:
    if not t:
        return f"{text.tokens[0]}: the first token is given"
    each = ", ".join(f"{m} {loss:.2f}" for m, loss in zip(models, text.loss[:, t - 1], strict=True))
    return f"{text.tokens[t]}: {each}; the mixture {mixed_S[t - 1]:.2f} nats"


def text_rows(text: MixedText, models: tuple[str, ...], way: str) -> list[tuple[object, ...]]:
    """The table of the tokens: token, nats of each model, of the mixture."""
    mixed_S = text.mixed(weight_of(text, way))
    return [
        (text.tokens[t + 1], *(f"{loss:.3f}" for loss in text.loss[:, t]), f"{mixed_S[t]:.3f}")
        for t in range(len(mixed_S))
    ]
