"""Facts and products: what an MoE learns of each beside its two dense models, recorded and live."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from moeviz.pictures.axes import Scale, axes, general, y_axis
from moeviz.pictures.over_seeds import gap_cell, mean_sd
from moeviz.pictures.plot import Key, curve, heading, mark, paragraph, spots
from moeviz.pictures.svg import INK, MUTED, RULE, Picture, Svg
from moeviz.pictures.training.arms import origin, seeds_words
from moeviz.pictures.training.load_and_speed import STYLES
from moeviz.pictures.training.race import MARKS, NOT_YET, name_ends, progress
from moeviz.records.answers import DENSE, DENSE_ALL, LEAST, MODELS, MOE, brought, brought_more
from moeviz.records.runs import Snapshot
from moeviz.words import percent

Recorded = Mapping[str, Any]
BOOK, PRODUCTS = "phone book", "multiplication"  # as they are recorded
WIDTH, TOP, BOTTOM = 560.0, 152.0, 334.0
ENDS = {BOOK: (44.0, 316.0), PRODUCTS: (384.0, 558.0)}  # x of each task's plot
HEIGHT, LIVE_HEIGHT = 420.0, 386.0
SIDE, SIDE_PLOT = 380.0, (48.0, 262.0)  # of the learners, beside the sizes
QUESTION = "Do experts help to remember, or to think?"
PLAIN = {BOOK: "the phone book", PRODUCTS: "products"}
TITLES = {BOOK: "Phone book: share recalled", PRODUCTS: "Unseen products: right"}
COLUMNS = ("task", "model", "steps", "parameters", "active parameters", "right answers",
           "minus dense", "minus dense, all parameters")  # fmt: skip
KEYS = {
    model: Key(model, *style, mark=shape)
    for model, style, shape in zip(MODELS, STYLES, MARKS, strict=True)
}
NOT_RECORDED = "The figures over seeds are not recorded yet."


def memory_or_thinking(
    recorded: Recorded | None, name: str, learners: Sequence[Snapshot], *, note: str = ""
) -> Picture:
    """What experts bring, in one sentence; the share of right answers of all three models on every
    recorded task, where a press on a size shows how it was learned; then the learners of one of
    them, step by step. recorded: runs/memory_or_thinking.json; name: of the learners' task."""
    headline = told(recorded) if recorded else NOT_RECORDED
    now = learning(learners, name)
    svg = Svg(WIDTH, HEIGHT if recorded else 60, "Memory or thinking", f"{headline} {now}")
    heading(svg, QUESTION)
    lines = _lines(headline, 76)
    paragraph(svg, 0, 38, lines, bold=True)
    if recorded:
        words = f"{seeds_words(len(recorded['seeds']))} · {recorded['steps']:,} steps"
        svg.text(0, 40 + 18 * len(lines), origin(recorded, words), fill=MUTED)
        _draw_sizes(svg, recorded, name)
    _draw_learning(svg.beside(SIDE, LIVE_HEIGHT), learners, name, now, note)
    return svg.picture(COLUMNS, [*_now(learners, name), *(_rows(recorded) if recorded else ())])


# In words.


def told(recorded: Recorded) -> str:
    """What share of a wide FFN's gain the experts bring on each task, and whether it is more where
    there is something to remember."""
    parts = []
    for task, sizes in recorded["tasks"].items():
        if share := brought(sizes):
            unsure = " (it may be none)" if share.low <= 0 <= share.high else ""
            parts.append(f"{percent(share.mean)} on {PLAIN[task]}{unsure}")
    if not parts:
        return contrast(recorded)
    gain = "Of what a wide FFN gains over a narrow one"
    return f"{gain}, experts bring {' and '.join(parts)}. {contrast(recorded)}"


def contrast(recorded: Recorded) -> str:
    """Whether experts bring more to memory than to thinking, as the paper says beforehand."""
    sizes = recorded["tasks"]
    silent = [PLAIN[task] for task in sizes if brought(sizes[task]) is None]
    if silent:
        return f"On {' and '.join(silent)} a wide dense model gains too little to share out."
    gap = brought_more(sizes[BOOK], sizes[PRODUCTS])
    assert gap is not None
    if len(gap.values) < 2:
        return "One seed cannot tell whether that differs."
    low, high = (f"{100 * value:+z.0f}" for value in (gap.low, gap.high))
    interval = f"95 % interval {low} to {high} points"
    if gap.low <= 0 <= gap.high:
        return f"Whether these differ is open ({interval})."
    way = "more to memory, as the paper says" if gap.mean > 0 else "less to memory"
    return f"They bring {way} ({interval})."


