"""A text with each token in its expert's colour, and the router's probabilities as a matrix; a
batch with the tokens that found no slot crossed out."""

from __future__ import annotations

import numpy as np

from moeviz.pictures.plot import box, expert_box, flow, heading, heat_bar
from moeviz.pictures.svg import (
    INK,
    MUTED,
    Picture,
    Svg,
    expert_colour,
    heat_colour,
    ink_on,
    shorten,
)
from moeviz.records.routes import Decision, Trace

WIDTH, BATCH_WIDTH = 800, 900
SHOWN_TOKENS, MATRIX_TOKENS = 128, 48  # of a batch, of a matrix
DROPPED = "#d55e00"


def token_strip(trace: Trace, layer: int) -> Picture:
    """The text, line by line. A token's colour and first number are its first expert; the second
    number its second choice. layer counts the trace's MoE layers from 0."""
    expert_TK, weight_TK = trace.expert[:, layer], trace.weight[:, layer]
    labels = ["·".join(str(e) for e in row if e >= 0) or "none" for row in expert_TK]
    shown = [shorten(token, 24) for token in trace.tokens]
    breaks = {t + 1 for t, token in enumerate(trace.tokens) if token.endswith("⏎")}
    boxes, height = flow(shown, [(label,) for label in labels], size=14, air=12, room=WIDTH,
                         line_height=52, breaks=breaks)  # fmt: skip
    load = trace.load()[layer]
    busiest = int(load.argmax())
    summary = (
        f"Layer {trace.layers[layer]}: {len(trace.tokens)} tokens, {trace.num_experts} experts; "
        f"expert {busiest} takes most, {load[busiest] / max(load.sum(), 1):.0%} of the assignments."
    )
    svg = Svg(WIDTH, height + 38, "Which expert takes each token", summary)
    svg.text(0, 16, f"Layer {trace.layers[layer]}", size=14, bold=True)
    svg.text(64, 16, "colour and first number: the token's first expert", fill=MUTED)
    for t, (x, y, width) in enumerate(boxes):
        y += 34
        first = int(expert_TK[t, 0]) if expert_TK.shape[1] else -1
        weights = ", ".join(
            f"expert {e} weight {w:.2f}"
            for e, w in zip(expert_TK[t], weight_TK[t], strict=True)
            if e >= 0
        )
        tip = f"{trace.tokens[t]}: {weights or 'no expert'}"
        expert_box(svg, x, y, width, 26, first, shown[t], size=14, mono=True, radius=4, tip=tip)
        svg.text(x + width / 2, y + 40, labels[t], anchor="middle", mono=True)
    rows = (
        (t, token, labels[t], " ".join(f"{w:.2f}" for w in weight_TK[t]))
        for t, token in enumerate(trace.tokens)
    )
    return svg.picture(("#", "token", "experts", "weights"), rows)


def laid_out(decision: Decision) -> tuple[list[tuple[float, float, float]], float]:
    """Where each token's box of batch_strip goes: (x, y, width), and the height of all."""
    part_T, labels = decision.meta["part"], [(fate,) for fate in fates(decision)]
    shown = [shorten(token, 20) for token in decision.tokens[:SHOWN_TOKENS]]
    breaks = {t for t in range(1, len(shown)) if part_T[t] != part_T[t - 1]}
    boxes, height = flow(shown, labels[:SHOWN_TOKENS], size=13, air=8, room=BATCH_WIDTH,
                         line_height=44, breaks=breaks)  # fmt: skip
    return boxes, height + 20.0 * (len(decision.tokens) > SHOWN_TOKENS)


def fates(decision: Decision) -> list[str]:
    """Each token's experts, first choice first; × before one that had no slot for it."""
    names: list[list[tuple[int, str]]] = [[] for _ in decision.tokens]
    for sign, rows in (("", decision.meta["placed"]), ("×", decision.meta["lost"])):
        for e, t, k in rows:
            names[t].append((k, f"{sign}{e}"))
    return [" ".join(name for _, name in sorted(row)) for row in names]


def batch_strip(
    svg: Svg, decision: Decision, boxes: list[tuple[float, float, float]], top: float
) -> None:
    """A batch in its order, with the tokens that found no slot crossed out."""
    labels, one = fates(decision), not any(decision.meta["part"])
    title = "The batch in its order" if one else "The sequences, one below another"
    svg.text(0, top - 12, title, size=13, bold=True)
    struck = "struck once: not all of its experts · " if decision.meta["top_k"] > 1 else ""
    note = f"crossed out: no expert · {struck}×: no slot there"
    svg.text(284, top - 12, note, fill=MUTED)
    first: dict[int, tuple[int, int]] = {}
    for e, t, k in decision.meta["placed"]:
        first[t] = min(first.get(t, (k, e)), (k, e))
    for t, (x, y, width) in enumerate(boxes):
        y += top
        expert = first[t][1] if t in first else -1
        fate = "no expert" if t not in first else "struck" if "×" in labels[t] else "placed"
        expert_box(svg, x, y, width, 22, expert, shorten(decision.tokens[t], 20), size=13,
                   mono=True, radius=3,
                   tip=f"{t} {decision.tokens[t]}: {labels[t]} ({fate})")  # fmt: skip
        strike = ink_on(expert_colour(expert)) if t in first else DROPPED
        if "×" in labels[t]:
            svg.line(x, y + 22, x + width, y, stroke=strike, width=1.5)
        if t not in first:
            svg.line(x, y, x + width, y + 22, stroke=strike, width=1.5)
        svg.text(x + width / 2, y + 36, labels[t], anchor="middle", mono=True)
    if len(decision.tokens) > SHOWN_TOKENS:
        bottom = top + boxes[-1][1] + 58
        svg.text(0, bottom, f"and {len(decision.tokens) - SHOWN_TOKENS} more tokens", fill=MUTED)


