"""A router's rule, one matrix after another: what each of its steps makes of every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from moeviz.pictures.axes import Scale
from moeviz.pictures.colours import heat_colour
from moeviz.pictures.plot import Key, Stop, box, expert_box, heading, heat_bar, legend, track
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg, shorten

WIDTH = 560
LEFT, ROW, CELL = 96.0, 20.0, 48.0
FILM = 72.0  # where the film begins: a small image of every step
FRAME = 56.0  # width of one of them, and their distance
BAR = 90.0  # length of the longest bar beside the rows
TALL = 56.0  # height of the tallest bar below the columns
DRAG = 62.0  # height of the score that is dragged
NOW, SUM = "#d55e00", "#8a8a8a"
EVEN = 1.005  # times the mean: what two decimals show as even

Step = tuple[str, np.ndarray]


@dataclass(frozen=True)
class Change:
    """The score of the first matrix that a hand drags: its cell, row and column, and the values
    that it can have. press: what a panel's controls are set to for a cell and a value of it."""

    cell: tuple[int, int]
    values: Sequence[float]
    press: Callable[[int, int, float], dict[str, object]]


def rule_steps(
    steps: Sequence[Step], step: int, *, tokens: Sequence[str], change: Change | None = None
) -> Picture:
    """One step, large, under a film of all: its matrix [T, N] with the sums of rows and columns,
    which say nothing where a value is negative, and are left out there. Its cells fade in over
    those of the step before; a cell that it empties keeps a dashed edge.

    steps: what each is called, and its matrix; a 0 is left empty where nothing is negative. The
    last one has a column for each expert, and so has every other of as many columns. change: the
    score that a hand changes, where the steps can be made again."""
    title, matrix_TN = steps[step]
    num_tokens, num_columns = matrix_TN.shape
    what = "expert" if num_columns == steps[-1][1].shape[1] else "column"
    before_TN = steps[step - 1][1] if step else matrix_TN
    if before_TN.shape != matrix_TN.shape:
        before_TN = matrix_TN  # nothing to be compared
    cell = min(CELL, (WIDTH - LEFT - BAR - 70) / num_columns)
    frames = min(FRAME, WIDTH / len(steps))
    small = 44.0
    key = FILM + small + 34
    top = key + 40 + DRAG * (change is not None)
    base = top + num_tokens * ROW + 26 + TALL
    summary = _summary(steps, step, what)
    svg = Svg(WIDTH, base + 34, "A routing rule step by step", summary)
    # What it means, then what has changed; or the latter alone, in its place.
    found = (_balance(matrix_TN, 0, what), told_change(steps, step))
    lines = [*filter(None, found)] or [_most_wanted(matrix_TN, what)]
    heading(svg, f"Step {step + 1} of {len(steps)}: {title}")
    svg.text(0, 36, lines[0], bold=True)
    svg.text(0, 52, "".join(lines[1:]), fill=MUTED)
    for i, (name, other_TN) in enumerate(steps):
        x, width = i * frames, min(frames - 6, 44.0)
        with svg.thing(tip=f"Go to step {i + 1}: {name}", press={"step": i + 1}):
            svg.heat(x + 2, FILM - 8, width, small, _shares(other_TN))
            edge, thick = (NOW, 3.0) if i == step else (MUTED, 0.5)
            svg.rect(x + 2, FILM - 8, width, small, "transparent", stroke=edge, stroke_width=thick)
            svg.text(x + 2 + width / 2, FILM + small + 6, str(i + 1), anchor="middle",
                     bold=i == step, fill=INK if i == step else MUTED)  # fmt: skip
    low, high = _ends(matrix_TN)
    high_words = f"{_short(high, matrix_TN)}: colours of this step"
    heat_bar(svg, LEFT, key - 11, 90, 12, _short(low, matrix_TN), high_words)
    if ((before_TN != 0) & (matrix_TN == 0)).any() and matrix_TN.min() >= 0:
        _dashed(svg, 410, key - 11, 16, 14)
        svg.text(432, key, "just became 0", fill=MUTED)
    pressed = change if matrix_TN.shape == steps[0][1].shape else None
    if change:
        of = "expert" if steps[0][1].shape[1] == steps[-1][1].shape[1] else "column"
        _draw_change(svg, steps[0][1], change, tokens, of, key + 34)
        hint = "drag it, or press another score" if pressed else "drag it"
        svg.text(WIDTH, key + 34, hint, anchor="end", fill=MUTED)
    right = LEFT + num_columns * cell
    svg.text(LEFT - 8, top - 8, f"token / {what}", anchor="end", fill=MUTED)
    for n in range(num_columns):
        x, load = LEFT + n * cell, int((matrix_TN[:, n] != 0).sum())
        with svg.thing(f"e{n}", tip=f"{what} {n}: {load} of {num_tokens} cells are not 0"):
            expert_box(svg, x + 1, top - 21, cell - 2, 17, n if what == "expert" else -1, str(n))
    _cells(svg, matrix_TN, before_TN, steps[0][1], tokens, what, top, cell, pressed)
    if matrix_TN.min() >= 0:
        _row_sums(svg, matrix_TN, right + 14, top)
        _column_sums(svg, matrix_TN, what, top + num_tokens * ROW, base, cell)
        legend(svg, LEFT, base + 24, [Key(f"mean {what}'s sum", INK, "4 3", width=1)], fill=MUTED)
    return svg.picture(*_table(matrix_TN, tokens))


