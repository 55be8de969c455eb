"""One MoE layer taken apart: logits, softmax, top-k, dispatch, experts, combine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moeviz.pictures.plot import box, expert_box, paragraph, stages
from moeviz.pictures.svg import MUTED, RULE, Picture, Svg, expert_colour, heat_colour, shorten
from moeviz.records.routes import Anatomy

WIDTH = 860
MAX_TOKENS = 14
TOP = 104
ROW, LINE = 22, 18

FORMULAS = {
    "logits": "logits_TE = x_TD · W_ED^T",
    "softmax": "score_TE = softmax(logits_TE)",
    "top-k": "weight_TK = score_TK",
    "dispatch": "rows sorted by expert; offsets_E = where each begins",
    "experts": "out_ND = expert FFN of each row, one grouped GEMM",
    "combine": "y_T = sum over its rows of weight · out",
}
STAGES = tuple(FORMULAS)
WEIGHTINGS = {
    "renormalise": " / sum(score_TK)   renormalise after top-k",
    "raw": "   raw: the softmax before top-k",
}


def anatomy(layer: Anatomy, stage: str) -> Picture:
    """The named stage (one of STAGES) of a layer, with the real numbers of the first MAX_TOKENS
    tokens."""
    return _DRAW[stage](layer)


def _frame(layer: Anatomy, stage: str, note: str, summary: str, rows: float) -> Svg:
    """The stations, the formula and a note of a stage that needs so many pixels of rows."""
    formula = FORMULAS[stage] + (WEIGHTINGS[layer.weighting] if stage == "top-k" else "")
    svg = Svg(WIDTH, TOP + rows + 14, f"Inside layer {layer.layer}: {stage}", summary)
    stages(svg, WIDTH, STAGES, stage, lambda name: {"stage": name})
    svg.text(0, 58, formula, size=14, mono=True)
    svg.text(0, 78, note, fill=MUTED)
    return svg


def _names(svg: Svg, layer: Anatomy, right: float, pitch: float) -> None:
    """The shown tokens, one below another, each in the middle of its row."""
    names = (shorten(token, 13) for token in layer.tokens[:MAX_TOKENS])
    paragraph(svg, right, TOP + pitch / 2 + 5, names, pitch, anchor="end", mono=True, size=13)


def _chip(svg: Svg, x: float, y: float, width: float, expert: int) -> None:
    expert_box(svg, x, y, width, 16, expert, f"e{expert}", bold=True, radius=3)


def _shape_note(layer: Anatomy) -> str:
    shown = min(len(layer.tokens), MAX_TOKENS)
    num_experts, top_k = layer.logits.shape[1], layer.expert.shape[1]
    rest = "" if shown == len(layer.tokens) else f", the first {shown} shown"
    return f"T = {len(layer.tokens)} tokens{rest} · E = {num_experts} experts · K = {top_k}"


def _matrix(
    layer: Anatomy, stage: str, summary: str, shown_TE: np.ndarray, heat_TE: np.ndarray, *,
    muted_TE: np.ndarray | None = None, last_column: tuple[str, np.ndarray] | None = None,
) -> Picture:  # fmt: skip
    """Tokens down, experts across, a number in every cell."""
    num_tokens, num_experts = min(len(layer.tokens), MAX_TOKENS), shown_TE.shape[1]
    left = 120.0
    cell = min(74.0, (WIDTH - left - 90) / num_experts)
    svg = _frame(layer, stage, _shape_note(layer), summary, num_tokens * ROW)
    digits = 1 if stage == "logits" else 2
    _names(svg, layer, left - 8, ROW)
    for e in range(num_experts):
        svg.text(left + (e + 0.5) * cell, TOP - 8, f"e{e}", anchor="middle", fill=MUTED)
    for t, e in np.ndindex(num_tokens, num_experts):
        quiet = muted_TE is not None and bool(muted_TE[t, e])
        # In narrow cells only the chosen few have room for a number.
        roomy = cell > 36 or (muted_TE is not None and not quiet)
        colour = "none" if quiet else heat_colour(float(heat_TE[t, e]))
        box(svg, left + e * cell, TOP + t * ROW, cell - 2, ROW - 2, colour,
            f"{shown_TE[t, e]:z.{digits}f}" if roomy else "", ink=MUTED if quiet else "",
            stroke=RULE if quiet else "none")  # fmt: skip
    if last_column:
        x, (name, total_T) = left + num_experts * cell + 44, last_column
        svg.text(x, TOP - 8, name, anchor="middle", bold=True)
        for t in range(num_tokens):
            svg.text(x, TOP + t * ROW + 16, f"{total_T[t]:.2f}", anchor="middle", bold=True)
    columns = ("#", "token", *(f"expert {e}" for e in range(num_experts)))
    rows = ((t, token, *(f"{v:.3f}" for v in shown_TE[t])) for t, token in enumerate(layer.tokens))
    return svg.picture(columns, rows)


def _logits(layer: Anatomy) -> Picture:
    low, high = float(layer.logits.min()), float(layer.logits.max())
    heat = (layer.logits - low) / ((high - low) or 1.0)
    words = "One score per token and expert: a row of x times the router"
    return _matrix(layer, "logits", f"{words}, {low:.1f} to {high:.1f}.", layer.logits, heat)


def _softmax(layer: Anatomy) -> Picture:
    peak = float(layer.score.max())
    summary = (
        f"Scores become probabilities: every row sums to 1; the surest choice has {peak:.2f}, a "
        f"router that knows nothing would give {1 / layer.score.shape[1]:.2f} everywhere."
    )
    sums = ("row sum", layer.score.sum(1))
    return _matrix(layer, "softmax", summary, layer.score, layer.score / peak, last_column=sums)


def _topk(layer: Anatomy) -> Picture:
    weight_TE = np.zeros_like(layer.score)
    np.put_along_axis(weight_TE, layer.expert.astype(np.int64), layer.weight, axis=1)
    chosen_TE = weight_TE > 0
    shown_TE = np.where(chosen_TE, weight_TE, layer.score)
    total_T = layer.weight.sum(1)
    says = "renormalised, so that every row's weights sum to 1"
    if layer.weighting == "raw":
        says = f"left raw, so that rows sum to {total_T.min():.2f} to {total_T.max():.2f}"
    words = f"Each token keeps its {layer.expert.shape[1]} best experts; their weights are {says}."
    return _matrix(layer, "top-k", words, shown_TE, shown_TE, muted_TE=~chosen_TE,
                   last_column=("weights", total_T))  # fmt: skip


def _dispatch(layer: Anatomy) -> Picture:
    num_tokens, rows = min(len(layer.tokens), MAX_TOKENS), _shown_rows(layer)
    load_E = np.diff(layer.offsets)
    busiest = int(load_E.argmax())
    summary = (
        f"{len(layer.row_token)} assignments sorted by expert: expert {busiest} gets "
        f"{load_E[busiest]}, {int((load_E == 0).sum())} of {len(load_E)} experts get none."
    )
    note = f"{_shape_note(layer)} · N = {len(layer.row_token)} rows"
    svg = _frame(layer, "dispatch", note, summary, max(num_tokens * 2, len(rows)) * LINE)
    left, right = 130.0, 520.0
    spread = max(len(rows), 1) / max(num_tokens, 1) * LINE
    _names(svg, layer, left - 8, spread)
    for i, row in enumerate(rows):
        expert, token = int(layer.row_expert[row]), int(layer.row_token[row])
        y, start = TOP + (i + 0.5) * LINE, TOP + (token + 0.5) * spread
        svg.line(left, start, right, y, stroke=expert_colour(expert), width=1.8)
        _chip(svg, right, y - 8, 46, expert)
        svg.text(right + 56, y + 5, shorten(layer.tokens[token], 13), mono=True, size=13)
        svg.text(right + 190, y + 5, f"weight {layer.row_weight[row]:.2f}", fill=MUTED)
    of_row = zip(layer.row_expert, layer.row_token, layer.row_weight, strict=True)
    table = (
        (r, int(e), layer.tokens[t], f"{weight:.3f}") for r, (e, t, weight) in enumerate(of_row)
    )
    return svg.picture(("row", "expert", "token", "weight"), table)


def _experts(layer: Anatomy) -> Picture:
    rows = _shown_rows(layer)
    output_ND = layer.row_output[rows]
    norm_N = np.linalg.norm(output_ND, axis=1)
    summary = (
        f"Each expert transforms its own rows: W2 · (silu(W1 x) * W3 x). Lengths of what comes out "
        f"run from {norm_N.min():.2f} to {norm_N.max():.2f}."
    )
    note = f"heat: the {output_ND.shape[1]} values of each row, dark low, light high"
    svg = _frame(layer, "experts", note, summary, len(rows) * LINE)
    left = 190.0
    svg.text(left + 512, TOP - 8, "length")
    _signed_heat(svg, left, 500, len(rows) * LINE, output_ND)
    table = []
    for i, row in enumerate(rows):
        expert, token = int(layer.row_expert[row]), layer.tokens[layer.row_token[row]]
        y = TOP + i * LINE
        _chip(svg, 0, y + 1, 40, expert)
        svg.text(52, y + 14, shorten(token, 15), mono=True, size=13)
        svg.text(left + 512, y + 14, f"{norm_N[i]:.2f}")
        table.append((int(row), expert, token, f"{norm_N[i]:.3f}"))
    return svg.picture(("row", "expert", "token", "length"), table)


def _combine(layer: Anatomy) -> Picture:
    mixed_TD = np.zeros_like(layer.y)
    np.add.at(mixed_TD, layer.row_token, layer.row_weight[:, None] * layer.row_output)
    difference = float(np.abs(mixed_TD - layer.y).max())
    agrees = f"differs from the layer's own output by at most {difference:.0e}"
    if difference == 0:
        agrees = "equals the layer's own output to the last bit"
    summary = f"Each token adds up its experts' rows, weighted. Done again in numpy, it {agrees}."
    shown_TD = layer.y[:MAX_TOKENS]
    note = f"heat: the {layer.y.shape[1]} values of y, which joins the residual stream"
    svg = _frame(layer, "combine", note, summary, len(shown_TD) * ROW)
    left = 120.0
    _signed_heat(svg, left, 400, len(shown_TD) * ROW, shown_TD)
    _names(svg, layer, left - 8, ROW)
    recipes = [
        " + ".join(f"{w:.2f}·e{e}" for e, w in zip(*row, strict=True) if e >= 0)
        for row in zip(layer.expert, layer.weight, strict=True)
    ]
    sums = ("= " + recipe for recipe in recipes[:MAX_TOKENS])
    paragraph(svg, left + 412, TOP + 16, sums, ROW, mono=True)
    lengths = (f"{norm:.3f}" for norm in np.linalg.norm(layer.y, axis=1))
    table = zip(range(len(recipes)), layer.tokens, recipes, lengths, strict=True)
    return svg.picture(("#", "token", "sum of", "length"), table)


def _signed_heat(svg: Svg, x: float, width: float, height: float, values: np.ndarray) -> None:
    """Rows of numbers around 0, which is the middle of the scale."""
    svg.heat(x, TOP, width, height, values / (float(np.abs(values).max()) or 1.0) / 2 + 0.5)


def _shown_rows(layer: Anatomy) -> np.ndarray:
    """The rows of the first MAX_TOKENS tokens, in the plan's order."""
    return np.flatnonzero(layer.row_token < MAX_TOKENS)


_DRAW: dict[str, Callable[[Anatomy], Picture]] = dict(
    zip(STAGES, (_logits, _softmax, _topk, _dispatch, _experts, _combine), strict=True)
)
