"""How loud an MoE and its dense twin start, and what loss that leads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moeviz.pictures.axes import LogScale, Scale, padded, y_axis
from moeviz.pictures.plot import bands, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.load_and_speed import STYLES
from moeviz.pictures.training.race import (
    AXES,
    COLUMNS,
    HEIGHT,
    MAIN,
    draw_curves,
    in_lines,
    progress,
    rows_of,
    told,
)
from moeviz.records.metrics import gap
from moeviz.records.runs import Snapshot

STREAM, DENSE, MOE = "residual stream", "dense", "MoE"
LEFT, RIGHT = 150.0, 552.0  # x of the first value and behind the last
UNIT = 12.0  # pixels of a 1, the same for all: the loudest MoE has room
ROWS = {STREAM: 118.0, DENSE: 172.0, MOE: 232.0}  # y of a wave's zero
COLOURS = {STREAM: "#6e6e6e", DENSE: STYLES[0][0], MOE: STYLES[1][0]}
WAVES, ENDS = 286.0, 262.0  # where they end, and the height of what becomes of them


@dataclass(frozen=True)
class Ending:
    """How a recorded run of both ended. ahead: the dense one's last validation loss minus the
    MoE's; luck: how far luck alone takes that difference (records.compare.reach_of_luck), and by
    which recorded seeds; press: the values of a panel's controls that show it."""

    name: str
    ahead: float
    luck: float
    source: str
    press: Mapping[str, object]
    chosen: bool

    @property
    def winner(self) -> str:
        return MOE if self.ahead > 0 else DENSE

    @property
    def tip(self) -> str:
        """Who is ahead, and what luck alone does."""
        words = (
            f"{self.name}: {self.winner} is ahead by {abs(self.ahead):.3f} nats. "
            f"Luck alone: ± {self.luck:.3f} in 19 of 20 runs, by {self.source}"
        )
        open_ = abs(self.ahead) <= self.luck
        return words + (". Within it one seed shows no difference" if open_ else "")


def loud_and_quiet(
    learners: Sequence[Snapshot], start: Mapping[str, Any], scale: float, name: str, *,
    note: str = "", settings: Sequence[Ending] = (),
) -> Picture:  # fmt: skip
    """How loud the MoE starts and what loss it reaches, in one sentence. The size of what each FFN
    adds to the residual stream before training, as waves to one scale; who ends ahead by how loud
    the MoE starts; then the losses.

    start: of the experiment loud_and_quiet, its sizes and values. scale: of the MoE, one of those
    in start, and its name. settings: the recorded runs, from quiet to loud."""
    waves = {STREAM: start[STREAM], DENSE: start[DENSE]}
    waves[MOE] = next(wave for wave in start[MOE] if wave["scale"] == scale)
    sizes = {of: wave["size"] for of, wave in waves.items()}
    # No other scale than the one in the picture says how far luck alone goes.
    luck = next((s.luck for s in settings if s.press.get("scale") == scale), 0.0)
    joined = _joined(learners, sizes, luck)
    now = told(learners, "step") if progress(learners) else ""
    told_first = f"{joined} {now}".rstrip()
    summary = (
        f"{told_first} Before training the first FFN of the MoE adds values of size "
        f"{_two(sizes[MOE])} to a residual stream of size {_two(sizes[STREAM])}; that of the "
        f"dense twin adds {_two(sizes[DENSE])}."
    )
    svg = Svg(MAIN, WAVES + ENDS * bool(settings), "Loud and quiet", summary)
    paragraph(svg, 0, 16, in_lines(joined), size=13, bold=True)
    svg.text(0, 62, "How loud each FFN starts", bold=True)
    of_token = f"one token's {len(waves[MOE]['values'])} values before training, seed 0"
    svg.text(MAIN, 62, of_token, fill=MUTED, anchor="end")
    for of, wave in waves.items():
        _draw_wave(svg, of, wave, name, sizes)
    if settings:
        times = {wave["scale"]: wave["size"] / sizes[DENSE] for wave in start[MOE]}
        _draw_ends(svg, settings, times)
    headline, side = now or "How it came about", svg.beside(MAIN, HEIGHT)
    end = [(float(learners[0].total_steps), luck)] if luck else []
    draw_curves(side, learners, "step", note, AXES["step"][0], headline, end)
    columns = (*COLUMNS, "size of the FFN's output at the start")
    added = [f"{sizes[of]:.4f}" for of in (DENSE, MOE)]
    rows = rows_of(learners, speeds=False)
    return svg.picture(columns, [(*row, one) for row, one in zip(rows, added, strict=True)])


