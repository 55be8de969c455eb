"""What all stages of the picture of a layer share: the frame, names, chips and rings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from moeviz.pictures.plot import expert_box, paragraph, stages
from moeviz.pictures.routing.names import bytes_note, named, read_by
from moeviz.pictures.svg import MUTED, Svg, shorten
from moeviz.records.routes import Anatomy

WIDTH = 560
MAX_TOKENS, MAX_ROWS = 24, 96
THREAD = 66  # height of what is told of the token that is followed, below the stations
TOLD = 40  # and of what the stage shows, in two lines
TOP = 130 + THREAD + TOLD
ROW, LINE = 22, 18
LEFT = 116.0  # names of tokens stand before it
NOBODY, FOLLOWED = -1, "#d55e00"  # no token is followed; the frame of one that is

FORMULAS = {
    "logits": "logits_TE = x_TD · W_ED^T",
    "softmax": "score_TE = softmax(logits_TE)",
    "top-k": "weight_TK = score_TK",
    "dispatch": "rows sorted by expert; offsets_E = where each begins",
    "experts": "out_ND = expert FFN of each row, one grouped GEMM",
    "combine": "y_T = sum over its rows of weight · out",
}
STAGES = tuple(FORMULAS)
SOFTMAX = "softmax over all experts"  # as a rule that was found is called
WEIGHTINGS = {
    "renormalise": " / sum(score_TK)   renormalise after top-k",
    "raw": "   raw: the softmax before top-k",
}


def frame(layer: Anatomy, stage: str, follow: int, note: str, summary: str, rows: float) -> Svg:
    """The stations with the thread of the token that is followed, the formula and a note of a stage
    that needs so many pixels of rows."""
    formula = _formula(layer, stage)
    svg = Svg(WIDTH, TOP + rows + 14, f"Inside layer {layer.layer}: {stage}", summary)
    boxes = stages(svg, WIDTH, STAGES, stage, lambda name: {"stage": name})
    if 0 <= follow < shown_tokens(layer):
        _thread(svg, layer, stage, follow, {of: x + wide / 2 for of, (x, wide) in boxes.items()})
    else:
        words = "Press a token's row: the token is followed through all stages."
        svg.text(WIDTH / 2, 66, words, anchor="middle", fill=MUTED)
    paragraph(svg, 0, 58 + THREAD, textwrap.wrap(summary, 75), 17, bold=True)
    below = THREAD + TOLD
    svg.text(0, 54 + below, formula, size=14 if len(formula) < 64 else 12, mono=True)
    svg.text(0, 71 + below, note, fill=MUTED)
    whose = read_by(layer.meta) and f"{read_by(layer.meta)}, layer {layer.layer}"
    words = whose or bytes_note(layer.tokens[: shown_tokens(layer)])
    svg.text(0, 87 + below, words, fill=MUTED)
    return svg


def _formula(layer: Anatomy, stage: str) -> str:
    """A real model's rule is told in words."""
    if stage == "top-k":
        renormalise = WEIGHTINGS.get(layer.weighting)
        return FORMULAS[stage] + renormalise if renormalise else layer.weighting
    if stage == "softmax" and layer.meta.get("score", SOFTMAX) != SOFTMAX:
        return f"{layer.meta['score']}; each row divided by its sum"
    return FORMULAS[stage]


def _thread(svg: Svg, layer: Anatomy, stage: str, token: int, centres: Mapping[str, float]) -> None:
    """What becomes of one token, below each station: its best expert, then the first two that it
    takes."""
    best = int(layer.logits[token].argmax())
    choices = zip(layer.expert[token], layer.weight[token], strict=True)
    chosen = [(int(e), float(weight)) for e, weight in choices if e >= 0][:2]
    rows = [
        row
        for e, _ in chosen
        for row in np.flatnonzero((layer.row_token == token) & (layer.row_expert == e))
    ]
    told = {
        "logits": [f"e{best}", f"{layer.logits[token, best]:.1f}"],
        "softmax": [f"e{best}", f"{layer.score[token, best]:.2f}"],
        "top-k": [f"e{e} {w:.2f}" for e, w in chosen],
        "dispatch": [f"row {row}" for row in rows],
        "experts": [f"length {length_of(layer.row_output[row])}" for row in rows],
        "combine": ["sum:", f"length {length_of(layer.y[token])}"],
    }
    kin = [f"e{e}" for e, _ in chosen]
    with marks_of(svg, layer, token, token, *kin, tip="followed; press to let it go"):
        svg.line(centres[STAGES[0]], 44, centres[STAGES[-1]], 44, stroke=FOLLOWED, width=2.5)
        for of, x in centres.items():
            svg.circle(x, 44, 5 if of == stage else 3.5, FOLLOWED)
            for i, words in enumerate(told[of] or ["no expert"]):
                svg.text(x, 64 + 15 * i, words, anchor="middle", bold=of == stage)
    whose = f"the thread of {named(token, layer.tokens[token])}; press a row to follow another"
    svg.text(WIDTH / 2, 100, shorten(whose, 78), anchor="middle", fill=MUTED)


@contextmanager
def marks_of(
    svg: Svg, layer: Anatomy, t: int, follow: int, *kin: str, tip: str = ""
) -> Iterator[None]:
    """Marks of a token: pressed they have it followed through all stages, or no longer."""
    words = f"{named(t, layer.tokens[t])}{': ' if tip else ''}{tip}"
    press = {"follow": NOBODY if t == follow else t}
    with svg.thing(f"t{t}", *kin, tip=words, press=press):
        yield


def name(svg: Svg, layer: Anatomy, t: int, y: float, follow: int) -> None:
    """A token's name before its row."""
    text = shorten(layer.tokens[t], 13)
    svg.text(LEFT - 8, y, text, anchor="end", mono=True, size=13, bold=t == follow)


def ring(svg: Svg, x: float, y: float, width: float, height: float) -> None:
    """Around the token that is followed."""
    svg.rect(x, y, width, height, "none", stroke=FOLLOWED, stroke_width=2.5, radius=3)


def chip(svg: Svg, x: float, y: float, width: float, expert: int) -> None:
    name = f"e{expert}" if width >= 26 else f"{expert}"
    expert_box(svg, x, y, width, 16, expert, name, bold=width >= 26, radius=3)


def length_of(vector_D: np.ndarray, decimals: int = 2) -> str:
    """Of a short one as many digits: in a real model an expert may add a thousandth."""
    norm = float(np.linalg.norm(vector_D))
    return f"{norm:.{decimals}f}" if norm >= 0.1 else f"{norm:.{decimals}g}"


def shape_note(layer: Anatomy) -> str:
    shown = shown_tokens(layer)
    num_experts, top_k = layer.logits.shape[1], layer.expert.shape[1]
    rest = "" if shown == len(layer.tokens) else f", the first {shown} shown"
    return f"T = {len(layer.tokens)} tokens{rest} · E = {num_experts} experts · K = {top_k}"


def shown_tokens(layer: Anatomy) -> int:
    """How many tokens have room, with a row for each choice."""
    return min(len(layer.tokens), MAX_TOKENS, MAX_ROWS // layer.expert.shape[1])


def shown_rows(layer: Anatomy) -> np.ndarray:
    """The rows of the tokens that are shown, in the plan's order."""
    return np.flatnonzero(layer.row_token < shown_tokens(layer))
