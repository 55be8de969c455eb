"""One run's balance over time: who gets the tokens, MaxVio, experts in effect, entropy, loss."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from moeviz.pictures.axes import Form, RootScale, Scale, axes, general, padded
from moeviz.pictures.colours import expert_colour, hatch_on, ink_on
from moeviz.pictures.plot import Key, box, curve, expert_box, legend, mark, paragraph, smooth
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg
from moeviz.pictures.training.balance import (
    COLUMNS,
    at_step,
    describe,
    floor,
    idle,
    is_hash,
    result,
    standing,
    table,
    window,
)
from moeviz.pictures.training.race import NOT_YET, losses, name_ends
from moeviz.records.metrics import effective_experts, max_violation
from moeviz.records.runs import Snapshot
from moeviz.words import percent

MAIN, SIDE, HEIGHT = 540, 380, 720
NUMBERED = 2  # the point at which bands have their numbers: early, while all get tokens
ZONES = 25  # of a plot, in which a hand reads the curves
NOW, BEFORE = ("#0072b2", "", "circle"), ("#d55e00", "5 3", "square")
TWIN = Key("dense twin, recorded", "#009e73", "3 3", "diamond", width=1.2)
ACROSS, BESIDE = (52.0, 424.0), (36.0, 276.0)
# y of the lower and upper ends of the plots.
RIBBON, VIOLATION = (296.0, 80.0), (522.0, 396.0)
# Below the ribbon: the experts, who is selected, who died.
CHIPS, CHOSEN, KILLED = 302.0, 346.0, 366.0
CHIP, NARROW = 28.0, 20.0  # how wide one is where there are few experts, and at the least
LOSS, EFFECT, GATE = (186.0, 60.0), (328.0, 236.0), (456.0, 374.0)
LEGEND = 524.0  # y of its first line, below the plots


def collapse(
    run: Snapshot, layer: int, *, before: Snapshot | None = None, twin: Snapshot | None = None,
    killed: Sequence[tuple[int, int, int]] = (), note: str = "", victim: int | None = None,
) -> Picture:  # fmt: skip
    """A run's balance in one MoE layer, on its steps, beside that of the run before (dashed).

    twin: the recorded dense twin of the same seed, whose loss is drawn too; it has no router.
    killed: (step, layer, expert) of experts taken away, marked where it is this layer. victim: the
    expert that a panel would kill, framed; a press on another one or on a layer chooses that. A
    point is the mean of total_steps / 50 steps, the last one of the last as many, and so are all
    figures; the level that chance alone brings about is that of as many tokens.
    """
    if before is not None:
        before = replace(before, label=f"dashed: {before.label}")
    runs = [run] if before is None else [before, run]
    keys = [_key(run, NOW)] if before is None else [_key(before, BEFORE), _key(run, NOW)]
    svg = Svg(MAIN, HEIGHT, "Expert load over training", describe(run, layer, twin))
    svg.text(0, 16, result(run, layer), size=14, bold=True)
    svg.text(0, 36, idle(run, layer))
    svg.text(0, VIOLATION[0] + 64, note, fill=MUTED)
    side = svg.beside(SIDE, 660)
    _legend(side, runs[::-1], keys[::-1], twin)
    steps = (0.0, float(max(run.total_steps, 1)))
    left, right = Scale(*steps, *ACROSS), Scale(*steps, *BESIDE)
    experts, steps_each = run.curve.load.shape[2], window(run)

    beside = [] if twin is None else [twin]
    ribbon, loss = Scale(0, 1, *RIBBON), Scale(*_loss_range([*runs, *beside]), *LOSS)
    _frame(svg, left, ribbon, f"Tokens, layer {layer}", [0, 0.25, 0.5, 0.75, 1], percent)
    _layers(svg, run, layer, pressable=victim is not None)
    _ribbon(svg, *_binned(run, layer)[:2], left, ribbon, victim)
    _experts(svg, run, layer, victim)
    _frame(side, right, loss, "Loss (nats per token); marks: validation", loss.ticks(4))
    for shown, key in zip([*beside, *runs], [TWIN] * len(beside) + keys, strict=True):
        losses(side, right, loss, "step", shown.curve, len(shown.curve) // 30, key)
    short = [*["dense twin"] * len(beside), *["before"] * (len(runs) - 1), "this run"]
    ends = [
        (min(max(loss(_last(one)), LOSS[1]), LOSS[0]), name, key)
        for one, name, key in zip([*beside, *runs], short, [TWIN] * len(beside) + keys, strict=True)
    ]
    name_ends(side, right.end, LOSS, ends)
    violation = RootScale(0, max(experts - 1, 1), *VIOLATION)
    title = f"MaxVio of {steps_each} steps: 0 is even (square-root axis)"
    _frame(svg, left, violation, title, violation.ticks(), bottom=True)
    effect, gate = Scale(0, experts, *EFFECT), Scale(0, 1, *GATE)
    _frame(side, right, effect, f"Experts in effect, of {experts}", [0, experts / 2, experts])
    _frame(side, right, gate, "Entropy of the gate: 1 is undecided", [0, 0.5, 1], bottom=True)
    binned = [_binned(shown, layer) for shown in runs]
    for part, x, y, name, of in (
        (svg, left, violation, "MaxVio", lambda b: list(map(max_violation, b[1]))),
        (side, right, effect, "in effect", lambda b: list(map(effective_experts, b[1]))),
        (side, right, gate, "entropy", lambda b: b[2]),
    ):
        lines = [dict(zip(each[0], of(each), strict=True)) for each in binned]
        _curves(part, x, y, name, dict(zip(keys, lines, strict=True)))
    _chance(svg, left, violation, floor(run, steps_each))
    if is_hash(run):
        side.text(sum(BESIDE) / 2, 426, "a hash has no gate", anchor="middle", fill=MUTED)

    for step, at_layer, expert in killed:
        if at_layer == layer and len(run.curve) and step <= run.curve.step[-1]:
            _mark_killed(svg, side, left(step), right(step), expert)
    paragraph(svg, 0, VIOLATION[0] + 88, textwrap.wrap(svg.description, 78))
    return svg.picture(COLUMNS, table(runs[::-1], layer, twin))


def _last(run: Snapshot) -> float:
    """The last training loss, smoothed as it is drawn; before the first step the lowest place."""
    curve = run.curve
    return float(smooth(curve.loss, len(curve) // 30)[-1]) if len(curve) else -math.inf


def _legend(svg: Svg, runs: Sequence[Snapshot], keys: Sequence[Key], twin: Snapshot | None) -> None:
    """Three lines a run at the most, for a setting of many cures has a long name."""
    y = LEGEND
    for run, key in zip(runs, keys, strict=True):
        with svg.thing(key.name):
            svg.line(0, y - 4, 26, y - 4, stroke=key.colour, width=key.width, dash=key.dash)
            mark(svg, key.mark, 13, y - 4, key.colour, 4)
            lines = textwrap.wrap(at_step(run), 38, max_lines=3, placeholder="…")
            paragraph(svg, 32, y, lines, 16, bold=key.bold)
        y += 16 * len(lines) + 3
    if twin is not None:
        legend(svg, 0, y, [TWIN], kin=True)


def _chance(svg: Svg, x: Scale, y: Scale, level: float) -> None:
    """The level that chance alone brings about."""
    at = y(level)
    svg.line(x.start, at, x.end, at, stroke=INK, width=1.2, dash="2 3")
    svg.text(x.end + 6, at - 12, "by chance", fill=MUTED)
    svg.text(x.end + 6, at + 4, f"about {level:.2f}")


def _layers(svg: Svg, run: Snapshot, layer: int, *, pressable: bool) -> None:
    """MaxVio of every layer, the one shown filled."""
    right, y = MAIN - 40.0, RIBBON[1] - 24
    count = run.curve.load.shape[1]
    for i in range(count):
        now = standing(run, i)
        words = f"layer {i}" + (f": MaxVio {now.max_violation:.1f}" if now else "")
        colour, edge = ("#0072b2", "#0072b2") if i == layer else ("none", RULE)
        x = right - 136 * (count - i)
        with svg.thing(f"l{i}", tip=f"Show {words}", press={"layer": i} if pressable else None):
            box(svg, x, y, 130, 18, colour, words, radius=4, stroke=edge)


def _key(run: Snapshot, style: tuple[str, str, str]) -> Key:
    colour, dash, shape = style
    return Key(run.label, colour, dash, shape, width=1.4, bold=not dash)


def _binned(run: Snapshot, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and a layer's load [P, E] and entropy as means over equal numbers of steps: the last
    point overlaps the one before while its steps are still to come."""
    curve, steps = run.curve, window(run)
    bins = np.ceil(curve.step / steps).astype(int)
    groups = [np.flatnonzero(bins == each) for each in np.unique(bins)]
    if groups:
        groups[-1] = np.flatnonzero(curve.step > curve.step[-1] - steps)
    load_PE = [curve.load[group, layer].mean(0, dtype=np.float64) for group in groups]
    entropy_P = [curve.entropy[group, layer].mean(dtype=np.float64) for group in groups]
    if is_hash(run):
        entropy_P = [math.nan] * len(groups)
    last = [group[-1] for group in groups]
    return curve.step[last], np.array(load_PE), np.array(entropy_P)


