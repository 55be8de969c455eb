"""Trained with all experts, answering with few: the loss beside the dense twin's, by K."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from moeviz.pictures.axes import LogScale, Scale, axes, padded
from moeviz.pictures.over_seeds import Figure, about, gap_cell, mean_sd
from moeviz.pictures.plot import Key, Stop, curve, heading, mark, paragraph, track
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.words import percent

WIDTH, LEFT, RIGHT, PLOT, LINE = 560.0, 64.0, 376.0, 230.0, 18.0
QUESTION = "Trained with all 16 experts for every token: how few may answer?"
HIGHEST = 1.0  # nats; what is worse is drawn at the upper edge
NAMES = {
    "sparse": "sparse, trained at K\u00a0=\u00a02",
    "narrow, 0": "narrow, no information loss",
    "narrow, 0.01": "narrow, information loss × 0.01",
    "narrow, 0.1": "narrow, information loss × 0.1",
    "wide, 0.1": "wide, information loss × 0.1",
}
LOOKS = (
    ("#009e73", "2 3", "diamond"), ("#6e6e6e", "", "ring"), ("#56b4e9", "6 3", "square"),
    ("#0072b2", "", "circle"), ("#d55e00", "7 3", "cross"),
)  # fmt: skip
SAID = {
    "sparse": "the sparse model",
    "narrow, 0": "the narrow mixture without information loss",
    "narrow, 0.01": "the narrow mixture with a weak information loss",
    "narrow, 0.1": "the narrow mixture with a strong information loss",
    "wide, 0.1": "the wide mixture",
}
COLUMNS = (
    "model", "K", "parameters that answer", "gate weight covered", "loss", "minus the dense twin",
)  # fmt: skip

Figures = dict[str, Any]


def dense_then_sparse(figures: Figures, model: str, top_k: int, rule: str) -> Picture:
    """A line for each model over K, the chosen one thick. figures: see experiments.dense_training;
    rule: what becomes of the weights of a mixture's K best, "raw" or "renormalised"."""
    label = label_of(model, rule, top_k)
    headline = told(figures, model, top_k, rule)
    lines = textwrap.wrap(headline, 74)
    brings = told_information(figures, top_k)
    notes = (
        _answers(figures, model, top_k),
        *textwrap.wrap(brings, 84),
        about(figures, figures["minus_dense"][label]),
    )
    top = LINE * len(lines) + 70
    bottom = top + PLOT
    height = bottom + 90 + LINE * len(notes)
    svg = Svg(WIDTH, height, "Trained dense, answering sparse", f"{headline} {brings}")
    heading(svg, QUESTION)
    paragraph(svg, 0, 38, lines, LINE, bold=True)
    keys = {
        name: Key(words, *look) for (name, words), look in zip(NAMES.items(), LOOKS, strict=True)
    }
    gaps = {
        name: [
            (k, figures["minus_dense"][label_of(name, rule, k)]["mean"]) for k in figures["cuts"]
        ]
        for name in NAMES
    }
    x = LogScale(min(figures["cuts"]), max(figures["cuts"]), LEFT, RIGHT)
    shown = [min(gap, HIGHEST) for each in gaps.values() for _, gap in each]
    y = Scale(*padded([0.0, *shown]), bottom, top)
    axes(
        svg, x, y, x_label="experts that answer, K of 16",
        y_label="loss minus the dense twin's (nats per token)", above=True,
        x_ticks=sorted(figures["cuts"]),
    )  # fmt: skip
    svg.line(LEFT, y(0), RIGHT, y(0), stroke=INK, width=1.5)
    for name, key in keys.items():
        chosen = name == model
        with svg.thing(name, press={"model": name}, tip=f"Show {key.name}"):
            drawn = Key(key.name, key.colour, key.dash, key.mark, width=3 if chosen else 1.4)
            points, size = [(k, min(v, HIGHEST)) for k, v in gaps[name]], 5 if chosen else 3.5
            curve(svg, x, y, points, drawn, marks=size)
    _models(svg, figures, keys, model, top_k, rule, top)
    svg.line(x(top_k), y.start, x(top_k), y.end, stroke=INK, dash="2 4")
    cuts = sorted(figures["cuts"])
    stops = [
        Stop(
            x(k),
            f"K = {k}: {gap_cell(figures['minus_dense'][label_of(model, rule, k)])}",
            {"top_k": k},
        )
        for k in cuts
    ]
    track(svg, bottom + 62, stops, x(top_k))
    paragraph(svg, 0, bottom + 100, notes, LINE, fill=MUTED)
    return svg.picture(COLUMNS, _rows(figures, rule))


