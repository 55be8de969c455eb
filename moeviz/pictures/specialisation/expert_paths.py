"""Where the tokens of one expert come from and go to, layer by layer; and which experts meet."""

from __future__ import annotations

import math

import numpy as np

from moeviz.pictures.colours import OKABE_ITO, expert_colour
from moeviz.pictures.plot import expert_box, paragraph
from moeviz.pictures.specialisation.domain_table import Head, domain_table, table_size
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.records.expert_paths import Paths
from moeviz.records.specialists import EFFECT
from moeviz.words import percent

ROW, TOP = 30.0, 133.0
BOX, BAR = 30.0, 74.0
OFTEN = OKABE_ITO[4]  # of a line to an expert that these tokens visit more often than all do
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
    question = f"Which other experts do the tokens of expert {expert} in layer {layer} visit?"
    svg.text(0, 16, question, size=14, bold=True)
    svg.text(0, 37, _finding(paths, expert), bold=True)
    paragraph(svg, 0, 56, (
        "bar: the share of these tokens that visit an expert · tick: of all tokens",
        "blue line: more often than all tokens do · press an expert to follow its own",
        _sides(paths),
    ), 17, fill=MUTED)  # fmt: skip
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


def _sides(paths: Paths) -> str:
    """Where lines go, and why there are none on a side of the first or the last layer."""
    words, layer = "lines: to the layers next to it", paths.layers[paths.place]
    if paths.place == 0:
        words += f" · none on the left, for layer {layer} is the first one"
    if paths.place + 1 == len(paths.layers):
        words += f" · none on the right, for layer {layer} is the last one"
    return words


def _differs_most(paths: Paths, place: int, expert: int) -> int | None:
    """The expert of a layer whose share of these tokens is farthest from its share of all; None
    where no token visits the expert that is followed."""
    off_E = np.abs(paths.share[place, expert] - paths.of_all[place])
    return None if np.isnan(off_E).all() else int(off_E.argmax())


def _finding(paths: Paths, expert: int) -> str:
    """Where these tokens go otherwise than all: in the next layer, of the last one before it."""
    place = paths.place + (-1 if paths.place + 1 == len(paths.layers) else 1)
    if place < 0:
        return ""
    e = _differs_most(paths, place, expert)
    if e is None:
        return "No token visits it."
    return (
        f"{percent(paths.share[place, expert, e])} of them visit expert {e} of layer "
        f"{paths.layers[place]}; of all tokens {percent(paths.of_all[place, e])} do."
    )


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
    hint = "; press to follow its tokens" if press else ""
    with svg.thing(_name(paths, place, e), tip=f"{tip}{hint}", press=press):
        expert_box(svg, x, y, BOX, 22, e, str(e), stroke=INK if own and e == expert else MUTED)
        svg.rect(x + BOX + 4, y + 4, BAR, 14, "transparent")
        width = 0.0 if math.isnan(share) else BAR * share
        svg.rect(x + BOX + 4, y + 4, width, 14, expert_colour(e), stroke=MUTED)
        tick = x + BOX + 4 + BAR * of_all
        svg.line(tick, y + 1, tick, y + 21, stroke=INK, width=2)


def _name(paths: Paths, place: int, e: int) -> str:
    """As a thing: an expert of the layer that is looked at is also in the table of meetings."""
    return f"e{e}" if place == paths.place else f"l{place} e{e}"


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
        share, of_all = float(paths.share[place, expert, e]), float(paths.of_all[place, e])
        if math.isnan(share) or share < 0.04:
            continue
        y = TOP + row * ROW + 11
        ends = (start[0] + BOX + BAR + 8, x - 4) if later else (start[0] - 4, x + BOX + BAR + 8)
        words = f"{percent(share)} of these tokens, {percent(of_all)} of all"
        with svg.thing(_name(paths, place, int(e)), tip=words):
            svg.line(ends[0], start[1] + 11, ends[1], y, width=0.5 + 7 * share,
                     stroke=OFTEN if share > of_all else MUTED)  # fmt: skip


def _meetings(svg: Svg, paths: Paths) -> None:
    """How much more often two experts of the layer meet at a token than their loads make them."""
    lift_EE = paths.meetings.lift
    names = [f"expert {e}" for e in range(len(lift_EE))]
    head = Head(
        f"Who is chosen together in layer {paths.layers[paths.place]}?",
        f"times as often as the loads alone make it · framed: {EFFECT:g} times or more, and beyond "
        "chance",
        _most_together(paths),
    )
    part = svg.beside(*table_size(lift_EE, head.top(len(lift_EE))))
    tips = [[_met(paths, i, j) for j in range(len(names))] for i in range(len(names))]
    domain_table(
        part, lift_EE, names, head, peak=PEAK,
        ends=("never", f"{PEAK:g} times or more"), framed_DE=paths.often, tips=tips,
        corner="expert",
    )  # fmt: skip


def _most_together(paths: Paths) -> str:
    """The pair of experts that meets most beyond what its loads make."""
    lift_EE = np.where(paths.often, np.nan_to_num(paths.meetings.lift), 0.0)
    if not lift_EE.any():
        return "No pair meets much more often than its loads make it."
    one, other = divmod(int(lift_EE.argmax()), len(lift_EE))
    return (
        f"Experts {one} and {other} meet {lift_EE[one, other]:.1f} times as often as their loads "
        "make them."
    )


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
        e = _differs_most(paths, paths.place + 1, expert)
        if e is not None:
            share = paths.share[paths.place + 1, expert, e]
            of_all = paths.of_all[paths.place + 1, e]
            words.append(
                f"Of the tokens of expert {expert} in layer {layer}, {percent(share)} visit "
                f"expert {e} of the next layer, of all tokens {percent(of_all)}"
            )
        words.append(
            f"A token's first expert here tells {percent(paths.told, 1)} of what there is to know "
            f"of its first one there, {percent(paths.told_null, 1)} when tokens are shuffled"
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
