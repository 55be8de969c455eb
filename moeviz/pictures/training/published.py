"""Published orders of routers beside our own, and what differs between their setting and ours."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from itertools import accumulate

from moeviz.pictures.axes import Scale, x_axis
from moeviz.pictures.plot import paragraph
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.arms import (
    DENSE,
    FAIR,
    LONG,
    MIXTRAL,
    Judged,
    Recorded,
    axis,
    drawn,
    gap_row,
    gap_tip,
    judged,
    losses,
    origin,
    sentence_case,
    setting_words,
    table_of,
    verdict_legend,
)

WIDTH, TOP, LINE = 560.0, 60.0, 16.0
PLOT, NOT_TESTED = (368.0, 484.0), "not tested"
WORDS = {"lower": "agrees", "higher": "disagrees", "open": "open"}
COLUMNS = ("lower loss", "than", "published", "what differs", "setting", "ours (nats per token)",
           "95 % interval", "seen")  # fmt: skip


@dataclass(frozen=True)
class Order:
    """`better` has the lower loss than `worse` (arms of `experiment routers`), as `source` reports.
    differs: between their setting and ours. tested: whether ours could contradict it."""

    better: str
    worse: str
    source: str
    differs: str
    tested: bool = True


HASH, HASH_ONE = "hash, random", "hash, random, one expert"
DEEPSEEK = "shared and fine-grained (DeepSeekMoE)"
DEEPSEEK_TABLE = "DeepSeekMoE (2401.06066) table 1, Pile loss"
REMOE_TABLE = "ReMoE (2412.14711) table 2, mean accuracy"
CLAIMS = (
    Order(
        HASH_ONE, DENSE, f"{DEEPSEEK_TABLE}: 1.932 against 2.060",
        "16 experts and 100 billion tokens there, 8 experts and a short training here",
    ),
    Order(
        "Switch", HASH_ONE, f"{DEEPSEEK_TABLE}: 1.881 against 1.932",
        "the same; Hash Layers (2106.04426) report the opposite order or none",
    ),
    Order(
        DEEPSEEK, "GShard", f"{DEEPSEEK_TABLE}: 1.808 against 1.867",
        "experts are split in four there, in two here",
    ),
    Order(
        "fine-grained", DEEPSEEK, "OLMoE (2409.02060): a shared expert makes it slightly worse",
        "32 experts, four a token, there and here; their model is far larger",
    ),
    Order(
        "ReMoE", MIXTRAL, f"{REMOE_TABLE}: 40.03 against 39.67",
        "one of 8 experts there, two of 16 here; accuracy there, loss here",
    ),
    Order(
        "sign bias, no loss", "token choice, sigmoid",
        "loss-free balancing (2408.15664) table 2, perplexity: 9.50 against 9.56",
        "the bias moves by 0.001 a step there, by 0.01 here, in far fewer steps",
    ),
    Order(
        "Sinkhorn", HASH, "Unified scaling laws (2202.01169): a learned assignment before hash",
        "one expert a token there, two here",
    ),
    Order(
        "GShard", "Switch", f"{DEEPSEEK_TABLE}: 1.867 against 1.881",
        "not tested: two experts of Switch's size there, equal FLOPs here", tested=False,
    ),
    Order(
        "expert choice", DENSE, f"{REMOE_TABLE}: 38.53 against 38.20",
        "not tested: later tokens may help our loss of expert choice", tested=False,
    ),
    Order(
        MIXTRAL, "expert choice", f"{REMOE_TABLE}, dropless: 39.67 against 38.53",
        "not tested: later tokens may help our loss of expert choice", tested=False,
    ),
)  # fmt: skip


def judged_orders(recorded: Recorded, setting: str = FAIR) -> dict[Order, Judged]:
    """The tested claims whose arms are recorded in this setting, judged as one table: better's
    minus worse's loss, "lower" where ours agrees."""
    table = table_of(recorded, setting)
    return judged(
        {
            claim: (losses(table, claim.better), losses(table, claim.worse))
            for claim in CLAIMS
            if claim.tested and {claim.better, claim.worse} <= set(table["arms"])
        }
    )


