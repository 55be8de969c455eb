"""A text with each token in its expert's colour, and the router's probabilities as a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from moeviz.pictures.colours import heat_colour, ink_on
from moeviz.pictures.plot import box, expert_box, flow, heat_bar
from moeviz.pictures.routing.names import bytes_note, lack, named, read_by, twins
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten
from moeviz.records.routes import Trace
from moeviz.words import percent

WIDTH, SIDE = 560, 270
SHOWN_TOKENS = 128  # of a matrix
SHOWN_CHOICES = 3  # beneath a token: real models have up to 12
SHOWN_EXPERTS = 20  # of a list: real models have hundreds


def token_strip(trace: Trace, layer: int) -> Picture:
    """The text, line by line. A token's colour and first number are its first expert; the second
    number its second choice. Beside it the load of each expert, which is the key of the colours,
    and that of all layers. layer counts the trace's MoE layers from 0."""
    expert_TK, twin_T = trace.expert[:, layer], twins(trace.tokens)
    labels = [_label(row) for row in expert_TK]
    shown = [shorten(token, 24) for token in trace.tokens]
    breaks = {t + 1 for t, token in enumerate(trace.tokens) if token.endswith("⏎")}
    boxes, height = flow(shown, [(label,) for label in labels], size=14, air=12, room=WIDTH,
                         line_height=52, breaks=breaks)  # fmt: skip
    load = trace.load()[layer]
    busiest = int(load.argmax())
    summary = (
        f"Layer {trace.layers[layer]}: {len(trace.tokens)} tokens, {trace.num_experts} experts; "
        f"expert {busiest} takes most, {percent(load[busiest] / max(load.sum(), 1))} of the "
        "assignments."
    )
    missing = lack(trace, weights=True)
    summary = f"{summary} {missing}".strip()
    note = " ".join(filter(None, [read_by(trace.meta) or bytes_note(trace.tokens), missing]))
    top = 70 if note else 52
    svg = Svg(WIDTH, top + height, "Which expert takes each token", summary)
    share = percent(load[busiest] / max(load.sum(), 1))
    most = f"expert {busiest} takes most, {share} of the {int(load.sum())} assignments"
    svg.text(0, 16, f"Layer {trace.layers[layer]}: {most}", size=14, bold=True)
    svg.text(
        0,
        36,
        "colour: a token's first expert · numbers: all its experts, the best one first",
        fill=MUTED,
    )
    svg.text(0, 54, note, fill=MUTED)
    for t, (x, y, width) in enumerate(boxes):
        y += top
        first = int(expert_TK[t, 0]) if expert_TK.shape[1] else -1
        tip = f"{named(t, trace.tokens[t])}: {_choices(trace, t, layer) or 'no expert'}"
        with svg.thing(twin_T[t], *_kin_of(expert_TK[t]), tip=tip):
            expert_box(svg, x, y, width, 26, first, shown[t], size=14, mono=True, radius=4)
            svg.text(x + width / 2, y + 40, labels[t], anchor="middle", mono=True)
    _experts_and_layers(svg, trace, layer, twin_T)
    rows = (
        (t, token, labels[t], " ".join(f"{w:.2f}" for w in trace.weight[t, layer] if w == w))
        for t, token in enumerate(trace.tokens)
    )
    return svg.picture(("#", "token", "experts", "weights"), rows)


def _label(experts: np.ndarray) -> str:
    served = [str(e) for e in experts if e >= 0]
    more = ", …" if len(served) > SHOWN_CHOICES else ""
    return ", ".join(served[:SHOWN_CHOICES]) + more or "none"


def _choices(trace: Trace, t: int, layer: int) -> str:
    """ "expert 5 weight 0.62, expert 4 weight 0.38"."""
    pairs = zip(trace.expert[t, layer], trace.weight[t, layer], strict=True)
    weights = trace.has_weights
    return ", ".join(f"expert {e}" + f" weight {w:.2f}" * weights for e, w in pairs if e >= 0)


def _kin_of(experts: Iterable[int]) -> list[str]:
    return [f"e{e}" for e in experts if e >= 0]


