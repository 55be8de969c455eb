"""All routers in one table: trained quality, balance, drops, speed, and who sees the future."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.axes import Scale, padded, x_axis
from moeviz.pictures.plot import about, dots, extent, mean_sd
from moeviz.pictures.svg import INK, MUTED, Picture, Svg

WIDTH = 900
TOP, ROW = 64.0, 22.0
BETTER, WORSE = "#0072b2", "#d55e00"
# Right edges of the columns of figures.
EDGES = (684.0, 736.0, 792.0, 838.0, WIDTH)
COLUMNS = (
    "router", "validation loss", "minus dense", "MaxVio", "dead experts", "of",
    "drop rate", "step time / dense", "causal",
)  # fmt: skip


def standings(recorded: dict[str, Any]) -> Picture:
    """Every router of a recorded `experiment routers`, best validation loss first: the difference
    to the dense twin of equal active FLOPs, a tick a seed, a bar of one standard deviation to both
    sides."""
    arms: dict[str, Any] = recorded["arms"]
    order = sorted(arms, key=lambda name: arms[name]["validation_loss"]["mean"])
    summary = _summary(arms, order, recorded["steps"])
    svg = Svg(WIDTH, TOP + ROW * len(order) + 52, "Every router in the same model", summary)
    svg.text(0, 16, about(recorded, arms["dense"]["validation_loss"]), fill=MUTED)
    ends = extent(arm["loss_minus_dense"] for arm in arms.values())
    x = Scale(*padded([0.0, *ends], 0.05), 290, 620)
    label = "validation loss minus the dense twin's (nats per token): left is better"
    x_axis(svg, x, TOP + ROW * len(order), label, top=TOP - 6, zero=True)
    for edge, head in zip(EDGES, ("MaxVio", "dead", "drops", "time", "future"), strict=True):
        svg.text(edge, 46, head, anchor="end", bold=True)
    for i, name in enumerate(order):
        y = TOP + (i + 0.5) * ROW
        svg.text(280, y + 4, name, anchor="end", bold=name == "dense")
        difference = arms[name]["loss_minus_dense"]
        dots(svg, x, y, difference, BETTER if difference["mean"] <= 0 else WORSE)
        for edge, text in zip(EDGES, _figures(name, arms), strict=True):
            late = edge == WIDTH
            svg.text(edge, y + 4, text, anchor="end", fill=WORSE if late else INK, bold=late)
    return svg.picture(COLUMNS, (_cells(name, arms) for name in order))


def _figures(name: str, arms: dict[str, Any]) -> tuple[str, ...]:
    """The columns at the right."""
    arm = arms[name]
    time = f"{arms['dense']['steps_per_second'] / arm['steps_per_second']:.1f}×"
    if name == "dense":
        return ("", "", "", time, "")
    return (
        f"{arm['max_violation']['mean']:.2f}",
        f"{arm['dead_experts']['mean']:.1f}/{arm['experts']}",
        f"{100 * arm['drop_rate']['mean']:.1f} %",
        time,
        "" if arm["causal"] else "train" if arm["substitute"] else "always",
    )


def _cells(name: str, arms: dict[str, Any]) -> tuple[object, ...]:
    arm = arms[name]
    time = arms["dense"]["steps_per_second"] / arm["steps_per_second"]
    losses = [mean_sd(arm[kind], 3) for kind in ("validation_loss", "loss_minus_dense")]
    if name == "dense":
        return (name, *losses, "", "", "", "", f"{time:.2f}", "yes")
    causal = "yes" if arm["causal"] else "outside training" if arm["substitute"] else "no"
    violation, dead = mean_sd(arm["max_violation"], 2), mean_sd(arm["dead_experts"], 1)
    drops = mean_sd(arm["drop_rate"], 3)
    return name, *losses, violation, dead, arm["experts"], drops, f"{time:.2f}", causal


def _summary(arms: dict[str, Any], order: list[str], steps: int) -> str:
    """What was seen, in words that the figures decide."""
    sparse = [name for name in order if name != "dense"]
    values = {name: arms[name]["loss_minus_dense"]["values"] for name in sparse}
    better = [name for name in sparse if all(v < 0 for v in values[name])]
    worse = [name for name in sparse if all(v > 0 for v in values[name])]
    causal = [name for name in sparse if arms[name]["causal"]]
    best = causal[0] if causal else sparse[0]
    figure = arms[best]["loss_minus_dense"]
    return (
        f"After {steps} steps at equal active FLOPs, {len(better)} of {len(sparse)} routers beat "
        f"the dense twin with every seed, and {len(worse)} lose to it with every seed. The best "
        f"one that never sees the future is {best}, with {mean_sd(figure, 3)} nats per token "
        "against the twin."
    )