def told_change(steps: Sequence[Step], step: int) -> str:
    """What a step has done with the matrix before it, in one sentence; nothing of the first."""
    if not step:
        return ""
    before_TN, now_TN = steps[step - 1][1], steps[step][1]
    if before_TN.shape != now_TN.shape:
        return f"Now {now_TN.shape[1]} columns; the step before had {before_TN.shape[1]}."
    changed_TN = ~np.isclose(before_TN, now_TN, rtol=1e-4, atol=1e-6)
    emptied = int((changed_TN & (now_TN == 0)).sum())
    if not changed_TN.any():
        return "Nothing changed."
    what = "expert" if now_TN.shape[1] == steps[-1][1].shape[1] else "column"
    for axis, each in enumerate((what, "token")):
        sums = before_TN.sum(axis, keepdims=True)
        if before_TN.min() >= 0 and sums.min() > 0 and _alike(now_TN, before_TN / sums):
            return f"The values of every {each} were divided by their sum."
        power_TN = np.exp(before_TN - before_TN.max(axis, keepdims=True))
        if _alike(now_TN, power_TN / power_TN.sum(axis, keepdims=True)):
            return f"Every {each} went through a softmax: all above 0, and each {each} sums to 1."
    if not (changed_TN & (now_TN != 0)).any():
        return f"{emptied} of {now_TN.size} cells became 0; the others stayed as they were."
    words = f"{int(changed_TN.sum())} of {now_TN.size} cells changed"
    return words + (f", {emptied} of them to 0." if emptied else ".")


def _alike(one_TN: np.ndarray, other_TN: np.ndarray) -> bool:
    return bool(np.allclose(one_TN, other_TN, rtol=1e-4, atol=1e-6))


def _ends(matrix_TN: np.ndarray) -> tuple[float, float]:
    """The ends of the heat: 0, or the least value where that is below, and the largest."""
    return min(float(matrix_TN.min()), 0.0), float(matrix_TN.max())


def _shares(matrix_TN: np.ndarray) -> np.ndarray:
    """Where each value stands between the ends."""
    low, high = _ends(matrix_TN)
    return (matrix_TN - low) / (high - low) if high > low else np.zeros_like(matrix_TN)


def _draw_change(
    svg: Svg, first_TN: np.ndarray, change: Change, tokens: Sequence[str], what: str, y: float
) -> None:
    """The score that is dragged, as a knob on a line of its values."""
    t, n = change.cell
    value = float(first_TN[t, n])
    words = f"Score of '{shorten(tokens[t], 11)}' for {what} {n}: {_short(value, first_TN)}"
    svg.text(0, y, words, bold=True)
    values = change.values
    x = Scale(values[0], values[-1], LEFT, WIDTH - 60)
    stops = [Stop(x(v), f"make it {v:g}", change.press(t, n, v)) for v in values]
    track(svg, y + 26, stops, x(min(max(value, values[0]), values[-1])))
    svg.text(LEFT - 20, y + 30, f"{values[0]:g}", anchor="end", fill=MUTED)
    svg.text(WIDTH - 40, y + 30, f"{values[-1]:g}", fill=MUTED)


def _cells(
    svg: Svg, matrix_TN: np.ndarray, before_TN: np.ndarray, first_TN: np.ndarray,
    tokens: Sequence[str], what: str, top: float, cell: float, change: Change | None,
) -> None:  # fmt: skip
    share_TN, past_TN, empty = _shares(matrix_TN), _shares(before_TN), matrix_TN.min() >= 0
    for t, token in enumerate(tokens):
        y = top + t * ROW
        svg.line(0, y, LEFT + matrix_TN.shape[1] * cell, y, width=0.5)
        with svg.thing(f"t{t}", tip=f"token '{shorten(token, 24)}'"):
            svg.text(LEFT - 8, y + 14.5, shorten(token, 11), anchor="end", mono=True)
        for n, value in enumerate(matrix_TN[t]):
            past, place = before_TN[t, n], (LEFT + n * cell + 1, y + 1, cell - 2, ROW - 2)
            press = change.press(t, n, float(first_TN[t, n])) if change else None
            gone, changed = empty and value == 0, bool(past != value)
            if gone and not past and not press:
                continue
            told = "0" if gone else f"{value:.4f}"
            tip = f"{token}, {what} {n}: {told}" + f", before {past:.4f}" * changed
            with svg.thing(f"t{t}", f"e{n}", tip=tip, press=press):
                if gone:
                    if press:
                        svg.rect(*place, "transparent")
                    if past:
                        _dashed(svg, *place)
                    continue
                if changed and (past or not empty):
                    svg.rect(*place, heat_colour(float(past_TN[t, n])), stroke=MUTED)
                text = _short(value, matrix_TN) if cell >= 34 else ""
                with svg.fading() if changed else nullcontext():
                    box(svg, *place, heat_colour(float(share_TN[t, n])), text, stroke=MUTED)
    if change:
        t, n = change.cell
        svg.rect(LEFT + n * cell, top + t * ROW, cell, ROW, "none", stroke=NOW, stroke_width=3)


