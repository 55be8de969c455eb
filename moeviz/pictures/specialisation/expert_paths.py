"""Where the tokens of one expert come from and go to, layer by layer; and which experts meet."""

from __future__ import annotations

import math

import numpy as np

from moeviz.pictures.plot import expert_box, heading
from moeviz.pictures.specialisation.domain_table import domain_table, table_size
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, expert_colour
from moeviz.records.expert_paths import Paths
from moeviz.records.specialists import EFFECT
from moeviz.words import percent

ROW, TOP = 30.0, 78.0
BOX, BAR = 30.0, 74.0
SHOWN = 16  # experts of a layer that have room; of more the likeliest are shown
PEAK = 3.0


def expert_paths(paths: Paths, expert: int) -> Picture:
    """The tokens of one expert of a layer: which experts they visit in the others, beside what all
    tokens do; and which experts of its own layer they meet."""
    columns = [_shown(share_E, expert if place == paths.place else None)
               for place, share_E in enumerate(paths.share[:, expert])]  # fmt: skip
    layers = len(paths.layers)
    gap = (560.0 - BOX - BAR - 60) / max(layers - 1, 1)
    height = TOP + max(map(len, columns)) * ROW + 10
    svg = Svg(560, height, "Where an expert's tokens go", told_paths(paths, expert))
    layer = paths.layers[paths.place]
    heading(svg, f"The tokens of expert {expert} in layer {layer}",
            "a bar: their share at an expert; its tick: of all tokens")  # fmt: skip
    start = 0.0, 0.0
    for place, experts in enumerate(columns):
        x = place * gap
        svg.text(x, TOP - 14, f"layer {paths.layers[place]}", bold=place == paths.place)
        for row, e in enumerate(experts):
            y = TOP + row * ROW
            if place == paths.place and e == expert:
                start = x, y
            _expert(svg, paths, place, int(e), expert, x, y)
    for place, experts in enumerate(columns):
        if place != paths.place:
            _lines(svg, paths, place, experts, expert, place * gap, start)
    _meetings(svg, paths)
    rows = (
        (paths.layers[place], e, percent(paths.share[place, expert, e], 1),
         percent(paths.of_all[place, e], 1))
        for place in range(layers) for e in range(paths.of_all.shape[1])
    )  # fmt: skip
    return svg.picture(("layer", "expert", f"tokens of expert {expert}", "all tokens"), rows)


def _shown(share_E: np.ndarray, always: int | None) -> np.ndarray:
    """The experts that have room, in their order."""
    likeliest = np.argsort(-np.nan_to_num(share_E), kind="stable")[:SHOWN]
    if always is not None and always not in likeliest:
        likeliest[-1] = always
    return np.sort(likeliest)


def _expert(svg: Svg, paths: Paths, place: int, e: int, expert: int, x: float, y: float) -> None:
    share, of_all = float(paths.share[place, expert, e]), float(paths.of_all[place, e])
    name = f"expert {e} in layer {paths.layers[place]}"
    own = place == paths.place
    tip = f"{name}: {percent(share)} of these tokens, {percent(of_all)} of all"
    press = None if own and e == expert else {"layer": place, "expert": e}
    kin = f"e{e}" if own else f"l{place} e{e}"  # whom it meets in its own layer stands below
    with svg.thing(kin, tip=f"{tip}; press to follow its tokens", press=press):
        expert_box(svg, x, y, BOX, 22, e, str(e), stroke=INK if own and e == expert else MUTED)
        svg.rect(x + BOX + 4, y + 4, BAR, 14, "transparent")
        width = 0.0 if math.isnan(share) else BAR * share
        svg.rect(x + BOX + 4, y + 4, width, 14, expert_colour(e), stroke=MUTED)
        tick = x + BOX + 4 + BAR * of_all
        svg.line(tick, y + 1, tick, y + 21, stroke=INK, width=2)


def _lines(
    svg: Svg, paths: Paths, place: int, experts: np.ndarray, expert: int, x: float,
    start: tuple[float, float],
) -> None:  # fmt: skip
    """From the expert to each of another layer, the wider, the more of its tokens go there."""
    later = place > paths.place
    neighbour = abs(place - paths.place) == 1
    if not neighbour:
        return
    for row, e in enumerate(experts):
        share = float(paths.share[place, expert, e])
        if math.isnan(share) or share < 0.04:
            continue
        y = TOP + row * ROW + 11
        ends = (start[0] + BOX + BAR + 8, x - 4) if later else (start[0] - 4, x + BOX + BAR + 8)
        svg.line(ends[0], start[1] + 11, ends[1], y, stroke=MUTED, width=0.5 + 4.5 * share)


def _meetings(svg: Svg, paths: Paths) -> None:
    """How much more often two experts of the layer meet at a token than their loads make them."""
    lift_EE = paths.meetings.lift
    names = [f"expert {e}" for e in range(len(lift_EE))]
    part = svg.beside(*table_size(*lift_EE.shape))
    tips = [[_met(paths, i, j) for j in range(len(names))] for i in range(len(names))]
    domain_table(
        part, lift_EE, names, f"Who is chosen together in layer {paths.layers[paths.place]}",
        "times as often as the loads alone make it", peak=PEAK,
        ends=("never", f"{PEAK:g} times or more"), framed_DE=paths.often, tips=tips,
        corner="expert",
    )  # fmt: skip


def _met(paths: Paths, i: int, j: int) -> str:
    if i == j:
        return "itself"
    meetings = paths.meetings
    return (
        f"{meetings.together[i, j]:,.0f} tokens; by their loads {meetings.null_mean[i, j]:,.0f} ± "
        f"{meetings.null_sd[i, j]:,.0f}"
    )


def told_paths(paths: Paths, expert: int) -> str:
    """What is known of a token's experts from one layer to the next, and within a layer."""
    layer = paths.layers[paths.place]
    words = []
    if paths.place + 1 < len(paths.layers):
        share_E = paths.share[paths.place + 1, expert]
        if not np.isnan(share_E).all():
            of_all_E = paths.of_all[paths.place + 1]
            e = int(np.abs(share_E - of_all_E).argmax())
            words.append(
                f"Of the tokens of expert {expert} in layer {layer}, {percent(share_E[e])} visit "
                f"expert {e} of the next layer, of all tokens {percent(of_all_E[e])}"
            )
        words.append(
            f"The first expert here tells {percent(paths.told, 1)} of the first one there, "
            f"{percent(paths.told_null, 1)} when tokens are shuffled"
        )
    else:
        words.append(f"Layer {layer} is the last one")
    words.append(
        f"Of a token's experts in layer {layer}, {percent(paths.repeats.value)} are those of the "
        f"token before it, and {percent(paths.repeats.in_text)} those of any other token of its "
        f"text; {percent(paths.repeats.chance)} would by chance"
    )
    if paths.top_k > 1:
        pairs, often = len(paths.often) * (len(paths.often) - 1) // 2, int(paths.often.sum()) // 2
        words.append(
            f"{often} of {pairs} pairs of experts meet {EFFECT:g} times as often as their loads "
            "make them, or more, and beyond chance"
        )
    return ". ".join(words) + "."
