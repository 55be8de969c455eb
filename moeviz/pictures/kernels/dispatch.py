"""The dispatch of one batch, program by program: histogram, scan, scatter, tiles, GEMM, combine."""

from __future__ import annotations

from moeviz.pictures.colours import expert_colour, ink_on
from moeviz.pictures.kernels import things
from moeviz.pictures.kernels.dispatch_detail import DETAIL, WIDTH, detail_height
from moeviz.pictures.kernels.dispatch_words import ANSWERS, FORMULAS, QUESTIONS, summary
from moeviz.pictures.plot import box, expert_box, heading, stages
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg, shorten, text_width
from moeviz.records.dispatch import STAGES, DispatchTrace

ACTIVE = "#0072b2"
LANE_A, LANE_B, CELL = 150.0, 264.0, 24.0
HEIGHT = LANE_B + 104.0
COLUMNS = ("assignment", "token", "expert", "weight", "program", "row", "slot", "tile")


def dispatch(trace: DispatchTrace, step: int, *, note: str = "") -> Picture:
    """The batch at one step (0 to trace.steps - 1): the assignments in token order and where their
    rows go; beside it, what the program of this step computes. note: where it was computed."""
    stage, number = trace.at(step)
    told = summary(trace, stage, number)
    svg = Svg(WIDTH, HEIGHT, f"Dispatch, step {step}: {stage}", told)
    sets = {name: {"step": trace.step_at(name)} for name in STAGES}
    heading(svg, QUESTIONS[stage])
    svg.text(0, 38, ANSWERS[stage])
    x, wide = stages(svg, WIDTH, STAGES, stage, sets.__getitem__, first=0, top=48)[stage]
    # How far the stage has come.
    svg.rect(x, 79, wide * (number + 1) / trace.steps_of(stage), 4, ACTIVE)
    svg.text(0, 102, FORMULAS[stage], mono=True, fill=MUTED)
    _Lanes(trace, svg, stage, number).draw()
    svg.text(0, HEIGHT - 4, note, fill=MUTED)
    DETAIL[stage](svg.beside(WIDTH, detail_height(trace)), trace, number)
    return svg.picture(COLUMNS, _table(trace))


