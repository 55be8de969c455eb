"""One MoE layer taken apart: logits, softmax, top-k, dispatch, experts, combine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moeviz.pictures.svg import (
    INK,
    MUTED,
    RULE,
    Picture,
    Svg,
    expert_colour,
    heat_colour,
    ink_on,
    shorten,
)
from moeviz.records.routes import Anatomy

WIDTH = 860
MAX_TOKENS = 14
TOP = 104
ROW = 22

STAGES = ("logits", "softmax", "top-k", "dispatch", "experts", "combine")


def anatomy(layer: Anatomy, stage: str, *, state: str = "") -> Picture:
    """The named stage (one of STAGES) of a layer, with the real numbers of the first MAX_TOKENS
    tokens."""
    return _DRAW[stage](layer, state)


def _frame(layer: Anatomy, stage: str, formula: str, summary: str, height: float) -> Svg:
    svg = Svg(WIDTH, height, f"Inside layer {layer.layer}: {stage}", summary)
    width = WIDTH / len(STAGES)
    for i, name in enumerate(STAGES):
        here = name == stage
        svg.rect(
            i * width + 2, 4, width - 16, 28, "#0072b2" if here else "none",
            stroke="#0072b2" if here else RULE, radius=6,
        )  # fmt: skip
        svg.text(
            i * width + (width - 12) / 2, 23, f"{i + 1} {name}", size=13, anchor="middle",
            bold=here, fill="#ffffff" if here else INK,
        )  # fmt: skip
        if i < len(STAGES) - 1:
            svg.text((i + 1) * width - 7, 23, "→", anchor="middle", fill=MUTED)
    svg.text(0, 58, formula, size=14, mono=True)
    return svg


def _tokens(layer: Anatomy) -> list[str]:
    return [shorten(token, 13) for token in layer.tokens[:MAX_TOKENS]]


def _shape_note(layer: Anatomy) -> str:
    shown = min(len(layer.tokens), MAX_TOKENS)
    num_experts, top_k = layer.logits.shape[1], layer.expert.shape[1]
    rest = "" if shown == len(layer.tokens) else f", the first {shown} shown"
    return f"T = {len(layer.tokens)} tokens{rest} · E = {num_experts} experts · K = {top_k}"


def _matrix(
    layer: Anatomy,
    stage: str,
    formula: str,
    summary: str,
    state: str,
    shown_TE: np.ndarray,
    heat_TE: np.ndarray,
    *,
    digits: int,
    muted_TE: np.ndarray | None = None,
    last_column: tuple[str, np.ndarray] | None = None,
) -> Picture:
    """Tokens down, experts across, a number in every cell."""
    tokens = _tokens(layer)
    num_experts = shown_TE.shape[1]
    left = 120.0
    cell = min(74.0, (WIDTH - left - 90) / num_experts)
    svg = _frame(layer, stage, formula, summary, TOP + len(tokens) * ROW + 14)
    svg.text(0, 78, _shape_note(layer), fill=MUTED)
    for e in range(num_experts):
        svg.text(left + (e + 0.5) * cell, TOP - 8, f"e{e}", anchor="middle", fill=MUTED)
    if last_column:
        svg.text(
            left + num_experts * cell + 44, TOP - 8, last_column[0], anchor="middle", bold=True
        )
    for t, token in enumerate(tokens):
        y = TOP + t * ROW
        svg.text(left - 8, y + 16, token, anchor="end", mono=True, size=13)
        for e in range(num_experts):
            quiet = muted_TE is not None and bool(muted_TE[t, e])
            colour = heat_colour(float(heat_TE[t, e]))
            svg.rect(
                left + e * cell, y, cell - 2, ROW - 2, "none" if quiet else colour,
                stroke=RULE if quiet else "none",
            )  # fmt: skip
            # In narrow cells only the chosen few have room for a number.
            if cell > 36 or (muted_TE is not None and not quiet):
                svg.text(
                    left + e * cell + cell / 2 - 1, y + 15, f"{shown_TE[t, e]:z.{digits}f}",
                    anchor="middle", fill=MUTED if quiet else ink_on(colour),
                )  # fmt: skip
        if last_column:
            value = f"{last_column[1][t]:.2f}"
            svg.text(left + num_experts * cell + 44, y + 16, value, anchor="middle", bold=True)
    columns = ("#", "token", *(f"expert {e}" for e in range(num_experts)))
    rows = tuple(
        (t, layer.tokens[t], *(f"{v:.3f}" for v in shown_TE[t])) for t in range(len(layer.tokens))
    )
    return Picture(svg.close(state=state), summary, columns, rows)


def _logits(layer: Anatomy, state: str) -> Picture:
    low, high = float(layer.logits.min()), float(layer.logits.max())
    heat = (layer.logits - low) / ((high - low) or 1.0)
    summary = (
        f"One score per token and expert: a row of x times the router, {low:.1f} to {high:.1f}."
    )
    return _matrix(
        layer, "logits", "logits_TE = x_TD · W_ED^T", summary, state, layer.logits, heat, digits=1
    )


def _softmax(layer: Anatomy, state: str) -> Picture:
    peak = float(layer.score.max())
    summary = (
        f"Scores become probabilities: every row sums to 1; the surest choice has {peak:.2f}, a "
        f"router that knows nothing would give {1 / layer.score.shape[1]:.2f} everywhere."
    )
    total_T = layer.score.sum(1)
    return _matrix(
        layer, "softmax", "score_TE = softmax(logits_TE)", summary, state, layer.score,
        layer.score / peak, digits=2, last_column=("row sum", total_T),
    )  # fmt: skip


def _topk(layer: Anatomy, state: str) -> Picture:
    weight_TE = np.zeros_like(layer.score)
    np.put_along_axis(weight_TE, layer.expert.astype(np.int64), layer.weight, axis=1)
    chosen_TE = weight_TE > 0
    shown_TE = np.where(chosen_TE, weight_TE, layer.score)
    total_T = layer.weight.sum(1)
    if layer.weighting == "renormalise":
        formula = "weight_TK = score_TK / sum(score_TK)   renormalise after top-k"
        says = "renormalised, so that every row's weights sum to 1"
    else:
        formula = "weight_TK = score_TK   raw: the softmax before top-k"
        says = f"left raw, so that rows sum to {total_T.min():.2f} to {total_T.max():.2f}"
    summary = (
        f"Each token keeps its {layer.expert.shape[1]} best experts; their weights are {says}."
    )
    return _matrix(
        layer, "top-k", formula, summary, state, shown_TE, shown_TE, digits=2,
        muted_TE=~chosen_TE, last_column=("weights", total_T),
    )  # fmt: skip


def _dispatch(layer: Anatomy, state: str) -> Picture:
    tokens = _tokens(layer)
    rows = _shown_rows(layer)
    load_E = np.diff(layer.offsets)
    busiest = int(load_E.argmax())
    summary = (
        f"{len(layer.row_token)} assignments sorted by expert: expert {busiest} gets "
        f"{load_E[busiest]}, {int((load_E == 0).sum())} of {len(load_E)} experts get none."
    )
    row_height = 18.0
    height = TOP + max(len(tokens) * 2, len(rows)) * row_height + 14
    svg = _frame(
        layer, "dispatch", "rows sorted by expert; offsets_E = where each begins", summary, height
    )
    svg.text(0, 78, f"{_shape_note(layer)} · N = {len(layer.row_token)} rows", fill=MUTED)
    left, right = 130.0, 520.0
    spread = max(len(rows), 1) / max(len(tokens), 1) * row_height
    for t, shown in enumerate(tokens):
        svg.text(left - 8, TOP + (t + 0.5) * spread + 5, shown, anchor="end", mono=True, size=13)
    for i, row in enumerate(rows):
        expert, token = int(layer.row_expert[row]), int(layer.row_token[row])
        y = TOP + (i + 0.5) * row_height
        colour = expert_colour(expert)
        svg.line(left, TOP + (token + 0.5) * spread, right, y, stroke=colour, width=1.8)
        svg.rect(right, y - 8, 46, 16, colour, radius=3)
        svg.text(right + 23, y + 4.5, f"e{expert}", anchor="middle", fill=ink_on(colour), bold=True)
        svg.text(right + 56, y + 5, shorten(layer.tokens[token], 13), mono=True, size=13)
        svg.text(right + 190, y + 5, f"weight {layer.row_weight[row]:.2f}", fill=MUTED)
    columns = ("row", "expert", "token", "weight")
    table = tuple(
        (
            r,
            int(layer.row_expert[r]),
            layer.tokens[layer.row_token[r]],
            f"{layer.row_weight[r]:.3f}",
        )
        for r in range(len(layer.row_token))
    )
    return Picture(svg.close(state=state), summary, columns, table)


def _experts(layer: Anatomy, state: str) -> Picture:
    rows = _shown_rows(layer)
    output_ND = layer.row_output[rows]
    norm_N = np.linalg.norm(output_ND, axis=1)
    summary = (
        f"Each expert transforms its own rows: W2 · (silu(W1 x) * W3 x). Lengths of what comes out "
        f"run from {norm_N.min():.2f} to {norm_N.max():.2f}."
    )
    row_height = 18.0
    svg = _frame(
        layer, "experts", "out_ND = expert FFN of each row, one grouped GEMM", summary,
        TOP + len(rows) * row_height + 14,
    )  # fmt: skip
    svg.text(
        0,
        78,
        f"heat: the {output_ND.shape[1]} values of each row, dark low, light high",
        fill=MUTED,
    )
    left = 190.0
    svg.text(left + 500 + 12, TOP - 8, "length")
    peak = float(np.abs(output_ND).max()) or 1.0
    svg.heat(left, TOP, 500, len(rows) * row_height, output_ND / peak / 2 + 0.5)
    for i, row in enumerate(rows):
        expert = int(layer.row_expert[row])
        y, colour = TOP + i * row_height, expert_colour(expert)
        svg.rect(0, y + 1, 40, row_height - 2, colour, radius=3)
        svg.text(20, y + 13.5, f"e{expert}", anchor="middle", fill=ink_on(colour), bold=True)
        svg.text(52, y + 14, shorten(layer.tokens[layer.row_token[row]], 15), mono=True, size=13)
        svg.text(left + 512, y + 14, f"{norm_N[i]:.2f}")
    table = tuple(
        (int(r), int(layer.row_expert[r]), layer.tokens[layer.row_token[r]], f"{norm_N[i]:.3f}")
        for i, r in enumerate(rows)
    )
    return Picture(svg.close(state=state), summary, ("row", "expert", "token", "length"), table)


def _combine(layer: Anatomy, state: str) -> Picture:
    tokens = _tokens(layer)
    mixed_TD = np.zeros_like(layer.y)
    np.add.at(mixed_TD, layer.row_token, layer.row_weight[:, None] * layer.row_output)
    difference = float(np.abs(mixed_TD - layer.y).max())
    agreement = f"differs from the layer's own output by at most {difference:.0e}"
    if difference == 0:
        agreement = "equals the layer's own output to the last bit"
    summary = (
        f"Each token adds up its experts' rows, weighted. Done again in numpy, it {agreement}."
    )
    svg = _frame(
        layer, "combine", "y_T = sum over its rows of weight · out", summary,
        TOP + len(tokens) * ROW + 14,
    )  # fmt: skip
    svg.text(
        0,
        78,
        f"heat: the {layer.y.shape[1]} values of y, which joins the residual stream",
        fill=MUTED,
    )
    left = 120.0
    shown_TD = layer.y[: len(tokens)]
    peak = float(np.abs(shown_TD).max()) or 1.0
    svg.heat(left, TOP, 400, len(tokens) * ROW, shown_TD / peak / 2 + 0.5)
    recipes = [
        " + ".join(
            f"{w:.2f}·e{e}" for e, w in zip(layer.expert[t], layer.weight[t], strict=True) if e >= 0
        )
        for t in range(len(layer.tokens))
    ]
    for t, token in enumerate(tokens):
        svg.text(left - 8, TOP + t * ROW + 16, token, anchor="end", mono=True, size=13)
        svg.text(left + 412, TOP + t * ROW + 16, "= " + recipes[t], mono=True)
    table = tuple(
        (t, layer.tokens[t], recipes[t], f"{np.linalg.norm(layer.y[t]):.3f}")
        for t in range(len(layer.tokens))
    )
    return Picture(svg.close(state=state), summary, ("#", "token", "sum of", "length"), table)


def _shown_rows(layer: Anatomy) -> np.ndarray:
    """The rows of the first MAX_TOKENS tokens, in the plan's order."""
    return np.flatnonzero(layer.row_token < MAX_TOKENS)


_DRAW: dict[str, Callable[[Anatomy, str], Picture]] = dict(
    zip(STAGES, (_logits, _softmax, _topk, _dispatch, _experts, _combine), strict=True)
)
