"""What `experiment frontier` says, in words; every figure comes from its file."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from moeviz.costs.laws.law import size
from moeviz.pictures.training.arms import losses
from moeviz.pictures.training.frontier_read import (
    AXES,
    DENSE,
    HASH,
    LEARNED,
    TOKENS_A_STEP,
    TWIN,
    Recorded,
    dense_row,
    dense_width,
    is_flat,
    of_kind,
    share_met,
    trends,
)
from moeviz.pictures.training.standings import DOMAINS
from moeviz.records.compare import Gap, compare
from moeviz.words import percent

STANDS = {"lower": "below", "higher": "above", "open": "not told apart from"}
CHOOSERS = {LEARNED: "a learned router", HASH: "hash"}


def named(arm: Recorded) -> str:
    """ "hash over 256 experts" or "the dense model of width 256"."""
    if arm["kind"] == DENSE:
        return f"the dense model of width {arm['width']:,}"
    return f"{CHOOSERS[arm['kind']]} over {arm['experts']} experts"


def told_arm(recorded: Recorded, name: str) -> str:
    """Where an arm stands beside the dense twin, and which dense width is as good."""
    arm, twin = (recorded["arms"][each]["loss"]["mean"] for each in (name, TWIN))
    words = f"{named(recorded['arms'][name])}: {arm:.3f} nats per token"
    words = words[0].upper() + words[1:]
    if name == TWIN:
        return f"{words}; a token meets as much of every sparse model."
    verdict = recorded["gaps"][f"{name} minus {TWIN}"]["verdict"]
    told = f"{words}, {STANDS[verdict]} the dense twin's {twin:.3f}."
    if recorded["arms"][name]["kind"] == DENSE:
        return told
    found = dense_width(recorded, name)
    return told if found is None else f"{told} Its loss is that of a dense width {found.words()}."


def told_dense(recorded: Recorded) -> str:
    """Whether width alone lowers the loss here: experts can buy only what more parameters buy."""
    arms = of_kind(recorded, DENSE)
    (first, *_, last), means = arms.values(), [arm["loss"]["mean"] for arm in arms.values()]
    tokens = size(recorded["steps"] * TOKENS_A_STEP)
    where = f"between {min(means):.3f} and {max(means):.3f} nats per token, on {tokens} tokens"
    widths = f"width {first['width']:,} to {last['width']:,}"
    if is_flat(recorded):
        return (
            f"Dense models of {widths} are not told apart after {recorded['steps']:,} steps. They "
            f"end {where}. Where width shows no gain, experts can hardly show one: text and steps "
            "are the likely limit, and no dense width of equal loss can be read off."
        )
    differ = (
        f"Dense models of {widths} do differ after {recorded['steps']:,} steps. They end {where}."
    )
    return f"{differ} {told_trend(recorded, DENSE)}"


def told_axis(recorded: Recorded, name: str, axis: str) -> str:
    """What an arm is on an axis, and whether a dense model that spends the same is better."""
    arm = recorded["arms"][name]
    if axis == "share":
        return (
            f"A token meets {percent(share_met(recorded, arm), 1)} of its parameters, and "
            f"{percent(arm['ffn_active_share'], 1)} of those of the FFN."
        )
    if arm["kind"] == DENSE:
        return ""
    of = AXES[axis]
    place, row = of.of(recorded, arm), dense_row(recorded, partial(of.of, recorded))
    if place is None or row is None:
        return "How long a step takes is not recorded yet."
    if place > (widest := float(row.places_W[-1])):
        gap = compare(losses(recorded, name), row.losses_WN[-1])
        what = f"It takes {place / widest:.3g} times the {of.noun} of the widest dense model."
        return f"{what} {_beside(gap, 'that one')}."
    if (gap_there := row.same_spending(place, losses(recorded, name))) is None:
        return f"No dense model {of.same} is recorded."
    return f"{_beside(gap_there, f'a dense model {of.same}, read off between two of them,')}."


def _beside(gap: Gap, base: str) -> str:
    """ "Beside the twin its loss is +0.120 (+0.110 to +0.130) nats per token"."""
    if len(gap.values) == 1:
        return f"Beside {base} its loss is {gap.mean:+z.3f} nats per token (one seed)"
    ends = f"{gap.low:+z.3f} to {gap.high:+z.3f}"
    unclear = ", which is open" if gap.low <= 0 <= gap.high else ""
    return f"Beside {base} its loss is {gap.mean:+z.3f} nats per token ({ends}){unclear}"


def told_grown(recorded: Recorded, kind: str) -> str:
    """In how many steps to four times the experts the loss falls, at equal active compute."""
    every = pairwise(of_kind(recorded, kind))
    gaps = [recorded["gaps"].get(f"{many} minus {few}") for few, many in every]
    found = [gap["verdict"] for gap in gaps if gap]
    falls, rises = found.count("lower"), found.count("higher")
    if not falls and not rises:
        return (
            f"With {CHOOSERS[kind]} none of {len(found)} single steps to four times the experts is "
            "shown to change the loss."
        )
    return (
        f"With {CHOOSERS[kind]} the loss falls in {falls} of {len(found)} steps to four times the "
        f"experts and rises in {rises}{_rest(len(found) - falls - rises)}."
    )


def told_trend(recorded: Recorded, kind: str) -> str:
    """By how much each doubling of the width, or of the experts, changes the loss."""
    gap, verdict = trends(recorded)[kind]
    change, *ends = (percent(2.0**-b - 1, 2, sign="+z") for b in (gap.mean, gap.high, gap.low))
    interval = "one seed" if len(gap.values) == 1 else " to ".join(ends)
    ways = {"lower": "falls", "higher": "rises", "open": "is not shown to change"}
    who = "Over dense models" if kind == DENSE else f"With {CHOOSERS[kind]}"
    what = "width" if kind == DENSE else "number of experts"
    return (
        f"{who} the loss {ways[verdict]} with the {what}: {change} with each doubling ({interval})."
    )


def told_changes(recorded: Recorded) -> str:
    """What each doubling of the experts, and of the width, does to the loss, without intervals."""
    found = trends(recorded)
    routed = [f"{_change(*found[kind])} with {CHOOSERS[kind]}" for kind in CHOOSERS]
    return (
        f"With each doubling of the experts the loss {listed(routed)}. With each doubling of the "
        f"dense width it {_change(*found[DENSE])}."
    )


def _change(gap: Gap, verdict: str) -> str:
    """ "falls by 0.85 %", or "is not shown to change (-0.07 %)"."""
    change = 2.0**-gap.mean - 1
    if verdict == "open":
        return f"is not shown to change ({percent(change, 2, sign='+z')})"
    return f"{'falls' if verdict == 'lower' else 'rises'} by {percent(abs(change), 2)}"


def told_use(recorded: Recorded) -> str:
    """Where more width lowers the loss, whether more experts do; nothing where it does not."""
    ways = {kind: verdict for kind, (_, verdict) in trends(recorded).items()}
    if ways[DENSE] != "lower":
        return ""
    verbs = {"lower": "lower it", "higher": "raise it", "open": "are not shown to change it"}
    parts = [f"{verbs[ways[kind]]} with {chooser}" for kind, chooser in CHOOSERS.items()]
    return (
        f"After {recorded['steps']:,} steps more width lowers the loss, at more FLOPs. More "
        f"experts {listed(parts)}. Why was not measured."
    )


def told_choosers(recorded: Recorded) -> str:
    """Learned against hash, at each number of experts."""
    names = of_kind(recorded, LEARNED)
    gaps = [recorded["gaps"].get(f"{n} minus {n.replace(LEARNED, HASH, 1)}") for n in names]
    found = [gap["verdict"] for gap in gaps if gap]
    ahead, behind = found.count("lower"), found.count("higher")
    if not ahead and not behind:
        sizes = f"none of {len(found)} numbers of experts"
        return f"A learned router and hash are told apart with {sizes}."
    return (
        f"A learned router has the lower loss with {ahead} of {len(found)} numbers of experts, and "
        f"hash with {behind}{_rest(len(found) - ahead - behind)}."
    )


def _rest(count: int) -> str:
    return "; the rest is open" if count else ""


def listed(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def told_edges(recorded: Recorded) -> str:
    """For which arms the best rate lies at the edge of what was tried."""
    edges = [name for name, rate in recorded["rates"].items() if rate["at_edge"]]
    if not edges:
        return ""
    return (
        f"For {listed(edges)} the best learning rate lies at the edge of those that were tried: "
        "another one may suit better."
    )


def told_domains(recorded: Recorded, kind: str) -> str:
    """In which kinds of text more experts lower the mean loss most, and raise it most."""
    few, *_, many = of_kind(recorded, kind).values()
    change = {
        domain: after - before
        for domain, before, after in zip(
            DOMAINS, few["domain_loss"], many["domain_loss"], strict=True
        )
    }
    parts = [f"{change[d]:+z.3f} in {d}" for d in sorted(change, key=lambda d: change[d])]
    return (
        f"From {few['experts']} to {many['experts']} experts, chosen by {CHOOSERS[kind]}, the mean "
        f"loss changes by {listed(parts)}: means, without a verdict."
    )


def told_dead(recorded: Recorded) -> str:
    """How many of the most experts get next to no tokens in the least even layer."""
    parts = []
    for kind, chooser in CHOOSERS.items():
        *_, arm = of_kind(recorded, kind).values()
        dead = arm["dead_experts"]["mean"]
        parts.append(f"{dead:.1f} of {arm['experts']} experts are dead with {chooser}")
    return f"In the least even layer {' and '.join(parts)}."


def told_clock(recorded: Recorded) -> str:
    """What a step of the most experts takes beside one of the twin, in time and in FLOPs."""
    twin = recorded["arms"][TWIN]
    parts = []
    for kind, chooser in CHOOSERS.items():
        *_, arm = of_kind(recorded, kind).values()
        time, flops = (arm[n] / twin[n] for n in ("seconds_per_step", "gigaflops_per_step"))
        parts.append(
            f"{arm['experts']} experts with {chooser}: {time:.2f} times the time at {flops:.2f} "
            "times the FLOPs"
        )
    return f"A step beside one of the dense twin, on one core: {'; '.join(parts)}."