def _frame(
    svg: Svg, x: Scale, y: Scale, title: str, ticks: Sequence[float], form: Form = general, *,
    bottom: bool = False,
) -> None:  # fmt: skip
    """A titled plot; steps are numbered under a column's last one."""
    svg.text(x.start, y.end - 10, title, size=13, bold=True)
    label = "training step" if bottom else ""
    steps = x.ticks(6)
    axes(svg, x, y, x_label=label, x_ticks=steps, y_ticks=ticks, y_form=form,
         x_form=general if bottom else lambda _: "")  # fmt: skip


def _curves(
    svg: Svg, x: Scale, y: Scale, name: str, lines: Mapping[Key, dict[float, float]]
) -> None:
    """A line a run, and under a hand the values of all of them at about this step."""
    for key, line in lines.items():
        with svg.thing(key.name):
            curve(svg, x, y, line.items(), replace(key, width=1.8))
    width = (x.end - x.start) / ZONES
    for zone in range(ZONES):
        near = (zone + 0.5) / ZONES * x.high
        words = []
        for key, line in lines.items():
            step = min(line, key=lambda s: abs(s - near), default=math.inf)
            if abs(step - near) <= x.high / ZONES and not math.isnan(line[step]):
                words.append(f"{line[step]:.2f}" + ", dashed" * bool(key.dash))
        if words:
            tip = f"step {near:.0f}: {name} {' and '.join(reversed(words))}"
            left = x.start + zone * width
            svg.rect(left, y.end, width, y.start - y.end, "transparent", tip=tip)


