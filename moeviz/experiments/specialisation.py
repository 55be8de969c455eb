"""What the experts of the shipped model are for (2 minutes).

What 07_specialisation opens on; the notebook computes the same live. traces/domains: where the
model sends 128 held-out sequences of each domain. traces/killed, by name: the losses of 16
sequences of each domain with every expert left out in turn, of the model ("healthy") and of the
sabotaged one of the worked case ("sabotaged").

runs/specialisation.json: changes, by what is done to the routing ("first choice only", "without the
first choice", "at random", the mean of three draws) and where ("all layers", "layer 0", …): the
rise of the loss, nats per token, over the same sequences: mean, low and high of its 95 % interval,
p, and the verdict, corrected for all of these comparisons. one_expert: the mean rise over all
experts of a layer, each left out alone. sabotaged: what the routing tells of the worked case, by
layer: kept, the share of tokens with the same experts as in the healthy model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moeviz.experiments import Progress
from moeviz.experiments.faults import CASES
from moeviz.experiments.killed_experts import held_out, kill_each, losses, losses_changed
from moeviz.experiments.recording import judged, recorded_model, write_trained
from moeviz.experiments.sabotaged_model import sabotaged
from moeviz.model.transformer import LanguageModel
from moeviz.records.specialisation import saturation
from moeviz.records.store import save_records
from moeviz.text.corpus import Batch, load_corpus
from moeviz.watch.domains import route_domains, route_windows
from moeviz.watch.intervene import Change, at_random, first_only, without_first

DRAWS = 3
CHANGES: dict[str, list[Change]] = {
    "first choice only": [first_only],
    "without the first choice": [without_first],
    "at random": [at_random(seed) for seed in range(DRAWS)],
}
WORKED = "A"


def rises(model: LanguageModel, windows: Batch) -> dict[str, dict[str, dict[str, Any]]]:
    """What each change of the routing costs, in all layers and in each alone."""
    before = losses(model, windows)
    places: dict[str, tuple[int, ...] | None] = {"all layers": None}
    places |= {f"layer {layer}": (layer,) for layer in model.config.moe_layers}
    pairs = {
        (name, place): (
            np.mean([losses_changed(model, windows, c, layers) for c in changes], 0).tolist(),
            before.tolist(),
        )
        for name, changes in CHANGES.items()
        for place, layers in places.items()
    }
    found = judged(pairs)
    kept = ("mean", "low", "high", "p", "verdict")
    return {
        name: {place: {key: found[name, place][key] for key in kept} for place in places}
        for name in CHANGES
    }


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Look into the shipped model; write traces/domains, traces/killed and runs/specialisation
    under `out`."""
    corpus, (model, _) = load_corpus(), recorded_model()
    spoilt, windows = sabotaged(model, WORKED), held_out(corpus)
    meta = meta | {"text": corpus.manifest.fingerprint}
    trace = route_domains(model, corpus)
    trace.meta.update(meta)
    trace.save(out / "traces" / "domains.safetensors")
    killed = {}
    for number, (name, each) in enumerate((("healthy", model), ("sabotaged", spoilt))):

        def on_turn(done: int, total: int, number: int = number) -> bool:
            on_step(number * total + done + 1, 2 * total)
            return True

        killed[name] = kill_each(each, corpus, on_turn)
    save_records(out / "traces" / "killed.safetensors", killed, meta)
    routed = [route_windows(each, windows, corpus).expert for each in (model, spoilt)]
    kept = [
        saturation(*(expert[:, place] for expert in routed)) for place in range(len(trace.layers))
    ]
    figures = {
        "sequences": len(windows.domain),
        "draws": DRAWS,
        "changes": rises(model, windows),
        "one_expert": killed["healthy"].cost.mean((1, 2)).round(4).tolist(),
        "sabotaged": {**CASES[WORKED]._asdict(), "kept": np.round(kept, 4).tolist()},
    }
    write_trained(out / "runs" / "specialisation.json", meta, figures)
    return {"changes": figures["changes"], "one_expert": figures["one_expert"]}