def routing_matrix(trace: Trace, layer: int) -> Picture:
    """Tokens down, experts across: the router's probability as heat, the chosen ones ringed."""
    score_TE = trace.score[:MATRIX_TOKENS, layer]
    expert_TK = trace.expert[:MATRIX_TOKENS, layer]
    num_tokens, num_experts = score_TE.shape
    left, top, row = 130.0, 62.0, 17.0
    cell = min(34.0, (WIDTH - left - 110) / num_experts)
    height = top + max(num_tokens * row, 158) + 12  # at least the colour bar and its legend
    peak = float(score_TE.max()) if score_TE.size else 1.0
    summary = (
        f"Layer {trace.layers[layer]}: the router's probability of each expert, for "
        f"{num_tokens} of {len(trace.tokens)} tokens; the highest is {peak:.2f}, even would be "
        f"{1 / num_experts:.2f}."
    )
    svg = Svg(WIDTH, height, "Router probabilities", summary)
    heading(svg, f"Layer {trace.layers[layer]}: router probability", "expert", left)
    svg.text(left - 8, 54, "token", fill=MUTED, anchor="end")
    for e in range(num_experts):
        svg.text(left + (e + 0.5) * cell, 54, str(e), anchor="middle", fill=MUTED)
    for t in range(num_tokens):
        y = top + t * row
        svg.text(left - 8, y + 13, shorten(trace.tokens[t], 14), anchor="end", mono=True)
        choice = {int(e): str(k + 1) for k, e in enumerate(expert_TK[t])}
        for e in range(num_experts):
            colour = heat_colour(float(score_TE[t, e]) / peak)
            x = left + e * cell
            box(svg, x, y, cell - 1, row - 1, colour, choice.get(e, ""), bold=True)
    right = left + num_experts * cell + 18
    heat_bar(svg, right, top, 14, 120, "0", f"{peak:.2g}")
    svg.text(right, top + 138, "probability", fill=MUTED)
    svg.text(right, top + 158, "1, 2: choices", fill=MUTED)
    columns = ("#", "token", *(f"expert {e}" for e in range(num_experts)))
    rows = ((t, trace.tokens[t], *(f"{p:.3f}" for p in score_TE[t])) for t in range(num_tokens))
    return svg.picture(columns, rows)


def load_bars(load_LE: np.ndarray, layers: tuple[int, ...]) -> Picture:
    """Assignments each expert took, one row of bars per MoE layer, with the even share marked."""
    num_layers, num_experts = load_LE.shape
    left, top, plot, gap = 56.0, 40.0, 84.0, 54.0
    width = min(44.0, (WIDTH - left) / num_experts)
    share_LE = load_LE / np.maximum(load_LE.sum(1, keepdims=True), 1)
    peak = max(float(share_LE.max(initial=0)), 2 / num_experts)
    unused = int((load_LE == 0).sum())
    given = int(load_LE.sum(1).max(initial=0))
    reach = f" ({given} reach no more than {given} of the {num_experts} of a layer)"
    summary = (
        f"Share of a layer's {given} assignments per expert; even would be {1 / num_experts:.1%}, "
        f"the busiest has {float(share_LE.max(initial=0)):.1%}, {unused} of {load_LE.size} got "
        f"nothing{reach if given < num_experts else ''}."
    )
    svg = Svg(WIDTH, top + num_layers * (plot + gap) - 10, "Expert load", summary)
    for i in range(num_layers):
        base = top + i * (plot + gap) + plot
        title = f"Layer {layers[i]}: share of assignments"
        svg.text(0, base - plot - 12, title, size=14, bold=True)
        for e in range(num_experts):
            height = plot * float(share_LE[i, e]) / peak
            x = left + e * width
            expert_box(svg, x, base - height, width - 4, height, e)
            svg.text(x + (width - 4) / 2, base + 15, str(e), anchor="middle", fill=MUTED)
        even = base - plot / num_experts / peak
        svg.line(left, even, left + num_experts * width, even, stroke=INK, dash="4 3")
        svg.text(left - 6, even + 4, "even", anchor="end", fill=MUTED)
        svg.line(left, base, left + num_experts * width, base)
    columns = ("layer", *(f"expert {e}" for e in range(num_experts)))
    rows = ((layers[i], *(int(n) for n in load_LE[i])) for i in range(num_layers))
    return svg.picture(columns, rows)
