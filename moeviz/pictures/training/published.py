"""Published orders of routers beside our own: agrees, disagrees, or open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moeviz.pictures.axes import Scale, padded, x_axis
from moeviz.pictures.plot import Figure, dots, extent, mean_sd
from moeviz.pictures.svg import MUTED, Picture, Svg, shorten
from moeviz.records.compare import compare, verdicts
from moeviz.records.metrics import over_seeds

WIDTH = 900
TOP, ROW = 60.0, 40.0
COLOURS = {"agrees": "#0072b2", "disagrees": "#d55e00", "open": "#6e6e6e"}
COLUMNS = ("lower loss", "than", "published", "ours (nats per token)", "seen here")


@dataclass(frozen=True)
class Order:
    """`better` has the lower loss than `worse` (names of the arms of `experiment routers`), as
    `source` reports with its figures."""

    better: str
    worse: str
    source: str


MIXTRAL, OLMOE = "token choice, renormalised (Mixtral)", "token choice, raw (OLMoE)"
DEEPSEEK = "shared and fine-grained (DeepSeekMoE)"
DEEPSEEK_TABLE = "DeepSeekMoE (2401.06066) table 1, Pile loss"
REMOE_TABLE = "ReMoE (2412.14711) table 2, mean accuracy"
CLAIMS = (
    Order("hash, random", "dense", f"{DEEPSEEK_TABLE}: 1.932 against 2.060"),
    Order("Switch", "hash, random", f"{DEEPSEEK_TABLE}: 1.881 against 1.932"),
    Order("GShard", "Switch", f"{DEEPSEEK_TABLE}: 1.867 against 1.881"),
    Order(DEEPSEEK, "GShard", f"{DEEPSEEK_TABLE}: 1.808 against 1.867"),
    Order(MIXTRAL, DEEPSEEK, "OLMoE (2409.02060): a shared expert makes it slightly worse"),
    Order("expert choice", "dense", f"{REMOE_TABLE}: 38.53 against 38.20"),
    Order(MIXTRAL, "expert choice", f"{REMOE_TABLE}, dropless: 39.67 against 38.53"),
    Order("ReMoE", MIXTRAL, f"{REMOE_TABLE}: 40.03 against 39.67"),
    Order(
        "sign bias, no loss",
        "token choice, sigmoid",
        "loss-free balancing (2408.15664) table 2, perplexity: 9.50 against 9.56",
    ),
    Order("hash, random", OLMOE, "Hash layers (2106.04426): on par with or better than learned"),
)


@dataclass(frozen=True)
class Verdict:
    """A claim beside our figure over paired seeds: better's minus worse's validation loss (nats per
    token, negative where the claim holds)."""

    claim: Order
    gap: Figure
    seen: str


def judged(recorded: dict[str, Any]) -> list[Verdict]:
    """Every claim against a recorded `experiment routers`: "agrees" or "disagrees" where the paired
    difference stands among as many as there are claims (records.compare), else "open"."""
    arms = recorded["arms"]
    gaps = {}
    for claim in CLAIMS:
        better, worse = (arms[name]["validation_loss"] for name in (claim.better, claim.worse))
        gaps[claim] = compare(better["values"], worse["values"])
    seen = {"lower": "agrees", "higher": "disagrees", "open": "open"}
    found = verdicts(gaps)
    return [Verdict(c, over_seeds(gap.values), seen[found[c]]) for c, gap in gaps.items()]


def published(recorded: dict[str, Any]) -> Picture:
    """Each published pair: our difference in validation loss, a tick a seed, a mark at the mean, a
    bar of one standard deviation to both sides; left of zero is as published."""
    found = judged(recorded)
    counts = {seen: sum(v.seen == seen for v in found) for seen in COLOURS}
    summary = (
        f"Of {len(found)} published orders, our small runs agree with {counts['agrees']}, disagree "
        f"with {counts['disagrees']} and leave {counts['open']} open (paired t over seeds, "
        "corrected for so many comparisons)."
    )
    bottom = TOP + ROW * len(found)
    svg = Svg(WIDTH, bottom + 48, "Published orders beside ours", summary)
    x = Scale(*padded([0.0, *extent(v.gap for v in found)], 0.05), 560, 800)
    svg.text(0, 16, "as published", bold=True)
    svg.text(0, 34, "lower loss < higher loss, and where it is reported", fill=MUTED)
    svg.text(x(0) - 10, 34, "← as published", anchor="end")
    svg.text(x(0) + 10, 34, "the other way →")
    label = "difference in validation loss (nats per token)"
    x_axis(svg, x, bottom, label, top=TOP - 10, ticks=x.ticks(4), zero=True)
    for i, verdict in enumerate(found):
        y, claim, colour = TOP + (i + 0.5) * ROW, verdict.claim, COLOURS[verdict.seen]
        svg.text(0, y - 4, f"{claim.better}  <  {claim.worse}", bold=True)
        svg.text(0, y + 12, shorten(claim.source, 82), fill=MUTED)
        dots(svg, x, y, verdict.gap, colour)
        svg.text(WIDTH, y + 4, verdict.seen, anchor="end", fill=colour, bold=True)
    rows = (
        (v.claim.better, v.claim.worse, v.claim.source, mean_sd(v.gap, 3, "+"), v.seen)
        for v in found
    )
    return svg.picture(COLUMNS, rows)