def _ribbon(
    svg: Svg, steps: np.ndarray, load_PE: np.ndarray, x: Scale, y: Scale, victim: int | None
) -> None:
    """The experts' shares, stacked: expert 0 below; hatched from the eighth on. A band is numbered
    where it is wide enough, and has its share at its end."""
    if not len(steps):
        centre = (x.start + x.end) / 2, (y.start + y.end) / 2
        svg.text(*centre, NOT_YET, anchor="middle", bold=True, halo=True)
        return
    share_PE = load_PE / np.maximum(load_PE.sum(1, keepdims=True), 1e-12)
    # The first point's mean begins at step 0.
    steps, share_PE = np.append(0, steps), np.vstack([share_PE[:1], share_PE])
    across = [round(x(step), 1) for step in steps]
    above_PE = np.cumsum(share_PE, axis=1)
    middle_PE, below_PE = above_PE - share_PE / 2, above_PE - share_PE
    shown = np.flatnonzero(share_PE.max(0) > 0.002)
    height = y.start - y.end
    svg.rect(across[0] - 1, y.end - 1, across[-1] - across[0] + 2, height + 2, "none", stroke=MUTED)
    for e in map(int, shown):
        outline = [(at, y(v)) for at, v in zip(across, above_PE[:, e], strict=True)]
        outline += [(at, y(v)) for at, v in zip(across[::-1], below_PE[::-1, e], strict=True)]
        tip = f"expert {e}: {percent(share_PE[-1, e], 1)} of the tokens at step {steps[-1]:.0f}"
        with svg.thing(f"e{e}", tip=tip, press=_choice(e, victim)):
            svg.polygon(outline, fill=expert_colour(e))
            if e >= 8:
                svg.polygon(outline, fill=hatch_on(expert_colour(e)))
            if e == victim:
                svg.polyline([*outline, outline[0]], stroke=INK, width=2)
            if len(steps) > 4 and share_PE[NUMBERED, e] * height >= 12:
                place = across[NUMBERED], y(middle_PE[NUMBERED, e]) + 4
                svg.text(*place, str(e), anchor="middle", fill=ink_on(expert_colour(e)))
            if share_PE[-1, e] * height >= 13:
                left, middle = across[-1] + 6, y(float(middle_PE[-1, e]))
                expert_box(svg, left, middle - 5, 10, 10, e)
                svg.text(left + 15, middle + 4, f"{e}: {percent(share_PE[-1, e])}")


