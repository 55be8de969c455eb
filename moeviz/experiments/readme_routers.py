"""README's part on trained routers: what was found, five arms, and all of them."""

from __future__ import annotations

from typing import Any

from moeviz.experiments.recorded import recorded_figures
from moeviz.pictures import Picture
from moeviz.pictures.training.arms import DENSE, FIVE, LONG, WRITTEN, seeds_words
from moeviz.pictures.training.fair_and_written import fair_and_written
from moeviz.pictures.training.lengths import lengths
from moeviz.pictures.training.order import order
from moeviz.pictures.training.output_scale import output_scale
from moeviz.pictures.training.pools import pools
from moeviz.pictures.training.published import published
from moeviz.pictures.training.standings import standings

FIRST = "router", "loss minus dense (95 % interval)", "verdict"
OTHERS = {WRITTEN: "as written", LONG: "longer training"}  # settings beside the first
LAST = "MaxVio of training", "sees later tokens", "dense needs × compute", "× time"


def routers_part(recorded: dict[str, Any]) -> str:
    """In Markdown, from runs/routers.json, and from runs/scale.json where that is recorded."""
    findings = {"Pools of tokens": pools(recorded), "Published orders": published(recorded)}
    if "changes" in recorded:
        findings["The output scale of every router"] = fair_and_written(recorded)
    if scale := recorded_figures("scale"):
        findings["The output scale as a knob"] = output_scale(scale)
    if "order" in recorded:
        findings["A short training against a longer one"] = order(recorded)
    if longer := recorded_figures("routers_longer"):
        findings["Five routers for longer"] = lengths(recorded, longer)
    every = standings(recorded)
    lines = [
        "Every router in the same small model, beside a dense twin of equal FLOPs "
        "(`python -m moeviz experiment routers`). Losses are nats per token of text that no choice "
        "has seen; verdicts hold for the whole table (paired t, Holm's correction). The dense twin "
        "needs so many times the router's compute, and time, for the same loss; the cell is empty "
        "where the twin was not measured at that loss. "
        f"{every.summary}",
        "",
        *_table(recorded, [row for row in _rows(every) if row["arm"] in FIVE]),
        "",
        "<details><summary>All of them</summary>",
        "",
        *_table(recorded, _rows(every)),
        "",
        "</details>",
        "",
        *(f"- {title}: {picture.summary}" for title, picture in findings.items()),
    ]
    return "\n".join(lines)


def _rows(picture: Picture) -> list[dict[str, Any]]:
    return [dict(zip(picture.columns, row, strict=True)) for row in picture.rows]


def _table(recorded: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    others = {name: recorded["settings"][name] for name in OTHERS if name in recorded["settings"]}
    heads = [
        f"{OTHERS[name]} ({table['steps']:,} steps, {seeds_words(len(table['seeds']))})"
        for name, table in others.items()
    ]
    heads = [*FIRST, *heads, *LAST]
    lines = [f"| {' | '.join(heads)} |", "|-" * len(heads) + "|"]
    for row in rows:
        arm, interval = row["arm"], row["95 % interval"]
        cells = (
            "**dense twin**" if arm == DENSE else arm,
            f"{row['minus dense']} ({interval})" if interval else row["minus dense"],
            row["verdict"], *(_gap(table, arm) for table in others.values()),
            row["MaxVio of training"], row["sees later tokens"], row["compute multiplier"],
            row["wall-clock multiplier"],
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _gap(table: dict[str, Any], arm: str) -> str:
    """An arm against the dense twin in another setting; empty where it is not recorded there."""
    gap = table["arms"].get(arm, {}).get("minus_dense")
    return f"{gap['mean']:+z.3f} ({gap['verdict']})" if gap else ""
