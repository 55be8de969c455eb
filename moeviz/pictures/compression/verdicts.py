"""Recorded comparisons of recipes as paired differences, and what their verdicts say in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from moeviz.pictures.axes import x_axis
from moeviz.pictures.compression.names import (
    AMOUNTS,
    BITS,
    CHANCE,
    CRITERIA,
    FITTED_RANK,
    HC,
    MERGES,
    RANK,
    REAP,
    REGIMES,
    SHORT,
    TUNED,
    TUNED_WHOLE,
    Figures,
    loss_of,
    spoken,
)
from moeviz.pictures.over_seeds import (
    about,
    gap_cell,
    gap_dots,
    gap_scale,
    mean_sd,
    verdict_keys,
)
from moeviz.pictures.plot import heading, legend, row
from moeviz.pictures.svg import MUTED, Picture, Svg
from moeviz.pictures.training.cures_told import listed
from moeviz.words import percent

WIDTH, TOP, ROW = 560.0, 124.0, 24.0
LEFT, RIGHT = 216.0, 548.0
Row = tuple[str, str, Figures]  # of which group, its own words, the paired difference
# By the rules that experiments.compression wrote before its first run; a claim of each criterion is
# under the first.
HALF = "4"  # of 8 experts
WORTH = "with 4 of 8 experts kept it costs less than chance"
RULES = {
    "REAP beats load": "with 4 kept it costs less, with 6 and with 2 not more",
    "renormalising helps REAP": "with 4 kept it costs less than the first form",
    "merging beats pruning": "with 4 left a way to merge costs less than REAP, and with 6 not more",
    "tuning the router mends": "half of REAP's cost or more goes, beyond the whole model's gain",
    "quantise, do not prune": "INT4 costs less than all with half of the bytes, save INT8",
    "balancing decides": "in another way of balancing REAP costs at least a tenth more or less",
}


def whom(figures: Figures) -> Picture:
    """What pruning by each criterion costs beside pruning by chance, at every number of experts
    that are kept. figures: see experiments.compression."""
    table = figures["judged"]["chance"]
    rows = _by_amount(table, CRITERIA)
    axis = "loss minus that of pruning by chance, nats per token · left is better"
    return _gaps("Whom to prune?", _beats_chance(figures), axis, rows, figures, told_whom(figures))


def merging(figures: Figures) -> Picture:
    """What merging costs beside pruning by REAP."""
    table = figures["judged"]["merging"]
    rows = _by_amount(table, MERGES)
    axis = "loss minus that of pruning by REAP, nats per token · left is better"
    return _gaps(
        "Merge instead?", _beats_pruning(figures), axis, rows, figures, told_merging(figures)
    )


def regimes(figures: Figures) -> Picture:
    """What pruning and merging cost models that were balanced in other ways, beside the way of the
    model that ships."""
    table = figures["judged"]["regimes"]
    rows = [
        (f"balanced by {REGIMES[regime]}", SHORT[name], gap)
        for regime, of_regime in table.items()
        for name, gap in of_regime.items()
    ]
    axis = "cost minus that under a loss for each batch, nats per token"
    held = figures["claims"]["balancing decides"]
    does = "decides what pruning costs" if held else "is not shown to decide it"
    answer = f"Balancing {does}, by the rule written before the runs."
    return _gaps(
        "Does balancing decide who can go?", answer, axis, rows, figures, told_regimes(figures)
    )


def _by_amount(table: Figures, names: Iterable[str]) -> list[Row]:
    """Every way at every number of experts that are kept."""
    amounts = next(iter(table.values()))
    return [(AMOUNTS[kept], SHORT[name], table[name][kept]) for kept in amounts for name in names]


def _gaps(
    title: str, answer: str, axis: str, rows: Sequence[Row], figures: Figures, summary: str
) -> Picture:
    """Rows of paired differences in their groups: a tick a seed, a bar for the interval, the
    verdict as the mark."""
    groups = list(dict.fromkeys(group for group, *_ in rows))
    bottom = TOP + ROW * (len(rows) + len(groups))
    svg = Svg(WIDTH, bottom + 76, title, summary)
    heading(svg, title)
    svg.text(0, 38, answer, bold=True)
    svg.text(0, 57, about(figures, rows[0][2]), fill=MUTED)
    legend(svg, 0, 80, verdict_keys(), across=90, kin=True)
    x = gap_scale((gap for *_, gap in rows), LEFT, RIGHT)
    x_axis(svg, x, bottom, top=TOP - 14, ticks=x.ticks(4), zero=True)
    svg.text(WIDTH - 4, bottom + 38, axis, anchor="end")
    y = TOP - ROW / 2
    for group in groups:
        svg.text(0, y + 4, group, bold=True)
        for _, label, gap in (each for each in rows if each[0] == group):
            y += ROW
            tip = f"{group}, {label}: {gap_cell(gap)}"
            with row(svg, y, ROW, f"{group} {label}", gap["verdict"], tip=tip):
                svg.text(12, y + 4, label)
                gap_dots(svg, x, y, gap)
        y += ROW
    note = "tick: a seed · bar: 95 % interval · verdicts corrected for the whole table (Holm)"
    svg.text(0, bottom + 62, note, fill=MUTED)
    columns = ("group", "recipe", "difference, nats per token")
    return svg.picture(columns, ((group, label, gap_cell(gap)) for group, label, gap in rows))


def _beats_pruning(figures: Figures) -> str:
    if figures["claims"]["merging beats pruning"]:
        return "Merging beats pruning, by the rule written before the runs."
    gaps = [gap for name in MERGES for gap in figures["judged"]["merging"][name].values()]
    more, less = (sum(gap["verdict"] == v for gap in gaps) for v in ("higher", "lower"))
    if more:
        return (
            f"No: merging is shown to cost more in {more} of {len(gaps)} comparisons, and less in "
            f"{less or 'none'}."
        )
    return "Merging is not shown to beat pruning, by the rule written before the runs."


def _beats_chance(figures: Figures) -> str:
    better = [c for c in CRITERIA if figures["claims"][f"{c} is worth it"]]
    if not better:
        return "With half of the experts kept, nobody is shown to beat chance."
    return f"With half of the experts kept, {len(better)} of {len(CRITERIA)} beat chance."


# --- in words -------------------------------------------------------------------------------------


def told_bytes(figures: Figures) -> str:
    """What INT4 costs beside what takes twice its bytes."""
    shares = figures["shares"]
    int4 = loss_of(figures, BITS, "int4")
    first = (
        f"INT4 keeps {percent(shares[BITS]['int4'])} of the experts' bytes and costs "
        f"{mean_sd(int4, 3, '+')} nats per token."
    )
    rest = ", ".join(
        f"{spoken(name)} {mean_sd(loss_of(figures, name, amount), 3, '+')}"
        for name, amount in ((FITTED_RANK, "half"), (RANK, "half"), (REAP, "4"), (HC, "4"))
    )
    table = figures["judged"]["bytes"]
    unproven = [
        spoken(name)
        for name, row_ in table.items()
        for gap in row_.values()
        if gap["verdict"] != "higher"
    ]
    last = "Every recipe with half of the bytes, save INT8, is shown to cost more than INT4."
    if unproven:
        last = (
            "Of the recipes with half of the bytes, a higher cost than INT4's is not shown for "
            f"{listed(unproven)}."
        )
    return f"{first} With half of the bytes: {rest}. {last}"


def told_longer(figures: Figures) -> str:
    """The model that ships, which was trained longer, beside the recorded ones."""
    shipped = figures["shipped"]["recipes"]
    each = ", ".join(
        f"{spoken(name)} ({AMOUNTS[amount]}) {shipped[name][amount]['loss']:+z.3f} beside "
        f"{loss_of(figures, name, amount)['mean']:+z.3f}"
        for name, amount in ((BITS, "int4"), (FITTED_RANK, "half"), (REAP, "4"))
    )
    return (
        f"The model that ships was trained for longer than {figures['steps']:,} steps. It is one "
        f"run, and the same recipes cost it, beside the recorded models: {each}."
    )


def told_whom(figures: Figures) -> str:
    """What each criterion costs beside chance, and whether REAP beats load."""
    table, judged = figures["judged"]["chance"], figures["judged"]["load"][REAP][HALF]
    chance = mean_sd(loss_of(figures, CHANCE, HALF), 3, "+")
    rule = "holds" if figures["claims"]["REAP beats load"] else "is not shown"
    others = " ".join(
        f"With {AMOUNTS[amount]} kept a lower cost than chance is shown for "
        f"{listed([spoken(c) for c in CRITERIA if table[c][amount]['verdict'] == 'lower'])}."
        for amount in table[REAP]
        if amount != HALF
    )
    return (
        f"With {AMOUNTS[HALF]} kept, pruning by chance costs {chance} nats per token. Beside that: "
        f"{_beside({c: table[c][HALF] for c in CRITERIA})}. {told_open()} {others} REAP beside "
        f"load: {gap_cell(judged)}. By the rule that was written before the runs, that REAP "
        f"beats load {rule}."
    )


def told_open() -> str:
    return "Open means that no difference is shown."


def _beside(gaps: Figures) -> str:
    return ", ".join(
        f"{spoken(name)} {gap['mean']:+z.3f} ({gap['verdict']})" for name, gap in gaps.items()
    )


def told_merging(figures: Figures) -> str:
    """What merging costs beside pruning by REAP."""
    table = figures["judged"]["merging"]
    others = " ".join(
        f"With {AMOUNTS[amount]} left: {_beside({m: table[m][amount] for m in MERGES})}."
        for amount in table[HC]
        if amount != HALF
    )
    cost = mean_sd(loss_of(figures, REAP, HALF), 3, "+")
    return (
        f"With {AMOUNTS[HALF]} left, pruning by REAP costs {cost} nats per token. Beside that: "
        f"{_beside({m: table[m][HALF] for m in MERGES})}. {told_open()} {others}"
    )


def told_errors(figures: Figures) -> str:
    """What saving one expert does to a layer's output: what the best fixed mix loses, what an
    average of weights loses, and what pruning loses."""
    errors = figures["regimes"]["batch"]["errors"]
    means = {n: sum(f["mean"] for f in of) / len(of) for n, of in errors.items()}
    bound, merged, matched, pruned = (
        percent(means[n], 1) for n in ("mixture", "merged", "matched", "pruned")
    )
    averages = means["merged"], means["matched"]
    way = "less than one average and more than the other"
    if not min(averages) <= means["pruned"] <= max(averages):
        way = f"{'less' if means['pruned'] < min(averages) else 'more'} than either average"
    larger = 2 * means["mixture"] >= min(averages)
    part = "half or more" if larger else "less than half"
    return (
        "In the mean over all pairs and layers, the best fixed mix of two experts leaves an error "
        f"of {bound} of the output's square. An average of their weights leaves {merged}, "
        f"and {matched} with neurons matched. Taking the less needed of the two out leaves "
        f"{pruned}: {way}. So here the best fixed mix loses {part} of what such averages lose. "
        "Methods merge the most alike experts, and not any two; for those alone no error is "
        "recorded."
    )


def told_tuning(figures: Figures) -> str:
    """What tuning the router gives back, beside what it gives the whole model."""
    cost, left = (loss_of(figures, name, "4") for name in (REAP, TUNED))
    (whole,) = figures["regimes"]["batch"]["recipes"][TUNED_WHOLE].values()
    back = 1 - left["mean"] / cost["mean"]
    held = figures["claims"]["tuning the router mends"]
    rule = (
        "By the rule, tuning mends where half or more comes back beyond what the whole model "
        f"gains: it {'does' if held else 'does not'}."
    )
    return (
        f"Pruned to half by REAP, the model costs {mean_sd(cost, 3, '+')} nats per token, and "
        f"{mean_sd(left, 3, '+')} after its router was tuned: {percent(back)} came back. The whole "
        f"model changes by {mean_sd(whole['loss'], 3, '+')} under the same tuning. {rule}"
    )


def told_regimes(figures: Figures) -> str:
    """What pruning by REAP to half costs under other ways to balance."""
    cost = {r: loss_of(figures, REAP, "4", r) for r in figures["regimes"]}
    each = ", ".join(f"{REGIMES[r]} {mean_sd(c, 3, '+')}" for r, c in cost.items())
    beside = ", ".join(
        f"{REGIMES[r]} {of[REAP]['mean']:+z.3f} ({of[REAP]['verdict']})"
        for r, of in figures["judged"]["regimes"].items()
    )
    return (
        f"What pruning to half by REAP costs, nats per token, by what balanced the router: {each}. "
        f"Beside the first: {beside}. {told_open()} {_told_balance(figures)}"
    )


def _told_balance(figures: Figures) -> str:
    """How far the ways to balance did differ: a null says nothing where they did not."""
    each = "; ".join(
        f"{REGIMES[name]} {of['balance']['max_violation']['mean']:.2f} and "
        f"{of['balance']['domain_information']['mean']:.2f}"
        for name, of in figures["regimes"].items()
    )
    return f"MaxVio of the least even layer, and domain information: {each}."


def told_alike(figures: Figures) -> Iterator[str]:
    """How much cheap criteria order the experts as ablation does, a line each."""
    for name, figure in figures["regimes"]["batch"]["alike"].items():
        yield f"{spoken(name)}: rank correlation with ablation {mean_sd(figure, 2, '+')}"


def told_claims(figures: Figures) -> Iterator[str]:
    """What was to be decided, by the rules written before the runs, a line each."""
    for claim, holds in figures["claims"].items():
        yield f"{'holds' if holds else 'not shown':10} {claim}: {RULES.get(claim, WORTH)}"
