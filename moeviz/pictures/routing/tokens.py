"""A text with each token in its expert's colour, and the router's probabilities as a matrix."""

from __future__ import annotations

import numpy as np

from moeviz.pictures.plot import flow
from moeviz.pictures.svg import (
    INK,
    MUTED,
    OKABE_ITO,
    RULE,
    Picture,
    Svg,
    expert_colour,
    heat_colour,
    ink_on,
    shorten,
    text_width,
)
from moeviz.records.routes import Trace

WIDTH = 800


def token_strip(trace: Trace, layer: int, *, state: str = "") -> Picture:
    """The text, line by line. A token's colour and first number are its first expert; the second
    number its second choice. layer counts the trace's MoE layers from 0."""
    expert_TK, weight_TK = trace.expert[:, layer], trace.weight[:, layer]
    size, pad, row_height, top = 14.0, 6.0, 52.0, 34.0
    labels = ["·".join(str(e) for e in row if e >= 0) or "none" for row in expert_TK]
    shown = [shorten(token, 24) for token in trace.tokens]
    widths = [
        max(text_width(token, size), text_width(label, 12)) + 2 * pad
        for token, label in zip(shown, labels, strict=True)
    ]
    breaks = {t + 1 for t, token in enumerate(trace.tokens) if token.endswith("⏎")}
    places, height = flow(widths, WIDTH, row_height, breaks)
    bottom = top + height
    load = trace.load()[layer]
    busiest = int(load.argmax())
    summary = (
        f"Layer {trace.layers[layer]}: {len(trace.tokens)} tokens, {trace.num_experts} experts; "
        f"expert {busiest} takes most, {load[busiest] / max(load.sum(), 1):.0%} of the assignments."
    )
    svg = Svg(WIDTH, bottom + 4, "Which expert takes each token", summary)
    svg.text(0, 16, f"Layer {trace.layers[layer]}", size=14, bold=True)
    svg.text(64, 16, "colour and first number: the token's first expert", fill=MUTED)
    for t, ((x, y), width) in enumerate(zip(places, widths, strict=True)):
        y += top
        first = int(expert_TK[t, 0]) if expert_TK.shape[1] else -1
        colour = expert_colour(first) if first >= 0 else "#ffffff"
        weights = ", ".join(
            f"expert {e} weight {w:.2f}"
            for e, w in zip(expert_TK[t], weight_TK[t], strict=True)
            if e >= 0
        )
        tip = f"{trace.tokens[t]}: {weights or 'no expert'}"
        svg.rect(x, y, width, 26, colour, radius=4, tip=tip, stroke=RULE if first < 0 else "none")
        if first >= len(OKABE_ITO):
            svg.hatch(x, y, width, 26, colour)
        svg.text(
            x + width / 2, y + 18, shown[t], size=size, anchor="middle", mono=True,
            fill=ink_on(colour),
        )  # fmt: skip
        svg.text(x + width / 2, y + 40, labels[t], anchor="middle", mono=True, fill=INK)
    rows = tuple(
        (t, token, labels[t], " ".join(f"{w:.2f}" for w in weight_TK[t]))
        for t, token in enumerate(trace.tokens)
    )
    return Picture(svg.close(state=state), summary, ("#", "token", "experts", "weights"), rows)


def routing_matrix(trace: Trace, layer: int, *, max_tokens: int = 48, state: str = "") -> Picture:
    """Tokens down, experts across: the router's probability as heat, the chosen ones ringed."""
    score_TE = trace.score[:max_tokens, layer]
    expert_TK = trace.expert[:max_tokens, layer]
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
    svg.text(left, 16, f"Layer {trace.layers[layer]}: router probability", size=14, bold=True)
    svg.text(left, 36, "expert", fill=MUTED)
    svg.text(left - 8, 54, "token", fill=MUTED, anchor="end")
    for e in range(num_experts):
        svg.text(left + (e + 0.5) * cell, 54, str(e), anchor="middle", fill=MUTED)
    for t in range(num_tokens):
        y = top + t * row
        svg.text(left - 8, y + 13, shorten(trace.tokens[t], 14), anchor="end", mono=True)
        for e in range(num_experts):
            svg.rect(
                left + e * cell, y, cell - 1, row - 1, heat_colour(float(score_TE[t, e]) / peak)
            )
        for k, e in enumerate(expert_TK[t]):
            if e >= 0:
                colour = heat_colour(float(score_TE[t, e]) / peak)
                svg.text(
                    left + (int(e) + 0.5) * cell, y + 13, str(k + 1), anchor="middle", bold=True,
                    fill=ink_on(colour),
                )  # fmt: skip
    colour_bar(svg, left + num_experts * cell + 18, top, peak, "probability")
    svg.text(left + num_experts * cell + 18, top + 158, "1, 2: choices", fill=MUTED)
    columns = ("#", "token", *(f"expert {e}" for e in range(num_experts)))
    rows = tuple(
        (t, trace.tokens[t], *(f"{p:.3f}" for p in score_TE[t])) for t in range(num_tokens)
    )
    return Picture(svg.close(state=state), summary, columns, rows)


def colour_bar(svg: Svg, x: float, y: float, high: float, name: str) -> None:
    """What the heat means, from 0 to `high`."""
    for i in range(20):
        svg.rect(x, y + i * 6, 14, 6, heat_colour(1 - i / 19))
    svg.text(x + 20, y + 11, f"{high:.2g}")
    svg.text(x + 20, y + 120, "0")
    svg.text(x, y + 138, name, fill=MUTED)


def load_bars(load_LE: np.ndarray, layers: tuple[int, ...], *, state: str = "") -> Picture:
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
        svg.text(
            0, base - plot - 12, f"Layer {layers[i]}: share of assignments", size=14, bold=True
        )
        for e in range(num_experts):
            height = plot * float(share_LE[i, e]) / peak
            x = left + e * width
            svg.rect(x, base - height, width - 4, height, expert_colour(e))
            if e >= len(OKABE_ITO):
                svg.hatch(x, base - height, width - 4, height, expert_colour(e))
            svg.text(x + (width - 4) / 2, base + 15, str(e), anchor="middle", fill=MUTED)
        even = base - plot / num_experts / peak
        svg.line(left, even, left + num_experts * width, even, stroke=INK, dash="4 3")
        svg.text(left - 6, even + 4, "even", anchor="end", fill=MUTED)
        svg.line(left, base, left + num_experts * width, base)
    columns = ("layer", *(f"expert {e}" for e in range(num_experts)))
    rows = tuple((layers[i], *(int(n) for n in load_LE[i])) for i in range(num_layers))
    return Picture(svg.close(state=state), summary, columns, rows)
