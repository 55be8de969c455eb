"""Predictions of 10_efficiency_frontier."""

from __future__ import annotations

from moeviz.costs.laws.answers import answers
from moeviz.costs.laws.law import Model, size
from moeviz.pictures.over_seeds import gap_words, recorded_gap
from moeviz.pictures.training.frontier_read import DENSE, TWIN, is_flat, of_kind
from moeviz.pictures.training.frontier_told import told_trend
from moeviz.pictures.training.memory_or_thinking import BOOK, PRODUCTS
from moeviz.pictures.training.shares_of_quality import quality_of
from moeviz.predictions.prediction import OPEN, Measured, nearest, prediction, recorded_run
from moeviz.records.answers import brought, brought_more
from moeviz.records.quality import shares_of_quality
from moeviz.words import percent

LEAST = "learned, 256 experts"


@prediction(
    "10.experts",
    "A model of 256 experts, of which a token visits two, beside a dense model of equal active "
    "compute: after 1,200 steps, how does its loss stand?",
    "it is lower", "it is higher", OPEN,
)  # fmt: skip
def experts() -> Measured:
    recorded = recorded_run("frontier")
    gap = recorded["gaps"][f"{LEAST} minus {TWIN}"]
    option = {"lower": "it is lower", "higher": "it is higher", "open": OPEN}[gap["verdict"]]
    figure = f"its loss is {gap_words(recorded_gap(gap))}"
    widths = [arm["width"] for arm in of_kind(recorded, DENSE).values()]
    trend = told_trend(recorded, DENSE)
    because = (
        f"dense models of width {widths[0]:,} to {widths[-1]:,} are not told apart either: most "
        "likely text and steps are the limit there, and not parameters"
        if is_flat(recorded)
        else f"dense models do differ there: {trend[0].lower()}{trend[1:-1]}"
    )
    return Measured(option, figure, because)


@prediction(
    "10.claim",
    "The model of 256 experts with a learned router, beside a dense one of width 2,048: in how "
    "many of four ways to measure has it 99.3 % of the dense one's quality or more?",
    "in all four", "in some of them", "in none",
)  # fmt: skip
def claim() -> Measured:
    recorded = recorded_run("frontier")
    model, dense = (quality_of(recorded, name) for name in (LEAST, "dense, width 2048"))
    shares = shares_of_quality(model, dense, recorded["unigram"])
    enough = sum(share >= 0.993 for share in shares.values())
    option = {0: "in none", len(shares): "in all four"}.get(enough, "in some of them")
    figure = ", ".join(f"{percent(share, 1)} by {way}" for way, share in shares.items())
    return Measured(option, f"it has {figure}", "each way has another zero and another scale")


@prediction(
    "10.laws",
    "Five published scaling laws are asked about one sparse model: 1.6T parameters, 1 % of them "
    "for a token, 300B tokens. Each names the dense model that is as good. How far apart are the "
    "smallest and the largest of these?",
    "less than 3 times", "about 10 times", "more than 50 times",
)  # fmt: skip
def laws() -> Measured:
    told = answers(Model(1.6e12, 0.01, 3e11, 8))
    least, most = (pick(told, key=lambda each: each.dense) for pick in (min, max))
    times = most.dense / least.dense
    options = {"less than 3 times": 2, "about 10 times": 10, "more than 50 times": 80}
    figure = (
        f"{least.law.short} names {size(least.dense)} and {most.law.short} {size(most.dense)}, "
        f"{times:.3g} times apart"
    )
    known = sum(not each.law.beyond(each.model) for each in told)
    near = [each.dense for each in answers(Model(3e9, 0.1, 6e10, 8))]
    because = (
        f"{known or 'none'} of the five was fitted on runs that reach so far: of 3B parameters, "
        "10 % of them for a token and 60B tokens, they name dense models "
        f"{max(near) / min(near):.2g} times apart"
    )
    return Measured(nearest(times, options, ratio=True), figure, because)


@prediction(
    "10.memory",
    "A wide dense FFN is cut into 16 small experts, of which a token visits two. A narrow dense "
    "FFN is as wide as those two. On which task do experts bring more of what the wide FFN gains "
    "over the narrow one?",
    "remembering phone numbers", "multiplying numbers", OPEN,
)  # fmt: skip
def memory() -> Measured:
    recorded = recorded_run("memory_or_thinking")
    tasks = recorded["tasks"]
    parts = {"the phone book": brought(tasks[BOOK]), "unseen products": brought(tasks[PRODUCTS])}
    told = {
        task: f"{percent(share.mean)} on {task}" if share else f"a share that is open on {task}"
        for task, share in parts.items()
    }
    figure = f"experts bring {' and '.join(told.values())} (mean of {len(recorded['seeds'])} seeds)"
    gap = brought_more(tasks[BOOK], tasks[PRODUCTS])
    if gap is None:
        return Measured(OPEN, figure, "on one task the wide model gains less than 2 % to share out")
    low, high = (f"{100 * end:+z.0f}" for end in (gap.low, gap.high))
    interval = f"the 95 % interval of the difference is {low} to {high} points"
    if gap.low <= 0 <= gap.high:
        return Measured(OPEN, figure, interval)
    option = "remembering phone numbers" if gap.mean > 0 else "multiplying numbers"
    return Measured(option, figure, interval)
