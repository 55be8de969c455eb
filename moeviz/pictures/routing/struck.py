"""A batch in its order, with the tokens that found no slot crossed out."""

from __future__ import annotations

from moeviz.pictures.plot import flow
from moeviz.pictures.svg import MUTED, RULE, Svg, expert_colour, ink_on, shorten, text_width
from moeviz.records.routes import Decision

WIDTH = 900
SHOWN_TOKENS = 128
NO_SLOT, DROPPED = "#ffffff", "#d55e00"


def laid_out(decision: Decision) -> tuple[list[tuple[int, float, float, float]], float]:
    """Where each token's box goes: (token, x, y, width), and the height of all."""
    part_T, labels = decision.meta["part"], labels_of(decision)
    shown = decision.tokens[:SHOWN_TOKENS]
    widths = [
        max(text_width(shorten(token, 20), 13), text_width(labels[t], 12), 14) + 8
        for t, token in enumerate(shown)
    ]
    breaks = {t for t in range(1, len(shown)) if part_T[t] != part_T[t - 1]}
    places, height = flow(widths, WIDTH, 44.0, breaks)
    boxes = [(t, *place, widths[t]) for t, place in enumerate(places)]
    more = 20.0 if len(decision.tokens) > SHOWN_TOKENS else 0.0
    return boxes, height + more


def labels_of(decision: Decision) -> list[str]:
    """Each token's experts, first choice first; × before one that had no slot for it."""
    found: list[list[tuple[int, str]]] = [[] for _ in decision.tokens]
    for sign, rows in (("", decision.meta["placed"]), ("×", decision.meta["lost"])):
        for e, t, k in rows:
            found[t].append((k, f"{sign}{e}"))
    return [" ".join(name for _, name in sorted(row)) for row in found]


def strip(
    svg: Svg, decision: Decision, boxes: list[tuple[int, float, float, float]], top: float
) -> None:
    labels = labels_of(decision)
    title = (
        "The batch in its order"
        if 1 + max(decision.meta["part"], default=0) == 1
        else "The sequences, one below another"
    )
    svg.text(0, top - 12, title, size=13, bold=True)
    legend = "crossed out: no expert · ×: no slot there"
    if decision.meta["top_k"] > 1:
        legend = "crossed out: no expert · struck once: not all of its experts · ×: no slot there"
    svg.text(284, top - 12, legend, fill=MUTED)
    first: dict[int, tuple[int, int]] = {}
    for e, t, k in decision.meta["placed"]:
        first[t] = min(first.get(t, (k, e)), (k, e))
    for t, x, y, width in boxes:
        y += top
        colour = expert_colour(first[t][1]) if t in first else NO_SLOT
        fate = "no expert" if t not in first else "struck" if "×" in labels[t] else "placed"
        tip = f"{t} {decision.tokens[t]}: {labels[t]} ({fate})"
        svg.rect(x, y, width, 22, colour, radius=3, stroke="none" if t in first else RULE, tip=tip)
        strike = ink_on(colour) if t in first else DROPPED
        if "×" in labels[t]:
            svg.line(x, y + 22, x + width, y, stroke=strike, width=1.5)
        if t not in first:
            svg.line(x, y, x + width, y + 22, stroke=strike, width=1.5)
        svg.text(
            x + width / 2, y + 16, shorten(decision.tokens[t], 20), size=13, anchor="middle",
            mono=True, fill=ink_on(colour),
        )  # fmt: skip
        svg.text(x + width / 2, y + 36, labels[t], anchor="middle", mono=True)
    if len(decision.tokens) > SHOWN_TOKENS:
        bottom = top + boxes[-1][2] + 58
        svg.text(0, bottom, f"and {len(decision.tokens) - SHOWN_TOKENS} more tokens", fill=MUTED)
