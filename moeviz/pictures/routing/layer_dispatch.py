"""The stage of a layer at which rows move from token order to the order of experts."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from moeviz.pictures.colours import expert_colour
from moeviz.pictures.routing.layer_frame import (
    LEFT,
    LINE,
    NOBODY,
    TOP,
    chip,
    frame,
    marks_of,
    name,
    shape_note,
    shown_rows,
    shown_tokens,
)
from moeviz.pictures.routing.names import named
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg, shorten
from moeviz.records.routes import Anatomy

SORTED = 296.0  # where rows stand in the order of experts
CHIP = 30.0  # of a row that has not moved yet, beside its token, with air; narrower for many
PALE = 0.2  # opacity of the threads beside those of a followed token

Place = tuple[float, float]


def in_token_order(layer: Anatomy) -> list[int]:
    """The rows of the tokens that are shown, the first choice of each token first."""

    def key(row: int) -> tuple[int, int]:
        token, expert = int(layer.row_token[row]), int(layer.row_expert[row])
        return token, [*layer.expert[token]].index(expert)

    return sorted(shown_rows(layer).tolist(), key=key)


def moving_rows(layer: Anatomy, follow: int, step: int | None) -> Picture:
    come, rows = in_token_order(layer), shown_rows(layer)
    there = come[:step]
    now = there[-1] if there and len(there) < len(come) else None
    note = f"{shape_note(layer)} · N = {len(layer.row_token)} rows"
    num_tokens = shown_tokens(layer)
    svg = frame(layer, "dispatch", follow, note, _of_rows(layer, come, there),
                 max(num_tokens * 2, len(rows)) * LINE)  # fmt: skip
    top, spread = TOP - 22, max(len(rows), 1) / max(num_tokens, 1) * LINE
    for t in range(num_tokens):
        kin = [f"e{e}" for e in layer.expert[t] if e >= 0]
        chosen = " and ".join(f"expert {e}" for e in layer.expert[t] if e >= 0)
        with marks_of(svg, layer, t, follow, *kin, tip=f"goes to {chosen or 'no expert'}"):
            name(svg, layer, t, top + (t + 0.5) * spread + 5, follow)
    chip_width = min(CHIP, (SORTED - LEFT - 20) / layer.expert.shape[1])
    place = {int(row): top + (i + 0.5) * LINE for i, row in enumerate(rows)}
    # What moves comes last, so that it passes over the others.
    for row in sorted(come, key=lambda row: (row == now, row)):
        token, expert = int(layer.row_token[row]), int(layer.row_expert[row])
        choice = [*layer.expert[token]].index(expert)
        start = LEFT + chip_width * choice, top + (token + 0.5) * spread
        if row in there:
            _sorted_row(svg, layer, row, follow, start, chip_width, place[row], now=row == now)
        else:
            _waiting_row(svg, layer, row, follow, start, chip_width, place[row])
    of_row = zip(layer.row_expert, layer.row_token, layer.row_weight, strict=True)
    table = (
        (r, int(e), layer.tokens[t], f"{weight:.3f}") for r, (e, t, weight) in enumerate(of_row)
    )
    return svg.picture(("row", "expert", "token", "weight"), table)


def _of_rows(layer: Anatomy, come: list[int], there: list[int]) -> str:
    """What the last row that moved did; or, where all have, how many each expert got."""
    load_E = np.diff(layer.offsets)
    busiest = int(load_E.argmax())
    if len(there) == len(come):
        return (
            f"{len(layer.row_token)} assignments sorted by expert: expert {busiest} gets "
            f"{load_E[busiest]} of them; {_none_for(int((load_E == 0).sum()))}."
        )
    if not there:
        return f"All {len(come)} rows stand in token order: none has moved to its expert."
    token, expert = int(layer.row_token[there[-1]]), int(layer.row_expert[there[-1]])
    return (
        f"{len(there)} of {len(come)} rows have moved: {named(token, layer.tokens[token])} goes to "
        f"expert {expert}, as row {there[-1]}."
    )


def _none_for(idle: int) -> str:
    """How many experts get no row."""
    return "every expert gets one" if not idle else f"{idle} get{'s' * (idle == 1)} none"


def _waiting_row(
    svg: Svg, layer: Anatomy, row: int, follow: int, start: Place, wide: float, y: float
) -> None:
    """A row beside its token, and its empty place in the order of experts."""
    token, expert = int(layer.row_token[row]), int(layer.row_expert[row])
    with marks_of(svg, layer, token, follow, f"e{expert}", tip=f"will be row {row}"):
        svg.rect(SORTED, y - 8, 46, 16, "transparent", stroke=expert_colour(expert), radius=3)
        chip(svg, start[0], start[1] - 8, wide - 2, expert)


def _sorted_row(
    svg: Svg, layer: Anatomy, row: int, follow: int, start: Place, chip_width: float, y: float, *,
    now: bool,
) -> None:  # fmt: skip
    """A row among those of its expert, at the end of its thread. now: it comes from its token."""
    token, expert = int(layer.row_token[row]), int(layer.row_expert[row])
    colour, weight = expert_colour(expert), f"weight {layer.row_weight[row]:.2f}"
    with marks_of(svg, layer, token, follow, f"e{expert}", tip=f"row {row}, {weight}"):
        bold, end = now or token == follow, start[0] + chip_width
        svg.rect(start[0], start[1] - 8, chip_width - 2, 16, "transparent", stroke=RULE, radius=3)
        wide = 3.4 if bold else 1.8
        thread = (end, start[1]), (SORTED, y)
        pale = PALE if follow not in (NOBODY, token) and not now else 1.0
        svg.polyline(thread, stroke=INK, width=wide + 1, opacity=pale)  # an edge for light ones
        svg.polyline(thread, stroke=colour, width=wide, opacity=pale)
        text = shorten(layer.tokens[token], 13)
        svg.text(SORTED + 56, y + 5, text, mono=True, size=13, bold=bold)
        svg.text(SORTED + 174, y + 5, weight, fill=MUTED)
    load = int(layer.offsets[expert + 1] - layer.offsets[expert])
    with svg.thing(f"e{expert}", f"t{token}", tip=f"expert {expert}: {load} rows"):
        with svg.arriving(start[0] - SORTED, start[1] - y) if now else nullcontext():
            chip(svg, SORTED, y - 8, 46, expert)
