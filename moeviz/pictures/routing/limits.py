"""Recorded runs: what a limit of places costs in loss, and what the later tokens are worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Scale, Svg

WIDTH = 900
FREE, BOUND = "#0072b2", "#d55e00"
NO_LIMIT, TOKEN_CHOICE = "no limit", "token choice"

Figure = dict[str, Any]


def limits(recorded: dict[str, Any]) -> Picture:
    """Validation loss of a recorded `experiment capacity` minus that without a limit, seed by seed:
    evaluated without a limit (circles), and under the limit of training (squares)."""
    arms = {name: arm for name, arm in recorded["limits"].items() if name != NO_LIMIT}
    pairs = {
        name: [
            arm[f"{kind}_minus_no_limit"] for kind in ("validation_loss", "validation_loss_limited")
        ]
        for name, arm in arms.items()
    }
    summary = _of_limits(recorded, pairs)
    top, row = 62.0, 40.0
    bottom = top + row * len(arms)
    svg = Svg(WIDTH, bottom + 50, "What a limit costs", summary)
    svg.text(0, 16, _provenance(recorded), fill=MUTED)
    x = _reach([figure for two in pairs.values() for figure in two], 800, zero=True)
    for value in x.ticks(5):
        svg.line(x(value), top, x(value), bottom, stroke=RULE, width=0.5)
        svg.text(x(value), bottom + 17, f"{value:g}", anchor="middle", fill=MUTED)
    svg.line(x(0), top, x(0), bottom, stroke=INK, width=1.5)
    svg.text(
        (x.start + x.end) / 2, bottom + 38,
        "validation loss minus that without a limit (nats per token): left is better",
        anchor="middle",
    )  # fmt: skip
    svg.circle(210, 42, 4, FREE)
    svg.text(220, 46, "evaluated without a limit")
    svg.rect(396, 38, 8, 8, BOUND)
    svg.text(410, 46, "evaluated under its own limit")
    svg.text(WIDTH, 46, "dropped", anchor="end", bold=True)
    for i, (name, two) in enumerate(pairs.items()):
        y = top + (i + 0.5) * row
        svg.text(196, y + 4, name, anchor="end")
        for figure, colour, shift in zip(two, (FREE, BOUND), (-8, 8), strict=True):
            _spread(svg, x, y + shift, figure, colour)
        svg.text(WIDTH, y + 4, f"{arms[name]['drop_rate']['mean']:.1%}", anchor="end")
    columns = ("limit", "no limit at evaluation", "own limit at evaluation", "dropped in training")
    rows = tuple(
        (name, spread(two[0]), spread(two[1]), f"{arms[name]['drop_rate']['mean']:.1%}")
        for name, two in pairs.items()
    )
    return Picture(svg.close(), summary, columns, rows)


def leak(recorded: dict[str, Any]) -> Picture:
    """Loss of a recorded `experiment capacity` with the whole text at hand (circles) and from each
    prefix alone (squares), for token choice and for expert choice with several pools."""
    arms = recorded["leaks"]
    kinds = ("loss_with_later_tokens", "loss_from_prefixes")
    summary = _of_leaks(recorded)
    top, row = 62.0, 40.0
    bottom = top + row * len(arms)
    svg = Svg(WIDTH, bottom + 50, "What the later tokens are worth", summary)
    svg.text(0, 16, _provenance(recorded), fill=MUTED)
    x = _reach([arm[kind] for arm in arms.values() for kind in kinds], 700)
    for value in x.ticks(5):
        svg.line(x(value), top, x(value), bottom, stroke=RULE, width=0.5)
        svg.text(x(value), bottom + 17, f"{value:g}", anchor="middle", fill=MUTED)
    base = x(arms[TOKEN_CHOICE]["loss_from_prefixes"]["mean"])
    svg.line(base, top, base, bottom, stroke=INK, dash="2 3")
    svg.text(
        (x.start + x.end) / 2, bottom + 38, "loss (nats per token): left is better",
        anchor="middle",
    )  # fmt: skip
    svg.circle(210, 42, 4, FREE)
    svg.text(220, 46, "later tokens at hand")
    svg.rect(366, 38, 8, 8, BOUND)
    svg.text(380, 46, "each token from those before it")
    svg.text(WIDTH, 46, "their worth", anchor="end", bold=True)
    for i, (name, arm) in enumerate(arms.items()):
        y = top + (i + 0.5) * row
        svg.text(196, y + 4, name, anchor="end", bold=name == TOKEN_CHOICE)
        for kind, colour, shift in zip(kinds, (FREE, BOUND), (-8, 8), strict=True):
            _spread(svg, x, y + shift, arm[kind], colour)
        svg.text(WIDTH, y + 4, spread(arm["worth_of_later_tokens"]), anchor="end")
    columns = ("router", "with later tokens", "from prefixes", "worth of the later tokens")
    rows = tuple(
        (
            name,
            *(f"{arm[kind]['mean']:.3f}" for kind in kinds),
            spread(arm["worth_of_later_tokens"]),
        )
        for name, arm in arms.items()
    )
    return Picture(svg.close(), summary, columns, rows)


def _reach(figures: list[Figure], end: float, *, zero: bool = False) -> Scale:
    """An axis with room for every seed and every bar."""
    ends = [0.0] if zero else []
    for figure in figures:
        mean, sd = figure["mean"], figure["sd"] or 0.0
        ends += [mean - sd, mean + sd, *figure["values"]]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    return Scale(min(ends) - margin, max(ends) + margin, 206, end)


def _spread(svg: Svg, x: Scale, y: float, figure: Figure, colour: str) -> None:
    """A dot for each seed, one standard deviation to both sides as a bar, the mean as a mark."""
    mean, sd = figure["mean"], figure["sd"] or 0.0
    svg.rect(x(mean - sd), y - 5, x(mean + sd) - x(mean - sd), 10, colour, opacity=0.3)
    for value in figure["values"]:
        svg.line(x(value), y - 5, x(value), y + 5, stroke=colour, width=1.5)
    if colour == FREE:
        svg.circle(x(mean), y, 4, colour, stroke=INK)
    else:
        svg.rect(x(mean) - 4, y - 4, 8, 8, colour, stroke=INK)


# What was seen, in words that the figures decide.


def seen(figure: Figure) -> bool:
    """Whether a paired difference stands out: its mean lies further from zero than one standard
    deviation over seeds, and every seed has its sign."""
    values = figure["values"]
    one_sign = all(v > 0 for v in values) or all(v < 0 for v in values)
    return figure["sd"] is not None and one_sign and abs(figure["mean"]) > figure["sd"]


def spread(figure: Figure) -> str:
    """Mean ± standard deviation, the former alone for one seed."""
    sd = "" if figure["sd"] is None else f" ± {figure['sd']:.3f}"
    return f"{round(figure['mean'], 3) + 0.0:+.3f}{sd}"  # no minus before 0.000


def difference(a: Figure, b: Figure) -> Figure:
    """a minus b, seed by seed."""
    values = [x - y for x, y in zip(a["values"], b["values"], strict=True)]
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "values": values}


def effects(figures: dict[str, Figure]) -> str:
    """Which differences are above zero, which below, and which are not seen, with their sizes."""
    groups: dict[str, list[str]] = {"higher": [], "lower": [], "no difference seen": []}
    for name, figure in figures.items():
        group = "no difference seen"
        if seen(figure):
            group = "higher" if figure["mean"] > 0 else "lower"
        groups[group].append(f"{name} ({spread(figure)})")
    return "; ".join(f"{group}: {', '.join(names)}" for group, names in groups.items() if names)


def _provenance(recorded: dict[str, Any]) -> str:
    meta, first = recorded["provenance"], next(iter(recorded["limits"].values()))
    where = [meta[name] for name in ("device", "date") if name in meta]
    seeds = len(first["validation_loss"]["values"])
    return " · ".join([f"{seeds} seeds", f"{recorded['steps']} steps", *where])


def _of_limits(recorded: dict[str, Any], pairs: dict[str, list[Figure]]) -> str:
    free = effects({name: two[0] for name, two in pairs.items()})
    bound = effects({name: two[1] for name, two in pairs.items()})
    arms, kind = recorded["limits"], "validation_loss_limited"
    base = arms["factor 1"][kind]
    orders = effects(
        {
            name: difference(arms[f"factor 1, {name}"][kind], base)
            for name in ("by probability", "batch prioritised")
        }
    )
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
    verdict: dict[str, str] = {}
    for kind in ("loss_with_later_tokens", "loss_from_prefixes"):
        verdict[kind] = effects({n: difference(a[kind], base[kind]) for n, a in pools.items()})
    return (
        f"Token choice has {'the same' if same else 'another'} loss with and without the later "
        f"tokens ({spread(worth)} nats per token). Expert choice against token choice, with the "
        f"later tokens at hand, {verdict['loss_with_later_tokens']}; from prefixes alone, "
        f"{verdict['loss_from_prefixes']}. Loss from prefixes against loss with the later tokens, "
        f"{effects({n: a['worth_of_later_tokens'] for n, a in pools.items()})}."
    )
