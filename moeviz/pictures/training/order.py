"""Whether a short training tells the order of a longer one: each arm's rank in both."""

from __future__ import annotations

from moeviz.pictures.plot import Key, legend
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten
from moeviz.pictures.training.arms import (
    DENSE,
    DENSE_ALL,
    FAIR,
    LONG,
    Recorded,
    losses,
    origin,
    seeds_words,
    sentence_case,
    table_of,
)

WIDTH, TOP, ROW = 560.0, 60.0, 22.0
LEFT, RIGHT = 248.0, 392.0
FAR = 5  # places: a move that a line shows in colour
MOVES = (
    Key(f"up by {FAR} places or more", "#0072b2", width=2.5),
    Key(f"down by {FAR} places or more", "#d55e00", "7 3", width=2.5),
    Key("less", "#888888", width=1),
)
COLUMNS = ("arm", "rank, short", "rank, long", "places up", "loss, short", "loss, long")


def order(recorded: Recorded) -> Picture:
    """The arms of equal FLOPs by rank after the short training and after the long one, at the fair
    scale, lowest loss on top, an arm a line."""
    short, long = table_of(recorded, FAIR), table_of(recorded, LONG)
    arms = [arm for arm in short["arms"] if arm in long["arms"] and arm != DENSE_ALL]
    seeds = min(len(short["seeds"]), len(long["seeds"]))
    loss = {
        arm: [sum(losses(table, arm)[:seeds]) / seeds for table in (short, long)] for arm in arms
    }
    ranks = [sorted(arms, key=lambda arm: loss[arm][i]) for i in (0, 1)]
    place = {arm: (ranks[0].index(arm), ranks[1].index(arm)) for arm in arms}
    up = {arm: first - second for arm, (first, second) in place.items()}
    bottom = TOP + ROW * len(arms)
    summary = _summary(recorded, short, long, place, up)
    svg = Svg(WIDTH, bottom + 74, "The order of a short training and of a longer one", summary)
    svg.text(0, 16, origin(recorded, f"fair scale, {seeds_words(seeds)}"), fill=MUTED)
    for x, anchor, table in ((LEFT, "end", short), (RIGHT, "start", long)):
        svg.text(x, 44, f"after {table['steps']:,} steps", anchor=anchor, bold=True)
    for arm in arms:
        first, second = (TOP + (at + 0.5) * ROW for at in place[arm])
        move = MOVES[0 if up[arm] >= FAR else 1 if up[arm] <= -FAR else 2]
        tip = f"{arm}: place {place[arm][0] + 1}, then place {place[arm][1] + 1}"
        with svg.thing(arm, move.name, tip=tip):
            svg.polyline(
                [(LEFT + 34, first), (RIGHT - 34, second)],
                stroke=INK if arm == DENSE else move.colour, width=move.width, dash=move.dash,
            )  # fmt: skip
            bold = arm == DENSE
            svg.text(LEFT, first + 4, arm, anchor="end", bold=bold)
            svg.text(LEFT + 28, first + 4, f"{place[arm][0] + 1}", anchor="end", fill=MUTED)
            svg.text(RIGHT - 28, second + 4, f"{place[arm][1] + 1}", fill=MUTED)
            # The paper in brackets stands on the left.
            svg.text(RIGHT, second + 4, shorten(arm.partition(" (")[0], 26), bold=bold)
    legend(svg, 2, bottom + 22, MOVES, fill=MUTED, down=20, kin=True)
    rows = (
        (
            arm,
            place[arm][0] + 1,
            place[arm][1] + 1,
            f"{up[arm]:+d}",
            *(f"{v:.3f}" for v in loss[arm]),
        )
        for arm in ranks[1]
    )
    return svg.picture(COLUMNS, rows)


def _summary(
    recorded: Recorded,
    short: Recorded,
    long: Recorded,
    place: dict[str, tuple[int, int]],
    up: dict[str, int],
) -> str:
    every, upper = (rho_words(recorded["order"][part]) for part in ("all", "upper_half"))
    seeds = seeds_words(min(len(short["seeds"]), len(long["seeds"])))
    far = max(up, key=lambda arm: abs(up[arm]))
    first, second = (at + 1 for at in place[far])
    moved = f"{far} moves furthest, from place {first} to place {second}."
    return (
        f"Fair scale, {short['steps']:,} steps against {long['steps']:,} steps, {seeds}. "
        f"Spearman's rank correlation of the two orders is {every}. "
        f"Within the better half after the short training it is {upper}. "
        f"{sentence_case(moved) if up[far] else 'No arm changes its place.'}"
    )


def rho_words(correlation: Recorded) -> str:
    """ "0.82 (95 % interval 0.80 to 0.86)"."""
    words = f"{correlation['rho']:.2f}"
    if correlation["low"] is None:
        return f"{words} (one seed, so no interval)"
    return f"{words} (95 % interval {correlation['low']:.2f} to {correlation['high']:.2f})"
