"""Which experts ESFT would train, chosen again from its own public trace (a few seconds).

ESFT (Wang et al. 2024, 2407.01906) scores every expert of a layer on a task's text and trains the
fewest whose scores reach top_p. Its repository holds the routing of four tasks (public_traces) and
the experts that it chose (results/expert_configs, commit 579a771): with token shares and top_p 0.2.
The trace is not shipped; of the choice stand here, for each layer, how many experts and a checksum
of their numbers, which tells whether a choice made again is the same.

Three ways to make shares of the sums over a task's tokens:
    experts   each layer's sums, divided by their sum over its experts, as the paper writes it
    tokens    the gate's sums divided by the number of tokens, as the script of the repository's
              first commit does: these shares do not sum to 1
    layers    each expert's sums, divided by their sum over the layers, as the script of its newest
              commit does (sum over axis 0)
The first script rounds to 4 decimals; so does ROUNDED.

runs/esft_selection.json: source, experts, top_p; tasks: by task:
    tokens, sequences
    published: counts of experts by layer, mean
    again: by "token, experts" and so on: counts, mean, and "equal", the layers where the choice is
        the published one
    halves: of "token, experts", the share of the experts chosen from one half of the sequences
        that the other half chooses too; "halves_later": the same without the first "shared_start"
        tokens, the instruction with which all sequences of the task begin; "others": with the
        choices of the other tasks; "chance": with as many drawn
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.public_traces import (
    DEEPSEEK,
    NUM_EXPERTS,
    SOURCES,
    read_tasks,
    shared_start,
    traces_folder,
)
from moeviz.experiments.recording import write_json
from moeviz.records.important import important_experts
from moeviz.records.routes import Trace

TOP_P, ROUNDED = 0.2, 4
# By task the experts of blocks 1 to 26 that were published: how many, and choice_sum of them.
PUBLISHED = {
    "intent": (
        "5:46086f 6:afc484 6:eabb83 6:b15ad6 5:e6e5e5 5:dfebc3 4:c15181 4:d7d0ce 4:93d889 "
        "5:ecd9a0 5:47e8e2 5:471879 4:e2fdf6 4:7c12a1 5:99efcd 4:680436 5:fd753b 4:97dcfa "
        "5:5fe8e3 5:69d6d8 5:e0f90e 4:7cd80d 5:6eee4e 4:853cd0 5:24f256 5:a00af5"
    ),
    "summary": (
        "8:964c2c 7:c55375 6:b80a2d 6:3f2ebd 5:1c9054 6:7816e5 4:d88819 4:a9bef4 3:63e94a "
        "5:e29949 4:4e327c 6:6303aa 6:2f68a7 4:c1a70d 5:095535 5:5046e7 8:fa66ae 5:ca4484 "
        "4:5898c8 4:3ffbeb 3:7d12c0 5:2b6d14 4:04f746 5:aae680 4:f5ba18 2:4c3b23"
    ),
    "law": (
        "9:80299d 9:15178e 8:dbba8a 7:527cc1 7:20a550 6:73d2c3 6:964c71 5:0b69e9 6:ffb9ad "
        "6:65cb99 6:f19b36 6:d577fc 5:cdbb3c 6:51acf4 4:1ce186 6:f40908 6:d08110 6:f15746 "
        "3:55e409 5:b3198a 6:1e3d63 6:ba3b6c 5:5d716f 3:bd5808 5:d176d4 6:9072e9"
    ),
    "translation": (
        "4:af50a8 3:29aefd 4:4ecd12 3:348bf6 3:379bef 3:bf23e2 3:c7e0d3 2:b4a488 3:2e3603 "
        "3:1ca04d 2:ec3ee9 3:6fbf1f 3:c36910 4:ce66d2 3:0ef855 3:abd2b2 3:f4d6e4 3:b09fb6 "
        "3:ceeed2 3:0fc50a 3:809ebf 3:595602 4:f29f0b 4:407cad 4:db8ea9 4:637d50"
    ),
}

Figures = dict[str, Any]


def choice_sum(experts: tuple[int, ...]) -> str:
    """A short checksum of a set of experts."""
    return hashlib.sha256(" ".join(map(str, sorted(experts))).encode()).hexdigest()[:6]


def sums(traces: list[Trace]) -> tuple[np.ndarray, np.ndarray]:
    """Choices, each 1/K of a token, and gate weights of every layer and expert, float64 [L, E]."""
    expert = np.concatenate([trace.expert for trace in traces])
    weight = np.concatenate([trace.weight for trace in traces]).astype(np.float64)
    layers, top_k = expert.shape[1:]
    cell = (np.arange(layers)[:, None] * NUM_EXPERTS + expert).ravel()
    size = layers * NUM_EXPERTS
    counts = np.bincount(cell, minlength=size).reshape(layers, -1) / top_k
    return counts, np.bincount(cell, weight.ravel(), size).reshape(layers, -1)


def choose(scores_LE: np.ndarray, top_p: float = TOP_P) -> list[tuple[int, ...]]:
    """The experts of each layer. Scores that do not sum to 1 are taken as they are, as the
    published scripts take them: that is the same as a top_p of another size."""
    scale_L = scores_LE.sum(1)
    return [
        important_experts(row / scale, min(top_p / scale, 1.0))
        for row, scale in zip(scores_LE, scale_L, strict=True)
    ]


def again(traces: list[Trace]) -> dict[str, list[tuple[int, ...]]]:
    """The choice by every score and way to make shares."""
    counts_LE, gates_LE = sums(traces)
    tokens_L1 = counts_LE.sum(1, keepdims=True)
    return {
        "token, experts": choose(np.round(counts_LE / tokens_L1, ROUNDED)),
        "gate, experts": choose(gates_LE / gates_LE.sum(1, keepdims=True)),
        "gate, tokens": choose(np.round(gates_LE / tokens_L1, ROUNDED)),
        "token, layers": choose(counts_LE / counts_LE.sum(0)),
        "gate, layers": choose(gates_LE / gates_LE.sum(0)),
    }


def common(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> float:
    """The share of one choice's experts that the other has too, over all layers."""
    both = sum(len({*a} & {*b}) for a, b in zip(one, other, strict=True))
    return both / sum(map(len, one))


