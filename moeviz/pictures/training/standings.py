"""Every router beside the dense twin: loss, balance, cost, and who sees later tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moeviz.pictures.axes import x_axis
from moeviz.pictures.over_seeds import mean_sd
from moeviz.pictures.plot import row
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.pictures.training.arms import (
    DENSE,
    DENSE_ALL,
    FAIR,
    LOOKS,
    Judged,
    Recorded,
    axis,
    counted,
    drawn,
    gap_row,
    gap_tip,
    lies,
    minus_dense,
    origin,
    seen,
    sentence_case,
    setting_words,
    sparse,
    table_of,
    verdict_legend,
)
from moeviz.records.compare import Gap

WIDTH, TOP, ROW = 560.0, 76.0, 24.0
NAME, PLOT, VERDICT, LOSSES = 246.0, (254.0, 384.0), 390.0, 418.0
MANY, FAR = 8, 3.0  # of so many routers, those beyond so many upper quartiles do not set the axis
# Of the embedded text, in the order of the recorded losses.
DOMAINS = ("python", "english", "c", "arithmetic", "hex", "brackets")
# Right edges of the columns of figures, and their two lines of heading: of the first part, and of
# the second, which says what an arm costs.
EDGES = ((504.0, "MaxVio,", "training"), (557.0, "sees", "later"))
COSTS = ((292.0, "step", "time"), (358.0, "dense needs", "compute"), (408.0, "", "time"))
COLUMNS = (
    "arm", "family", "loss", "minus dense", "95 % interval", "verdict", "MaxVio of training",
    "dead experts of training", "of", "dropped", "sees later tokens", "losses",
    "compute multiplier", "its 95 % interval", "wall-clock multiplier", "step time / dense",
    "multiplier unknown because", "loss by domain",
)  # fmt: skip


def standings(
    recorded: Recorded, setting: str = FAIR, only: Sequence[str] | None = None
) -> Picture:
    """Arms of a recorded `experiment routers` in one setting, lowest loss first; only: these arms
    (None: all). Verdicts are those of the whole table. The few that lie far from all others are
    arrows at the axis' end, with their numbers.

    A multiplier says how many times the arm's compute, or its time, the dense twin needs for the
    same loss: above 1 the arm is the cheaper one.
    """
    table = table_of(recorded, setting)
    arms = table["arms"]
    shown = [arm for arm in only or arms if arm in arms]
    shown.sort(key=lambda arm: arms[arm]["loss"]["mean"])
    gaps = {arm: minus_dense(table, arm) for arm in arms if arm != DENSE}
    bottom = TOP + ROW * len(shown)
    title = "Routers beside their dense twin"
    svg = Svg(WIDTH, bottom + 112, title, _summary(recorded, table, gaps, shown))
    costs = svg.beside(WIDTH, bottom + 10)
    svg.text(0, 16, origin(recorded, setting_words(table)), fill=MUTED)
    near = _near({arm: gaps[arm].gap for arm in shown if arm in gaps})
    x = axis(drawn(near), PLOT)
    label = "loss minus the dense twin's (nats per token)"
    x_axis(svg, x, bottom, label, top=TOP - 6, ticks=x.ticks(5), zero=True)
    svg.text(VERDICT, 62, "verdict", bold=True)
    costs.text(LOSSES, 62, "losses added", bold=True)
    for part, columns in ((svg, EDGES), (costs, COSTS)):
        _heads(part, columns)
    for i, arm in enumerate(shown):
        y = TOP + (i + 0.5) * ROW
        figures = _figures(recorded, table, arm)
        verdict = [gaps[arm].verdict] if arm in gaps else []
        tip = gap_tip(arm, gaps[arm]) if arm in gaps else f"{arm}: the others are compared with it"
        with row(svg, y, ROW, arm, *verdict, tip=tip):
            if arm in gaps:
                gap_row(svg, x, y, gaps[arm])
                svg.text(VERDICT, y + 4, gaps[arm].verdict, bold=gaps[arm].verdict != "open")
            _cells_at(svg, y, arm, EDGES, figures[: len(EDGES)])
        losses = _losses(recorded, arm)
        tip = f"{arm}: loss by domain: {_by_domain(table['arms'][arm])}"
        with row(costs, y, ROW, arm, *verdict, tip=tip):
            _cells_at(costs, y, arm, COSTS, figures[len(EDGES) :])
            costs.text(LOSSES, y + 4, losses, fill=MUTED)
    verdict_legend(svg, bottom + 64, len(gaps))
    if len(near) < len(gaps.keys() & set(shown)):
        svg.text(2, bottom + 104, "arrow: beyond the axis, its mean beside it", fill=MUTED)
    return svg.picture(COLUMNS, (_cells(recorded, table, gaps, arm) for arm in shown))


def _near(gaps: dict[str, Gap]) -> list[Gap]:
    """Those that are to be read off the axis."""
    if len(gaps) < MANY:
        return list(gaps.values())
    reach = FAR * float(np.quantile([abs(gap.mean) for gap in gaps.values()], 0.75))
    return [gap for gap in gaps.values() if abs(gap.mean) <= reach]


Columns = Sequence[tuple[float, str, str]]


def _heads(svg: Svg, columns: Columns) -> None:
    for edge, first, second in columns:
        wide = edge + 48 if first == "dense needs" else edge
        svg.text(wide, 44, first, anchor="end", bold=True)
        svg.text(edge, 62, second, anchor="end", bold=True)


def _cells_at(svg: Svg, y: float, arm: str, columns: Columns, figures: Sequence[str]) -> None:
    """An arm's name and its figures in these columns."""
    svg.text(NAME, y + 4, arm, anchor="end", bold=arm == DENSE)
    for (edge, *_), words in zip(columns, figures, strict=True):
        svg.text(edge, y + 4, words, anchor="end", fill=INK, bold=words == "always")


