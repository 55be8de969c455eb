"""Printed: every router beside its dense twin, and what the output scale does."""

from __future__ import annotations

import numpy as np
import seaborn
from matplotlib.figure import Figure

from moeviz.pictures.axes import padded
from moeviz.pictures.printed.sheet import (
    ROW,
    ends_of,
    foot,
    gap_row,
    legend,
    marked,
    named_rows,
    sheet,
)
from moeviz.pictures.training.arms import (
    DENSE,
    FAIR,
    LOOKS,
    WRITTEN,
    Recorded,
    minus_dense,
    seeds_words,
    seen,
    setting_words,
    table_of,
)
from moeviz.pictures.training.fair_and_written import (
    OTHER_RATE,
    SCALES,
    STAR,
    changes,
    other_rates,
)
from moeviz.pictures.training.lengths import gaps_of, tables_of
from moeviz.pictures.training.lengths import keys_of as routers_drawn
from moeviz.pictures.training.output_scale import keys_of, reach, scale_words

MINUS_DENSE = "loss minus the dense twin's (nats per token)"
BAR = "bar: 95 % interval over"
LATER = {"no": "", "train": " ‡", "always": " †"}


def routers(recorded: Recorded, setting: str = FAIR) -> Figure:
    """Loss minus the dense twin's of every arm in one setting, lowest first: the 95 % interval as a
    bar, a tick a seed, the verdict of the whole table as the mark.

    Raises ValueError for a setting that is not recorded.
    """
    table = table_of(recorded, setting)
    gaps = {arm: minus_dense(table, arm) for arm in table["arms"] if arm != DENSE}
    arms = sorted(gaps, key=lambda arm: gaps[arm].gap.mean)
    with sheet(16, 3.6 + ROW * len(arms)) as figure:
        axes = figure.subplots()
        for y, arm in enumerate(arms):
            gap_row(axes, y, gaps[arm].gap, LOOKS[gaps[arm].verdict])
        named_rows(axes, [arm + LATER[seen(recorded["arms"][arm])] for arm in arms])
        axes.set_xlim(ends_of(gaps[arm].gap for arm in arms))
        seeds = seeds_words(len(table["seeds"]))
        axes.set(
            title=f"Routers beside their dense twin: {setting_words(table)}",
            xlabel=f"{MINUS_DENSE}\n{BAR} {seeds}, tick: a seed",
        )
        verdict = f"verdict after Holm's correction for {len(gaps)} comparisons"
        legend(figure, [*LOOKS.values()], verdict)
        diverged = [f"diverged: {', '.join(table['diverged'])}"] if table["diverged"] else []
        foot(figure, recorded, "† sees later tokens, ‡ in training only", *diverged)
        seaborn.despine(figure, left=True)
    return figure


def fair_and_written(recorded: Recorded) -> Figure:
    """Every router twice, as written and at the fair scale: its loss minus the dense twin's with
    the 95 % interval. Those that gain most by the fair scale stand first; at the right is the
    verdict of that change.

    Raises ValueError where one of the two settings is not recorded.
    """
    written, fair = table_of(recorded, WRITTEN), table_of(recorded, FAIR)
    change, turned = changes(recorded), other_rates(recorded)
    arms = sorted(change, key=lambda arm: change[arm].gap.mean)
    with sheet(16, 3.6 + 1.25 * ROW * len(arms)) as figure:
        axes = figure.subplots()
        both = [[minus_dense(table, arm).gap for table in (written, fair)] for arm in arms]
        for y, gaps in enumerate(both):
            for gap, key, aside in zip(gaps, SCALES, (-0.18, 0.18), strict=True):
                gap_row(axes, y + aside, gap, key)
        starred = [arm + STAR * (recorded["arms"][arm]["family"] in turned) for arm in arms]
        named_rows(axes, starred)
        axes.set_xlim(ends_of(gap for gaps in both for gap in gaps))
        for y, arm in enumerate(arms):
            one = change[arm]
            words = f"{one.gap.mean:+z.3f} {one.verdict}"
            axes.text(1.01, y, words, transform=axes.get_yaxis_transform(), va="center", size=7)
        axes.text(1.01, -0.9, "fair − written", transform=axes.get_yaxis_transform(), size=7)
        seeds = seeds_words(min(len(fair["seeds"]), len(written["seeds"])))
        axes.set(
            title=f"Two output scales: {fair['steps']:,} steps, {seeds}",
            xlabel=f"{MINUS_DENSE}\n{BAR} {seeds}, tick: a seed",
        )
        legend(figure, SCALES, "")
        verdict = f"right: mean change, verdict after Holm's correction for {len(arms)} comparisons"
        foot(figure, recorded, f"{verdict}\n{OTHER_RATE}" if turned else verdict)
        seaborn.despine(figure, left=True)
    return figure


