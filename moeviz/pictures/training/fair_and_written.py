"""What the output scale does to every router: each at the fair scale and as it is written, at the
rate that was chosen there."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from moeviz.pictures.axes import x_axis
from moeviz.pictures.over_seeds import recorded_gap
from moeviz.pictures.plot import Key, legend, mark, paragraph, row
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.pictures.training.arms import (
    FAIR,
    WRITTEN,
    Judged,
    Recorded,
    axis,
    counted,
    gap_tip,
    judged,
    lies,
    losses,
    minus_dense,
    origin,
    seeds_words,
    sentence_case,
    setting_words,
    sparse,
    table_of,
)

WIDTH, TOP, ROW = 560.0, 76.0, 24.0
NAME, PLOT, CHANGE, VERDICT = 246.0, (256.0, 420.0), 500.0, 512.0
SCALES = (
    Key("as written", "#6e6e6e", mark="ring", width=0),
    Key("fair scale", "#0072b2", mark="circle", width=0),
)
STAR, OTHER_RATE = " *", "* at another learning rate, too: each scale had its own choice"
COLUMNS = (
    "arm", "as written, minus dense", "fair scale, minus dense", "fair minus as written",
    "95 % interval", "verdict",
)  # fmt: skip


def fair_and_written(recorded: Recorded) -> Picture:
    """Every router twice, joined by a line: its loss minus the dense twin's as written and at the
    fair scale. Those that gain most by the fair scale stand first."""
    written, fair = table_of(recorded, WRITTEN), table_of(recorded, FAIR)
    arms = compared_arms(recorded)
    both = {arm: (minus_dense(written, arm), minus_dense(fair, arm)) for arm in arms}
    # The dense twin is the same at both scales, so a router's own losses are compared.
    change = changes(recorded)
    arms.sort(key=lambda arm: change[arm].gap.mean)
    bottom = TOP + ROW * len(arms)
    title = "The same routers, as written and at the fair scale"
    summary = _summary(written, fair, arms, change)
    turned = other_rates(recorded)
    svg = Svg(WIDTH, bottom + 90, title, " ".join([summary, *told_rates(recorded)]))
    words = f"{setting_words(fair)} · {setting_words(written)}"
    paragraph(svg, 0, 16, textwrap.wrap(origin(recorded, words), 84), 14, fill=MUTED)
    x = axis((one.gap.mean for two in both.values() for one in two), PLOT)
    label = "loss minus the dense twin's (nats per token)"
    x_axis(svg, x, bottom, label, top=TOP - 6, ticks=x.ticks(4), zero=True)
    svg.text(CHANGE, 44, "fair minus", anchor="end", bold=True)
    svg.text(CHANGE, 62, "as written", anchor="end", bold=True)
    svg.text(VERDICT, 62, "verdict", bold=True)
    for i, arm in enumerate(arms):
        y = TOP + (i + 0.5) * ROW
        tip = gap_tip(f"{arm}, fair minus as written", change[arm])
        with row(svg, y, ROW, arm, tip=tip):
            starred = arm + STAR * (recorded["arms"][arm]["family"] in turned)
            svg.text(NAME, y + 4, starred, anchor="end")
            places = [x(one.gap.mean) for one in both[arm]]
            svg.line(places[0], y, places[1], y, stroke="#0072b2", width=2)
            verdict = change[arm].verdict
            svg.text(CHANGE, y + 4, f"{change[arm].gap.mean:+z.3f}", anchor="end")
            svg.text(VERDICT, y + 4, verdict, bold=verdict != "open")
        for key, place, one in zip(SCALES, places, both[arm], strict=True):
            with svg.thing(arm, key.name, tip=gap_tip(f"{arm}, {key.name}, minus dense", one)):
                mark(svg, key.mark, place, y, key.colour, 4.5)
    legend(svg, 2, bottom + 62, SCALES, fill=MUTED, kin=True)
    if turned:
        svg.text(2, bottom + 82, OTHER_RATE, fill=MUTED)
    rows = ((arm, *_cells(*both[arm], change[arm])) for arm in arms)
    return svg.picture(COLUMNS, rows)


def compared_arms(recorded: Recorded) -> list[str]:
    """The routers that both settings have."""
    written = table_of(recorded, WRITTEN)["arms"]
    return [arm for arm in sparse(table_of(recorded, FAIR)) if arm in written]


def changes(recorded: Recorded) -> dict[str, Judged]:
    """By router its loss at the fair scale minus that as written, all judged as one table."""
    written, fair = table_of(recorded, WRITTEN), table_of(recorded, FAIR)
    pairs = {a: (losses(fair, a), losses(written, a)) for a in compared_arms(recorded)}
    found = judged(pairs)
    return {
        arm: replace(one, gap=recorded_gap(recorded["changes"][arm], one.gap.values))
        for arm, one in found.items()
    }


def _cells(written: Judged, fair: Judged, change: Judged) -> tuple[str, ...]:
    gap = change.gap
    return (
        f"{written.gap.mean:+z.3f}", f"{fair.gap.mean:+z.3f}", f"{gap.mean:+z.3f}",
        f"{gap.low:+z.3f} to {gap.high:+z.3f}" if len(gap.values) > 1 else "", change.verdict,
    )  # fmt: skip


def other_rates(recorded: Recorded) -> dict[str, tuple[Recorded, Recorded]]:
    """The families for which another rate was chosen as written than at the fair scale: both
    choices, as runs/routers.json has them."""
    written, fair = (recorded["rates"].get(scale, {}) for scale in ("as written", "fair"))
    pairs = {name: (one, fair[name]) for name, one in written.items() if name in fair}
    return {name: two for name, two in pairs.items() if two[0]["chosen"] != two[1]["chosen"]}


def told_rates(recorded: Recorded) -> list[str]:
    """Where more than the scale differs, a sentence a family."""
    return [
        f"In the family “{family}” more than the scale differs: the rate is {_rate(written)} as "
        f"written and {_rate(fair)} at the fair scale."
        for family, (written, fair) in other_rates(recorded).items()
    ]


def _rate(tried: Recorded) -> str:
    """ "0.008, the lowest that was tried,": an end of the grid is no best rate."""
    words = f"{tried['chosen']:g}"
    if not tried["at_edge"]:
        return words
    end = "lowest" if tried["chosen"] == min(tried["grid"]) else "highest"
    return f"{words}, the {end} that was tried,"


def told_change(recorded: Recorded, arm: str) -> str:
    """What the scale changes for one router, in a sentence."""
    one = changes(recorded)[arm]
    return f"{sentence_case(arm)}: the loss at the fair scale is {lies(one, 'as written')}."


def _summary(written: Recorded, fair: Recorded, arms: list[str], change: dict[str, Judged]) -> str:
    """By the changes themselves: a verdict against the dense twin may be another one by more seeds
    alone."""
    lower, higher = (
        [arm for arm in arms if change[arm].verdict == way] for way in ("lower", "higher")
    )
    most = max(arms, key=lambda arm: abs(change[arm].gap.mean))
    seeds = seeds_words(min(len(fair["seeds"]), len(written["seeds"])))
    return (
        f"{fair['steps']:,} steps, {seeds}, rates chosen at each scale. At the fair scale a lower "
        f"loss than as written is shown for {counted(len(lower), len(arms))} routers, a higher one "
        f"for {counted(len(higher))}, and the rest is open. "
        f"The scale changes {most} most: at the fair scale its loss is "
        f"{lies(change[most], 'as written')}."
    )