def _joined(learners: Sequence[Snapshot], sizes: Mapping[str, float], luck: float) -> str:
    """How loud the MoE starts, and what loss that leads to."""
    dense, moe = learners[:2]
    starts = f"An MoE that starts {_two(sizes[MOE] / sizes[DENSE])} times as loud as its dense twin"
    if not len(moe.curve):
        return f"{starts} has not been trained yet."
    if progress(learners):
        return f"{starts} is in training: what loss will it reach?"
    ahead = gap(dense.curve, moe.curve, "step")
    where = f"{abs(ahead):.3f} nats {'ahead of' if ahead > 0 else 'behind'} it"
    if not luck:
        return f"{starts} ends {where}."
    if abs(ahead) > luck:
        return f"{starts} ends {where}, beyond the ± {luck:.3f} of luck alone."
    return f"{starts} ends {where}: too close to call (luck alone: ± {luck:.3f})."


def _two(value: float) -> str:
    """Two digits that count, a 0 at the end too."""
    return f"{value:#.2g}".rstrip(".")


def _draw_wave(
    svg: Svg, of: str, wave: Mapping[str, Any], name: str, sizes: Mapping[str, float]
) -> None:
    """A bar for each value, up or down from 0, and the size of all tokens' values."""
    y, values = ROWS[of], wave["values"]
    wide = (RIGHT - LEFT) / len(values)
    size, times = _two(sizes[of]), f"{_two(sizes[of] / sizes[DENSE])} × dense"
    first, *rest = {
        STREAM: ("residual stream", f"size {size}"),
        DENSE: (f"+ dense FFN: {size}", "scale 1, always"),
        MOE: (f"+ MoE: {size}", f"scale {name}", times),
    }[of]
    tip = f"{of}: size {sizes[of]:.3g}, {times} (the root of the mean square over all tokens)"
    svg.line(LEFT, y, RIGHT, y, stroke=INK, width=0.5)
    with svg.thing(of, tip=tip):
        svg.rect(0, y - 26, RIGHT, 52, "transparent")
        svg.text(0, y - 8, first, bold=True)
        paragraph(svg, 0, y + 8, rest, 16)
        for n, value in enumerate(values):
            tall = abs(value) * UNIT
            svg.rect(LEFT + n * wide, y - tall * (value > 0), wide - 1, tall, COLOURS[of])


def _draw_ends(svg: Svg, settings: Sequence[Ending], times: Mapping[float, float]) -> None:
    """Who ends ahead, by how many times as loud as dense the MoE starts: a point a recorded run,
    to be dragged over, and as a band around 0 what luck alone does."""
    top, bottom = WAVES + 58, WAVES + ENDS - 72
    loud = [times[float(str(s.press["scale"]))] for s in settings]
    x = LogScale(loud[0] * 0.8, loud[-1] * 1.25, 62, MAIN - 10)
    span = [end for s in settings for end in (s.ahead, s.luck, -s.luck)]
    y = Scale(*padded(span, 0.12), bottom, top)
    svg.text(0, WAVES + 16, "What becomes of it: dense minus MoE at the end, in nats", bold=True)
    words = "one seed each · grey: luck alone, in 19 of 20 runs · drag, or press a point"
    svg.text(0, WAVES + 34, words, fill=MUTED)
    edges = [(x(a), y(side * s.luck)) for side, order in ((1, 1), (-1, -1))
             for a, s in [*zip(loud, settings, strict=True)][::order]]  # fmt: skip
    svg.polygon(edges, fill=MUTED, opacity=0.25)
    y_axis(svg, y, x.start, x.end, ticks=y.ticks(4))
    svg.line(x.start, y(0), x.end, y(0), stroke=INK, width=1.5)
    points = [(x(a), y(s.ahead)) for a, s in zip(loud, settings, strict=True)]
    svg.polyline(points, stroke=MUTED, width=1.2)
    svg.text(x.end - 4, top + 12, "↑ MoE ends ahead", anchor="end", halo=True)
    svg.text(x.end - 4, bottom - 6, "↓ dense ends ahead", anchor="end", halo=True)
    zones = bands([at for at, _ in points], 20)
    for s, (at, high), (left, right) in zip(settings, points, zones, strict=True):
        # As written it starts so nearly as one of the scales that its name needs its own line.
        line = 33 if not s.press["scale"] else 17
        svg.text(at, bottom + line, s.name.removeprefix("scale "), anchor="middle", bold=s.chosen)
        # No kin: what it changes is to be seen while it is dragged.
        with svg.thing(tip=s.tip, press=s.press, drag=True):
            svg.rect(left, top, right - left, bottom - top + 20, "transparent")
            mark(svg, "circle", at, high, COLOURS[s.winner], 5, stroke=INK)
            if s.chosen:
                svg.circle(at, high, 9, "none", stroke=INK)
                last = at + 60 > MAIN  # on its right there is no room
                under = high < top + 34 and at > x.end - 180  # over it stands who is ahead
                svg.text(at - 13 if last else at + 13, high + (18 if under else -7),
                         f"{s.ahead:+z.3f}", bold=True, halo=True,
                         anchor="end" if last else "start")  # fmt: skip
    label = "scale: how loud the MoE starts, times its dense twin"
    svg.text((x.start + x.end) / 2, bottom + 52, label, anchor="middle")
