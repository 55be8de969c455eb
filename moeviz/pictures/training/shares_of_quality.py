"""Four ways to say how much of a dense model's quality a sparse one has, which disagree."""

from __future__ import annotations

import math
import textwrap

from moeviz.checks import check_choice, check_number
from moeviz.pictures.axes import Scale, padded, x_axis
from moeviz.pictures.over_seeds import about
from moeviz.pictures.plot import Key, heading, legend, mark, paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.arms import losses
from moeviz.pictures.training.frontier_read import (
    DENSE,
    HASH,
    LEARNED,
    Recorded,
    of_kind,
)
from moeviz.records.compare import Gap, compare
from moeviz.records.quality import Quality, loss_allowed
from moeviz.records.quality import shares_of_quality as shares_of
from moeviz.words import percent

WIDTH, LEFT, RIGHT, WRAP = 560.0, 160.0, 544.0, 64
LINE, ROW = 18.0, 34.0
WAYS = {
    "loss ratio": Key("loss ratio", "#0072b2", mark="circle", width=0),
    "perplexity": Key("perplexity", "#d55e00", mark="square", width=0),
    "gain over the unigram": Key("gain over the unigram", "#009e73", mark="diamond", width=0),
    "next-token accuracy": Key("next-token accuracy", "#cc79a7", mark="cross", width=0),
}
COLUMNS = ("arm", "loss (nats per token)", "minus the dense one", *WAYS)


def quality_of(recorded: Recorded, arm: str) -> Quality:
    """An arm's mean loss and accuracy."""
    figures = recorded["arms"][arm]
    return Quality(figures["loss"]["mean"], figures["accuracy"]["mean"])


def shares_of_quality(
    recorded: Recorded, *, beside: str, arm: str, claimed: float = 0.993
) -> Picture:
    """Each sparse arm's share of a dense one's quality, in four ways, on one axis, with the share
    that is claimed; the chosen arm in words. ValueError of an arm that is not there."""
    dense_arms = of_kind(recorded, DENSE)
    arms = [*of_kind(recorded, LEARNED), *of_kind(recorded, HASH)]
    check_choice("beside", beside, dense_arms)
    check_choice("arm", arm, arms)
    check_number("claimed", claimed, open_low=True)
    dense, unigram = quality_of(recorded, beside), recorded["unigram"]
    shares = {name: shares_of(quality_of(recorded, name), dense, unigram) for name in arms}
    enough = sum(share >= claimed for share in shares[arm].values())
    share, model = percent(claimed, 1), quality_of(recorded, arm)
    finding = (
        f"{enough} of {len(WAYS)} ways say {share} or more. {arm[0].upper()}{arm[1:]}, minus a "
        f"dense model of width {dense_arms[beside]['width']:,}: {model.loss - dense.loss:+z.3f} "
        "nats per token."
    )
    allowed = loss_allowed(claimed, dense, unigram)
    gap = compare(losses(recorded, arm), losses(recorded, beside))
    plain = f"{_told(shares[arm], allowed, share)} {_luck(gap)}"
    bold, words = textwrap.wrap(finding, WRAP), textwrap.wrap(plain, 74)
    top = 38 + LINE * (len(bold) + len(words)) + 80
    bottom = top + ROW * len(arms)
    svg = Svg(WIDTH, bottom + 70, "Shares of a dense model's quality", f"{finding} {plain}")
    heading(svg, f"Has a sparse model {share} of a dense one's quality?")
    paragraph(svg, 0, 38, bold, LINE, bold=True)
    paragraph(svg, 0, 38 + LINE * len(bold), words, LINE)
    legend(svg, 0, top - 58, [*WAYS.values()][:2], across=170, kin=True)
    legend(svg, 0, top - 36, [*WAYS.values()][2:], across=170, kin=True)
    every = [value for each in shares.values() for value in each.values()]
    x = Scale(*padded([1.0, claimed, *every]), LEFT, RIGHT)
    title = "share of the dense model's quality"
    x_axis(svg, x, bottom, title, top=top - 8, ticks=x.ticks(5), form=percent)
    svg.line(x(1), top - 8, x(1), bottom, stroke=INK, width=1.5)
    svg.line(x(claimed), top - 8, x(claimed), bottom, stroke=INK, dash="4 3")
    svg.text(x(claimed) - 4, top - 12, share, anchor="end", fill=MUTED)
    for i, name in enumerate(arms):
        _arm(svg, x, top + ROW * (i + 0.5), name, shares[name], name == arm)
    svg.text(0, bottom + 62, about(recorded, recorded["arms"][arm]["loss"]), fill=MUTED)
    return svg.picture(COLUMNS, (_cells(recorded, name, dense, shares[name]) for name in arms))


def _told(shares: dict[str, float], allowed: dict[str, float], share: str) -> str:
    """The four ways, and how many nats the claim allows by the strictest and by the mildest."""
    of = {way: f"{percent(each, 1)} by {way}" for way, each in shares.items()}
    ratio, perplexity, gain, accuracy = of.values()
    strict, mild = (pick(allowed, key=lambda way: abs(allowed[way])) for pick in (min, max))
    return (
        f"It has {ratio} and {perplexity}. It has {gain} and {accuracy}. {share} would be "
        f"{allowed[strict]:+z.3f} nats by {strict} and {allowed[mild]:+z.3f} by {mild}."
    )


def _luck(gap: Gap) -> str:
    """What the seeds leave open of a difference in nats, and of the share by perplexity."""
    if len(gap.values) == 1:
        return "One seed does not tell how far luck moves a share."
    low, high = (percent(math.exp(-nats), 1) for nats in (gap.high, gap.low))
    return (
        f"The 95 % interval of the difference is {gap.low:+z.3f} to {gap.high:+z.3f}. That is a "
        f"share of {low} to {high} by perplexity."
    )


def _arm(svg: Svg, x: Scale, y: float, name: str, shares: dict[str, float], chosen: bool) -> None:
    """A row, which is pressed, and its four marks."""
    told = ", ".join(f"{percent(share, 1)} by {way}" for way, share in shares.items())
    with svg.thing(name, tip=f"{name}: {told}", press={"arm": name}):
        svg.rect(0, y - ROW / 2, svg.width, ROW, "transparent")
        svg.text(0, y + 4, name, bold=chosen)
        svg.line(x(min(shares.values())), y, x(max(shares.values())), y, stroke=MUTED)
        for way, share in shares.items():
            mark(svg, WAYS[way].mark, x(share), y, WAYS[way].colour, 6 if chosen else 4.5)


def _cells(
    recorded: Recorded, name: str, dense: Quality, shares: dict[str, float]
) -> tuple[str, ...]:
    loss = quality_of(recorded, name).loss
    ways = (percent(shares[way], 1) for way in WAYS)
    return (name, f"{loss:.3f}", f"{loss - dense.loss:+z.3f}", *ways)
