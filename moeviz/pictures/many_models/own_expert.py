"""An expert of one's own: what its text gains, what is forgotten, and which tokens visit it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moeviz.pictures.axes import Scale, axes, padded, x_axis
from moeviz.pictures.plot import (
    Key,
    box,
    curve,
    flow,
    heading,
    legend,
    mark,
    row,
    smooth,
    spots,
    stages,
)
from moeviz.pictures.svg import INK, MUTED, Picture, Svg, shorten
from moeviz.pictures.training.race import name_ends
from moeviz.records.own_runs import OwnRun
from moeviz.words import percent

WIDTH, SIDE = 560.0, 372.0
ROW, TOP = 26.0, 92.0
LOWER, HIGHER = "#0072b2", "#d55e00"
EXPERTS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # of those that are plugged in, in order
LAYERS = (("#0072b2", "circle"), ("#d55e00", "square"), ("#009e73", "diamond"))
OTHER = "5 4"  # the dash of other text's visits
SMOOTH = 7  # steps: a batch has few pieces of the text
COLUMNS = ("text", "loss without", "loss now", "change", "beside its own expert alone")


def own_expert(run: OwnRun, layer: int, *, note: str = "") -> Picture:
    """By text the change of the loss, own texts first; beside it the training; below it the text,
    with the tokens that visit the plugged experts in one layer.

    layer: of the MoE layers, from 0. note: where the figures come from.
    """
    words = told(run, layer)
    svg = Svg(WIDTH, TOP + ROW * len(run.rows) + 78, "An expert of one's own", words)
    heading(svg, "What does the text gain, and what is forgotten?")
    svg.text(0, 36, finding(run), size=13, bold=True)
    svg.text(0, 55, note, fill=MUTED)
    _changes(svg, run)
    side = svg.beside(SIDE, 466)
    _training(side, run)
    _strip(svg, run, layer)
    return svg.picture(COLUMNS, _rows(run))


# In words.


def finding(run: OwnRun) -> str:
    """The result in one line."""
    if not run.measured:
        return "Nothing is learnt yet: press Train."
    domains = (run.after - run.before)[run.own :]
    own = float((run.after - run.before)[0])
    return (
        f"{shorten(run.rows[0], 16)}: {own:+z.2f} nats per token. "
        f"The six domains: {domains.mean():+z.2f} on average."
    )


def told(run: OwnRun, layer: int) -> str:
    """The same, and who visits the experts."""
    name = shorten(run.name, 24)
    if not run.measured:
        return (
            f"An expert for {name} ({run.form}, {run.steps} steps) is not trained yet. Press Train "
            "to do it here, in the background."
        )
    if not run.plugged:
        same = "is bit for bit the model that ships" if run.now == run.base else "is another one"
        return f"No expert is plugged in: the model {same}. Its fingerprint is {_short(run.now)}."
    change = run.after - run.before
    domains = change[run.own :]
    worst = int(domains.argmax())
    way = "falls" if change[0] < 0 else "rises"
    words = (
        f"After {run.step} steps the loss of {name} {way} from {run.before[0]:.2f} to "
        f"{run.after[0]:.2f} nats per token. The other texts' losses change by "
        f"{domains.mean():+z.2f} on average, most that of {run.rows[run.own + worst]} "
        f"({domains[worst]:+z.2f})."
    )
    if len(run.plugged) > 1:
        return f"{words} {clash(run)}"
    visits = percent(_share(run, layer))
    return f"{words} In layer {run.layers[layer]}, {visits} of its tokens visit the expert."


def clash(run: OwnRun) -> str:
    """What experts that are plugged in together cost each other's texts."""
    names = f"{len(run.plugged)} experts are plugged in."
    cost = (run.after - run.alone)[: run.own]
    known = [(name, c) for name, c in zip(run.rows, cost, strict=False) if np.isfinite(c)]
    parts = [f"{shorten(name, 24)} {c:+z.2f}" for name, c in known]
    return f"{names} Beside its own expert alone: {', '.join(parts)}." if parts else names