def by_chance(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> float:
    """What `common` is to be expected where the other choice is drawn."""
    both = sum(len(a) * len(b) / NUM_EXPERTS for a, b in zip(one, other, strict=True))
    return both / sum(map(len, one))


def halves(traces: list[Trace]) -> float:
    """The share of the experts chosen from every second sequence that the others choose too."""
    one, other = (again(half)["token, experts"] for half in (traces[::2], traces[1::2]))
    return round(common(one, other), 4)


def later(traces: list[Trace]) -> list[Trace]:
    """What follows the start that all sequences share."""
    first = shared_start(traces)
    return [
        dataclasses.replace(
            trace, tokens=trace.tokens[first:], expert=trace.expert[first:],
            weight=trace.weight[first:], score=trace.score[first:],
        )
        for trace in traces
    ]  # fmt: skip


def figures_of(tasks: dict[str, list[Trace]]) -> Figures:
    """All of runs/esft_selection.json but where it comes from; see the head of this file."""
    paper = {task: again(traces)["token, experts"] for task, traces in tasks.items()}
    found = {}
    for task, traces in tasks.items():
        published = PUBLISHED[task].split()
        counts = [int(entry.partition(":")[0]) for entry in published]
        wanted = [entry.partition(":")[2] for entry in published]
        others = [choice for name, choice in paper.items() if name != task]
        found[task] = {
            "tokens": sum(len(trace.expert) for trace in traces),
            "sequences": len(traces),
            "published": {"counts": counts, "mean": _mean(counts)},
            "again": {
                name: {
                    "counts": [len(layer) for layer in choice],
                    "mean": _mean([len(layer) for layer in choice]),
                    "equal": sum(map(str.__eq__, map(choice_sum, choice), wanted)),
                }
                for name, choice in again(traces).items()
            },
            "halves": halves(traces),
            "shared_start": shared_start(traces),
            "halves_later": halves(later(traces)),
            "others": round(float(np.mean([common(paper[task], each) for each in others])), 4),
            "chance": round(float(np.mean([by_chance(paper[task], each) for each in others])), 4),
        }
    return found


def _mean(counts: list[int]) -> float:
    return round(float(np.mean(counts)), 3)


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Choose again from the trace; write runs/esft_selection.json under `out`."""
    tasks = figures_of(read_tasks(traces_folder() / DEEPSEEK))
    on_step(1, 1)
    figures = {
        "source": SOURCES["deepseek_v2_lite"], "experts": NUM_EXPERTS, "top_p": TOP_P,
        "tasks": tasks,
    }  # fmt: skip
    write_json(out / "runs" / "esft_selection.json", meta, figures)
    return {
        task: {name: choice["equal"] for name, choice in of["again"].items()}
        for task, of in tasks.items()
    }
