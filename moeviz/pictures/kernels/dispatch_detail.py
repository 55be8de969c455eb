"""The lower half of the dispatch picture: what the program of a step computes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import numpy as np

from moeviz.pictures.plot import expert_box, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, Svg, shorten
from moeviz.records.dispatch import STAGES, DispatchTrace

TOP = 326.0
LINE = 18.0
ACTIVE = "#0072b2"
LEFT, COLUMN, ROW = 92.0, 36.0, 20.0
STRIPS = ((190.0, 165.0), (425.0, 165.0), (660.0, 165.0))  # left edge and width
TOKEN_COLUMNS = 2


def detail_height(trace: DispatchTrace) -> float:
    """Room for the tallest stage: the picture keeps its height from step to step."""
    tiles = -(-len(trace.tile_expert) // _tile_grid(trace)[0])
    tallest = (
        (len(trace.count) + 4) * ROW,
        max(trace.tile_block, 4) * LINE + 40,
        tiles * 42.0 + 8,
        (trace.top_k + 2) * LINE + 24 + -(-len(trace.tokens) // TOKEN_COLUMNS) * LINE,
        trace.sort_block * LINE + 36,
    )
    return max(tallest) + 10


def _topk(svg: Svg, trace: DispatchTrace, _: int) -> None:
    svg.text(0, TOP + 4, "what the router wants: expert × weight (softmax before top-k)", bold=True)
    lines = -(-len(trace.tokens) // 3)
    for t, token in enumerate(trace.tokens):
        x, y = t // lines * 300.0, TOP + 26 + t % lines * 22
        svg.text(x, y, f"{t}", fill=MUTED)
        svg.text(x + 22, y, shorten(token, 9), mono=True, size=13)
        for k in range(trace.top_k):
            e, left = int(trace.expert[t, k]), x + 104 + k * 84
            expert_box(svg, left, y - 12, 26, 16, e, f"e{e}", bold=True, radius=3)
            svg.text(left + 32, y, f"× {trace.weight[t, k]:.2f}")


def _matrix(svg: Svg, trace: DispatchTrace, stage: str, program: int) -> None:
    """Programs down, experts across: counts, then what is before, then totals and offsets."""
    programs, num_experts = trace.count.shape
    scanned = {"histogram": -1, "scan": program, "scatter": num_experts}[stage]
    counted = program if stage == "histogram" else programs
    top = TOP + 24
    for e in range(num_experts):
        x = LEFT + e * COLUMN
        expert_box(svg, x, TOP, COLUMN - 2, 17, e, f"e{e}", bold=True)
    for p in range(programs):
        y = top + p * ROW
        active = stage != "scan" and p == program
        svg.text(LEFT - 8, y + 14, f"program {p}", anchor="end", bold=active)
        for e in range(num_experts):
            x = LEFT + e * COLUMN
            hot = active or (stage == "scan" and e == program)
            svg.rect(x, y, COLUMN - 2, ROW - 2, "none", stroke=ACTIVE if hot else RULE,
                     stroke_width=2 if hot else 1)  # fmt: skip
            if p <= counted:
                value = int((trace.before if e <= scanned else trace.count)[p, e])
                svg.text(x + COLUMN / 2 - 1, y + 14, str(value), anchor="middle", bold=hot,
                         fill=INK if value or hot else MUTED)  # fmt: skip
    sums = {"total": trace.total[: scanned + 1], "offsets": trace.offsets[:num_experts]}
    names = {"histogram": (), "scan": ("total",), "scatter": ("total", "offsets")}[stage]
    for line, name in enumerate(names):
        y = top + programs * ROW + 20 * (line + 1)
        svg.text(LEFT - 8, y, name, anchor="end", bold=True)
        for e, value in enumerate(sums[name]):
            x = LEFT + e * COLUMN + COLUMN / 2 - 1
            svg.text(x, y, str(int(value)), anchor="middle", bold=True)


def _notes(svg: Svg, trace: DispatchTrace, title: str, *lines: str) -> None:
    x = LEFT + trace.num_experts * COLUMN + 24
    svg.text(x, TOP + 13, title, size=13, bold=True)
    paragraph(svg, x, TOP + 33, lines, 20, size=13)


def _histogram(svg: Svg, trace: DispatchTrace, program: int) -> None:
    _matrix(svg, trace, "histogram", program)
    _notes(
        svg, trace, f"Program {program} of {len(trace.count)}: one row of the table",
        "It compares each of its assignments with every expert",
        "and adds the hits up.",
        "No atomic additions: no program waits for another,",
        "and the counts never depend on who came first.",
    )  # fmt: skip


def _scan(svg: Svg, trace: DispatchTrace, program: int) -> None:
    _matrix(svg, trace, "scan", program)
    counts = " + ".join(str(int(n)) for n in trace.count[:, program])
    _notes(
        svg, trace, f"Program {program} of {trace.num_experts}: one column of the table",
        f"total[{program}] = {counts} = {int(trace.total[program])}",
        "Each count becomes the sum of those above it:",
        "how many rows of this expert belong to earlier programs.",
        "So every program knows where its own ones begin.",
    )  # fmt: skip


def _scatter(svg: Svg, trace: DispatchTrace, program: int) -> None:
    _matrix(svg, trace, "scatter", program)
    x = LEFT + trace.num_experts * COLUMN + 24
    _notes(svg, trace, f"Program {program} of {len(trace.count)} sends its own off:")
    expert_N, seen = trace.expert.reshape(-1), [0] * trace.num_experts
    first = program * trace.sort_block
    for n, i in enumerate(range(first, min(first + trace.sort_block, len(expert_N)))):
        e, y = int(expert_N[i]), TOP + 32 + n * LINE
        expert_box(svg, x, y - 12, 26, 16, e, f"e{e}", bold=True, radius=3)
        token = shorten(trace.tokens[i // trace.top_k], 9)
        svg.text(x + 34, y, token, mono=True)
        sum_ = f"{int(trace.offsets[e])} + {int(trace.before[program, e])} + {seen[e]}"
        svg.text(x + 116, y, f"row = {sum_} = {int(trace.rank[i])}")
        seen[e] += 1


def _tile_grid(trace: DispatchTrace) -> tuple[int, float]:
    """How many tiles stand side by side, and the width of a row's cell."""
    unit = {1: 30.0, 2: 30.0, 4: 26.0, 8: 22.0}.get(trace.tile_block, 20.0)
    return max(int(900 // (trace.tile_block * unit + 28)), 1), unit


def _tiles(svg: Svg, trace: DispatchTrace, _: int) -> None:
    side, unit = _tile_grid(trace)
    pitch = 900.0 / side
    for g in range(len(trace.tile_expert)):
        x, y = g % side * pitch, TOP + 6 + g // side * 42.0
        e, rows = int(trace.tile_expert[g]), trace.tile_rows(g)
        if e < 0:
            svg.text(x, y + 6, f"{g}: returns at once", fill=MUTED)
            svg.line(x, y + 20, x + trace.tile_block * unit - 1, y + 20, stroke=MUTED, dash="3 4")
            continue
        svg.text(x, y + 6, f"tile {g}: expert {e}")
        for m in range(trace.tile_block):
            left = x + m * unit
            if m < len(rows):
                expert_box(svg, left, y + 10, unit - 1, 22, e, str(rows[m]))
            else:
                _padding(svg, left, y + 10, unit - 1, 22)


def _padding(svg: Svg, x: float, y: float, width: float, height: float) -> None:
    svg.rect(x, y, width, height, "none", stroke=RULE)
    svg.hatch(x, y, width, height, "#ffffff")  # in the theme's own ink


def _strips(svg: Svg, x: float, y: float, width: float, values: np.ndarray, peak: float) -> None:
    """Rows of numbers as heat, the first on the text line y: one image for all of them."""
    svg.heat(x, y - 14, width, len(values) * LINE, values / peak / 2 + 0.5)


def _peak(values: np.ndarray) -> float:
    """What counts as large: a few values far out would make all others one grey."""
    return float(np.quantile(np.abs(values), 0.97)) or 1.0


def _gemm(svg: Svg, trace: DispatchTrace, program: int) -> None:
    e, rows = int(trace.tile_expert[program]), trace.tile_rows(program)
    if not rows:
        svg.text(0, TOP + 13, f"Program {program}: no tile is left.", size=13, bold=True)
        why = "The grid is as long as any routing could need: the host never has to ask the GPU"
        svg.text(0, TOP + 33, f"{why} how many tiles there are.", size=13)
        return
    svg.text(0, TOP + 13, f"tile {program}, expert {e}", bold=True)
    for (x, width), what in zip(STRIPS, ("W13", "W2"), strict=False):
        svg.text(x + width + 35, TOP + 13, f"· {what} →", anchor="middle", fill=MUTED)
    of_tile = slice(rows[0], rows[-1] + 1)
    shown = (
        trace.x[trace.order[of_tile] // trace.top_k],
        trace.hidden[of_tile],
        trace.rows[of_tile],
    )
    of_all = {"x": trace.x, "hidden, weighted": trace.hidden, "out": trace.rows}
    for (x, width), values, (name, known) in zip(STRIPS, shown, of_all.items(), strict=True):
        svg.text(x, TOP + 13, f"{name} [{known.shape[1]}]", bold=True)
        _strips(svg, x, TOP + 36, width, values, _peak(known))
    for m in range(trace.tile_block):
        y = TOP + 36 + m * LINE
        if m >= len(rows):
            _padding(svg, 0, y - 13, sum(STRIPS[-1]), LINE - 3)
            continue
        row, t = rows[m], int(trace.order[rows[m]]) // trace.top_k
        expert_box(svg, 0, y - 13, 30, LINE - 3, e, str(row), bold=True, radius=3)
        svg.text(38, y, f"token {t}", fill=MUTED)
        svg.text(98, y, shorten(trace.tokens[t], 11), mono=True)
        svg.text(848, y, f"{np.linalg.norm(trace.rows[row]):.2f}", fill=MUTED)
    if trace.gemm_block != trace.tile_block:
        note = f"drawn in tiles of {trace.tile_block}; this GPU computed in tiles of"
        svg.text(0, TOP + 36 + trace.tile_block * LINE, f"{note} {trace.gemm_block}", fill=MUTED)
    svg.text(848, TOP + 13, "length", fill=MUTED)


def _combine(svg: Svg, trace: DispatchTrace, program: int) -> None:
    peak = max(_peak(trace.rows), _peak(trace.y))
    rows = trace.rank[program * trace.top_k : (program + 1) * trace.top_k]
    y = TOP + 13
    for n, row in enumerate(rows):
        e = int(trace.row_expert[row])
        svg.text(0, y, "+" if n else "", size=14, bold=True)
        expert_box(svg, 16, y - 13, 30, LINE - 3, e, str(row), bold=True, radius=3)
        svg.text(54, y, f"row {int(row)}, from expert {e}")
        y += LINE
    svg.text(0, y + 2, "=", size=14, bold=True)
    svg.text(54, y + 2, f"y of token {program} {shorten(trace.tokens[program], 8)}", bold=True)
    summed = np.vstack((trace.rows[rows], trace.y[program]))
    _strips(svg, STRIPS[0][0], TOP + 14, STRIPS[0][1], summed, peak)
    why = "The weights are in the rows already: they multiplied the hidden values. One program a "
    why += "token, float32, one order: the same bits in every run."
    paragraph(svg, STRIPS[1][0], TOP + 13, textwrap.wrap(why, 64))
    top = TOP + (trace.top_k + 2) * LINE + 14
    lines = -(-len(trace.tokens) // TOKEN_COLUMNS)
    for column in range(TOKEN_COLUMNS):
        done = trace.y[column * lines : min((column + 1) * lines, program + 1)]
        if len(done):
            _strips(svg, column * 460.0 + 110, top, 190, done, peak)
    for t, token in enumerate(trace.tokens):
        x, y = t // lines * 460.0, top + t % lines * LINE
        of_token = trace.rank[t * trace.top_k : (t + 1) * trace.top_k]
        svg.text(x, y, f"{t}", bold=t == program, fill=INK if t <= program else MUTED)
        svg.text(x + 22, y, shorten(token, 11), mono=True, fill=INK if t <= program else MUTED)
        if t > program:
            svg.rect(x + 110, y - 13, 190, LINE - 3, "none", stroke=RULE)
        svg.text(x + 310, y, "= rows " + " + ".join(str(int(r)) for r in of_token), fill=MUTED)


DETAIL: dict[str, Callable[[Svg, DispatchTrace, int], None]] = dict(
    zip(STAGES, (_topk, _histogram, _scan, _scatter, _tiles, _gemm, _combine), strict=True)
)
