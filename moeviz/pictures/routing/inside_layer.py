"""One MoE layer taken apart: logits, softmax, top-k, dispatch, experts, combine."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from moeviz.pictures.colours import heat_colour, ink_on
from moeviz.pictures.plot import box, expert_box, heat_bar
from moeviz.pictures.routing.layer_dispatch import moving_rows
from moeviz.pictures.routing.layer_frame import (
    LEFT,
    LINE,
    NOBODY,
    ROW,
    TOP,
    WIDTH,
    chip,
    frame,
    length_of,
    marks_of,
    name,
    ring,
    shape_note,
    shown_rows,
    shown_tokens,
)
from moeviz.pictures.svg import MUTED, RULE, Picture, Svg, shorten, text_width
from moeviz.records.routes import Anatomy

NARROW = 18.0  # cells below have room for no number
SHOWN_VALUES, MOST_TERMS = 128, 3  # of a vector, and of a sum


def anatomy(layer: Anatomy, stage: str, follow: int = NOBODY, step: int | None = None) -> Picture:
    """The named stage (one of STAGES) of a layer, with the real numbers of the first
    tokens. follow: the token that is framed, as it is in every stage. step: at the stage dispatch,
    so many rows have moved from token order to the order of experts; None: all."""
    if stage == "dispatch":
        return moving_rows(layer, follow, step)
    return _DRAW[stage](layer, follow)


def _matrix(
    layer: Anatomy, stage: str, follow: int, summary: str, shown_TE: np.ndarray,
    heat_TE: np.ndarray, scale: tuple[str, str], *, muted_TE: np.ndarray | None = None,
    last_column: tuple[str, np.ndarray] | None = None,
) -> Picture:  # fmt: skip
    """Tokens down, experts across, a number in every cell; scale: what the ends of the heat are."""
    num_tokens, num_experts = shown_tokens(layer), shown_TE.shape[1]
    cell = min(60.0, (WIDTH - LEFT - 64) / num_experts)
    # Named one in so many: for more there is no room.
    each = math.ceil((13 + 8 * len(str(num_experts - 1))) / cell)
    svg = frame(layer, stage, follow, shape_note(layer), summary, num_tokens * ROW)
    heat_bar(svg, LEFT, TOP - 35, 100, 12, *scale)
    quiet_TE = np.zeros_like(shown_TE, bool) if muted_TE is None else muted_TE
    chosen_TE = np.zeros_like(quiet_TE) if muted_TE is None else ~muted_TE
    for e in range(num_experts):
        chosen = int((layer.expert == e).sum())
        with svg.thing(
            f"e{e}", tip=f"expert {e}: {chosen} of {len(layer.tokens)} tokens choose it"
        ):
            late = last_column and (e + 0.5) * cell + 10 > num_experts * cell  # into its head
            label = "" if e % each or late else f"e{e}"
            svg.text(LEFT + (e + 0.5) * cell, TOP - 10, label, anchor="middle", fill=MUTED)
            expert_box(svg, LEFT + e * cell, TOP - 7, max(cell - 2, 1), 5, e)
    end = LEFT + num_experts * cell
    for t in range(num_tokens):
        y, kin = TOP + t * ROW, [f"e{e}" for e in layer.expert[t] if e >= 0]
        tip = ", ".join(f"e{e} {shown_TE[t, e]:z.2f}" for e in np.argsort(-shown_TE[t])[:3])
        with marks_of(svg, layer, t, follow, *kin, tip=f"{stage} {tip}"):
            name(svg, layer, t, y + 16, follow)
            if cell < NARROW:
                svg.heat(LEFT, y, end - LEFT, ROW - 2, heat_TE[t][None])
            drawn = np.ones(num_experts, bool) if cell >= NARROW else chosen_TE[t]
            for e in np.flatnonzero(drawn).tolist():
                _cell(svg, LEFT + e * cell, y, cell, stage, float(shown_TE[t, e]),
                      float(heat_TE[t, e]), quiet=bool(quiet_TE[t, e]),
                      roomy=cell > 36 or (cell >= NARROW and chosen_TE[t, e]))  # fmt: skip
            if last_column:
                svg.text(end + 34, y + 16, f"{last_column[1][t]:.2f}", anchor="middle", bold=True)
            if t == follow:
                ring(svg, LEFT - 2, y - 1, end - LEFT + 2, ROW)
    if last_column:
        svg.text(end + 34, TOP - 8, last_column[0], anchor="middle", bold=True)
    columns = ("#", "token", *(f"expert {e}" for e in range(num_experts)))
    rows = ((t, token, *(f"{v:.3f}" for v in shown_TE[t])) for t, token in enumerate(layer.tokens))
    return svg.picture(columns, rows)


def _cell(
    svg: Svg, x: float, y: float, cell: float, stage: str, value: float, heat: float, *,
    quiet: bool, roomy: bool,
) -> None:  # fmt: skip
    """One score; in narrow cells only the chosen few have room for a number."""
    text = f"{value:z.{1 if stage == 'logits' else 2}f}" if roomy else ""
    colour, ink = ("none", MUTED) if quiet else (heat_colour(heat), "")
    box(svg, x, y, cell - 2, ROW - 2, colour, text, ink=ink, stroke=RULE if quiet else MUTED)


def _logits(layer: Anatomy, follow: int) -> Picture:
    low, high = float(layer.logits.min()), float(layer.logits.max())
    heat = (layer.logits - low) / ((high - low) or 1.0)
    words = "One score per token and expert: a row of x times the gate"
    scale = f"{low:.1f}", f"{high:.1f}"
    summary = f"{words}, {low:.1f} to {high:.1f}."
    return _matrix(layer, "logits", follow, summary, layer.logits, heat, scale)


def _softmax(layer: Anatomy, follow: int) -> Picture:
    peak = float(layer.score.max())
    summary = (
        f"Scores become probabilities: every row sums to 1; the surest choice has {peak:.2f}, a "
        f"router that knows nothing would give {1 / layer.score.shape[1]:.2f} everywhere."
    )
    sums = ("row sum", layer.score.sum(1))
    return _matrix(layer, "softmax", follow, summary, layer.score, layer.score / peak,
                   ("0", f"{peak:.2f}"), last_column=sums)  # fmt: skip


def _topk(layer: Anatomy, follow: int) -> Picture:
    weight_TE = np.zeros_like(layer.score)
    np.put_along_axis(weight_TE, layer.expert.astype(np.int64), layer.weight, axis=1)
    chosen_TE = weight_TE > 0
    shown_TE = np.where(chosen_TE, weight_TE, layer.score)
    total_T = layer.weight.sum(1)
    sums = f"rows sum to {total_T.min():.2f} to {total_T.max():.2f}"
    says = {
        "renormalise": "their weights are renormalised, so that every row's weights sum to 1",
        "raw": f"their weights are left raw, so that {sums}",
    }.get(layer.weighting, f"their weights are by its own rule, and {sums}")
    words = f"Each token keeps {layer.expert.shape[1]} experts; {says}."
    peak = float(shown_TE.max()) if "model" in layer.meta else 1.0
    return _matrix(layer, "top-k", follow, words, shown_TE, shown_TE / peak,
                   ("weight 0", f"{peak:.2g}"),
                   muted_TE=~chosen_TE, last_column=("weights", total_T))  # fmt: skip


def _experts(layer: Anatomy, follow: int) -> Picture:
    rows = shown_rows(layer)
    output_ND = layer.row_output[rows]
    load_E, lengths = np.diff(layer.offsets), [length_of(output_D) for output_D in output_ND]
    how = "" if "model" in layer.meta else ": W2 · (silu(W1 x) * W3 x)"
    summary = (
        f"Each expert transforms its own rows{how}. Lengths of what comes out "
        f"run from {min(lengths, key=float)} to {max(lengths, key=float)}."
    )
    note = f"{_values(output_ND)} of each row, and its length"
    svg = frame(layer, "experts", follow, note, summary, len(rows) * LINE)
    left, width = 164.0, 330.0
    svg.text(left + width + 12, TOP - 8, "length", fill=MUTED)
    peak = _signed_scale(svg, left, output_ND)
    table = []
    for i, row in enumerate(rows):
        expert, token = int(layer.row_expert[row]), int(layer.row_token[row])
        y = TOP + i * LINE
        with svg.thing(f"e{expert}", f"t{token}", tip=f"expert {expert}: {load_E[expert]} rows"):
            chip(svg, 0, y + 1, 40, expert)
        with marks_of(
            svg, layer, token, follow, f"e{expert}", tip=f"row {row}, length {lengths[i]}"
        ):
            text = shorten(layer.tokens[token], 13)
            svg.text(50, y + 14, text, mono=True, size=13, bold=token == follow)
            shown_D = output_ND[i, :SHOWN_VALUES]
            svg.heat(left, y, width, LINE - 1, shown_D[None] / peak / 2 + 0.5)
            svg.text(left + width + 12, y + 14, lengths[i])
            if token == follow:
                ring(svg, left - 1, y - 1, width + 2, LINE)
        table.append((int(row), expert, layer.tokens[token], length_of(output_ND[i], 3)))
    return svg.picture(("row", "expert", "token", "length"), table)


def _combine(layer: Anatomy, follow: int) -> Picture:
    mixed_TD = np.zeros_like(layer.y)
    np.add.at(mixed_TD, layer.row_token, layer.row_weight[:, None] * layer.row_output)
    difference = float(np.abs(mixed_TD - layer.y).max())
    agrees = f"differs from the layer's own output by at most {difference:.0e}"
    if difference == 0:
        agrees = "equals the layer's own output to the last bit"
    summary = f"Each token adds up its experts' rows, weighted. Done again in numpy, it {agrees}."
    shown_TD = layer.y[: shown_tokens(layer)]
    note = f"{_values(layer.y)} of y, which joins the residual stream"
    svg = frame(layer, "combine", follow, note, summary, len(shown_TD) * ROW)
    recipes = [
        " + ".join(f"{w:.2f}·e{e}" for e, w in zip(*row, strict=True) if e >= 0)
        for row in zip(layer.expert, layer.weight, strict=True)
    ]
    shorts = [_few_terms(recipe) for recipe in recipes]
    width = WIDTH - LEFT - 16 - text_width(f"= {max(shorts, key=len, default='')}", 12)
    lengths = [length_of(y_D) for y_D in layer.y]
    peak = _signed_scale(svg, LEFT, shown_TD)
    for t, y_D in enumerate(shown_TD):
        y, kin = TOP + t * ROW, [f"e{e}" for e in layer.expert[t] if e >= 0]
        with marks_of(svg, layer, t, follow, *kin, tip=f"{recipes[t]}, length {lengths[t]}"):
            name(svg, layer, t, y + 16, follow)
            svg.heat(LEFT, y, width, ROW - 1, y_D[None, :SHOWN_VALUES] / peak / 2 + 0.5)
            svg.text(LEFT + width + 12, y + 16, f"= {shorts[t]}", mono=True)
            if t == follow:
                ring(svg, LEFT - 1, y - 1, width + 2, ROW)
    exact = (length_of(y_D, 3) for y_D in layer.y)
    table = zip(range(len(recipes)), layer.tokens, recipes, exact, strict=True)
    return svg.picture(("#", "token", "sum of", "length"), table)


def _few_terms(recipe: str) -> str:
    """The first of many terms: for all there is no room."""
    terms = recipe.split(" + ")
    rest = len(terms) - MOST_TERMS
    return recipe if rest <= 0 else f"{' + '.join(terms[:MOST_TERMS])} + {rest} more"


def _values(values_ND: np.ndarray) -> str:
    width = values_ND.shape[1]
    return f"the {width} values" if width <= SHOWN_VALUES else f"the first {SHOWN_VALUES} values"


def _signed_scale(svg: Svg, x: float, values: np.ndarray) -> float:
    """The key of numbers around 0, which is the middle of the heat; returns what its end is."""
    peak = float(np.abs(values).max(initial=0)) or 1.0
    heat_bar(svg, x, TOP - 32, 120, 12, f"{-peak:.2g}", f"{peak:.2g}")
    svg.text(x + 60, TOP - 22, "0", anchor="middle", bold=True, fill=ink_on(heat_colour(0.5)))
    return peak


_DRAW: dict[str, Callable[[Anatomy, int], Picture]] = {
    "logits": _logits, "softmax": _softmax, "top-k": _topk, "experts": _experts,
    "combine": _combine,
}  # fmt: skip