def _choice(expert: int, victim: int | None) -> dict[str, object] | None:
    """What a press on an expert sets: in a panel it is the one to kill."""
    return None if victim is None else {"victim": expert}


def chosen(victim: int) -> str:
    """What can be done with the expert that a panel would kill."""
    return f"Expert {victim} is selected: ✕ Kill the selected takes it away while it trains here."


def _experts(svg: Svg, run: Snapshot, layer: int, victim: int | None) -> None:
    """All experts in a row while they have room, for a hand misses thin bands; the one to kill is
    framed and named."""
    now, count = standing(run, layer), run.curve.load.shape[2]
    wide = min(CHIP, (ACROSS[1] + 76 - ACROSS[0]) / count)
    for e in range(count if wide >= NARROW else 0):
        x = ACROSS[0] + e * wide
        tip = f"expert {e}" + (f": {percent(now.share_E[e], 1)} of the tokens" if now else "")
        with svg.thing(f"e{e}", tip=tip, press=_choice(e, victim)):
            expert_box(svg, x, CHIPS, wide, 24, e, str(e), bold=e == victim)
            if e == victim:
                svg.rect(x + 1, CHIPS + 1, wide - 2, 22, "none", stroke=INK, stroke_width=2)
    if victim is not None:
        svg.text(ACROSS[0], CHOSEN, chosen(victim))


def _loss_range(runs: Sequence[Snapshot]) -> tuple[float, float]:
    """What the losses span, but for the steep beginning, which would flatten all that follows; that
    of a run that is no further counts."""
    shown: list[float] = []
    for run in runs:
        late = run.curve.loss[run.curve.step > run.total_steps / 5]
        shown += (late if len(late) else run.curve.loss).tolist()
    return padded(shown or [0.0, 8.0], 0.05)


def _mark_killed(svg: Svg, side: Svg, left: float, right: float, expert: int) -> None:
    for part, x, plots in ((svg, left, (RIBBON, VIOLATION)), (side, right, (LOSS, EFFECT, GATE))):
        for bottom, top in plots:
            part.line(x, top, x, bottom, stroke=INK, width=1.4, dash="4 3")
    svg.text(left, KILLED, f"✕ expert {expert}", anchor="middle", bold=True)
