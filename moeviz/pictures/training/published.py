"""Published orders of routers beside our own: agrees, disagrees, or open."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Scale, Svg, shorten
from moeviz.pictures.training.published_orders import Verdict, verdicts

WIDTH = 900
TOP, ROW = 60.0, 40.0
COLOURS = {"agrees": "#0072b2", "disagrees": "#d55e00", "open": "#6e6e6e"}
COLUMNS = ("lower loss", "than", "published", "ours (nats per token)", "seen here")


def published(recorded: dict[str, Any]) -> Picture:
    """Each published pair as a dot: our difference in validation loss, one standard deviation over
    paired seeds as a bar; left of zero is as published."""
    found = verdicts(recorded)
    counts = {seen: sum(v.seen == seen for v in found) for seen in COLOURS}
    summary = (
        f"Of {len(found)} published orders, our small runs agree with {counts['agrees']}, disagree "
        f"with {counts['disagrees']} and leave {counts['open']} open (the 95 % interval over "
        "seeds holds zero)."
    )
    svg = Svg(WIDTH, TOP + ROW * len(found) + 48, "Published orders beside ours", summary)
    ends = [0.0] + [v.mean + s * (v.sd if v.sd == v.sd else 0) for v in found for s in (-1, 1)]
    margin = 0.05 * (max(ends) - min(ends) or 1.0)
    x = Scale(min(ends) - margin, max(ends) + margin, 560, 800)
    bottom = TOP + ROW * len(found)
    svg.text(0, 16, "as published", bold=True)
    svg.text(0, 34, "lower loss < higher loss, and where it is reported", fill=MUTED)
    svg.text(x(0) - 10, 34, "← as published", anchor="end")
    svg.text(x(0) + 10, 34, "the other way →")
    for value in x.ticks(4):
        svg.line(x(value), TOP - 10, x(value), bottom, stroke=RULE, width=0.5)
        svg.text(x(value), bottom + 18, f"{value:g}", anchor="middle", fill=MUTED)
    svg.line(x(0), TOP - 10, x(0), bottom, stroke=INK, width=1.5)
    svg.text(
        (x.start + x.end) / 2, bottom + 40, "difference in validation loss (nats per token)",
        anchor="middle",
    )  # fmt: skip
    for i, verdict in enumerate(found):
        _row(svg, x, TOP + (i + 0.5) * ROW, verdict)
    rows = tuple(
        (v.claim.better, v.claim.worse, v.claim.source, f"{v.mean:+.3f} ± {v.sd:.3f}", v.seen)
        for v in found
    )
    return Picture(svg.close(), summary, COLUMNS, rows)


def _row(svg: Svg, x: Scale, y: float, verdict: Verdict) -> None:
    claim, colour = verdict.claim, COLOURS[verdict.seen]
    svg.text(0, y - 4, f"{claim.better}  <  {claim.worse}", bold=True)
    svg.text(0, y + 12, shorten(claim.source, 82), fill=MUTED)
    sd = verdict.sd if verdict.sd == verdict.sd else 0.0
    low, high = x(verdict.mean - sd), x(verdict.mean + sd)
    svg.rect(low, y - 7, high - low, 14, colour, opacity=0.35)
    svg.circle(x(verdict.mean), y, 5, colour)
    svg.text(WIDTH, y + 4, verdict.seen, anchor="end", fill=colour, bold=True)
