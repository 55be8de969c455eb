"""Published orders of routers beside our own: agrees, disagrees, or open."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.plot import Scale, dots, extent, padded, x_axis
from moeviz.pictures.svg import MUTED, Picture, Svg, shorten
from moeviz.pictures.training.published_orders import verdicts

WIDTH = 900
TOP, ROW = 60.0, 40.0
COLOURS = {"agrees": "#0072b2", "disagrees": "#d55e00", "open": "#6e6e6e"}
COLUMNS = ("lower loss", "than", "published", "ours (nats per token)", "seen here")


def published(recorded: dict[str, Any]) -> Picture:
    """Each published pair: our difference in validation loss at the mean, a bar of one standard
    deviation over paired seeds to both sides; left of zero is as published."""
    found = verdicts(recorded)
    counts = {seen: sum(v.seen == seen for v in found) for seen in COLOURS}
    summary = (
        f"Of {len(found)} published orders, our small runs agree with {counts['agrees']}, disagree "
        f"with {counts['disagrees']} and leave {counts['open']} open (the 95 % interval over "
        "seeds holds zero)."
    )
    bottom = TOP + ROW * len(found)
    svg = Svg(WIDTH, bottom + 48, "Published orders beside ours", summary)
    figures = [{"mean": v.mean, "sd": v.sd if v.sd == v.sd else None, "values": ()} for v in found]
    x = Scale(*padded([0.0, *extent(figures)], 0.05), 560, 800)
    svg.text(0, 16, "as published", bold=True)
    svg.text(0, 34, "lower loss < higher loss, and where it is reported", fill=MUTED)
    svg.text(x(0) - 10, 34, "← as published", anchor="end")
    svg.text(x(0) + 10, 34, "the other way →")
    label = "difference in validation loss (nats per token)"
    x_axis(svg, x, bottom, label, top=TOP - 10, ticks=x.ticks(4), zero=True)
    for i, (verdict, figure) in enumerate(zip(found, figures, strict=True)):
        y, claim, colour = TOP + (i + 0.5) * ROW, verdict.claim, COLOURS[verdict.seen]
        svg.text(0, y - 4, f"{claim.better}  <  {claim.worse}", bold=True)
        svg.text(0, y + 12, shorten(claim.source, 82), fill=MUTED)
        dots(svg, x, y, figure, colour)
        svg.text(WIDTH, y + 4, verdict.seen, anchor="end", fill=colour, bold=True)
    rows = (
        (v.claim.better, v.claim.worse, v.claim.source, f"{v.mean:+.3f} ± {v.sd:.3f}", v.seen)
        for v in found
    )
    return svg.picture(COLUMNS, rows)