def told_sizes(recorded: Recorded) -> list[str]:
    """By task: what share of the wide FFN's gain the experts bring at each size, of the means."""
    sentences = []
    for task, sizes in recorded["tasks"].items():
        parts = []
        for size, figures in sizes.items():
            right = {model: figures["models"][model]["right"]["mean"] for model in MODELS}
            whole = right[DENSE_ALL] - right[DENSE]
            if whole >= LEAST:
                share = percent((right[MOE] - right[DENSE]) / whole)
                parts.append(f"{share} at {int(size):,} {_unit(task)}")
        if parts:
            gain = f"Of the wide model's gain on {PLAIN[task]}"
            sentences.append(f"{gain} experts bring {_listed(parts)}.")
    return sentences


def verdict_sentences(recorded: Recorded) -> list[str]:
    """By task: where the MoE is above or below each dense model, by the verdicts of the table."""
    sentences = []
    for task, sizes in recorded["tasks"].items():
        for other, words in ((DENSE, "active"), (DENSE_ALL, "total")):
            by_verdict: dict[str, list[str]] = {}
            for size, figures in sizes.items():
                verdict = figures["gaps"][f"{MOE} minus {other}"]["verdict"]
                by_verdict.setdefault(verdict, []).append(f"{int(size):,}")
            ways = {"higher": "above", "lower": "below", "open": "not told apart from"}
            parts = [f"{ways[v]} it at {_listed(at)}" for v, at in by_verdict.items()]
            sentences.append(
                f"{task.capitalize()} ({_unit(task)}): beside the dense model of equal "
                f"{words} parameters the MoE is {', '.join(parts)}."
            )
    return sentences


def learning(learners: Sequence[Snapshot], name: str) -> str:
    """How far the learners of one task have come."""
    shares = {s.label: points[-1][1] for s in learners if (points := points_of(s))}
    if not shares:
        return f"{progress(learners)}The {name}: no answers have been counted yet."
    parts = [f"{label.replace(', ', ' with ')} {percent(s)}" for label, s in shares.items()]
    done = progress(learners) or f"After {learners[0].step:,} steps. "
    return f"{done}{name[:1].upper()}{name[1:]}. Right answers: {_listed(parts)}."


def _lines(words: str, letters: int) -> list[str]:
    """In lines of at most so many letters, with no number parted from its sign."""
    return textwrap.wrap(words.replace(" %", "\u00a0%"), letters)


def _unit(task: str) -> str:
    return "entries" if task == BOOK else "digits"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + [words[-1]])


def _name(task: str, size: str) -> str:
    return f"{task} of {int(size):,} {_unit(task)}"


# The sizes.


def _draw_sizes(svg: Svg, recorded: Recorded, name: str) -> None:
    y = Scale(0, 1, BOTTOM, TOP)
    for task, sizes in recorded["tasks"].items():
        start, end = ENDS[task]
        svg.text(start - 40, TOP - 24, TITLES[task], bold=True)
        y_axis(svg, y, start, end, ticks=y.ticks(4), form=lambda v: percent(v))
        wide = (end - start) / len(sizes)
        for place, (size, figures) in enumerate(sizes.items()):
            middle, of_size = start + (place + 0.5) * wide, _name(task, size)
            chosen = of_size == name
            tip = f"{of_size}: press to see how it was learned"
            with svg.thing(tip=tip, press={"learn": of_size, "seed": 0}):
                edge = {"stroke": INK, "stroke_width": 2} if chosen else {"stroke": RULE}
                svg.rect(
                    middle - wide / 2 + 3, TOP - 6, wide - 6, BOTTOM - TOP + 34, "transparent",
                    radius=4, **edge,
                )  # fmt: skip
                svg.text(middle, BOTTOM + 20, f"{int(size):,}", anchor="middle", bold=chosen)
            step = min(20.0, wide / 4)
            for number, model in enumerate(MODELS):
                _draw_model(svg, y, middle + (number - 1) * step, model, figures, of_size)
        svg.text((start + end) / 2, BOTTOM + 46, _unit(task), anchor="middle")
    x = 0.0
    for key in KEYS.values():
        mark(svg, key.mark, x + 8, HEIGHT - 18, key.colour, 5)
        svg.text(x + 20, HEIGHT - 14, key.name, bold=True)
        x += 86
    svg.text(WIDTH - 2, HEIGHT - 14, "tick: a seed · line: ± spread", anchor="end", fill=MUTED)


