"""Recorded runs: what a limit of places costs in loss, and what the later tokens are worth."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import Scale, padded, x_axis
from moeviz.pictures.plot import Figure, Key, about, dots, extent, legend, mean_sd
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.records.metrics import over_seeds

WIDTH, TOP, ROW = 900, 62.0, 40.0
FREE, BOUND = "#0072b2", "#d55e00"
NO_LIMIT, TOKEN_CHOICE = "no limit", "token choice"
KINDS = ("loss_with_later_tokens", "loss_from_prefixes")


def limits(recorded: dict[str, Any]) -> Picture:
    """Validation loss of a recorded `experiment capacity` minus that without a limit, seed by seed:
    evaluated without a limit (circles), and under the limit of training (squares)."""
    arms = {name: arm for name, arm in recorded["limits"].items() if name != NO_LIMIT}
    kinds = ("validation_loss", "validation_loss_limited")
    pairs = {n: [arm[f"{kind}_minus_no_limit"] for kind in kinds] for n, arm in arms.items()}
    drops = [f"{arm['drop_rate']['mean']:.1%}" for arm in arms.values()]
    svg = Svg(WIDTH, TOP + ROW * len(arms) + 50, "What a limit costs", _of_limits(recorded, pairs))
    x = Scale(*padded([0.0, *_ends(pairs)]), 206, 800)
    label = "validation loss minus that without a limit (nats per token): left is better"
    x_axis(svg, x, TOP + ROW * len(arms), label, top=TOP, zero=True)
    names = "evaluated without a limit", "evaluated under its own limit"
    _rows(svg, recorded, x, pairs, names, ("dropped", drops))
    columns = ("limit", "no limit at evaluation", "own limit at evaluation", "dropped in training")
    cells = zip(pairs, (map(spread, two) for two in pairs.values()), drops, strict=True)
    return svg.picture(columns, ((name, *two, drop) for name, two, drop in cells))


def leak(recorded: dict[str, Any]) -> Picture:
    """Loss of a recorded `experiment capacity` with the whole text at hand (circles) and from each
    prefix alone (squares), for token choice and for expert choice with several pools."""
    arms = recorded["leaks"]
    pairs = {name: [arm[kind] for kind in KINDS] for name, arm in arms.items()}
    worth = [spread(arm["worth_of_later_tokens"]) for arm in arms.values()]
    bottom = TOP + ROW * len(arms)
    svg = Svg(WIDTH, bottom + 50, "What the later tokens are worth", _of_leaks(recorded))
    x = Scale(*padded(_ends(pairs)), 206, 700)
    x_axis(svg, x, bottom, "loss (nats per token): left is better", top=TOP)
    base = x(arms[TOKEN_CHOICE]["loss_from_prefixes"]["mean"])
    svg.line(base, TOP, base, bottom, stroke=INK, dash="2 3")
    names = "later tokens at hand", "each token from those before it"
    _rows(svg, recorded, x, pairs, names, ("their worth", worth))
    columns = ("router", "with later tokens", "from prefixes", "worth of the later tokens")
    cells = zip(pairs.items(), worth, strict=True)
    rows = ((name, *(f"{figure['mean']:.3f}" for figure in two), w) for (name, two), w in cells)
    return svg.picture(columns, rows)


def _ends(pairs: dict[str, list[Figure]]) -> list[float]:
    return extent(figure for two in pairs.values() for figure in two)


def _rows(
    svg: Svg, recorded: dict[str, Any], x: Scale, pairs: dict[str, list[Figure]],
    names: tuple[str, str], last: tuple[str, list[str]],
) -> None:  # fmt: skip
    """Two figures a row, the first a circle and the second a square, and a last column of text."""
    svg.text(0, 16, about(recorded, recorded["limits"][NO_LIMIT]["validation_loss"]), fill=MUTED)
    kinds = list(zip(names, (FREE, BOUND), ("circle", "square"), (-8, 8), strict=True))
    legend(svg, 204, 46, (Key(n, colour, mark=m, width=0) for n, colour, m, _ in kinds))
    svg.text(WIDTH, 46, last[0], anchor="end", bold=True)
    for i, ((name, two), text) in enumerate(zip(pairs.items(), last[1], strict=True)):
        y = TOP + (i + 0.5) * ROW
        svg.text(196, y + 4, name, anchor="end", bold=name == TOKEN_CHOICE)
        for figure, (_, colour, shape, shift) in zip(two, kinds, strict=True):
            dots(svg, x, y + shift, figure, colour, shape)
        svg.text(WIDTH, y + 4, text, anchor="end")


# What was seen, in words that the figures decide.


def seen(figure: Figure) -> bool:
    """Whether a paired difference stands out: its mean lies further from zero than one standard
    deviation over seeds, and every seed has its sign."""
    values = figure["values"]
    one_sign = all(v > 0 for v in values) or all(v < 0 for v in values)
    return figure["sd"] is not None and one_sign and abs(figure["mean"]) > figure["sd"]


def spread(figure: Figure) -> str:
    return mean_sd(figure, 3, "+")


def difference(a: Figure, b: Figure) -> Figure:
    """a minus b, seed by seed."""
    values = [x - y for x, y in zip(a["values"], b["values"], strict=True)]
    return over_seeds(values)


def effects(figures: dict[str, Figure]) -> str:
    """Which differences are above zero, which below, and which are not seen, with their sizes."""
    groups: dict[str, list[str]] = {"higher": [], "lower": [], "no difference seen": []}
    for name, figure in figures.items():
        side = "higher" if figure["mean"] > 0 else "lower"
        group = side if seen(figure) else "no difference seen"
        groups[group].append(f"{name} ({spread(figure)})")
    return "; ".join(f"{group}: {', '.join(names)}" for group, names in groups.items() if names)


def _of_limits(recorded: dict[str, Any], pairs: dict[str, list[Figure]]) -> str:
    free = effects({name: two[0] for name, two in pairs.items()})
    bound = effects({name: two[1] for name, two in pairs.items()})
    arms, kind = recorded["limits"], "validation_loss_limited"
    base = arms["factor 1"][kind]
    names = ("by probability", "batch prioritised")
    orders = effects({name: difference(arms[f"factor 1, {name}"][kind], base) for name in names})
    return (
        "Validation loss against training without a limit (nats per token; smaller than its "
        f"spread, or of either sign, is not seen). Evaluated without a limit, {free}. Evaluated "
        f"under the limit of training, {bound}. At factor 1 under its limit, against placing by "
        f"position, {orders}."
    )


def _of_leaks(recorded: dict[str, Any]) -> str:
    arms = recorded["leaks"]
    base, pools = arms[TOKEN_CHOICE], {n: a for n, a in arms.items() if n != TOKEN_CHOICE}
    worth = base["worth_of_later_tokens"]
    same = all(abs(v) < 5e-4 for v in worth["values"])
    at_hand, alone = (
        effects({n: difference(a[kind], base[kind]) for n, a in pools.items()}) for kind in KINDS
    )
    return (
        f"Token choice has {'the same' if same else 'another'} loss with and without the later "
        f"tokens ({spread(worth)} nats per token). Expert choice against token choice, with the "
        f"later tokens at hand, {at_hand}; from prefixes alone, {alone}. Loss from prefixes "
        "against loss with the later tokens, "
        f"{effects({n: a['worth_of_later_tokens'] for n, a in pools.items()})}."
    )