def _models(
    svg: Svg, figures: Figures, keys: dict[str, Key], model: str, top_k: int, rule: str, top: float
) -> None:
    """Beside the lines: each model, and where it stands with so many experts."""
    svg.text(RIGHT + 30, top - 12, f"with {top_k} of 16:", fill=MUTED)
    for i, (name, key) in enumerate(keys.items()):
        gap = figures["minus_dense"][label_of(name, rule, top_k)]
        tip = f"{key.name}, K = {top_k}: {gap_cell(gap)}. {_spent(figures, name)}"
        with svg.thing(name, press={"model": name}, tip=tip):
            y = top + 46 * i + 8
            mark(svg, key.mark, RIGHT + 18, y, key.colour, 5)
            words = [*textwrap.wrap(key.name, 20), f"{gap['mean']:+z.3f}, {gap['verdict']}"]
            paragraph(svg, RIGHT + 30, y + 4, words, 14, bold=name == model)


def label_of(model: str, rule: str, top_k: int) -> str:
    """How the recording calls it; the sparse model has one rule."""
    return f"{model}, {'renormalised' if model == 'sparse' else rule}, {top_k}"


def told(figures: Figures, model: str, top_k: int, rule: str) -> str:
    """What the chosen model loses, against the twin and against itself."""
    label = label_of(model, rule, top_k)
    stands = [_stands(figures["minus_dense"][label], "the dense twin")]
    if (rise := figures["rise"].get(label)) is not None:
        stands.append(_stands(rise, "itself with all experts"))
    return f"With K\u00a0=\u00a0{top_k} {SAID[model]} is {', and '.join(stands)}."


def _stands(gap: Figure, base: str) -> str:
    """ "0.079 nats per token above the dense twin", or that they are not told apart."""
    if gap["low"] is None or gap["verdict"] == "open":
        return f"not told apart from {base} ({gap['mean']:+z.3f} nats per token)"
    way = "below" if gap["verdict"] == "lower" else "above"
    return f"{abs(gap['mean']):.3f} nats per token {way} {base}"


def told_information(figures: Figures, top_k: int) -> str:
    """What the strong information loss does to the narrow mixture, with all experts and with K."""
    every = max(figures["cuts"])
    parts = []
    for k in dict.fromkeys((every, top_k)):
        gap, where = figures["information"][f"{k}, 0.1"], "all" if k == every else k
        if gap["low"] is None or gap["verdict"] == "open":
            stands = f"not told apart ({gap['mean']:+z.3f})"
        else:
            way = "below" if gap["verdict"] == "lower" else "above"
            stands = f"{abs(gap['mean']):.3f} {way}"
        parts.append(f"{stands} where {where} answer{'s' * (k == 1)}")
    return f"Narrow, raw weights, the strong information loss beside none: {', '.join(parts)}."


def _answers(figures: Figures, model: str, top_k: int) -> str:
    arm, k = figures["arms"][model], str(top_k)
    active, total = arm["active_parameters"][k]["mean"], arm["parameters"]["mean"]
    covered = percent(arm["covered"][k]["mean"])
    return (
        f"{active / 1e6:.2f} M of {total / 1e6:.2f} M parameters answer, with {covered} of the "
        "gate's weight."
    )


def _spent(figures: Figures, model: str) -> str:
    """What a step of its training takes beside one of the dense twin."""
    arms = figures["arms"]
    step, twin = (arms[name]["gigaflops_per_step"]["mean"] for name in (model, "dense"))
    return f"A step of its training takes {step / twin:.1f} times the dense twin's FLOPs"


def _rows(figures: Figures, rule: str) -> Iterator[tuple[Any, ...]]:
    for model, words in NAMES.items():
        arm = figures["arms"][model]
        for k in figures["cuts"]:
            loss = arm["renormalised" if model == "sparse" else rule][str(k)]
            yield (
                words, k, f"{arm['active_parameters'][str(k)]['mean'] / 1e6:.2f} M",
                percent(arm["covered"][str(k)]["mean"]), mean_sd(loss, 3),
                gap_cell(figures["minus_dense"][label_of(model, rule, k)]),
            )  # fmt: skip