def lengths(recorded: Recorded, longer: Recorded) -> Figure:
    """Loss minus the dense twin's against the steps of a whole training: a line a router, the 95 %
    interval as a bar."""
    gaps, drawn_arms = gaps_of(recorded, longer), routers_drawn(recorded, longer)
    steps = sorted({length for _, length in gaps})
    with sheet(16, 9) as figure:
        axes = figure.subplots()
        for i, (arm, key) in enumerate(drawn_arms.items()):
            aside = 1.03 ** (i - (len(drawn_arms) - 1) / 2)
            of_arm = [gaps[arm, length].gap for length in steps]
            bars = [gap.high - gap.mean for gap in of_arm] if np.isfinite(of_arm[0].low) else None
            axes.errorbar(
                [length * aside for length in steps], [gap.mean for gap in of_arm], yerr=bars,
                markersize=4, elinewidth=1, **marked(key),
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [f"{length:,}" for length in steps])
        axes.minorticks_off()
        axes.axhline(0, color="black", linewidth=0.6)
        counts = {len(table["seeds"]) for table in tables_of(recorded, longer)}
        seeds = " or ".join(seeds_words(count) for count in sorted(counts))
        axes.set(
            title=f"Routers at several lengths: fair scale, {seeds}",
            xlabel="steps of training, each with its own decay of the rate",
            ylabel="loss minus the dense twin's\n(nats per token; bar: 95 % interval)",
        )
        legend(figure, [*drawn_arms.values()], "", lines=True)
        foot(figure, longer)
        seaborn.despine(figure)
    return figure


def output_scale(recorded: Recorded) -> Figure:
    """Loss against the output scale at the start, minus the dense twin's at the fair scale (1): a
    line an arm, the 95 % interval as a bar, a large ring where the arm is as written."""
    with sheet(16, 9) as figure:
        axes = figure.subplots()
        keys, shown = keys_of(recorded), [0.0]
        for arm, key in zip(recorded["arms"].values(), keys, strict=True):
            points = sorted(arm["points"], key=lambda point: point["scale"])
            gaps, written = [p["minus_dense"] for p in points], arm["as_written"]
            means = [gap["mean"] for gap in gaps]
            several = gaps[0]["low"] is not None
            bars = [gap["high"] - gap["mean"] for gap in gaps] if several else None
            scales = [point["scale"] for point in points]
            axes.errorbar(scales, means, yerr=bars, markersize=4, elinewidth=1, **marked(key))
            ring = marked(key) | {"marker": "o", "markerfacecolor": "none"}
            axes.plot(written["scale"], written["minus_dense"]["mean"], markersize=10, **ring)
            shown += [value for point in (*points, written) for value in reach(point)]
        axes.set_ylim(padded(shown))
        axes.set_xscale("log", base=2)
        axes.set_xticks(recorded["scales"], [scale_words(s) for s in recorded["scales"]])
        axes.minorticks_off()
        axes.axhline(0, color="black", linewidth=0.6)
        axes.axvline(1, color="black", linewidth=0.6, dashes=(3, 3))
        seeds = seeds_words(len(recorded["seeds"]))
        axes.set(
            title=f"Loss against the output scale: {recorded['steps']:,} steps, {seeds}",
            xlabel="output scale at the start (1: the fair scale; ring: as written)",
            ylabel=f"loss minus the dense twin's at scale 1\n(nats per token; {BAR} {seeds})",
        )
        legend(figure, keys, "", lines=True)
        foot(figure, recorded)
        seaborn.despine(figure)
    return figure