class _Lanes:
    """Assignments in token order (lane A), rows sorted by expert (lane B), and what moves."""

    def __init__(self, trace: DispatchTrace, svg: Svg, stage: str, number: int) -> None:
        self.trace, self.svg, self.stage, self.number = trace, svg, stage, number
        num_rows, num_tokens = len(trace.order), len(trace.tokens)
        self.gap = 3.0
        self.unit = min(30.0, (WIDTH - self.gap * num_tokens) / max(num_rows, 1))
        self.cell = self.unit - 1

    def a(self, assignment: int) -> float:
        """The left edge of an assignment's cell."""
        return assignment * self.unit + assignment // self.trace.top_k * self.gap

    def b(self, row: int) -> float:
        return row * self.unit + int(self.trace.row_expert[row]) * self.gap

    def draw(self) -> None:
        place, num_rows = STAGES.index(self.stage), len(self.trace.order)
        placed = place >= STAGES.index("scatter")
        last = (self.number + 1) * self.trace.sort_block if self.stage == "scatter" else num_rows
        done = min(last, num_rows) * placed
        self._tokens()
        self._assignments(done)
        if not placed or self.stage == "scatter":
            self._programs()
        moving = dict(self._moving()) if self.stage == "scatter" else {}
        self._rows(placed, done, moving)
        if placed:
            self._segments()
        if place >= STAGES.index("tiles"):
            self._tiles()
        for i, row in self._moving():
            self._arrow(i, row)
        note = "number in a row: its token · bar: the expert of the rows above it"
        if not placed:
            note = "rows: empty, no one knows yet where they go"
        elif place >= STAGES.index("tiles"):
            note += " · bracket: a tile"
        self.svg.text(0, LANE_B + (80 if placed else CELL + 15), note, fill=MUTED)

    def _moving(self) -> list[tuple[int, int]]:
        """(assignment, row) of what this step moves."""
        trace, number = self.trace, self.number
        if self.stage == "scatter":
            first = number * trace.sort_block
            last = min(first + trace.sort_block, len(trace.order))
            return [(i, int(trace.rank[i])) for i in range(first, last)]
        if self.stage == "GEMM":
            return [(int(trace.order[row]), row) for row in trace.tile_rows(number)]
        first, last = number * trace.top_k, (number + 1) * trace.top_k
        return [(i, int(trace.rank[i])) for i in range(first, last) if self.stage == "combine"]

    def _tokens(self) -> None:
        svg, caption = (
            self.svg,
            "assignments in token order; number and colour: the expert asked for",
        )
        svg.text(0, LANE_A - 26, caption, fill=MUTED)
        room = self.unit * self.trace.top_k
        fits = max(int((room + self.gap - 2) / text_width("x", 12)), 1)
        for t, name in enumerate(self.trace.tokens):
            x = self.a(t * self.trace.top_k)
            with things.token(svg, self.trace, t, self.stage):
                if self.stage == "combine" and t == self.number:
                    left, top = max(x - 2, 1), LANE_A - 18
                    width = min(x + room + 1, WIDTH - 1) - left
                    svg.rect(left, top, width, CELL + 21, "none", stroke=INK, stroke_width=2)
                middle, text = x + room / 2, shorten(name, fits)
                svg.text(middle, LANE_A - 5, text, anchor="middle", mono=True)

    def _assignments(self, done: int) -> None:
        for i, e in enumerate(self.trace.expert.reshape(-1).tolist()):
            now = self.stage in ("histogram", "scatter")
            now = now and i // self.trace.sort_block == self.number
            with things.assignment(self.svg, self.trace, i):
                if i < done and not now:  # a ghost of what has gone
                    box(self.svg, self.a(i), LANE_A, self.cell, CELL, "transparent", str(e),
                        stroke=expert_colour(e), ink=MUTED)  # fmt: skip
                else:
                    expert_box(self.svg, self.a(i), LANE_A, self.cell, CELL, e, str(e))

    def _rows(self, placed: bool, done: int, moving: dict[int, int]) -> None:
        """moving: the assignments that come to their rows now, over all others."""
        svg, trace = self.svg, self.trace
        for row, (i, e) in enumerate(zip(trace.order.tolist(), trace.row_expert, strict=True)):
            if i in moving:
                continue
            if i < done:
                with things.assignment(svg, trace, i):
                    self._row(self.b(row), int(e), str(i // trace.top_k))
            elif placed:
                with svg.thing(f"e{e}", tip=f"row {row}, of expert {e}: not written yet"):
                    edge = expert_colour(int(e))
                    svg.rect(self.b(row), LANE_B, self.cell, CELL, "transparent", stroke=edge)
            else:
                svg.rect(row * self.unit, LANE_B, self.cell, CELL, "none", stroke=RULE)

        for i, row in moving.items():
            x, e = self.b(row), int(trace.row_expert[row])
            with things.assignment(svg, trace, i), svg.arriving(self.a(i) - x, LANE_A - LANE_B):
                self._row(x, e, str(i // trace.top_k))

    def _row(self, x: float, e: int, number: str) -> None:
        """A row with the number of its token, upright where it is too narrow."""
        lies = text_width(number, 12) <= self.cell - 3  # else numbers of neighbours run together
        expert_box(self.svg, x, LANE_B, self.cell, CELL, e, number if lies else "")
        if not lies:
            ink, x = ink_on(expert_colour(e)), x + self.cell / 2 + 4.4
            self.svg.text(x, LANE_B + CELL / 2, number, anchor="middle", rotate=-90, fill=ink)

    def _programs(self) -> None:
        """Which program of the sort takes which assignments."""
        block, num_rows = self.trace.sort_block, len(self.trace.order)
        y = LANE_A + CELL + 6
        for p in range(len(self.trace.count)):
            left = self.a(p * block)
            right = self.a(min((p + 1) * block, num_rows) - 1) + self.cell
            wide = right - left > text_width("program 00", 12)
            name = f"program {p}" if wide else f"p{p}"
            active = self.stage in ("histogram", "scatter") and p == self.number
            with things.program(self.svg, self.trace, p, self.stage):
                _bracket(self.svg, left, right, y, 3, name, RULE, active=active)

    def _segments(self) -> None:
        for e in range(self.trace.num_experts):
            first, last = int(self.trace.offsets[e]), int(self.trace.offsets[e + 1])
            if first == last:
                continue
            width = (last - first) * self.unit - 1
            label = f"e{e}" if width > text_width(f"e{e}", 12) else ""
            y = LANE_B + CELL + 2
            with things.expert(self.svg, self.trace, e):
                expert_box(self.svg, self.b(first), y, width, 15, e, label, bold=True)

    def _tiles(self) -> None:
        y = LANE_B + CELL + 25
        for g in range(len(self.trace.tile_expert)):
            if rows := self.trace.tile_rows(g):
                left, right = self.b(rows[0]), self.b(rows[-1]) + self.cell
                active = self.stage == "GEMM" and g == self.number
                with things.tile(self.svg, self.trace, g):
                    _bracket(self.svg, left, right, y, 4, str(g), MUTED, active=active)

    def _arrow(self, index: int, row: int) -> None:
        svg, half = self.svg, self.cell / 2
        colour = expert_colour(int(self.trace.row_expert[row]))
        top = LANE_A + CELL + (25 if self.stage == "scatter" else 2)  # below the programs' names
        ends = [(self.a(index) + half, top), (self.b(row) + half, LANE_B - 2)]
        if self.stage == "combine":
            ends.reverse()
        (x1, y1), (x2, y2) = ends
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1.0)
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        back = (x2 - 8 * dx, y2 - 8 * dy)
        sides = [(back[0] + s * 4 * dy, back[1] - s * 4 * dx) for s in (1, -1)]
        with things.assignment(svg, self.trace, index):
            svg.line(x1, y1, *back, stroke=MUTED, width=3.4)  # yellow alone is lost on white
            svg.line(x1, y1, *back, stroke=colour, width=2)
            svg.polygon([(x2, y2), *sides], fill=colour, stroke=MUTED)


def _bracket(
    svg: Svg, left: float, right: float, y: float, rise: float, name: str, colour: str, *,
    active: bool,
) -> None:  # fmt: skip
    """A bracket from left to right, open above, with its name below."""
    ends = [(left, y - rise), (left, y), (right, y), (right, y - rise)]
    svg.polyline(ends, stroke=ACTIVE if active else colour, width=2.5 if active else 1)
    ink = INK if active else MUTED
    svg.text((left + right) / 2, y + 13.5, name, anchor="middle", bold=active, fill=ink)


def _table(trace: DispatchTrace) -> list[tuple[object, ...]]:
    """Every assignment's whole way; the tile is that of its row."""
    expert_N, weight_N = trace.expert.reshape(-1), trace.weight.reshape(-1)
    token_N = [f"{t} {token}" for t, token in enumerate(trace.tokens) for _ in range(trace.top_k)]
    return [
        (i, token_N[i], int(expert_N[i]), f"{weight_N[i]:.3f}", i // trace.sort_block, int(row),
         int(trace.slot[row]), things.tile_of(trace, int(row)))
        for i, row in enumerate(trace.rank)
    ]  # fmt: skip
