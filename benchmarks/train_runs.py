"""The training of a GPU visit: three experiments at a size that no laptop reaches.

Each gets its share of the phase's time and one number of steps for all of its runs; a run's figures
are kept as soon as it has ended. `records` makes of them what notebooks show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from moeviz.experiments import gpu_collapse, gpu_experts, gpu_race
from moeviz.experiments.at_scale import TOY_SIZE, Setting, gpu_setting
from moeviz.experiments.gpu_record import Experiment, record, summary
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.text.embedded import Source, embedded_source
from moeviz.text.tokenizer import Tokenizer
from visit import Phase

# Each experiment's share of the time that there is when it begins.
SHARES: dict[Experiment, float] = {
    gpu_race.EXPERIMENT: 0.40,
    gpu_experts.EXPERIMENT: 0.55,
    gpu_collapse.EXPERIMENT: 1.0,
}
# What the log says of a probe, a plan and a run.
LOGGED = ("step", "steps", "validation_loss", "tokens_per_second", "of_peak", "max_violation")
SLICE = 200_000  # characters of the embedded text that a rehearsal reads


def text(rehearse: bool) -> Corpus:
    """What they train on: the text of the installed packages, or a slice of the embedded one."""
    return toy_text() if rehearse else load_corpus("packages")


def train(phase: Phase, corpus: Corpus, rehearse: bool) -> None:
    """All experiments, one after the other; results go to the phase, run by run."""
    setting = Setting(TOY_SIZE, corpus) if rehearse else gpu_setting(corpus)

    def item(key: str, measure: Callable[[], Any]) -> Any:
        result = phase.item(key, measure)
        told = {name: value for name, value in (result or {}).items() if name in LOGGED}
        print(f"train: {key}: {told}, {phase.left():.0f} s are left", flush=True)
        return result

    for experiment, share in SHARES.items():
        end = phase.clock() + share * phase.left()
        record(experiment, setting, lambda end=end: end - phase.clock(), item)


def toy_text() -> Corpus:
    """The first characters of every domain of the embedded text."""
    source = embedded_source()
    domains = []
    for domain in source.domains:
        room, documents = SLICE // len(source.domains), []
        for document in domain.documents:
            if room > 0:
                documents.append(document[:room])
            room -= len(document)
        domains.append(dataclasses.replace(domain, documents=tuple(documents)))
    return Corpus(Source("embedded, a slice", tuple(domains), source.left_out), Tokenizer.default())


def records(train: dict[str, Any], provenance: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the phase left, as the files of data/runs by name; an experiment without a run has
    none."""
    found = {}
    for experiment in SHARES:
        try:
            found[experiment.name] = {
                "provenance": provenance,
                **summary(experiment, train["items"]),
            }
        except ValueError:
            continue
    return found
