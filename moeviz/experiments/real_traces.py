"""How two real models route, from public traces that do not ship (1 minute).

13_real_models opens on these figures. The traces are other people's data; only what is computed
from them is recorded (see public_traces).

What would mislead, and how it is closed:

1. Domains differ by luck. Information and lift stand beside shuffles of whole sequences,
   specialists beside stretches of one task, likings beside their replication in the other half.
2. Sequences of a task begin with the same instruction, which tells the task. How long it is, and
   what information is left without it, is recorded (`shared_start`, `without_shared_start`).
3. Chance depends on the loads. Repeats stand beside sum p^2 of the task's own loads, the experts of
   a batch beside an exact draw from the same tokens, not beside an even router alone.
4. Popular experts meet often. Pairs stand beside tables in which every token keeps its number of
   choices and every expert its load; of all tasks these are the tasks' own tables, added up.
5. OLMoE's counts have no sequences (five prompts a domain), so its information has no shuffle: what
   independent choices would show stands beside it, which is too low.

runs/real_traces.json: sources; deepseek_v2_lite: tasks, samples and batches (sizes in tokens),
if_even (experts of a batch by the formula), layers (a list, one entry for each), mean (over
layers); olmoe: domains, layers, mean, busiest. By task, and "pooled" where all tasks count as
one text:
    load                                        choices of each expert
    max_violation, effective_experts            of it
    top_share                                   the busiest expert's share of a task's choices
    weight_sum, first_share                     of a token's weights, and of it the largest one's
    repeat_rate, repeat_chance                  share of the experts of the token before
and over all tasks:
    information, without_shared_start           of a task, as a share of the tasks' entropy, with
                                                the shuffles' mean and p
    specialists                                 by samples; null: from stretches of one task
    likings                                     cells whose lift is beyond chance and at least 1.5
    replication                                 see records.specialists
    batch                                       distinct experts by batches: of consecutive tokens
                                                and of tokens in any order by task, of all mixed
    together                                    pairs of experts by task: how many (`often`) meet
                                                beyond chance and at least 1.5 times as often as
                                                their loads make them, how many would seem to beside
                                                an even meeting of all (`popular`), how many are in
                                                both (`both`), the largest lift
    pairs                                       of those the ones of the largest lift: two experts,
                                                tokens that chose both, and by their loads
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.public_traces import (
    DEEPSEEK,
    NUM_EXPERTS,
    OLMOE,
    POOLED,
    SOURCES,
    plain,
    read_tasks,
    shared_start,
    traces_folder,
)
from moeviz.experiments.recording import write_json
from moeviz.records.imports import joined, read_moelens
from moeviz.records.locality import (
    distinct_experts,
    distinct_experts_if_even,
    distinct_experts_of_strangers,
    repeat_rate,
)
from moeviz.records.metrics import effective_experts, max_violation
from moeviz.records.routes import DomainCounts, Trace
from moeviz.records.specialisation import (
    CoActivation,
    co_activation_beside_null,
    domain_information,
    mutual_information_of_counts,
)
from moeviz.records.specialists import (
    lift_beside_null,
    replication,
    specialist_share,
    specialists,
)

SAMPLES = (64, 192, 1000, 2000, 8000)  # tokens of each task that make specialists
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
PAIRS = 6  # of a task, that are told
FLOOR = 1.5  # a lift below is small, however certain
LEAST, CERTAIN = 5, 5  # meetings by chance, and standard deviations beyond them
NO_MEAN = ("layer", "load", "pairs")  # figures without a mean over layers

Figures = dict[str, Any]


class Tasks:
    """The tasks end to end, and what is computed from them."""

    def __init__(self, traces: dict[str, list[Trace]]):
        self.names = list(traces)
        self.expert_TLK, self.weight_TLK, self.group_T = joined(sum(traces.values(), []))
        self.layers = next(iter(traces.values()))[0].layers
        lengths = {task: [len(t.expert) for t in traces[task]] for task in traces}
        self.domain_T = np.repeat(np.arange(len(traces)), [sum(n) for n in lengths.values()])
        self.sequences = {task: len(lengths[task]) for task in traces}
        self.tokens = {task: sum(lengths[task]) for task in traces}
        self.shared_start = {task: shared_start(traces[task]) for task in traces}
        # Each token's place in its sequence.
        place_T = np.concatenate([np.arange(n) for of_task in lengths.values() for n in of_task])
        start_D = np.array(list(self.shared_start.values()))
        self.own_T = np.where(place_T < start_D[self.domain_T], -1, self.domain_T)

    def facts(self) -> Figures:
        """Of each task its sizes."""
        return {
            task: {
                "tokens": self.tokens[task],
                "sequences": self.sequences[task],
                "shared_start": self.shared_start[task],
            }
            for task in self.names
        }

    def layer(self, place: int) -> Figures:
        """The figures of one layer: see the head of this file."""
        expert, weight = self.expert_TLK[:, place], self.weight_TLK[:, place]
        rows = {task: self.domain_T == d for d, task in enumerate(self.names)}
        load = {task: np.bincount(expert[rows[task]].ravel(), minlength=NUM_EXPERTS)
                for task in rows}  # fmt: skip
        load[POOLED] = np.sum(list(load.values()), axis=0)
        repeats = {
            task: repeat_rate(expert[row], NUM_EXPERTS, groups_T=self.group_T[row])
            for task, row in rows.items()
        }
        sums = {task: weight[row].sum(1) for task, row in rows.items()}
        return {
            "layer": self.layers[place],
            "load": {task: count.tolist() for task, count in load.items()},
            **_balance(load),
            "weight_sum": {task: sums[task].mean() for task in rows},
            "first_share": {task: (weight[rows[task]].max(1) / sums[task]).mean() for task in rows},
            "repeat_rate": {task: repeat.value for task, repeat in repeats.items()},
            "repeat_chance": {task: repeat.chance for task, repeat in repeats.items()},
            **self._domains(expert),
            "batch": self._batches({t: expert[row] for t, row in rows.items()}, load),
            **_meetings({t: expert[row] for t, row in rows.items()}),
        }

    def _domains(self, expert_TK: np.ndarray) -> Figures:
        """What tells one task from another."""
        size = NUM_EXPERTS, len(self.names)
        labelled = expert_TK, self.domain_T, self.group_T
        # Likings are many here: a tenth of the cells need no p below one in a thousand.
        liked = lift_beside_null(*labelled, *size, permutations=1000)
        samples = [specialists(*labelled[:2], *size, tokens=n) for n in SAMPLES]
        information = {}
        for name, domain_T in (
            ("information", self.domain_T),
            ("without_shared_start", self.own_T),
        ):
            told = domain_information(expert_TK, domain_T, *size, groups_T=self.group_T)
            null = told.null_mean * told.normalised / told.value
            information[name] = {"value": told.normalised, "null": null, "p": told.p_value}
        return information | {
            "specialists": {
                "value": [sample.value for sample in samples],
                "null": [sample.null for sample in samples],
            },
            "likings": {
                "found": int(liked.found().sum()),
                "of": liked.lift.size,
                "largest": np.nanmax(liked.lift),
            },
            "replication": vars(replication(*labelled, *size)),
        }

    def _batches(self, expert: dict[str, np.ndarray], load: dict[str, np.ndarray]) -> Figures:
        """Distinct experts of each size of batch."""
        tokens = self.tokens | {POOLED: len(self.domain_T)}

        def strangers(task: str) -> list[float]:
            return [distinct_experts_of_strangers(load[task], tokens[task], n) for n in BATCHES]

        return {
            "consecutive": {
                task: [distinct_experts(rows_TK, NUM_EXPERTS, n) for n in BATCHES]
                for task, rows_TK in expert.items()
            },
            "shuffled": {task: strangers(task) for task in expert},
            "mixed": strangers(POOLED),
        }


def _meetings(expert: dict[str, np.ndarray]) -> Figures:
    """Which experts are chosen together, of each task and of all."""
    found = {t: co_activation_beside_null(rows, NUM_EXPERTS) for t, rows in expert.items()}
    each = [*found.values()]
    found[POOLED] = CoActivation(
        np.sum([one.together for one in each], 0),
        np.sum([one.null_mean for one in each], 0),
        np.sqrt(np.sum([one.null_sd**2 for one in each], 0)),
    )
    told = {task: _pairs(one) for task, one in found.items()}
    return {
        "together": {task: counts for task, (counts, _) in told.items()},
        "pairs": {task: pairs for task, (_, pairs) in told.items()},
    }


def _pairs(found: CoActivation) -> tuple[Figures, list[list[float]]]:
    """How many pairs meet often, and those of the largest lift."""
    first, second = np.triu_indices(NUM_EXPERTS, 1)
    together, mean, sd = (
        table[first, second] for table in (found.together, found.null_mean, found.null_sd)
    )
    lift = np.where(mean >= LEAST, together / np.maximum(mean, LEAST), 0)
    popular = together >= FLOOR * together.mean()
    often = (lift >= FLOOR) & (together - mean > CERTAIN * sd)
    counts = {
        "of": len(first),
        "often": int(often.sum()),
        "popular": int(popular.sum()),
        "both": int((often & popular).sum()),
        "largest": lift.max(),
    }
    best = [n for n in np.argsort(-lift, kind="stable")[:PAIRS] if often[n]]
    pairs = [[int(first[n]), int(second[n]), int(together[n]), round(mean[n], 1)] for n in best]
    return counts, pairs


def _balance(load: dict[str, np.ndarray]) -> Figures:
    return {
        "max_violation": {name: max_violation(count) for name, count in load.items()},
        "effective_experts": {name: effective_experts(count) for name, count in load.items()},
        "top_share": {name: count.max() / count.sum() for name, count in load.items()},
    }


def of_counts(counts: DomainCounts) -> Figures:
    """The same figures of a study that kept counts alone, as far as counts tell them."""
    layers = []
    for place, layer in enumerate(counts.layers):
        count_DE = counts.count[:, place]
        load = dict(zip(counts.domains, count_DE, strict=True)) | {POOLED: count_DE.sum(0)}
        # What so many independent choices would tell (Miller 1955), in the same share.
        cells = (count_DE.shape[0] - 1) * (count_DE.shape[1] - 1)
        share_D = count_DE.sum(1) / count_DE.sum()
        null = cells / (2 * count_DE.sum()) / -(share_D * np.log(share_D)).sum()
        layers.append(
            {
                "layer": layer,
                "load": {name: count.tolist() for name, count in load.items()},
                **_balance(load),
                "information": {"value": mutual_information_of_counts(count_DE), "null": null},
                "specialists": specialist_share(count_DE),
            }
        )
    visits_DLE = counts.count / counts.tokens[:, None, None]
    domain, place, expert = np.unravel_index(visits_DLE.argmax(), visits_DLE.shape)
    return {
        "domains": dict(zip(counts.domains, counts.tokens.tolist(), strict=True)),
        "layers": layers,
        "mean": mean_over(layers),
        "busiest": {
            "domain": counts.domains[domain],
            "layer": counts.layers[place],
            "expert": int(expert),
            "of_tokens": visits_DLE.max(),
        },
    }


def mean_over(layers: list[Figures]) -> Figures:
    """Of every figure but the loads its mean over layers; NaN where a layer has none."""
    return {name: _mean([layer[name] for layer in layers]) for name in layers[0]
            if name not in NO_MEAN}  # fmt: skip


def _mean(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    return np.mean(values, axis=0).tolist()


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Compute the figures of both models; write runs/real_traces.json under `out`."""
    folder = traces_folder()
    counts = read_moelens(folder / OLMOE)
    tasks = Tasks(read_tasks(folder / DEEPSEEK))
    top_k, layers = tasks.expert_TLK.shape[2], []
    for place in range(len(tasks.layers)):
        layers.append(tasks.layer(place))
        on_step(place + 1, len(tasks.layers))
    figures: Figures = {
        "sources": SOURCES,
        "deepseek_v2_lite": {
            "tasks": tasks.facts(),
            "samples": list(SAMPLES),
            "batches": list(BATCHES),
            "if_even": [distinct_experts_if_even(NUM_EXPERTS, top_k, n) for n in BATCHES],
            "layers": layers,
            "mean": mean_over(layers),
        },
        "olmoe": of_counts(counts),
    }
    write_json(out / "runs" / "real_traces.json", meta, plain(figures))
    return {name: plain(figures[name]["mean"]) for name in SOURCES}
