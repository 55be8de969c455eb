"""The second part of the dispatch picture: what the program of a step computes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import numpy as np

from moeviz.pictures.kernels import things
from moeviz.pictures.plot import expert_box, paragraph
from moeviz.pictures.svg import INK, MUTED, RULE, Svg, shorten
from moeviz.records.dispatch import STAGES, DispatchTrace

WIDTH = 560.0
TOP = 10.0
LINE = 18.0
ACTIVE = "#0072b2"
LEFT, COLUMN = 86.0, 24.0
STRIPS, STRIP = (136.0, 276.0, 416.0), 94.0  # left edges, and the width of each
TOKEN_COLUMNS = 2
TILE, SUM = 50.0, 22.0  # the heights of a line of tiles, and of a row's sum


def _row(trace: DispatchTrace) -> float:
    """The height of a program's row in the table: of few programs as much as other stages need."""
    return 24.0 if len(trace.count) <= 4 else 20.0


def _tile_line(trace: DispatchTrace) -> float:
    """The height of a row of a tile."""
    return 28.0 if trace.tile_block <= 4 else LINE


def detail_height(trace: DispatchTrace) -> float:
    """Room for the tallest stage: the picture keeps its height from step to step."""
    tiles = -(-len(trace.tile_expert) // _tile_grid(trace)[0])
    tallest = (
        26 + -(-len(trace.tokens) // _topk_columns(trace)) * 22.0,
        len(trace.count) * _row(trace) + 80,
        10 * LINE,  # the notes beside the table
        max(trace.tile_block, 4) * _tile_line(trace) + 76,
        tiles * TILE + 8,
        _list_top(trace) + -(-len(trace.tokens) // TOKEN_COLUMNS) * LINE,
        trace.sort_block * SUM + 36,
    )
    return TOP + max(tallest) + 10


def _topk_columns(trace: DispatchTrace) -> int:
    return int(WIDTH // (104 + 84 * trace.top_k))


def _topk(svg: Svg, trace: DispatchTrace, _: int) -> None:
    svg.text(0, TOP + 4, "what the router wants: expert × weight (softmax before top-k)", bold=True)
    columns = _topk_columns(trace)
    lines = -(-len(trace.tokens) // columns)
    for t, token in enumerate(trace.tokens):
        x, y = t // lines * WIDTH / columns, TOP + 26 + t % lines * 22
        with things.token(svg, trace, t, "top-k"):
            svg.text(x, y, f"{t}", fill=MUTED)
            svg.text(x + 22, y, shorten(token, 9), mono=True, size=13)
        for k in range(trace.top_k):
            e, left = int(trace.expert[t, k]), x + 104 + k * 84
            with things.assignment(svg, trace, t * trace.top_k + k):
                expert_box(svg, left, y - 12, 26, 16, e, f"e{e}", bold=True, radius=3)
                svg.text(left + 32, y, f"× {trace.weight[t, k]:.2f}")


def _matrix(svg: Svg, trace: DispatchTrace, stage: str, number: int) -> None:
    """Programs down, experts across: counts, then what is before, then totals and offsets."""
    programs, num_experts = trace.count.shape
    top, high = TOP + 24, _row(trace)
    name = "count[p, e]" if stage == "histogram" else "before[p, e]"
    svg.text(LEFT - 8, TOP + 13, name, anchor="end")
    for e in range(num_experts):
        with things.expert(svg, trace, e, stage):
            expert_box(svg, LEFT + e * COLUMN, TOP, COLUMN - 2, 17, e, f"e{e}", bold=True)
    for p in range(programs):
        active = stage != "scan" and p == number
        with things.program(svg, trace, p, stage):
            svg.text(LEFT - 8, top + p * high + high - 6, f"program {p}", anchor="end", bold=active)
    for p, e in np.ndindex(programs, num_experts):
        _cell(svg, trace, stage, number, p, e)
    scanned = {"histogram": -1, "scan": number, "scatter": num_experts}[stage]
    sums = {"total": trace.total[: scanned + 1], "offsets": trace.offsets[:num_experts]}
    names = {"histogram": (), "scan": ("total",), "scatter": ("total", "offsets")}[stage]
    for line, name in enumerate(names):
        y = top + programs * high + 20 * (line + 1)
        svg.text(LEFT - 8, y, name, anchor="end", bold=True)
        for e, value in enumerate(sums[name]):
            x = LEFT + e * COLUMN + COLUMN / 2 - 1
            svg.text(x, y, str(int(value)), anchor="middle", bold=True)


def _cell(svg: Svg, trace: DispatchTrace, stage: str, number: int, p: int, e: int) -> None:
    """What a program has counted of an expert, or, once that is added up, what is before it."""
    added = e <= number if stage == "scan" else stage == "scatter"
    counted = p <= number or stage != "histogram"
    hot = e == number if stage == "scan" else p == number
    value = int((trace.before if added else trace.count)[p, e])
    what = f"{value} rows before its own" if added else f"{value} of its assignments"
    tip = f"program {p}, expert {e}: {what if counted else 'not counted yet'}"
    high = _row(trace)
    x, y = LEFT + e * COLUMN, TOP + 24 + p * high
    with svg.thing(f"c{p}_{e}", f"p{p}", f"e{e}", tip=tip):
        svg.rect(x, y, COLUMN - 2, high - 2, "transparent", stroke=ACTIVE if hot else RULE,
                 stroke_width=2 if hot else 1)  # fmt: skip
        if counted:
            ink = INK if value or hot else MUTED
            svg.text(
                x + COLUMN / 2 - 1, y + high - 6, str(value), anchor="middle", bold=hot, fill=ink
            )


def _notes(svg: Svg, trace: DispatchTrace, title: str, *sentences: str) -> None:
    """Beside the table."""
    x = LEFT + trace.num_experts * COLUMN + 18
    svg.text(x, TOP + 13, title, bold=True)
    lines = [line for each in sentences for line in textwrap.wrap(each, 38)]
    paragraph(svg, x, TOP + 33, lines, LINE)


def _histogram(svg: Svg, trace: DispatchTrace, program: int) -> None:
    _matrix(svg, trace, "histogram", program)
    _notes(
        svg, trace, f"Program {program} of {len(trace.count)}: a row of the table",
        "It compares each of its assignments with every expert and adds the hits up.",
        "No atomic additions: no program waits for another, and the counts never depend on who "
        "came first.",
    )  # fmt: skip


def _scan(svg: Svg, trace: DispatchTrace, program: int) -> None:
    _matrix(svg, trace, "scan", program)
    counts = " + ".join(str(int(n)) for n in trace.count[:, program])
    _notes(
        svg, trace, f"Program {program} of {trace.num_experts}: a column of the table",
        f"total[{program}] = {counts} = {int(trace.total[program])}",
        "Each count becomes the sum of those above it: how many rows of this expert belong to "
        "earlier programs.",
        "So every program knows where its own ones begin.",
    )  # fmt: skip


def _scatter(svg: Svg, trace: DispatchTrace, program: int) -> None:
    _matrix(svg, trace, "scatter", program)
    x = LEFT + trace.num_experts * COLUMN + 18
    _notes(svg, trace, f"Program {program} of {len(trace.count)} sends its own off:")
    expert_N, seen = trace.expert.reshape(-1), [0] * trace.num_experts
    first = program * trace.sort_block
    for n, i in enumerate(range(first, min(first + trace.sort_block, len(expert_N)))):
        e, y = int(expert_N[i]), TOP + 34 + n * SUM
        with things.assignment(svg, trace, i):
            expert_box(svg, x, y - 12, 26, 16, e, f"e{e}", bold=True, radius=3)
            svg.text(x + 34, y, shorten(trace.tokens[i // trace.top_k], 9), mono=True)
            sum_ = f"{int(trace.offsets[e])} + {int(trace.before[program, e])} + {seen[e]}"
            svg.text(x + 110, y, f"row = {sum_} = {int(trace.rank[i])}")
        seen[e] += 1


def _tile_grid(trace: DispatchTrace) -> tuple[int, float]:
    """How many tiles stand side by side, and the width of a row's cell."""
    unit = {1: 30.0, 2: 30.0, 4: 26.0, 8: 22.0}.get(trace.tile_block, 16.5)
    return max(int(WIDTH // (trace.tile_block * unit + 20)), 1), unit


def _tiles(svg: Svg, trace: DispatchTrace, _: int) -> None:
    side, unit = _tile_grid(trace)
    for g in range(len(trace.tile_expert)):
        x, y = g % side * WIDTH / side, TOP + 6 + g // side * TILE
        e, rows = int(trace.tile_expert[g]), trace.tile_rows(g)
        with things.tile(svg, trace, g):
            if e < 0:
                svg.text(x, y + 6, f"{g}: returns at once", fill=MUTED)
                end = x + trace.tile_block * unit - 1
                svg.line(x, y + 20, end, y + 20, stroke=MUTED, dash="3 4")
                continue
            svg.text(x, y + 6, f"tile {g}: expert {e}")
            for m in range(len(rows), trace.tile_block):
                _padding(svg, x + m * unit, y + 10, unit - 1, 22)
        for m, row in enumerate(rows):
            with things.assignment(svg, trace, int(trace.order[row])):
                expert_box(svg, x + m * unit, y + 10, unit - 1, 22, e, str(row))


def _padding(svg: Svg, x: float, y: float, width: float, height: float) -> None:
    svg.rect(x, y, width, height, "none", stroke=RULE)
    svg.hatch(x, y, width, height, "#ffffff")  # in the theme's own ink


def _strip(svg: Svg, x: float, y: float, width: float, values: np.ndarray, peak: float) -> None:
    """Signed numbers as heat on the text line y, 0 in the middle of the colours."""
    svg.heat(x, y - 13, width, LINE - 3, values[None] / peak / 2 + 0.5)


def _scale(svg: Svg, x: float, y: float, width: float, peak: float) -> None:
    """What the colours of a strip mean."""
    svg.heat(x, y, width, 7, np.linspace(0, 1, 41)[None])
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at, value = x + share * width, (2 * share - 1) * peak
        svg.line(at, y, at, y + 10, stroke=MUTED)
        svg.text(at, y + 22, f"{value:.2g}", anchor=anchor, fill=MUTED)


def _peak(values: np.ndarray) -> float:
    """What counts as large: a few values far out would make all others one grey."""
    return float(np.quantile(np.abs(values), 0.97)) or 1.0


def _gemm(svg: Svg, trace: DispatchTrace, program: int) -> None:
    e, rows = int(trace.tile_expert[program]), trace.tile_rows(program)
    if not rows:
        svg.text(0, TOP + 13, f"Program {program}: no tile is left.", bold=True)
        why = "The grid is as long as any routing could need: the host never has to ask the GPU "
        lines = textwrap.wrap(f"{why}how many tiles there are.", 80)
        paragraph(svg, 0, TOP + 33, lines)
        return
    known = {"x": trace.x, "hidden": trace.hidden, "out": trace.rows}
    peaks = {name: _peak(values) for name, values in known.items()}
    line = _tile_line(trace)
    base = TOP + 36 + trace.tile_block * line
    with things.tile(svg, trace, program):
        svg.text(0, TOP + 13, f"tile {program}, expert {e}", bold=True)
        for m in range(len(rows), trace.tile_block):
            _padding(svg, 0, TOP + 23 + m * line, STRIPS[-1] + STRIP, LINE - 3)
    for x, (name, values) in zip(STRIPS, known.items(), strict=True):
        svg.text(x, TOP + 13, f"{name} [{values.shape[1]}]", bold=True)
        _scale(svg, x, base - 10, STRIP, peaks[name])
    for x, what in zip(STRIPS[1:], ("W13", "W2"), strict=True):
        svg.text(x - 23, TOP + 13, f"{what} →", anchor="middle", fill=MUTED)
    for m, row in enumerate(rows):
        _row_of_tile(svg, trace, row, TOP + 36 + m * line, peaks)
    svg.text(STRIPS[-1] + STRIP + 8, TOP + 13, "length", fill=MUTED)
    if trace.gemm_block != trace.tile_block:
        note = f"drawn in tiles of {trace.tile_block}; this GPU computed in tiles of"
        svg.text(0, base + 32, f"{note} {trace.gemm_block}", fill=MUTED)


def _row_of_tile(
    svg: Svg, trace: DispatchTrace, row: int, y: float, peaks: dict[str, float]
) -> None:
    index, e = int(trace.order[row]), int(trace.row_expert[row])
    t = index // trace.top_k
    numbers = {"x": trace.x[t], "hidden": trace.hidden[row], "out": trace.rows[row]}
    length = f"{np.linalg.norm(trace.rows[row]):.2f}"
    with things.assignment(svg, trace, index, f"; its out has length {length}"):
        expert_box(svg, 0, y - 13, 26, LINE - 3, e, str(row), bold=True, radius=3)
        svg.text(32, y, str(t), fill=MUTED)
        svg.text(52, y, shorten(trace.tokens[t], 11), mono=True)
        for x, (name, values) in zip(STRIPS, numbers.items(), strict=True):
            _strip(svg, x, y, STRIP, values, peaks[name])
        svg.text(STRIPS[-1] + STRIP + 8, y, length, fill=MUTED)


def _combine(svg: Svg, trace: DispatchTrace, program: int) -> None:
    peak = max(_peak(trace.rows), _peak(trace.y))
    rows = trace.rank[program * trace.top_k : (program + 1) * trace.top_k]
    y, x = TOP + 13, 206.0
    for n, row in enumerate(rows):
        e = int(trace.row_expert[row])
        svg.text(0, y, "+" if n else "", size=14, bold=True)
        with things.assignment(svg, trace, int(trace.order[row])):
            expert_box(svg, 16, y - 13, 30, LINE - 3, e, str(row), bold=True, radius=3)
            svg.text(54, y, f"row {int(row)}, from expert {e}")
            _strip(svg, x, y, 164, trace.rows[row], peak)
        y += LINE
    svg.text(0, y + 2, "=", size=14, bold=True)
    with things.token(svg, trace, program, ""):
        svg.text(54, y + 2, f"y of token {program} {shorten(trace.tokens[program], 8)}", bold=True)
        _strip(svg, x, y, 164, trace.y[program], peak)
    _scale(svg, x + 190, TOP + 2, 164, peak)
    why = "The weights are in the rows. One fixed order: the same bits in every run."
    paragraph(svg, x + 190, TOP + 46, textwrap.wrap(why, 27), 16, fill=MUTED)
    for t in range(len(trace.tokens)):
        _summed(svg, trace, t, program, TOP + _list_top(trace) + 10, peak)


def _list_top(trace: DispatchTrace) -> float:
    """Where the list of all tokens begins, under the sum of one."""
    return max((trace.top_k + 1) * LINE + 30, 90.0)


def _summed(svg: Svg, trace: DispatchTrace, t: int, program: int, top: float, peak: float) -> None:
    """A token of the list: its sum, once its program has run."""
    lines = -(-len(trace.tokens) // TOKEN_COLUMNS)
    x, y = t // lines * WIDTH / TOKEN_COLUMNS, top + t % lines * LINE
    rows = trace.rank[t * trace.top_k : (t + 1) * trace.top_k]
    ink = INK if t <= program else MUTED
    with things.token(svg, trace, t, "combine"):
        svg.text(x, y, f"{t}", bold=t == program, fill=ink)
        svg.text(x + 22, y, shorten(trace.tokens[t], 8), mono=True, fill=ink)
        if t > program:
            svg.rect(x + 88, y - 13, 112, LINE - 3, "transparent", stroke=RULE)
        else:
            _strip(svg, x + 88, y, 112, trace.y[t], peak)
        svg.text(x + 208, y, "= " + " + ".join(str(int(r)) for r in rows), fill=MUTED)


DETAIL: dict[str, Callable[[Svg, DispatchTrace, int], None]] = dict(
    zip(STAGES, (_topk, _histogram, _scan, _scatter, _tiles, _gemm, _combine), strict=True)
)
