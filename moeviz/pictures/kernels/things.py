"""What the marks of a dispatch stand for: the names by which they are kin, and their hover text.

An assignment, one choice of one token, is one thing in every lane and list: `a{index}`. It belongs
to its token `t`, its expert `e`, the program of the sort `p` that takes it and the tile `g` of its
row.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from moeviz.pictures.svg import Svg
from moeviz.records.dispatch import DispatchTrace

Thing = AbstractContextManager[None]


def tile_of(trace: DispatchTrace, row: int) -> int:
    """The tile that a row lies in: the tiles of an expert stand in a row."""
    expert = int(trace.row_expert[row])
    first = int(np.argmax(trace.tile_expert == expert))
    return first + (row - int(trace.offsets[expert])) // trace.tile_block


def assignment(svg: Svg, trace: DispatchTrace, index: int, more: str = "") -> Thing:
    """One choice of one token, and the row that it becomes."""
    t, k = divmod(index, trace.top_k)
    e, row = int(trace.expert[t, k]), int(trace.rank[index])
    kin = f"a{index}", f"t{t}", f"e{e}", f"p{index // trace.sort_block}"
    tip = f"{_token(trace, t)} → expert {e}, weight {trace.weight[t, k]:.2f}; row {row}{more}"
    return svg.thing(*kin, f"g{tile_of(trace, row)}", tip=tip)


def token(svg: Svg, trace: DispatchTrace, t: int, stage: str) -> Thing:
    """A token; while rows are combined, a press goes to its program."""
    experts = " and ".join(str(int(e)) for e in trace.expert[t])
    rows = trace.rank[t * trace.top_k : (t + 1) * trace.top_k]
    places = " and ".join(str(int(row)) for row in rows)
    plural = "s" if trace.top_k > 1 else ""
    tip = f"{_token(trace, t)}: expert{plural} {experts}; row{plural} {places}"
    press = {"step": trace.step_at("combine", t)} if stage == "combine" else None
    return svg.thing(f"t{t}", tip=tip, press=press)


def expert(svg: Svg, trace: DispatchTrace, e: int, stage: str = "") -> Thing:
    """An expert and its rows; while the counts are added up, a press goes to its program."""
    first, last = int(trace.offsets[e]), int(trace.offsets[e + 1]) - 1
    rows = f"rows {first} to {last}" if last > first else f"row {first}"
    tip = f"expert {e}: {rows if last >= first else 'no rows'}"
    press = {"step": trace.step_at("scan", e)} if stage == "scan" else None
    return svg.thing(f"e{e}", tip=tip, press=press)


def program(svg: Svg, trace: DispatchTrace, p: int, stage: str) -> Thing:
    """A program of the sort; a press goes to it."""
    first, block = p * trace.sort_block, trace.sort_block
    last = min(first + block, len(trace.order)) - 1
    tip = f"program {p} of the sort: assignments {first} to {last}"
    counts = stage if stage == "scatter" else "histogram"
    return svg.thing(f"p{p}", tip=tip, press={"step": trace.step_at(counts, p)})


def tile(svg: Svg, trace: DispatchTrace, g: int) -> Thing:
    """A tile of the GEMM; a press goes to its program."""
    rows, press = trace.tile_rows(g), {"step": trace.step_at("GEMM", g)}
    if not rows:
        return svg.thing(f"g{g}", tip=f"program {g} of the GEMM: no tile is left", press=press)
    padding = trace.tile_block - len(rows)
    tip = f"tile {g}: rows {rows[0]} to {rows[-1]} of expert {trace.tile_expert[g]}"
    return svg.thing(f"g{g}", tip=f"{tip}, {padding} of padding", press=press)


def _token(trace: DispatchTrace, t: int) -> str:
    return f"token {t} '{trace.tokens[t]}'"
