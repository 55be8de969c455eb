"""What a grouped GEMM computes for nothing: an expert's last tile is filled up with padding."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from moeviz.pictures.axes import Scale, axes, short, y_axis
from moeviz.pictures.plot import Key, box, curve, heading, legend, mark
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg
from moeviz.words import percent

WIDTH, HEIGHT, SIDE = 560.0, 400.0, 380.0
BLOCKS = (16, 32, 64, 128)
# A colour and a dash each, never colour alone; the chosen one is wider.
STYLES = (
    Key("16", "#0072b2"), Key("32", "#d55e00", "7 3"), Key("64", "#009e73", "2 3"),
    Key("128", "#cc79a7", "9 3 2 3"),
)  # fmt: skip
WIDE = 4.0
SKEWS = tuple(round(0.1 * i, 1) for i in range(21))
DRAWS = 8  # batches behind each point of a line
COLUMNS = ("skew", *(f"padding at BLOCK_M {m}" for m in BLOCKS))
PADDING = "#ffffff"
ROWS = "#0072b2"
MOST_TILES = 400  # that are drawn one by one


def padding_rows(load_E: np.ndarray, block: int) -> int:
    """Rows computed and thrown away: sum over experts of ceil(load / block) * block - load."""
    load_E = np.asarray(load_E)
    return int((-(-load_E // block) * block - load_E).sum())


@lru_cache(maxsize=128)
def zipf_load(num_rows: int, num_experts: int, skew: float, seed: int) -> np.ndarray:
    """Rows of each expert, int64 [E], each row's expert drawn by itself, the r-th in proportion to
    1 / r^skew. A batch of one seed keeps its dice from skew to skew."""
    share_E = np.arange(1, num_experts + 1) ** -float(skew)
    return np.random.default_rng(seed).multinomial(num_rows, share_E / share_E.sum())


@lru_cache(maxsize=64)
def waste_curves(num_rows: int, num_experts: int, seed: int) -> np.ndarray:
    """Padding as a share of the computed rows, mean over DRAWS batches: float [BLOCKS, SKEWS]."""
    waste = np.zeros((len(BLOCKS), len(SKEWS)))
    for s, skew in enumerate(SKEWS):
        for draw in range(DRAWS):
            load_E = zipf_load(num_rows, num_experts, skew, seed * DRAWS + draw)
            for b, block in enumerate(BLOCKS):
                padding = padding_rows(load_E, block)
                waste[b, s] += padding / (num_rows + padding) / DRAWS
    return waste


def expected_waste(num_rows: int, num_experts: int, block: int) -> float:
    """The rule of thumb, E * BLOCK_M / 2 rows of padding: each expert's last tile is half full. It
    holds where every expert has many rows."""
    padding = num_experts * block / 2
    return padding / (num_rows + padding)


def tile_waste(
    *, tokens: int, experts: int, top_k: int, skew: float, block: int, seed: int = 0,
) -> Picture:  # fmt: skip
    """Padding against skew for each BLOCK_M, the chosen setting marked; beside it, the experts of
    one such batch with their padding."""
    num_rows = tokens * top_k
    curves = waste_curves(num_rows, experts, seed)
    load_E = zipf_load(num_rows, experts, skew, seed * DRAWS)
    padding = padding_rows(load_E, block)
    waste = padding / (num_rows + padding)
    summary = (
        f"{num_rows:,} rows go to {experts} experts, in tiles of {block} rows. {padding:,} of "
        f"{num_rows + padding:,} computed rows are padding, {percent(waste, 1)}. Half a tile for "
        f"each expert would be {percent(expected_waste(num_rows, experts, block), 1)}."
    )
    svg = Svg(WIDTH, HEIGHT, "Padding of the tiles", summary)
    _experts(svg, load_E, block, waste)
    _lines(svg.beside(SIDE, HEIGHT), curves, num_rows, experts, skew, block, waste)
    rows = (
        (skew, *(percent(share, 1) for share in each))
        for skew, each in zip(SKEWS, curves.T, strict=True)
    )
    return svg.picture(COLUMNS, rows)


def _lines(
    svg: Svg, curves: np.ndarray, num_rows: int, experts: int, skew: float, block: int, here: float
) -> None:
    rule = expected_waste(num_rows, experts, block)
    top = min(max(100 * max(float(curves.max()), rule) * 1.05, 10.0), 100.0)
    x, y = Scale(0, 2, 50, 276), Scale(0, top, 340, 76)
    heading(
        svg,
        "Padding, if few experts get most rows",
        f"line: mean of {DRAWS} batches · dot: this one, drag it",
    )
    svg.text(0, 54, f"dotted: half a tile of {block} rows for each expert", fill=MUTED)
    axes(svg, x, y, x_label="skew: 0 even, 2 a few get most", y_label="% of computed rows")
    _skews(svg, x, y, curves)
    svg.line(x.start, y(100 * rule), x.end, y(100 * rule), stroke=INK, width=1.2, dash="1 3")
    ends: list[tuple[float, int]] = []
    for b, key in enumerate(STYLES):
        mean = float(np.interp(skew, SKEWS, curves[b]))
        tip = f"tiles of {BLOCKS[b]} rows: {percent(mean, 1)} at skew {skew:g}"
        with svg.thing(f"block {BLOCKS[b]}", tip=tip):
            key = replace(key, width=WIDE) if BLOCKS[b] == block else key
            points = curve(svg, x, y, zip(SKEWS, 100 * curves[b], strict=True), key)
        ends.append((points[-1][1], b))
    # Names at the lines' ends, kept apart.
    placed = 1e9
    for at, b in sorted(ends, reverse=True):
        placed, m = min(at + 4, placed - 15), BLOCKS[b]
        with svg.thing(f"block {m}", tip=f"Set BLOCK_M to {m}", press={"block": m}):
            svg.line(x.end + 4, at, x.end + 14, placed - 4, stroke=STYLES[b].colour)
            svg.text(x.end + 17, placed, f"BLOCK_M {m}", bold=m == block)
    spot = y(100 * here)
    svg.line(x(skew), y.start, x(skew), spot, stroke=INK, dash="2 3")
    mark(svg, "circle", x(skew), spot, STYLES[BLOCKS.index(block)].colour, 6, stroke=INK)


def _skews(svg: Svg, x: Scale, y: Scale, curves: np.ndarray) -> None:
    """The plot as a slider of the skew, which tells where all lines are."""
    half = (x(SKEWS[1]) - x(SKEWS[0])) / 2
    for s, skew in enumerate(SKEWS):
        each = ", ".join(
            f"{percent(c, 1)} at {m}" for m, c in zip(BLOCKS, curves[:, s], strict=True)
        )
        with svg.thing(tip=f"skew {skew:g}: {each}", press={"skew": skew}, drag=True):
            svg.rect(x(skew) - half, y.end, 2 * half, y.start - y.end + 20, "transparent")


def _experts(svg: Svg, load_E: np.ndarray, block: int, waste: float) -> None:
    """Each expert's rows as a pile of tiles, the busiest first, with what the last tile adds."""
    left, right, base, top = 58.0, WIDTH - 6, 340.0, 76.0
    computed_E = -(-load_E // block) * block
    y = Scale(0, float(computed_E.max()) or 1.0, base, top)
    width = (right - left) / len(load_E)
    gap = 1.0 if width > 4 else 0.0
    apart = gap and computed_E.sum() // block <= MOST_TILES
    note = f"A tile: {block} rows of one expert, computed at once. The last tile is filled up."
    heading(svg, f"One batch, in tiles of {block} rows: {percent(waste, 1)} is padding", note)
    legend(svg, 0, 58, (Key("rows of tokens", ROWS, mark="box"),))
    box(svg, 120, 48, 12, 12, "none", stroke=MUTED)
    svg.hatch(120, 48, 12, 12, PADDING)
    svg.text(138, 58, "padding: computed for nothing")
    every = block * -(-int(computed_E.max()) // (6 * block))
    y_axis(svg, y, left, right, ticks=range(0, int(y.high) + 1, every), form=short)
    svg.text(10, (base + top) / 2, "rows", anchor="middle", rotate=-90)  # left of long numbers
    busiest = np.argsort(-load_E, kind="stable")
    for place, e in enumerate(busiest):
        load, computed, at, wide = load_E[e], computed_E[e], left + place * width, width - gap
        tip = f"expert {e}: {load:,} rows, {computed - load:,} of padding"
        with svg.thing(f"e{e}", tip=tip):
            svg.rect(at, top, wide, base - top, "transparent")
            real, filled = y(float(load)), y(float(computed))
            if computed > load:
                svg.rect(at, filled, wide, real - filled, RULE, opacity=0.5)
                if width > 4:
                    svg.hatch(at, filled, wide, real - filled, PADDING)
            step = block if apart else max(load, 1)
            for first in range(0, load, step):
                low, high = y(float(first)), y(float(min(first + step, load)))
                svg.rect(at, high + (first + step < load), wide, low - high - gap, ROWS)
    svg.line(left, base, right, base)
    words, low = "experts, the busiest first", int((load_E < block).sum())
    if 0 < low < len(load_E):  # where some pile up most rows, the others' padding is too low to see
        words += f" · {low} of {len(load_E)} do not fill one tile"
    svg.text((left + right) / 2, base + 35, words, anchor="middle")
    if len(load_E) <= 16:
        for place, e in enumerate(busiest):
            at = left + (place + 0.5) * width
            svg.text(at, base + 17, str(e), anchor="middle", fill=MUTED)
    else:
        svg.text(left, base + 17, f"expert {busiest[0]}", fill=MUTED)
        svg.text(right, base + 17, f"expert {busiest[-1]}", anchor="end", fill=MUTED)