def _experts_and_layers(svg: Svg, trace: Trace, layer: int, twin_T: list[str]) -> None:
    """The load of this layer, expert by expert, and below it that of every layer, to be pressed."""
    load_LE, num_experts = trace.load(), trace.num_experts
    listed = list(range(num_experts))
    if num_experts > SHOWN_EXPERTS:
        listed = np.argsort(-load_LE[layer], kind="stable")[:SHOWN_EXPERTS].tolist()
    total, even = max(int(load_LE[layer].sum()), 1), load_LE[layer].sum() / num_experts
    peak = max(int(load_LE.max(initial=0)), 1)
    left, length, row = 76.0, 110.0, 20.0
    top = 44.0
    below = top + len(listed) * row + 40
    side = svg.beside(SIDE, below + len(load_LE) * row + 22)
    of = f"{len(listed)} busiest of its" if len(listed) < num_experts else "Load of its"
    side.text(0, 16, f"{of} {num_experts} experts", size=14, bold=True)
    for place, e in enumerate(listed):
        y, load = top + place * row, int(load_LE[layer, e])
        takes = dict.fromkeys(
            name for name, row in zip(twin_T, trace.expert[:, layer], strict=True) if e in row
        )
        with side.thing(f"e{e}", *takes, tip=f"expert {e}: {load} of {total} assignments"):
            side.text(left - 8, y + 13, f"expert {e}", anchor="end")
            expert_box(side, left, y, max(length * load / peak, 2), 16, e, stroke=MUTED)
            side.text(left + length + 8, y + 13, f"{load} ({percent(load / total)})", fill=MUTED)
    x = left + length * even / peak
    side.line(x, top - 4, x, top + len(listed) * row, stroke=INK, dash="4 3")
    side.text(x, top - 8, "even", anchor="middle", fill=MUTED)
    side.text(0, below - 10, "Load in every layer", bold=True)
    heat_bar(side, 164, below - 20, 60, 12, "0", str(peak))
    columns = f"left to right: experts 0 to {num_experts - 1}"
    side.text(left, below + len(load_LE) * row + 14, columns, fill=MUTED)
    for i, load_E in enumerate(load_LE):
        y, name = below + i * row, f"layer {trace.layers[i]}"
        busiest = int(load_E.argmax())
        share = load_E[busiest] / max(load_E.sum(), 1)
        tip = f"Go to {name}: its expert {busiest} takes most, {percent(share)}"
        with side.thing(f"l{i}", tip=tip, press={"layer": i}):
            side.text(left - 8, y + 13, name, anchor="end", bold=i == layer)
            side.heat(left, y, 160, 16, load_E[None] / peak)
            edge, thick = (INK, 2.5) if i == layer else (MUTED, 1.0)
            side.rect(left, y, 160, 16, "transparent", stroke=edge, stroke_width=thick)


def routing_matrix(trace: Trace, layer: int) -> Picture:
    """Tokens down, experts across: the router's probability as heat, the choices numbered. Of a
    trace without scores the choices alone."""
    expert_TK = trace.expert[:SHOWN_TOKENS, layer]
    missing = lack(trace, scores=True)
    score_TE = trace.score[:SHOWN_TOKENS, layer]
    if missing:
        score_TE = (expert_TK[:, :, None] == np.arange(trace.num_experts)).any(1).astype(float)
    num_tokens, num_experts = score_TE.shape
    note = read_by(trace.meta)
    left, top, row = 116.0, 98.0 if note else 80.0, 17.0
    cell = min(58.0, (WIDTH - left) / num_experts)
    # Number one in so many: for more there is no room.
    each = math.ceil((6 + 7 * len(str(num_experts - 1))) / cell)
    numbered = cell > 14
    peak = float(score_TE.max()) if score_TE.size else 1.0
    some = num_tokens < len(trace.tokens)
    count = f"the first {num_tokens} of {len(trace.tokens)}" if some else f"{num_tokens}"
    summary = (
        f"Layer {trace.layers[layer]}: the router's probability of each expert, for {count} "
        f"tokens; the highest is {peak:.2f}, even would be {1 / num_experts:.2f}."
    )
    if missing:
        summary = f"Layer {trace.layers[layer]}: the choices of {count} tokens. {missing}"
    title = f"the router's probabilities go up to {peak:.2f}; even: {1 / num_experts:.2f}"
    title = "the choices" if missing else title
    svg = Svg(WIDTH, top + num_tokens * row + 8, "Router probabilities", summary)
    svg.text(0, 16, f"Layer {trace.layers[layer]}: {title}", size=14, bold=True)
    low, high = ("not chosen", "chosen") if missing else ("probability 0", f"{peak:.2g}")
    svg.text(0, 36, note, fill=MUTED)
    heat_bar(svg, left, top - 50, 120, 12, low, high + " · 1, 2: the choices" * (cell > 14))
    svg.text(left - 8, top - 8, "token / expert", fill=MUTED, anchor="end")
    for e in range(num_experts):
        counts = ", ".join(f"choice {k + 1} of {(row_T == e).sum()}" for k, row_T
                           in enumerate(expert_TK.T))  # fmt: skip
        with svg.thing(f"e{e}", tip=f"expert {e}: {counts} tokens"):
            label = str(e) if e % each == 0 else ""
            svg.text(left + (e + 0.5) * cell, top - 8, label, anchor="middle", fill=MUTED)
    twin_T = twins(trace.tokens)
    for t in range(num_tokens):
        y = top + t * row
        best = ", ".join(f"expert {e} {score_TE[t, e]:.2f}" for e in np.argsort(-score_TE[t])[:3])
        tip = f"{named(t, trace.tokens[t])}: {_label(expert_TK[t]) if missing else best}"
        with svg.thing(twin_T[t], *_kin_of(expert_TK[t]), tip=tip):
            svg.text(left - 8, y + 13, shorten(trace.tokens[t], 14), anchor="end", mono=True)
            svg.heat(left, y, num_experts * cell, row - 1, score_TE[t][None] / peak)
            for k, e in enumerate(expert_TK[t]):
                ink = ink_on(heat_colour(float(score_TE[t, e]) / peak))
                place = str(k + 1) if e >= 0 and numbered else ""
                x = left + (e + 0.5) * cell
                svg.text(x, y + 12.5, place, anchor="middle", bold=True, fill=ink)
    columns = ("#", "token", *(f"expert {e}" for e in range(num_experts)))
    rows = ((t, trace.tokens[t], *(f"{p:.3f}" for p in score_TE[t])) for t in range(num_tokens))
    return svg.picture(columns, rows)


