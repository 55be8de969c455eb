"""The experts that ESFT chose for four tasks, chosen again from its public trace by five rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moeviz.pictures.axes import Scale, x_axis
from moeviz.pictures.plot import Key, heading, legend, mark, row
from moeviz.pictures.svg import INK, MUTED, Picture, Svg
from moeviz.words import percent

Figures = dict[str, Any]
RULE = "token, experts"  # the one of the paper, with token shares
RULES = {
    RULE: "token share of a layer's choices",
    "gate, experts": "gate share of a layer's weights",
    "gate, tokens": "gate sum by tokens (first script)",
    "token, layers": "token share over layers (newest script)",
    "gate, layers": "gate share over layers (newest script)",
}
TASKS = {
    "intent": Key("intent", "#0072b2", mark="circle", width=0),
    "summary": Key("summary", "#d55e00", mark="square", width=0),
    "law": Key("law", "#009e73", mark="diamond", width=0),
    "translation": Key("translation", "#cc79a7", mark="cross", width=0),
}
COLUMNS = ("rule", "task", "experts a layer", "layers as published", "of")
WIDTH, TOP, ROW, LEFT, RIGHT = 560.0, 104.0, 28.0, 250.0, 478.0


def esft_selection(figures: Figures) -> Picture:
    """How many experts of a layer each rule chooses for each task, beside how many were published,
    and in how many layers they are the same. figures: see experiments.esft_selection."""
    tasks = figures["tasks"]
    counts = [of["again"][rule]["mean"] for of in tasks.values() for rule in RULES]
    svg = Svg(WIDTH, TOP + ROW * (len(RULES) + 1) + 48, "Chosen again", told(figures))
    heading(svg, "Which rule gives the experts that were published?")
    svg.text(0, 38, _finding(figures), bold=True)
    place = f"{figures['source']['from'].split(',')[0]}, commit {figures['source']['commit']}"
    svg.text(0, 57, " · ".join([f"top_p {figures['top_p']:g}", place]), fill=MUTED)
    legend(svg, 0, 80, [TASKS[task] for task in tasks], across=110, kin=True)
    svg.text(WIDTH - 4, 80, "layers the same", anchor="end", fill=MUTED)
    bottom = TOP + ROW * (len(RULES) + 1)
    x = Scale(0, 1.05 * max(counts), LEFT, RIGHT)
    label = f"experts of a layer that are trained, of {figures['experts']}, mean over layers"
    x_axis(svg, x, bottom, label, top=TOP - 6, ticks=x.ticks(5))
    published = {task: of["published"]["mean"] for task, of in tasks.items()}
    _row(svg, x, TOP + ROW / 2, "published", published, "")
    for number, (rule, words) in enumerate(RULES.items(), 1):
        means = {task: of["again"][rule]["mean"] for task, of in tasks.items()}
        cell = "{} of {}".format(*_equal(figures, rule))
        _row(svg, x, TOP + ROW * (number + 0.5), words, means, cell)
    return svg.picture(COLUMNS, _rows(figures))


def _row(svg: Svg, x: Scale, y: float, words: str, means: dict[str, float], cell: str) -> None:
    each = ", ".join(f"{task} {mean:.1f}" for task, mean in means.items())
    same = f"; {cell} layers as published" if cell else ""
    with row(svg, y, ROW, words, tip=f"{words}: {each} experts a layer{same}"):
        svg.text(0, y + 4, words, bold=not cell)
        for task, mean in means.items():
            key = TASKS[task]
            mark(svg, key.mark, x(mean), y, key.colour, 5, stroke=INK)
        svg.text(WIDTH - 4, y + 4, cell, anchor="end")


def _equal(figures: Figures, rule: str) -> tuple[int, int]:
    """In how many layers of all tasks the choice is the published one, and of how many."""
    tasks = figures["tasks"].values()
    same = sum(of["again"][rule]["equal"] for of in tasks)
    return same, sum(len(of["published"]["counts"]) for of in tasks)


def _rows(figures: Figures) -> Iterator[tuple[object, ...]]:
    for task, of in figures["tasks"].items():
        layers = len(of["published"]["counts"])
        yield "published", task, f"{of['published']['mean']:.1f}", layers, layers
    for rule, words in RULES.items():
        for task, of in figures["tasks"].items():
            found, layers = of["again"][rule], len(of["published"]["counts"])
            yield words, task, f"{found['mean']:.1f}", found["equal"], layers


# --- in words -------------------------------------------------------------------------------------


def _finding(figures: Figures) -> str:
    same, layers = _equal(figures, RULE)
    return f"The share of choices gives the published experts in {same} of {layers} layers."


def told(figures: Figures) -> str:
    """What the rules choose, and which of them gives what was published."""
    published = ", ".join(
        f"{task} {of['published']['mean']:.1f}" for task, of in figures["tasks"].items()
    )
    others = "; ".join(
        "{}: {} of {}".format(words, *_equal(figures, rule))
        for rule, words in RULES.items()
        if rule != RULE
    )
    return (
        f"ESFT published these numbers of trained experts, of {figures['experts']} a layer: "
        f"{published}. {_finding(figures)} By other rules: {others}."
    )


def told_halves(figures: Figures) -> Iterator[str]:
    """Whether the choice is the task's own: from half of its sequences, and from other tasks."""
    for task, of in figures["tasks"].items():
        first = f"; without the {of['shared_start']} tokens with which all begin "
        yield (
            f"{task}, {of['sequences']} sequences: of the experts chosen from one half, "
            f"{percent(of['halves'])} are chosen from the other half too"
            f"{first + percent(of['halves_later']) if of['shared_start'] else ''}; from the other "
            f"tasks {percent(of['others'])}, by chance {percent(of['chance'])}"
        )
