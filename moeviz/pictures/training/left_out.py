"""What the loss rises by when shared or chosen experts are left out: `experiment fine_grained`."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import RootScale, x_axis
from moeviz.pictures.over_seeds import interval_words, mean_sd, recorded_gap
from moeviz.pictures.plot import box, heading
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.arms import origin, seeds_words
from moeviz.pictures.training.fine_grained import words_of
from moeviz.pictures.training.standings import DOMAINS

WIDTH, LEFT, RIGHT, TOP, ROW = 560.0, 236.0, 470.0, 60.0, 20.0
TICKS = (0, 0.1, 0.5, 1, 2, 3, 4)
COLUMNS = ("experts", "left out", "rise of the loss", "uneven over domains", *DOMAINS)
# By the record's names, what a row says of them, and its colour.
LEFT_OUT = {
    "shared": ("the shared ones", "#d55e00"),
    "shared, one more chosen for each": ("the shared ones, more chosen", "#d55e00"),
    "as many of its choices, drawn": ("as many of its choices, drawn", "#0072b2"),
    "as many of its choices, its first": ("as many of its choices, its first", "#0072b2"),
    "the same for all, drawn": ("the same for all, drawn", "#6e6e6e"),
    "the same for all, the busiest": ("the same for all, the busiest", "#6e6e6e"),
}
# By the label of a pair: what the rise without the shared experts is compared with.
FIRST = "shared or first"
COMPARED = {
    "shared or drawn": "without as many of each token's own choices, drawn",
    FIRST: "without as many of its first choices",
    "replaced or not": "with as many more chosen in their place",
}
EVENNESS = "evenness"


def left_out(recorded: dict[str, Any]) -> Picture:
    """A bar for each way to leave experts out, of every recorded layer with shared experts."""
    arms = recorded["left_out"]
    height = TOP + sum(26 + ROW * len(LEFT_OUT) for _ in arms) + 44
    told = " ".join(told_left_out(recorded, arm) for arm in arms) or "Nothing is recorded yet."
    svg = Svg(WIDTH, height, "Experts left out", told)
    one = next(iter(arms.values()), None)
    seeds = len(one["shared"]["rise"]["values"]) if one else 0
    note = f"nothing trained again, {seeds_words(seeds)}"
    heading(svg, "The rise of the loss when active experts are left out", origin(recorded, note))
    rises = [
        v for arm in arms.values() for way in _ways(arm).values() for v in way["rise"]["values"]
    ]
    # Square roots: without the shared half of a layer the loss rises by far the most.
    x, y, rows = RootScale(0, max([*rises, 0.1]), LEFT, RIGHT), TOP, []
    for arm, of_arm in arms.items():
        svg.text(0, y + 10, words_of(arm), bold=True)
        y += 18
        for name, way in _ways(of_arm).items():
            words, colour = LEFT_OUT[name]
            rise = way["rise"]
            by_domain = [
                f"{domain} {v:+.3f}" for domain, v in zip(DOMAINS, way["by_domain"], strict=True)
            ]
            told = f"{words}: {mean_sd(rise, 3, '+')} nats per token; {', '.join(by_domain)}"
            with svg.thing(name, tip=f"{words_of(arm)}, {told}"):
                svg.rect(0, y, WIDTH, ROW, "transparent")
                svg.text(LEFT - 8, y + 14, words, anchor="end")
                ends = sorted((x(0), x(rise["mean"])))
                box(svg, ends[0], y + 3, ends[1] - ends[0], ROW - 6, colour, stroke=MUTED,
                    hatched="chosen" in words or "first" in words)  # fmt: skip
                for value in rise["values"]:
                    at = min(max(x(value), LEFT), WIDTH)
                    svg.line(at, y + 3, at, y + ROW - 3, stroke=INK, width=1.5)
                # Beyond the bar and its seeds.
                at = max(x(max(rise["values"])), ends[1]) + 6
                svg.text(min(at, WIDTH - 44), y + 14, f"{rise['mean']:+.3f}", fill=MUTED)
            uneven = mean_sd(way["unevenness"], 2)
            cells = (f"{v:+.3f}" for v in way["by_domain"])
            rows.append((words_of(arm), words, mean_sd(rise, 3, "+"), uneven, *cells))
            y += ROW
        y += 8
    svg.line(x(0), TOP, x(0), y, stroke=INK)
    ticks = [tick for tick in TICKS if tick <= x.high]
    x_axis(
        svg, x, y, "rise of the loss (nats per token), by square roots · tick: a seed", ticks=ticks
    )
    return svg.picture(COLUMNS, rows)


def _ways(arm: dict[str, Any]) -> dict[str, Any]:
    return {name: arm[name] for name in LEFT_OUT}


def told_left_out(recorded: dict[str, Any], arm: str) -> str:
    """How much the loss rises without an arm's shared experts, and what that is beside its
    rivals."""
    of_arm, facts = recorded["left_out"][arm], recorded["arms"][arm]
    pairs = of_arm["pairs"]
    start = (
        f"{words_of(arm)}: without the shared experts the loss rises by "
        f"{of_arm['shared']['rise']['mean']:.3f} nats per token."
    )
    # Whoever loses all of its choices loses its first ones, drawn or not.
    rivals = {
        label: rival
        for label, rival in COMPARED.items()
        if label != FIRST or facts["top_k"] > facts["shared"]
    }
    told = [_told(pairs[label], rival) for label, rival in rivals.items()]
    return " ".join([start, *told, _told_even(pairs[EVENNESS])])


def _told(gap: dict[str, Any], rival: str) -> str:
    ends = interval_words(recorded_gap(gap))
    if gap["verdict"] == "open":
        return (
            f"Whether it differs from that {rival} is open: the difference is "
            f"{gap['mean']:+z.3f} ({ends})."
        )
    way = "less" if gap["verdict"] == "lower" else "more"
    return f"That is {abs(gap['mean']):.3f} {way} than {rival} ({ends})."


def _told_even(gap: dict[str, Any]) -> str:
    ends = interval_words(recorded_gap(gap))
    words = {
        "lower": "Over the domains it is more even than that of the drawn choices",
        "higher": "Over the domains it is less even than that of the drawn choices",
        "open": "Whether it is more even over the domains than that of the drawn choices is open",
    }[gap["verdict"]]
    return f"{words}: their spreads, as shares of the mean, differ by {gap['mean']:+z.3f} ({ends})."
