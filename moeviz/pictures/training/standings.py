"""All routers in one table: trained quality, balance, drops, speed, and who sees the future."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Scale, Svg

WIDTH = 900
TOP, ROW = 64.0, 22.0
BETTER, WORSE = "#0072b2", "#d55e00"
# Right edges of the columns of figures.
EDGES = {"load": 684.0, "dead": 736.0, "dropped": 792.0, "time": 838.0}
COLUMNS = (
    "router", "validation loss", "minus dense", "MaxVio", "dead experts", "of",
    "drop rate", "step time / dense", "causal",
)  # fmt: skip


def standings(recorded: dict[str, Any]) -> Picture:
    """Every router of a recorded `experiment routers`, best validation loss first: a dot at the
    mean difference to the dense twin of equal active FLOPs, a bar of one standard deviation over
    seeds to both sides."""
    arms: dict[str, Any] = recorded["arms"]
    order = sorted(arms, key=lambda name: arms[name]["validation_loss"]["mean"])
    summary = _summary(arms, order, recorded["steps"])
    svg = Svg(WIDTH, TOP + ROW * len(order) + 52, "Every router in the same model", summary)
    meta = recorded["provenance"]
    seeds = len(arms["dense"]["validation_loss"]["values"])
    svg.text(
        0, 16, f"{seeds} seeds · {recorded['steps']} steps · {meta['device']} · {meta['date']}",
        fill=MUTED,
    )  # fmt: skip
    low, high = _reach(arms)
    x = Scale(low, high, 290, 620)
    bottom = TOP + ROW * len(order)
    for value in x.ticks(5):
        svg.line(x(value), TOP - 6, x(value), bottom, stroke=RULE, width=0.5)
        svg.text(x(value), bottom + 18, f"{value:g}", anchor="middle", fill=MUTED)
    svg.line(x(0), TOP - 6, x(0), bottom, stroke=INK, width=1.5)
    svg.text(
        (x.start + x.end) / 2, bottom + 40,
        "validation loss minus the dense twin's (nats per token): left is better", anchor="middle",
    )  # fmt: skip
    for name, head in (
        ("load", "MaxVio"),
        ("dead", "dead"),
        ("dropped", "drops"),
        ("time", "time"),
    ):
        svg.text(EDGES[name], 46, head, anchor="end", bold=True)
    svg.text(WIDTH, 46, "future", anchor="end", bold=True)
    for i, name in enumerate(order):
        _row(svg, x, TOP + (i + 0.5) * ROW, name, arms)
    return Picture(svg.close(), summary, COLUMNS, tuple(_cells(name, arms) for name in order))


def _row(svg: Svg, x: Scale, y: float, name: str, arms: dict[str, Any]) -> None:
    arm, dense = arms[name], name == "dense"
    svg.text(280, y + 4, name, anchor="end", bold=dense)
    mean, sd = arm["loss_minus_dense"]["mean"], arm["loss_minus_dense"]["sd"] or 0.0
    colour = BETTER if mean <= 0 else WORSE
    svg.rect(x(mean - sd), y - 6, x(mean + sd) - x(mean - sd), 12, colour, opacity=0.35)
    svg.circle(x(mean), y, 4, colour)
    time = arms["dense"]["steps_per_second"] / arm["steps_per_second"]
    svg.text(EDGES["time"], y + 4, f"{time:.1f}×", anchor="end")
    if dense:
        return
    svg.text(EDGES["load"], y + 4, f"{arm['max_violation']['mean']:.2f}", anchor="end")
    dead = f"{arm['dead_experts']['mean']:.1f}/{arm['experts']}"
    svg.text(EDGES["dead"], y + 4, dead, anchor="end")
    svg.text(EDGES["dropped"], y + 4, f"{100 * arm['drop_rate']['mean']:.1f} %", anchor="end")
    if not arm["causal"]:
        sees = "train" if arm["substitute"] else "always"
        svg.text(WIDTH, y + 4, sees, anchor="end", fill=WORSE, bold=True)


def _cells(name: str, arms: dict[str, Any]) -> tuple[object, ...]:
    arm = arms[name]
    time = arms["dense"]["steps_per_second"] / arm["steps_per_second"]
    figures = [_spread(arm["validation_loss"], 3), _spread(arm["loss_minus_dense"], 3)]
    if name == "dense":
        return (name, *figures, "", "", "", "", f"{time:.2f}", "yes")
    causal = "yes" if arm["causal"] else "outside training" if arm["substitute"] else "no"
    return (
        name, *figures, _spread(arm["max_violation"], 2), _spread(arm["dead_experts"], 1),
        arm["experts"], _spread(arm["drop_rate"], 3), f"{time:.2f}", causal,
    )  # fmt: skip


def _spread(figure: dict[str, Any], decimals: int) -> str:
    """Mean ± standard deviation, the former alone for one seed."""
    mean = f"{figure['mean']:.{decimals}f}"
    return mean if figure["sd"] is None else f"{mean} ± {figure['sd']:.{decimals}f}"


def _reach(arms: dict[str, Any]) -> tuple[float, float]:
    """The axis: every dot with its bar, and zero."""
    ends = [0.0]
    for arm in arms.values():
        mean, sd = arm["loss_minus_dense"]["mean"], arm["loss_minus_dense"]["sd"] or 0.0
        ends += [mean - sd, mean + sd]
    margin = 0.05 * (max(ends) - min(ends) or 1.0)
    return min(ends) - margin, max(ends) + margin


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
        f"one that never sees the future is {best}, with {_spread(figure, 3)} nats per token "
        "against the twin."
    )
