"""What becomes of a lead when training goes on: five routers at three lengths."""

from __future__ import annotations

import math

from moeviz.pictures.axes import LogScale, Scale, axes, padded
from moeviz.pictures.plot import Key, curve, legend, mark
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.arms import (
    DENSE,
    FAIR,
    LONG,
    Judged,
    Recorded,
    counted,
    drawn,
    gap_tip,
    judged,
    lies,
    losses,
    minus_dense,
    origin,
    seeds_words,
)

WIDTH, HEIGHT = 560.0, 470.0
LEFT, RIGHT, UPRIGHT = 64.0, 540.0, (420.0, 150.0)
APART = 7  # pixels between arms of one length
LOOKS = (
    ("#0072b2", "", "circle"),
    ("#d55e00", "7 3", "square"),
    ("#009e73", "2 3", "diamond"),
    ("#cc79a7", "9 3 2 3", "circle"),
    ("#6e6e6e", "4 4", "square"),
)
COLUMNS = ("arm", "steps", "loss", "minus dense", "95 % interval", "verdict")


def tables_of(recorded: Recorded, longer: Recorded) -> list[Recorded]:
    """The tables that these arms stand in, shortest training first."""
    settings = recorded["settings"]
    return [*(settings[name] for name in (FAIR, LONG) if name in settings), longer]


def keys_of(recorded: Recorded, longer: Recorded) -> dict[str, Key]:
    """How each router is drawn that diverged in none of the tables."""
    tables = tables_of(recorded, longer)
    routers = [arm for arm in longer["arms"] if arm != DENSE]
    arms = [arm for arm in routers if all(arm in table["arms"] for table in tables)]
    return {arm: Key(arm, *look) for arm, look in zip(arms, LOOKS, strict=False)}


def gaps_of(recorded: Recorded, longer: Recorded) -> dict[tuple[str, int], Judged]:
    """By arm and steps the loss minus the dense twin's, with the verdict of the table that it
    stands in: one difference has one verdict, in whatever picture."""
    return {
        (arm, table["steps"]): minus_dense(table, arm)
        for arm in keys_of(recorded, longer)
        for table in tables_of(recorded, longer)
    }


def lengths(recorded: Recorded, longer: Recorded) -> Picture:
    """Loss minus the dense twin's against the steps of a whole training, each with its own decay
    of the rate: a line an arm, the 95 % interval as an upright one.

    recorded, longer: runs/routers.json and runs/routers_longer.json.
    """
    keys, gaps = keys_of(recorded, longer), gaps_of(recorded, longer)
    steps = sorted({length for _, length in gaps})
    svg = Svg(WIDTH, HEIGHT, "Routers at several lengths", _summary(recorded, longer, gaps))
    seeds = [len(table["seeds"]) for table in tables_of(recorded, longer)]
    counts = " and ".join(dict.fromkeys(seeds_words(count) for count in seeds))
    svg.text(0, 16, origin(longer, f"fair scale, {counts}"), fill=MUTED)
    legend(svg, 2, 40, [*keys.values()], fill=MUTED, down=20, kin=True)
    x = LogScale(steps[0] / 1.2, steps[-1] * 1.2, LEFT, RIGHT)
    y = Scale(*padded([0.0, *drawn(one.gap for one in gaps.values())]), *UPRIGHT)
    axes(
        svg, x, y, x_label="steps of training", x_ticks=steps, x_form=lambda v: f"{v:,.0f}",
        y_label="loss minus the dense twin's (nats per token)", above=True,
    )  # fmt: skip
    svg.line(LEFT, y(0), RIGHT, y(0), stroke=INK, width=1)
    for i, (arm, key) in enumerate(keys.items()):
        aside = APART * (i - (len(keys) - 1) / 2)
        of_arm = {length: gaps[arm, length] for length in steps}
        with svg.thing(arm):
            shifted = LogScale(x.low, x.high, x.start + aside, x.end + aside)
            curve(svg, shifted, y, [(n, one.gap.mean) for n, one in of_arm.items()], key)
        for length, one in of_arm.items():
            at = shifted(length)
            with svg.thing(arm, tip=gap_tip(f"{arm}, {length:,} steps", one)):
                if math.isfinite(one.gap.low):
                    low, high = (min(max(v, y.low), y.high) for v in (one.gap.low, one.gap.high))
                    svg.line(at, y(low), at, y(high), stroke=key.colour, width=1.5)
                mark(svg, key.mark, at, y(one.gap.mean), key.colour, 4)
    return svg.picture(COLUMNS, _rows(recorded, longer, gaps))


def _rows(
    recorded: Recorded, longer: Recorded, gaps: dict[tuple[str, int], Judged]
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for table in tables_of(recorded, longer):
        for arm in keys_of(recorded, longer):
            one = gaps[arm, table["steps"]]
            finite = math.isfinite(one.gap.low)
            interval = f"{one.gap.low:+z.3f} to {one.gap.high:+z.3f}" if finite else ""
            loss = table["arms"][arm]["loss"]["mean"]
            rows.append(
                (arm, f"{table['steps']:,}", f"{loss:.3f}", f"{one.gap.mean:+z.3f}", interval,
                 one.verdict)
            )  # fmt: skip
    return rows


def changes(recorded: Recorded, longer: Recorded) -> dict[str, Judged]:
    """By arm, how far its difference to the dense twin moved from the shortest training to the
    longest, seed by seed, judged as one table."""
    short = tables_of(recorded, longer)[0]
    arms = keys_of(recorded, longer)
    return judged({arm: (_differences(longer, arm), _differences(short, arm)) for arm in arms})


def _differences(table: Recorded, arm: str) -> list[float]:
    """The arm's loss minus the dense twin's, by seed."""
    pairs = zip(losses(table, arm), losses(table, DENSE), strict=True)
    return [own - dense for own, dense in pairs]


def _summary(recorded: Recorded, longer: Recorded, gaps: dict[tuple[str, int], Judged]) -> str:
    arms, end = list(keys_of(recorded, longer)), longer["steps"]
    start = tables_of(recorded, longer)[0]["steps"]
    at_end = {arm: gaps[arm, end] for arm in arms}
    lower, higher = (
        sum(one.verdict == verdict for one in at_end.values()) for verdict in ("lower", "higher")
    )
    moved = changes(recorded, longer)
    shown = sum(one.verdict != "open" for one in moved.values())
    most = max(moved, key=lambda arm: abs(moved[arm].gap.mean))
    best = min(arms, key=lambda arm: at_end[arm].gap.mean)
    seeds = seeds_words(len(longer["seeds"]))
    return (
        f"{len(longer['arms']) - 1} routers were trained for {end:,} steps with {seeds}. A lower "
        f"loss than the dense twin's is then shown for {counted(lower, len(arms))}, a higher one "
        f"for {counted(higher)}. The lowest mean loss of them is that of {best}, "
        f"{lies(at_end[best])}. Against {start:,} steps, a change of the difference is shown for "
        f"{counted(shown, len(arms))}. The largest is that of {most}: the difference is "
        f"{lies(moved[most], 'after the short training')}."
    )
