"""What a small model's loss costs when some of its weights are kept in fewer bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moeviz.pictures.axes import LogScale, x_axis
from moeviz.pictures.over_seeds import about, mean_sd, told_gap
from moeviz.pictures.plot import heading, mark, paragraph, row
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.words import percent

WIDTH, ROW, TOP, LEFT = 560.0, 22.0, 122.0, 232.0
FLOOR = 1e-4  # a rise below this is drawn here: recordings keep four decimals
COLOURS = {"experts": "#0072b2", "components": "#d55e00", "layers": "#009e73"}
MARKS = {"experts": "circle", "components": "square", "layers": "diamond"}
NAMES = {
    "routed_experts": "routed experts", "shared_experts": "shared expert", "head": "output head",
    "bf16": "BF16", "int8": "INT8", "fp8": "FP8", "int4_g32": "INT4, groups of 32",
    "mxfp4": "MXFP4", "int4_zero": "INT4, zero points", "int4": "INT4", "int3": "INT3",
    "int2": "INT2",
}  # fmt: skip

Figures = dict[str, Any]


def fewer_bits(figures: Figures) -> Picture:
    """A row for each format of the routed experts, each component alone, and each layer's experts
    alone: the rise of the held-out loss. figures: see experiments.quantised."""
    every = [(kind, name, figures[kind][name]) for kind in COLOURS for name in figures[kind]]
    most = max(rise["loss"]["mean"] for _, _, rise in every)
    x = LogScale(FLOOR, max(10 * FLOOR, 1.6 * most), LEFT, WIDTH - 14)
    bottom = TOP + ROW * (len(every) + len(COLOURS))
    svg = Svg(WIDTH, bottom + 46, "Weights in fewer bits", told(figures))
    heading(svg, "What fewer bits cost")
    note = (
        "Rise of the held-out loss, nats per token, after rounding; nothing was trained again.",
        "A tick for each seed, the mark at their mean.",
        about(figures, figures["unpacked"]),
    )
    paragraph(svg, 0, 38, note, fill=MUTED)
    x_axis(svg, x, bottom - ROW / 2, "nats per token, logarithmic", top=TOP - ROW, form=_form)
    y = TOP - ROW
    for kind in COLOURS:
        svg.text(0, y + 4, _title(kind, figures), bold=True)
        for name, rise in ((n, r) for of, n, r in every if of == kind):
            y += ROW
            loss, colour = rise["loss"], COLOURS[kind]
            label = _label(kind, name, figures)
            with row(svg, y, ROW, f"{kind}_{name}", kind, tip=f"{label}: {mean_sd(loss, 4, '+')}"):
                svg.text(12, y + 4, label)
                for value in loss["values"]:
                    at = x(min(max(value, FLOOR), x.high))
                    svg.line(at, y - 6, at, y + 6, stroke=colour, width=1.5)
                mark(svg, MARKS[kind], x(max(loss["mean"], FLOOR)), y, colour, stroke=INK)
        y += ROW
    domains = figures["domains_of_text"]
    columns = ("weights", "rise, nats per token", *domains)
    return svg.picture(columns, (tuple(_cells(figures, *each)) for each in every))


def _form(value: float) -> str:
    return f"≤ {value:g}" if value <= FLOOR else f"{value:g}"


def _title(kind: str, figures: Figures) -> str:
    probe = NAMES[figures["probe"]]
    return {
        "experts": "All routed experts, by format",
        "components": f"One component alone, {probe}",
        "layers": f"One layer's routed experts, {probe}",
    }[kind]


def _label(kind: str, name: str, figures: Figures) -> str:
    if kind == "experts":
        return f"{NAMES[name]} · {figures['bits'][name]:.4g} bits"
    if kind == "layers":
        return f"layer {name}"
    share = figures["weights"][name] / sum(figures["weights"].values())
    return f"{NAMES.get(name, name)} · {100 * share:.1f} % of weights"


def _cells(figures: Figures, kind: str, name: str, rise: Figures) -> Iterator[str]:
    where = "" if kind == "experts" else f", {NAMES[figures['probe']]}"
    yield f"{_label(kind, name, figures)}{where}"
    yield mean_sd(rise["loss"], 4, "+")
    yield from (mean_sd(domain, 4, "+") for domain in rise["domains"])


def told(figures: Figures) -> str:
    """How many bits are nearly free, who suffers most of fewer, and whether layers differ."""
    experts = {name: rise["loss"]["mean"] for name, rise in figures["experts"].items()}
    steps = ", ".join(f"{NAMES[n]} {experts[n]:+.3f}" for n in ("int8", "int4", "int3", "int2"))
    probe, judged = NAMES[figures["probe"]], figures["judged"]
    domains = figures["experts"][figures["probe"]]["domains"]
    by_mean = sorted(
        zip(domains, figures["domains_of_text"], strict=True), key=lambda each: each[0]["mean"]
    )
    worst, best = (
        f"in {name} ({mean_sd(rise, 3, '+')})" for rise, name in (by_mean[-1], by_mean[0])
    )
    each = {
        name: rise["loss"]["mean"] / figures["weights"][name]
        for name, rise in figures["components"].items()
    }
    tender = max(each, key=lambda name: each[name])
    share = figures["weights"]["shared_experts"] / figures["weights"]["routed_experts"]
    shared = f"The shared expert has {percent(share)} of the routed experts' weights. " + told_gap(
        "rounding it", "rounding all routed experts", judged["components"]["shared_experts"]
    )
    layers = [
        told_gap(f"rounding layer {name}", "rounding the first", gap)
        for name, gap in judged["layers"].items()
    ]
    return (
        f"All routed experts in fewer bits, nats per token: {steps}. In {probe} the mean rise is "
        f"largest {worst} and least {best}. For each of its weights, it is largest for the "
        f"{NAMES.get(tender, tender)}. {shared} "
        f"{' '.join(layers)}"
    )