def published(recorded: Recorded) -> Picture:
    """Each published pair and our difference in loss at the fair scale, after the short training
    and the long one where it is recorded; left of zero is as published."""
    settings = [name for name in (FAIR, LONG) if name in recorded["settings"]]
    seen = {name: judged_orders(recorded, name) for name in settings}
    words = [_lines(claim) for claim in CLAIMS]
    tops = list(accumulate((LINE * len(lines) + 14 for lines in words), initial=TOP))
    bottom = tops[-1]
    summary = " ".join(_sentences(recorded, seen))
    svg = Svg(WIDTH, bottom + 92, "Published orders beside ours", summary)
    about = " · ".join(setting_words(table_of(recorded, name)) for name in settings)
    paragraph(svg, 0, 16, textwrap.wrap(origin(recorded, about), 84), 14, fill=MUTED)
    svg.text(0, 44, "lower loss < higher loss, who says so", bold=True)
    x = axis(drawn(one.gap for table in seen.values() for one in table.values()), PLOT)
    svg.text(x(0) - 8, 44, "← as published", anchor="end", bold=True)
    label = "difference in loss (nats per token)"
    x_axis(svg, x, bottom, label, top=TOP - 6, ticks=x.ticks(4), zero=True)
    for i, (claim, lines, y) in enumerate(zip(CLAIMS, words, tops, strict=False)):
        svg.line(0, y, WIDTH, y, width=0.5)
        own = f"claim {i}"
        with svg.thing(own):
            for n, (line, bold) in enumerate(lines):
                svg.text(0, y + LINE * (n + 1), line, bold=bold, fill=INK if bold else MUTED)
            if not claim.tested:
                svg.text(WIDTH, y + 35, NOT_TESTED, anchor="end", fill=MUTED)
        for n, name in enumerate(settings if claim.tested else ()):
            one, table = seen[name].get(claim), recorded["settings"][name]
            tip = gap_tip(f"{claim.better} minus {claim.worse}", one) if one else "diverged"
            with svg.thing(own, *([WORDS[one.verdict]] if one else []), tip=tip):
                _row(svg, x, y + 20 + 24 * n, one, table)
    tested = max(len(table) for table in seen.values())
    verdict_legend(svg, bottom + 64, tested, WORDS)
    rows = (
        (
            claim.better,
            claim.worse,
            claim.source,
            claim.differs,
            name,
            *_cells(claim, seen[name].get(claim)),
        )
        for claim in CLAIMS
        for name in settings
    )
    return svg.picture(COLUMNS, rows)


def _lines(claim: Order) -> list[tuple[str, bool]]:
    """The pair, where it is reported and what differs, as lines beside the plot; which are bold."""
    parts = (f"{claim.better} < {claim.worse}", True), (claim.source, False), (claim.differs, False)
    return [
        (line, bold) for words, bold in parts for line in textwrap.wrap(words, 38 if bold else 42)
    ]


def _row(svg: Svg, x: Scale, y: float, one: Judged | None, table: Recorded) -> None:
    svg.text(PLOT[0] - 10, y + 4, f"{table['steps']:,} steps", anchor="end", fill=MUTED)
    if one is not None:
        gap_row(svg, x, y, one)
    words = "diverged" if one is None else WORDS[one.verdict]
    svg.text(WIDTH, y + 4, words, anchor="end", bold=words in ("agrees", "disagrees"))


def _cells(claim: Order, one: Judged | None) -> tuple[str, str, str]:
    if one is None:
        return "", "", NOT_TESTED if not claim.tested else "diverged"
    gap = one.gap
    interval = f"{gap.low:+z.3f} to {gap.high:+z.3f}" if len(gap.values) > 1 else ""
    return f"{gap.mean:+z.3f}", interval, WORDS[one.verdict]


def _sentences(recorded: Recorded, seen: dict[str, dict[Order, Judged]]) -> list[str]:
    untested = sum(not claim.tested for claim in CLAIMS)
    sentences = [f"{untested} of {len(CLAIMS)} published orders are not tested by ours."]
    for name, table in seen.items():
        counts = dict.fromkeys(WORDS.values(), 0)
        for one in table.values():
            counts[WORDS[one.verdict]] += 1
        sentences.append(
            f"{sentence_case(setting_words(table_of(recorded, name)))}: ours agree with "
            f"{counts['agrees']} of the tested orders, disagree with {counts['disagrees']} and "
            f"leave {counts['open']} open."
        )
    if LONG not in seen:
        sentences.append("The longer training is not recorded yet.")
    return sentences