def _draw_model(svg: Svg, y: Scale, at: float, model: str, figures: Recorded, of_size: str) -> None:
    right, key = figures["models"][model]["right"], KEYS[model]
    others = [figures["gaps"].get(f"{model} minus {other}") for other in (DENSE, DENSE_ALL)]
    gaps = [
        f"; minus {other}: {gap_cell(gap)}"
        for other, gap in zip((DENSE, DENSE_ALL), others, strict=True)
        if gap
    ]
    tip = f"{of_size}, {model}: {mean_sd(right, 3)} right{''.join(gaps)}"
    with svg.thing(model, tip=tip, press={"learn": of_size, "seed": 0}):
        svg.rect(at - 9, y.end, 18, y.start - y.end, "transparent")
        low, high = (min(max(right["mean"] + side * (right["sd"] or 0), 0), 1) for side in (-1, 1))
        svg.line(at, y(low), at, y(high), stroke=key.colour, width=2)
        for value in right["values"]:
            svg.line(at - 6, y(value), at + 6, y(value), stroke=key.colour, width=1)
        mark(svg, key.mark, at, y(right["mean"]), key.colour, 5, stroke=INK)


# The learners.


def points_of(learner: Snapshot) -> list[tuple[float, float]]:
    """Step and share of right answers, as far as the learner has come."""
    points = learner.meta.get("notes", {}).get("right", [])
    return [(float(step), float(share)) for step, share in points if step <= learner.step]


def _draw_learning(svg: Svg, learners: Sequence[Snapshot], name: str, now: str, note: str) -> None:
    paragraph(svg, 0, 16, _lines(now, 50), bold=True)
    paragraph(svg, 0, 74, _lines(note, 58), fill=MUTED)
    x = Scale(0, max(s.total_steps for s in learners), *SIDE_PLOT)
    y = Scale(0, 1, 334, 136)
    svg.text(0, 118, f"Right answers, {name}", bold=True)
    axes(
        svg, x, y, x_label="training steps", y_ticks=y.ticks(4), y_form=lambda v: percent(v),
        x_form=general,
    )  # fmt: skip
    ends = []
    for learner in learners:
        points, key = points_of(learner), KEYS[learner.label]
        with svg.thing(key.name):
            places = curve(svg, x, y, points, key, marks=3)
        tips = [f"{key.name}, step {step:.0f}: {percent(share, 1)} right" for step, share in points]
        spots(svg, [key.name], places, tips)
        ends.append((places[-1][1] if places else y(0), key.name, key))
    name_ends(svg, x.end, (y.start, y.end), ends)
    if not any(points_of(learner) for learner in learners):
        words = NOT_YET if not any(s.step for s in learners) else "The first count comes soon."
        svg.text(SIDE / 2, 210, words, anchor="middle", bold=True, halo=True)


# The table.


def _rows(recorded: Recorded) -> list[tuple[object, ...]]:
    rows = []
    for task, sizes in recorded["tasks"].items():
        for size, figures in sizes.items():
            for model in MODELS:
                of_model = figures["models"][model]
                gaps = (figures["gaps"].get(f"{model} minus {o}") for o in (DENSE, DENSE_ALL))
                rows.append(
                    (
                        f"{_name(task, size)}, all seeds", model, recorded["steps"],
                        of_model["parameters"],
                        of_model["active_parameters"], mean_sd(of_model["right"], 3),
                        *(gap_cell(gap) if gap else "" for gap in gaps),
                    )
                )  # fmt: skip
    return rows


def _now(learners: Sequence[Snapshot], name: str) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for learner in learners:
        points = points_of(learner)
        share = f"{points[-1][1]:.3f}" if points else ""
        rows.append(
            (
                name,
                learner.label,
                learner.step,
                learner.parameters,
                learner.active_parameters,
                share,
                "",
                "",
            )
        )
    return rows
