"""Routers that compare tokens with each other: their loss hangs on which tokens stand together."""

from __future__ import annotations

from moeviz.pictures.axes import x_axis
from moeviz.pictures.plot import Key, legend, mark, row
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.pictures.training.arms import (
    DENSE,
    FAIR,
    Judged,
    Recorded,
    axis,
    counted,
    gap_tip,
    judged,
    lies,
    losses,
    origin,
    sentence_case,
    setting_words,
    table_of,
)

WIDTH, TOP, ROW = 560.0, 76.0, 26.0
NAME, PLOT = 206.0, (214.0, 336.0)
MIXED = Key("domains mixed, as in training", "#0072b2", mark="circle", width=0)
# The other pools and the right edges of their columns.
POOLS = {
    "domain": (Key("one domain at a time", "#d55e00", mark="square", width=0), 396.0),
    "sequence": (Key("one sequence at a time", "#009e73", mark="diamond", width=0), 506.0),
}
COLUMNS = (
    "arm", "mixed, minus dense", "domain minus mixed", "domain's verdict",
    "sequence minus mixed", "sequence's verdict",
)  # fmt: skip


def pools(recorded: Recorded) -> Picture:
    """The same trained models, evaluated on the same text in other pools of tokens: only routers
    that compare tokens outside training too can tell the difference."""
    table = table_of(recorded, FAIR)
    arms = [arm for arm, figures in table["arms"].items() if figures.get("pools")]
    change = judged(
        {
            (arm, pool): (table["arms"][arm]["pools"][pool]["values"], losses(table, arm))
            for arm in arms
            for pool in POOLS
        }
    )
    arms.sort(key=lambda arm: -abs(change[arm, "domain"].gap.mean))
    dense = table["arms"][DENSE]["loss"]["mean"]
    mixed = {arm: table["arms"][arm]["loss"]["mean"] - dense for arm in arms}
    other = {place: mixed[place[0]] + one.gap.mean for place, one in change.items()}
    bottom = TOP + ROW * len(arms)
    svg = Svg(WIDTH, bottom + 110, "The same models in other pools", _summary(table, change))
    svg.text(0, 16, origin(recorded, setting_words(table)), fill=MUTED)
    x = axis((*mixed.values(), *other.values()), PLOT)
    label = "loss minus the dense twin's (nats per token)"
    x_axis(svg, x, bottom, label, top=TOP - 6, ticks=x.ticks(4), zero=True)
    for pool, (_, edge) in POOLS.items():
        svg.text(edge, 44, f"one {pool}", anchor="end", bold=True)
        svg.text(edge, 62, "minus mixed", anchor="end", bold=True)
    for i, arm in enumerate(arms):
        y = TOP + (i + 0.5) * ROW
        places = [x(value) for value in (mixed[arm], *(other[arm, pool] for pool in POOLS))]
        tip = f"{arm}, {MIXED.name}: {mixed[arm]:+z.3f} nats per token to the dense twin"
        with row(svg, y, ROW, arm, MIXED.name, tip=tip):
            svg.text(NAME, y + 4, arm, anchor="end")
            svg.line(min(places), y, max(places), y, width=1.5)
            mark(svg, MIXED.mark, places[0], y, MIXED.colour, 4.5)
        for (pool, (key, edge)), place in zip(POOLS.items(), places[1:], strict=True):
            one = change[arm, pool]
            bold = one.verdict != "open"
            with svg.thing(arm, key.name, tip=gap_tip(f"{arm}, one {pool} minus mixed", one)):
                mark(svg, key.mark, place, y, key.colour, 4.5)
                svg.text(edge, y + 4, f"{one.gap.mean:+z.3f}", anchor="end", bold=bold)
                svg.text(edge + 6, y + 4, one.verdict, bold=bold)
    keys = (MIXED, *(key for key, _ in POOLS.values()))
    legend(svg, 2, bottom + 62, keys, fill=MUTED, down=20, kin=True)
    rows = (
        (
            arm, f"{mixed[arm]:+z.3f}",
            *(words for pool in POOLS for words in _cells(change[arm, pool])),
        )
        for arm in arms
    )  # fmt: skip
    return svg.picture(COLUMNS, rows)


def _cells(one: Judged) -> tuple[str, str]:
    return f"{one.gap.mean:+z.3f}", one.verdict


def _summary(table: Recorded, change: dict[tuple[str, str], Judged]) -> str:
    sentences = [f"{sentence_case(setting_words(table))}."]
    for pool, (key, _) in POOLS.items():
        of_pool = {arm: one for (arm, which), one in change.items() if which == pool}
        moved = sum(one.verdict != "open" for one in of_pool.values())
        most = max(of_pool, key=lambda arm: abs(of_pool[arm].gap.mean))
        sentences += [
            f"With {key.name}, another loss than in mixed batches is shown for "
            f"{counted(moved, len(of_pool))} routers.",
            f"The largest difference is that of {most}: {lies(of_pool[most], 'mixed')}.",
        ]
    return " ".join(sentences)