def _share(run: OwnRun, layer: int) -> float:
    """Of the tokens that are shown, those that visit the first plugged expert."""
    return float((run.chose[:, layer, 0] > 0).mean())


def _short(fingerprint: str) -> str:
    return fingerprint[:8]


# What is drawn.


def _changes(svg: Svg, run: OwnRun) -> None:
    """A row for each text: how its loss has changed."""
    change, alone = run.after - run.before, run.alone - run.before
    known = [v for v in (*change, *alone) if np.isfinite(v)]
    x = Scale(min(-1.0, *known, 0.0) * 1.05, max(0.5, *known, 0.0) * 1.05, 118, 424)
    bottom = TOP + ROW * len(run.rows) + 8
    label = "change of the loss, nats per token: to the left is better"
    x_axis(svg, x, bottom, label, top=TOP - 8, ticks=x.ticks(5), zero=True)
    svg.text(WIDTH - 2, TOP - 14, "without → now", anchor="end", fill=MUTED)
    for place, name in enumerate(run.rows):
        y = TOP + (place + 0.5) * ROW
        own, value = place < run.own, float(change[place])
        if not np.isfinite(value):
            svg.text(0, y + 4, shorten(name, 16), bold=own)
            continue
        ends = f"{run.before[place]:.2f} → {run.after[place]:.2f}"
        beside = f", {alone[place]:+z.2f} with its own expert alone" * bool(
            np.isfinite(alone[place])
        )
        with row(svg, y, ROW, name, tip=f"{name}: {ends} nats per token, {value:+z.2f}{beside}"):
            svg.text(0, y + 4, shorten(name, 16), bold=own)
            left, right = sorted((x(0), x(value)))
            colour, shape = (LOWER, "circle") if value < 0 else (HIGHER, "square")
            if f"{value:z.2f}" == "0.00":  # as it is told
                colour, shape = MUTED, "ring"
            svg.rect(left, y - 4, right - left, 8, colour)
            mark(svg, shape, x(value), y, colour, 5)
            if len(run.plugged) > 1 and np.isfinite(alone[place]):
                mark(svg, "ring", x(float(alone[place])), y, INK, 7)
            svg.text(WIDTH - 2, y + 4, ends, anchor="end", bold=own)
    if len(run.plugged) > 1:
        svg.circle(8, bottom + 48, 6, "none", stroke=INK)
        svg.text(20, bottom + 52, "with its own expert alone", fill=MUTED)
    _fingerprints(svg, run, bottom + 64)


def _fingerprints(svg: Svg, run: OwnRun, y: float) -> None:
    if not run.base:
        return
    now = "the same, bit for bit" if run.now == run.base else _short(run.now)
    svg.text(WIDTH - 2, y, f"fingerprint as it ships: {_short(run.base)} · now: {now}",
             anchor="end", fill=MUTED)  # fmt: skip


def _training(svg: Svg, run: OwnRun) -> None:
    """The loss of the text as it learns, and who visits the new expert meanwhile."""
    heading(svg, f"Training: step {run.step} of {run.steps}")
    svg.text(0, 36, f"loss of {shorten(run.name, 24)}, held-out part, nats per token", fill=MUTED)
    x = Scale(0, run.steps, 44, SIDE - 96)
    y = Scale(*(padded(run.loss, 0.12) if len(run.loss) > 1 else (3.0, 7.0)), 176, 52)
    axes(svg, x, y, x_label="step", y_ticks=y.ticks(4))
    points = [*zip(run.loss_step, run.loss, strict=True)]
    places = curve(svg, x, y, points, Key("loss", LOWER))
    spots(svg, ("loss",), places, [f"step {s}: {loss:.3f} nats per token" for s, loss in points])
    svg.text(0, 244, "Who visits the new expert?", size=14, bold=True)
    dashed = "share of tokens · solid: this text · dashed: other text"
    svg.text(0, 262, dashed, fill=MUTED)
    y = Scale(0, 1, 414, 278)
    axes(svg, x, y, x_label="step", y_ticks=(0, 0.5, 1), y_form=percent)
    ends = []
    for place, layer in enumerate(run.layers):
        colour, shape = LAYERS[place % len(LAYERS)]
        key = Key(f"layer {layer}", colour, mark=shape)
        for visits_NL, dash in ((run.visits, ""), (run.visits_elsewhere, OTHER)):
            values = visits_NL[:, place]
            if not len(values) or np.isnan(values).all():
                continue
            line = smooth(values, SMOOTH)
            with svg.thing(key.name, tip=f"{key.name}, at the end: {percent(line[-1])}"):
                curve(svg, x, y, enumerate(line, 1), Key(key.name, colour, dash))
            if not dash:
                ends.append((y(line[-1]), key.name, key))
    if ends:
        name_ends(svg, x.end, (y.start, y.end), ends)


