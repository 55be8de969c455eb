"""How loud the FFN starts, and what that alone does to the loss: `experiment scale`."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import LogScale, Scale, axes, padded
from moeviz.pictures.plot import Key, curve, legend, mark
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.arms import Judged, Recorded, judged, lies, origin, seeds_words

WIDTH, HEIGHT = 560.0, 470.0
LEFT, RIGHT, UPRIGHT = 64.0, 550.0, (420.0, 130.0)
LOOKS = (("#0072b2", "", "circle"), ("#d55e00", "7 3", "square"), ("#009e73", "2 3", "diamond"))
COLUMNS = ("arm", "output scale", "loss", "minus dense at the fair scale", "95 % interval",
           "verdict")  # fmt: skip


def output_scale(recorded: Recorded) -> Picture:
    """Loss against the output scale at the start, minus the dense twin's at the fair scale (1): a
    line an arm, the 95 % interval as an upright one, a ring where the arm is as written."""
    arms = recorded["arms"]
    svg = Svg(WIDTH, HEIGHT, "Loss against the output scale", " ".join(_sentences(recorded)))
    svg.text(0, 16, origin(recorded, _setting(recorded)), fill=MUTED)
    every = [p for arm in arms.values() for p in (arm["as_written"], *arm["points"])]
    scales = [p["scale"] for p in every]
    x = LogScale(min(scales) / 1.2, max(scales) * 1.2, LEFT, RIGHT)
    y = Scale(*padded([0.0, *(v for p in every for v in reach(p))]), *UPRIGHT)
    axes(
        svg, x, y, x_label="output scale at the start (1: the fair scale)",
        y_label="loss minus the dense twin's at scale 1 (nats per token)", above=True,
        x_ticks=recorded["scales"], x_form=scale_words,
    )  # fmt: skip
    svg.line(x(1), y.start, x(1), y.end, dash="3 3", width=1)
    svg.line(LEFT, y(0), RIGHT, y(0), stroke=INK, width=1)
    keys = keys_of(recorded)
    for arm, key in zip(arms.values(), keys, strict=True):
        points = [(p["scale"], p["minus_dense"]["mean"]) for p in arm["points"]]
        with svg.thing(key.name):
            curve(svg, x, y, points, key)
            for point in arm["points"]:
                _point(svg, x, y, point, key)
        for point in arm["points"]:
            with svg.thing(key.name, tip=_tip(key.name, point)):
                svg.circle(x(point["scale"]), y(point["minus_dense"]["mean"]), 9, "transparent")
        written = arm["as_written"]
        with svg.thing(key.name, "as written", tip=_tip(f"{key.name}, as written", written)):
            mark(svg, "ring", x(written["scale"]), y(written["minus_dense"]["mean"]), key.colour, 9)
    keys.append(Key("as written", "#6e6e6e", mark="ring", width=0))
    legend(svg, LEFT, 40, keys[:2], across=250, kin=True)
    legend(svg, LEFT, 62, keys[2:], across=250, kin=True)
    svg.text(LEFT, 84, "upright line: 95 % interval", fill=MUTED)
    rows = (
        _cells(name, p, note)
        for name, arm in arms.items()
        for p, note in (*((p, "") for p in arm["points"]), (arm["as_written"], " (as written)"))
    )
    return svg.picture(COLUMNS, rows)


def keys_of(recorded: Recorded) -> list[Key]:
    """How each arm's line is drawn."""
    return [Key(name, *look) for name, look in zip(recorded["arms"], LOOKS, strict=True)]


def scale_words(value: float) -> str:
    """ "1/4", "1" or "2"."""
    return f"1/{1 / value:g}" if value < 1 else f"{value:g}"


def reach(point: Recorded) -> list[float]:
    """What is drawn of a point; the interval of two seeds would leave no room for anything else."""
    gap = point["minus_dense"]
    wide = gap["low"] is None or len(point["loss"]["values"]) < 3
    return [gap["mean"], *(() if wide else (gap["low"], gap["high"]))]


def _point(svg: Svg, x: Scale, y: Scale, point: Recorded, key: Key) -> None:
    at, gap = x(point["scale"]), point["minus_dense"]
    if gap["low"] is not None:
        low, high = (y(min(max(gap[end], y.low), y.high)) for end in ("low", "high"))
        svg.line(at, low, at, high, stroke=key.colour, width=1.5)
    mark(svg, key.mark, at, y(gap["mean"]), key.colour, 4)


def _tip(name: str, point: Recorded) -> str:
    _, scale, loss, gap, interval, verdict = _cells(name, point, "")
    ends = f" (95 % interval {interval})" * bool(interval)
    return f"{name}, scale {scale}: loss {loss}, {gap} to dense{ends}, {verdict}"


def _cells(name: str, point: Recorded, note: str) -> tuple[Any, ...]:
    gap, loss = point["minus_dense"], point["loss"]
    interval = "" if gap["low"] is None else f"{gap['low']:+z.3f} to {gap['high']:+z.3f}"
    scale = f"{point['scale']:.4g}{note}"
    return name, scale, f"{loss['mean']:.3f}", f"{gap['mean']:+z.3f}", interval, gap["verdict"]


def _setting(recorded: Recorded) -> str:
    return f"{recorded['steps']:,} steps, {seeds_words(len(recorded['seeds']))}"


def _sentences(recorded: Recorded) -> list[str]:
    arms = recorded["arms"]
    sentences = [f"{_setting(recorded)}."]
    for name, change in written_minus_fair(recorded).items():
        sentences += [
            f"As written, {name} starts at {arms[name]['as_written']['scale']:.2g} times the fair "
            "scale.",
            f"Its loss is then {lies(change, 'at the fair scale')}.",
        ]
    best = [
        f"{scale_words(min(arm['points'], key=_mean)['scale'])} for {name}"
        for name, arm in arms.items()
    ]
    return [
        *sentences,
        f"The lowest mean loss lies at scale {', '.join(best[:-1])} and {best[-1]}.",
    ]


def written_minus_fair(recorded: Recorded) -> dict[str, Judged]:
    """Of each arm that starts at another scale as written: its loss then minus that at the fair
    scale, judged as one table. Of a dense FFN, "as written" is the fair scale itself."""
    arms = recorded["arms"]
    return judged(
        {
            name: (arm["as_written"]["loss"]["values"], _at_fair(arm)["loss"]["values"])
            for name, arm in arms.items()
            if abs(arm["as_written"]["scale"] - 1) > 0.05
        }
    )


def _at_fair(arm: Recorded) -> Recorded:
    point: Recorded = next(p for p in arm["points"] if p["scale"] == 1)
    return point


def _mean(point: Recorded) -> float:
    mean: float = point["loss"]["mean"]
    return mean