def _dashed(svg: Svg, x: float, y: float, width: float, height: float) -> None:
    """The edge of a cell that was emptied."""
    right, bottom = x + width, y + height
    corners = [(x, y), (right, y), (right, bottom), (x, bottom), (x, y)]
    svg.polyline(corners, stroke=RULE, width=1, dash="2 3")


def _short(value: float, matrix_TN: np.ndarray) -> str:
    """At most four characters and a sign; of a matrix of whole numbers, as it is."""
    if (matrix_TN == matrix_TN.round()).all() or abs(value) >= 99.5:
        return f"{value:.0f}"
    return f"{value:.2f}"[: 4 + (value < 0)]


def _row_sums(svg: Svg, matrix_TN: np.ndarray, x: float, top: float) -> None:
    sum_T = matrix_TN.sum(1)
    peak = max(float(sum_T.max()), 1e-12)
    svg.text(x, top - 8, "each token's sum", fill=MUTED)
    for t, value in enumerate(sum_T):
        y, length = top + t * ROW, BAR * float(value) / peak
        with svg.thing(f"t{t}", tip=f"the token's sum: {value:.4f}"):
            svg.rect(x, y + 3, length, ROW - 6, SUM)
            svg.text(x + length + 6, y + 14.5, _short(float(value), matrix_TN))


def _column_sums(
    svg: Svg, matrix_TN: np.ndarray, what: str, rows_end: float, base: float, cell: float
) -> None:
    """Bars of the sums of columns; the line is their mean."""
    sum_N = matrix_TN.sum(0)
    peak = max(float(sum_N.max()), 1e-12)
    svg.text(LEFT - 8, base - TALL / 2, f"each {what}'s", anchor="end", fill=MUTED)
    svg.text(LEFT - 8, base - TALL / 2 + 15, "sum", anchor="end", fill=MUTED)
    for n, value in enumerate(sum_N):
        x, tall = LEFT + n * cell, TALL * float(value) / peak
        text = _short(float(value), matrix_TN) if cell >= 34 else ""
        with svg.thing(f"e{n}", tip=f"sum of {what} {n}: {value:.4f}"):
            svg.text(x + cell / 2, rows_end + 14, text, anchor="middle")
            expert_box(svg, x + 3, base - tall, cell - 6, tall, n, stroke=MUTED)
    even, end = base - TALL * float(sum_N.mean()) / peak, LEFT + len(sum_N) * cell
    svg.line(LEFT, even, end, even, stroke=INK, dash="4 3")


def _summary(steps: Sequence[Step], step: int, what: str) -> str:
    title, matrix_TN = steps[step]
    words = (
        f"Step {step + 1} of {len(steps)}: {title}.",
        _balance(matrix_TN, 0, what), _balance(matrix_TN, 1, "token"), told_change(steps, step),
    )  # fmt: skip
    return " ".join(filter(None, words))


def _balance(matrix_TN: np.ndarray, axis: int, each: str) -> str:
    """Whether all columns or rows have the same sum; nothing where a value is negative."""
    total = matrix_TN.sum(axis)
    if matrix_TN.min() < 0 or len(total) < 2 or not total.mean() > 0:
        return ""
    times = total.max() / total.mean()
    if times >= EVEN:
        return f"The fullest {each} holds {times:.2f} times the mean one."
    same = f"ll {each}s have the same sum."
    return f"The load is even: a{same}" if each == "expert" else f"A{same}"


def _most_wanted(matrix_TN: np.ndarray, what: str) -> str:
    """Which column holds the largest value of most rows."""
    count_N = np.bincount(matrix_TN.argmax(1), minlength=matrix_TN.shape[1])
    n = int(count_N.argmax())
    return f"{what.capitalize()} {n} has the best score of {count_N[n]} of {len(matrix_TN)} tokens."


def _table(
    matrix_TN: np.ndarray, tokens: Sequence[str]
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    columns = ("token", *map(str, range(matrix_TN.shape[1])), "sum")
    rows = [
        (token, *(f"{v:.3f}" for v in (*row_N, row_N.sum())))
        for token, row_N in zip(tokens, matrix_TN, strict=True)
    ]
    total = (*matrix_TN.sum(0), matrix_TN.sum())
    return columns, [*rows, ("sum", *(f"{v:.3f}" for v in total))]