def load_bars(load_LE: np.ndarray, layers: tuple[int, ...], note: str = "") -> Picture:
    """Assignments each expert took, one row of bars per MoE layer, with the even share marked.
    note: a line above them, such as which model it was."""
    num_layers, num_experts = load_LE.shape
    left, top, plot, gap = 44.0, 64.0 if note else 40.0, 84.0, 54.0
    width = min(60.0, (WIDTH - left) / num_experts)
    # Number one in so many: for more there is no room.
    each = math.ceil((6 + 7 * len(str(num_experts - 1))) / width)
    share_LE = load_LE / np.maximum(load_LE.sum(1, keepdims=True), 1)
    peak = max(float(share_LE.max(initial=0)), 2 / num_experts)
    unused = int((load_LE == 0).sum())
    given = int(load_LE.sum(1).max(initial=0))
    reach = f" Of the {num_experts} of a layer {given} assignments reach at most as many."
    summary = (
        f"Share of a layer's {given} assignments per expert. Even would be "
        f"{percent(1 / num_experts, 1)}; the busiest has "
        f"{percent(float(share_LE.max(initial=0)), 1)}. {unused} of {load_LE.size} got "
        f"nothing.{reach if given < num_experts else ''}"
    )
    svg = Svg(WIDTH, top + num_layers * (plot + gap) - 10, "Expert load", summary)
    svg.text(0, 16, note, fill=MUTED)
    for i in range(num_layers):
        base, name = top + i * (plot + gap) + plot, f"layer {layers[i]}"
        busiest = int(share_LE[i].argmax())
        most = f"expert {busiest} takes {percent(float(share_LE[i, busiest]))} of the assignments"
        svg.text(0, base - plot - 12, f"L{name[1:]}: {most}", size=14, bold=True)
        with svg.thing(f"l{i}", tip=f"Show the text at {name}", press={"layer": i, "view": "text"}):
            box(svg, 440, base - plot - 28, 110, 22, "none", "show its text", radius=6,
                stroke=MUTED)  # fmt: skip
        for e in range(num_experts):
            height = plot * float(share_LE[i, e]) / peak
            x = left + e * width
            tip = f"{name}, expert {e}: {load_LE[i, e]} of {load_LE[i].sum()} assignments"
            with svg.thing(f"l{i}", tip=tip):
                expert_box(svg, x, base - height, 0.9 * width, height, e, stroke=MUTED)
                label = str(e) if e % each == 0 else ""
                svg.text(x + 0.45 * width, base + 15, label, anchor="middle", fill=MUTED)
        even = base - plot / num_experts / peak
        svg.line(left, even, left + num_experts * width, even, stroke=INK, dash="4 3")
        svg.text(left - 6, even + 4, "even", anchor="end", fill=MUTED)
        svg.line(left, base, left + num_experts * width, base)
    columns = ("layer", *(f"expert {e}" for e in range(num_experts)))
    rows = ((layers[i], *(int(n) for n in load_LE[i])) for i in range(num_layers))
    return svg.picture(columns, rows)
