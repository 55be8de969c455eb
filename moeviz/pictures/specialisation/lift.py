"""Which domain likes which expert: lift as heat, beside what chance or tokens alone would show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from moeviz.pictures.axes import LogScale, Scale, axes, short
from moeviz.pictures.plot import Key, Stop, curve, heading, legend, spots, track
from moeviz.pictures.specialisation.domain_table import Head, domain_table, table_size
from moeviz.pictures.svg import INK, Picture, Svg, shorten
from moeviz.records.domain_look import Look, Sampled
from moeviz.records.specialists import EFFECT, SPECIALIST
from moeviz.words import percent

PEAK = 3.0  # the lift from which on a cell is as bright as can be
SHUFFLED, TOKENS_ALONE = "shuffled sequences", "token ids alone"
BESIDE = (SHUFFLED, TOKENS_ALONE)
KEYS = {
    "by_chance": Key("as many in shuffled sequences", "#6e6e6e", dash="5 4", mark="ring"),
    "likings": Key(f"lift of {EFFECT:g} or more", "#0072b2", mark="circle"),
    "told": Key("of them beyond chance", "#d55e00", mark="square"),
}


def lift_table(
    svg: Svg, lift_DE: np.ndarray, domains: Sequence[str], head: Head, top: float,
    framed_DE: np.ndarray | None = None, tips: Sequence[Sequence[str]] | None = None,
) -> None:  # fmt: skip
    """framed: cells with a frame, none where not given; tips and top: as of domain_table."""
    if tips is None:
        tips = [[f"lift {lift:.2f}" for lift in row] for row in lift_DE]
    framed_DE = np.zeros(lift_DE.shape, bool) if framed_DE is None else framed_DE
    ends = "lift 0", f"{PEAK:g} or more"
    domain_table(svg, lift_DE, domains, head, peak=PEAK, ends=ends, framed_DE=framed_DE, tips=tips,
                 top=top)  # fmt: skip


def specialisation(look: Look, samples: Sequence[Sampled], *, beside: str = SHUFFLED) -> Picture:
    """One layer from a sample: the lift, what it is beside, and the likings by size of sample."""
    domains, lift = look.domains, look.lift
    whose = f" of {shorten(look.model, 32)}" if look.model else ""
    head = Head(
        "Which kind of text likes which expert?",
        f"layer {look.layer}{whose}, {look.tokens:,} tokens of each domain · lift 1: no liking · "
        f"framed: {EFFECT:g} or more, beyond chance",
        _finding(look),
    )
    control = look.by_tokens if beside == TOKENS_ALONE else None
    other = _other_head(look, beside)
    top = max(each.top(lift.lift.shape[1]) for each in (head, other))
    size = table_size(lift.lift, top)
    svg = Svg(*size, "Who likes which expert", told_look(look, beside))
    lift_table(svg, lift.lift, domains, head, top, lift.found(), _tips(look))
    table = lift.one_null if control is None else control.lift
    lift_table(svg.beside(*size), table, domains, other, top)
    _sizes(svg.beside(430, 302), samples, look.tokens, lift.lift.size)
    columns = ("domain", "expert", "lift", "shuffled", "sd", "q", "beyond chance")
    rows = (
        (domains[d], e, _number(lift.lift[d, e]), _number(lift.null_mean[d, e]),
         _number(lift.null_sd[d, e]), _number(lift.q_value[d, e], 3),
         "yes" if lift.found()[d, e] else "")
        for d, e in np.ndindex(lift.lift.shape)
    )  # fmt: skip
    return svg.picture(columns, (*rows, *_further(look)))


def _further(look: Look) -> list[tuple[object, ...]]:
    """What else the sample says, each figure beside its null; rows of the table alone."""
    lift, experts = look.lift, look.lift.lift.shape[1]
    rows: list[tuple[object, ...]] = [
        (f"experts with {percent(SPECIALIST)} or more from one domain", "",
         round(lift.specialists * experts) if experts else 0,
         f"{experts * lift.null_specialists:.1f}", "", "", ""),
        ("what experts tell of the domain", "", percent(look.information.normalised, 1),
         percent(look.information.normalised_null, 1), "", "", ""),
    ]  # fmt: skip
    if look.halves is not None:
        name = f"of {look.halves.first} likings of one half, in the other too"
        rows.append((name, "", look.halves.both, f"{look.halves.by_chance:.1f}", "", "", ""))
    return rows


def _finding(look: Look) -> str:
    """How many likings there are, and how many of them are more than chance."""
    lift = look.lift
    likings, beyond = int(lift.likings.sum()), int(lift.found().sum())
    return (
        f"{likings} of {lift.lift.size} lifts are {EFFECT:g} or more. Shuffled sequences show "
        f"{lift.null_likings:.1f}: {beyond or 'none'} of the {likings} "
        f"{'is' if beyond == 1 else 'are'} beyond chance."
    )


def _other_head(look: Look, beside: str) -> Head:
    """What the second table is, and how it is to be read."""
    control = look.by_tokens if beside == TOKENS_ALONE else None
    if control is not None:
        return Head(
            "From token ids alone",
            "as if experts depended on the token and no context: where this table is like "
            f"the other one, tokens explain it · {percent(control.seen)} of the tokens count, "
            "those that are in both halves",
        )
    words = "whole sequences are dealt out anew among the domains: what is large here is noise"
    if _single(look):
        words = (
            "each domain is one sequence here, so a shuffle only gives the rows other names: their "
            "values are the other table's, and cannot tell a liking from noise"
        )
    if beside == TOKENS_ALONE:
        words = f"token ids need two sequences of each domain; {words}"
    return Head("With shuffled sequences", words)


def _number(value: np.ndarray, decimals: int = 2) -> str:
    return "" if np.isnan(value) else f"{value:.{decimals}f}"


def _tips(look: Look) -> list[list[str]]:
    lift = look.lift
    return [
        [
            f"lift {lift.lift[d, e]:.2f}, shuffled {lift.null_mean[d, e]:.2f} ± "
            f"{lift.null_sd[d, e]:.2f}, q {lift.q_value[d, e]:.3f}"
            for e in range(lift.lift.shape[1])
        ]
        for d in range(len(look.domains))
    ]


def _sizes(svg: Svg, samples: Sequence[Sampled], tokens: int, cells: int) -> None:
    """Likings by the size of the sample, and a knob to drag along the sizes."""
    heading(svg, "How many likings a sample shows", f"of {cells} pairs of a domain and an expert")
    legend(svg, 62, 60, KEYS.values(), down=18)
    sizes = [sample.tokens for sample in samples]
    x = LogScale(sizes[0], max(sizes[-1], 2 * sizes[0]), 62, 410)
    top = max(max(s.likings, s.by_chance, s.told) for s in samples)
    y = Scale(0, max(4, 1.05 * top), 230, 116)
    ticks = [size for i, size in enumerate(sizes) if i % 2 == (len(sizes) - 1) % 2]
    axes(svg, x, y, x_ticks=ticks, x_form=short, y_ticks=y.ticks(4))
    for name, key in KEYS.items():
        values = [float(getattr(sample, name)) for sample in samples]
        points = curve(svg, x, y, zip(sizes, values, strict=True), key, marks=4)
        tips = [f"{sample.tokens:,} tokens: {value:.3g} {key.name}"
                for sample, value in zip(samples, values, strict=True)]  # fmt: skip
        spots(svg, [key.name], points, tips)
    svg.line(x(tokens), 116, x(tokens), 230, stroke=INK, dash="2 3")
    stops = [Stop(x(size), f"{size:,} tokens of each domain", {"tokens": size}) for size in sizes]
    track(svg, 262, stops, x(tokens))
    svg.text(410, 294, "tokens of each domain (drag)", anchor="end")


def told_look(look: Look, beside: str = SHUFFLED) -> str:
    """How many likings the sample shows, beside chance; of token ids where they stand beside."""
    lift = look.lift
    single = " (each domain is one sequence, whose names they swap)" * _single(look)
    parts = [
        f"Layer {look.layer}, {look.tokens:,} tokens of each domain: {int(lift.likings.sum())} "
        f"likings, lifts of {EFFECT:g} or more",
        f"Shuffled sequences show {lift.null_likings:.1f}{single}, and {int(lift.found().sum())} "
        "are beyond chance",
    ]
    control = look.by_tokens if beside == TOKENS_ALONE else None
    if control is not None and not math.isnan(control.explained):
        parts.append(f"Token ids alone make {percent(control.explained)} of what experts tell")
    return ". ".join(parts) + "."


def _single(look: Look) -> bool:
    """Whether each domain is one sequence: then every shuffle gives the same table, its rows in
    another order."""
    return look.sequences == len(look.domains)


def lift_tables(tables: Mapping[str, tuple[Sequence[str], np.ndarray]], *, summary: str) -> Picture:
    """Any tables of lifts beside each other, (domains, lift_DE) by the name above each."""
    heads = [Head(name, "1 is no liking") for name in tables]
    tops = [h.top(t.shape[1]) for h, (_, t) in zip(heads, tables.values(), strict=True)]
    sizes = [
        table_size(lift_DE, top) for top, (_, lift_DE) in zip(tops, tables.values(), strict=True)
    ]
    svg = Svg(*sizes[0], "Lifts side by side", summary)
    for number, (domains, lift_DE) in enumerate(tables.values()):
        part = svg.beside(*sizes[number]) if number else svg
        lift_table(part, lift_DE, domains, heads[number], tops[number])
    rows = (
        (name, domains[d], e, _number(lift_DE[d, e]))
        for name, (domains, lift_DE) in tables.items()
        for d, e in np.ndindex(lift_DE.shape)
    )
    return svg.picture(("table", "domain", "expert", "lift"), rows)