def _strip(svg: Svg, run: OwnRun, layer: int) -> None:
    """The text's held-out tokens; those that visit a plugged expert in its colour."""
    shown = [shorten(token, 24) for token in run.tokens]
    weight_TP = run.chose[:, layer] if len(shown) else np.zeros((0, 0))
    labels = [(_weight(weights),) for weights in weight_TP]
    boxes, height = flow(shown, labels, size=14, air=10, room=WIDTH, line_height=46)
    part = svg.beside(WIDTH, 120 + max(height, 20))
    heading(part, f"Which tokens visit it in layer {run.layers[layer]}?")
    names = [f"layer {n}" for n in run.layers]
    numbers = {name: place for place, name in enumerate(names)}
    stages(part, 250, names, names[layer], lambda name: {"layer": numbers[name]}, top=28)
    keys = [
        Key(shorten(name, 14), EXPERTS[p % len(EXPERTS)], mark="box", width=0, hatched=p > 0)
        for p, name in enumerate(run.plugged[: len(EXPERTS)])
    ]
    legend(part, 0, 78, keys)
    if not shown:
        part.text(0, 78, "The tokens of the text stand here once it is trained.", fill=MUTED)
    elif not run.plugged:
        part.text(
            0, 78, "No expert is plugged in: all tokens go where they always went.", fill=MUTED
        )
    else:
        note = "held-out tokens · below: the weight that the expert has in the answer"
        part.text(0, 98, note, fill=MUTED)
    for t, (x, y, width) in enumerate(boxes):
        weights = weight_TP[t]
        first = int(weights.argmax()) if weights.any() else -1
        tip = f"token {t} '{shown[t]}': {_visited(run, weights) or 'no expert of one’s own'}"
        with part.thing(f"t{t}", tip=tip):
            colour = EXPERTS[first % len(EXPERTS)] if first >= 0 else "none"
            box(part, x, y + 110, width, 24, colour, shown[t], size=14, mono=True, radius=4,
                stroke=MUTED, hatched=first > 0)  # fmt: skip
            part.text(x + width / 2, y + 147, labels[t][0], anchor="middle", mono=True)


def _weight(weights: np.ndarray) -> str:
    """ ".62", of two ".5 .4", nothing for none."""
    return " ".join(f"{w:.2f}".removeprefix("0") for w in weights if w > 0)


def _visited(run: OwnRun, weights: np.ndarray) -> str:
    pairs = zip(run.plugged, weights, strict=True)
    return ", ".join(f"{shorten(name, 24)} with weight {w:.2f}" for name, w in pairs if w > 0)


def _rows(run: OwnRun) -> Iterator[tuple[object, ...]]:
    for name, before, after, alone in zip(run.rows, run.before, run.after, run.alone, strict=True):
        known = np.isfinite(after)
        yield (
            name,
            f"{before:.3f}" if np.isfinite(before) else "",
            f"{after:.3f}" if known else "",
            f"{after - before:+z.3f}" if known else "",
            f"{after - alone:+z.3f}" if np.isfinite(alone) and len(run.plugged) > 1 else "",
        )