def _figures(recorded: Recorded, table: Recorded, arm: str) -> tuple[str, ...]:
    """The columns at the right: empty where a dense arm has none, a dash where not measured."""
    of_arm = table["arms"][arm]
    balance = of_arm.get("training_max_violation")
    later = seen(recorded["arms"][arm])
    times = of_arm.get("multipliers", {})
    return (
        f"{max(balance):.2f}" if balance else "",
        later if balance else "",
        _ratio(_step_time(recorded, arm)),
        _ratio(times.get("compute")) if times else "",
        _ratio(times.get("wall_clock")) if times else "",
    )


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def _step_time(recorded: Recorded, arm: str) -> float | None:
    """Of the dense twin's; None where the steps are not timed yet."""
    seconds = recorded.get("timing", {}).get("seconds", {})
    return seconds[arm] / seconds[DENSE] if arm in seconds else None


def _losses(recorded: Recorded, arm: str) -> str:
    """The losses beside that of the text, by weight; one whose weight moves has none to name."""
    by_weight: dict[float | None, list[str]] = {}
    for name, weight in recorded["arms"][arm]["losses"]:
        by_weight.setdefault(weight, []).append(name)
    return ", ".join(
        " + ".join(names) + ("" if weight is None else f" {weight:g}")
        for weight, names in by_weight.items()
    )


def _cells(
    recorded: Recorded, table: Recorded, gaps: dict[str, Judged], arm: str
) -> tuple[object, ...]:
    facts, of_arm = recorded["arms"][arm], table["arms"][arm]
    times = of_arm.get("multipliers", {})
    interval = "" if arm == DENSE else _interval(of_arm["minus_dense"], 3)
    time = _step_time(recorded, arm)
    balance = of_arm.get("training_max_violation")
    dropped = mean_sd(of_arm["drop_rate"], 3) if "drop_rate" in of_arm else ""
    return (
        arm, facts["family"], mean_sd(of_arm["loss"], 3),
        f"{gaps[arm].gap.mean:+z.3f}" if arm in gaps else "", interval,
        gaps[arm].verdict if arm in gaps else "",
        f"{max(balance):.2f}" if balance else "",
        f"{max(of_arm['training_dead_experts']):.1f}" if balance else "",
        facts.get("experts", ""), dropped, seen(facts) if balance else "",
        _losses(recorded, arm), _blank(times.get("compute")),
        " to ".join(_blank(end) or "?" for end in times.get("interval", ())),
        _blank(times.get("wall_clock")), _blank(time), times.get("why", ""),
        _by_domain(of_arm),
    )  # fmt: skip


def _by_domain(of_arm: Recorded) -> str:
    """Means over the seeds, of the same passes as the loss."""
    pairs = zip(DOMAINS, of_arm["domain_loss"], strict=True)
    return ", ".join(f"{domain} {loss:.3f}" for domain, loss in pairs)


def _interval(gap: Recorded, decimals: int) -> str:
    if gap["low"] is None:
        return ""
    return f"{gap['low']:+z.{decimals}f} to {gap['high']:+z.{decimals}f}"


def _blank(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _summary(
    recorded: Recorded, table: Recorded, gaps: dict[str, Judged], shown: Sequence[str]
) -> str:
    """The setting, the count of verdicts, the lowest arm that never sees later tokens, and what
    parameters are worth where all of them work."""
    routers = [arm for arm in shown if arm in sparse(table)]
    counts = {look: sum(gaps[arm].verdict == look for arm in routers) for look in LOOKS}
    rest = "the rest is open" if counts["open"] else "none is left open"
    sentences = [
        f"{sentence_case(setting_words(table))}.",
        "A lower loss than the dense twin's is shown for "
        f"{counted(counts['lower'], len(routers))} routers, a higher one for "
        f"{counted(counts['higher'])}, and {rest}.",
    ]
    causal = [arm for arm in routers if seen(recorded["arms"][arm]) == "no"]
    if causal:
        best = min(causal, key=lambda arm: gaps[arm].gap.mean)
        sentences.append(
            f"Of those that never see later tokens, {best} has the lowest mean loss, "
            f"{lies(gaps[best])}."
        )
    if DENSE_ALL in gaps:
        words = lies(gaps[DENSE_ALL])
        sentences.append(f"The loss of a dense model with all the parameters is {words}.")
    if table["diverged"]:
        missing = " and ".join(table["diverged"])
        sentences.append(f"Training diverged for {missing}, which is not shown.")
    if "timing" not in recorded:
        sentences.append("Steps are not timed yet, so the columns of time are empty.")
    return " ".join(sentences)
