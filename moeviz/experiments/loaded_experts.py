"""Experts of domains in a file, loaded when a text asks for them: hits, bytes, time (1 minute).

Three models that learned apart, at the rate of runs/models_as_experts.json, become experts of one
MoE, which lies in a file; a layer keeps one expert in memory (systems.offload). A text is chosen
for in two ways: "text": the router of texts looks at the first PROMPT tokens, and all tokens of the
text visit that model's experts; "token": a router, trained together, sends every token to one
expert of each layer. Three streams of TEXTS held-out texts: one that stays in its topic, one that
changes it with every text, and the same texts gathered by their topic. What could make it unfair,
and what is done:
- Memory that is no part of the cache: the system is asked to forget every expert that was read;
  what it fetched from the disk for that is told where it says so.
- A disturbance: settings take turns, REPEATS times; medians and quartiles are told, and how busy
  the machine was.
- Another result: the losses are held against those of the same model in memory.
Not closed: an expert has some two hundred kilobytes here, and the machine was not idle; hits, loads
and bytes are those of any machine, milliseconds are of this one.

runs/loaded_experts.json: prompt, tokens of a text, texts of a stream; load, of the machine's cores
over the last 1, 5 and 15 minutes; expert_bytes, by format; model_bytes, of one whole model in fp32;
expert_ms: to read one expert from the disk, by format; in_memory_ms: a text, by way; streams: the
domain of each text; and runs, a list, one entry for each of SETTINGS and each stream:
    way, form, stream
    asked, hits, loads      experts asked for by tokens, held when they were, and read from the file
    by_text                 loads of each text
    bytes_read              of the file; storage_bytes: of the disk, None where the system is silent
    ms_a_text               median and quartiles over REPEATS turns
    same                    whether the losses are those of the model in memory
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeviz.experiments import Progress
from moeviz.experiments.offloaded import experts_in
from moeviz.experiments.recording import write_trained
from moeviz.experiments.trained_apart import RECORDED, SEQ_LEN, Apart, train_apart
from moeviz.host import load_average, read_figures
from moeviz.model.transformer import LanguageModel
from moeviz.records.models_as_experts import PROMPT, SEEN
from moeviz.surgery.mix import as_experts, send_all_to, token_losses
from moeviz.surgery.tune import tuned_router
from moeviz.systems.offload import ExpertFile, open_offloaded, storage_bytes
from moeviz.systems.packed_model import quantised, save_packed
from moeviz.text.corpus import load_corpus
from moeviz.watch.timing import CPU, seconds, spread

TEXTS = 12
REPEATS = 5
READS = 20  # of one expert, for its time
TUNED_STEPS = 200
BY_TEXT, BY_TOKEN = "text", "token"
FORMS = ("fp32", "int4")
SETTINGS = tuple((way, form) for way in (BY_TEXT, BY_TOKEN) for form in FORMS)
Figures = dict[str, Any]


def streams() -> dict[str, tuple[list[str], Tensor]]:
    """By name: the domain of each text, and the ids [TEXTS, SEQ_LEN + 1]."""
    corpus = load_corpus().only(*SEEN)
    windows = corpus.windows("reserve", seq_len=SEQ_LEN, windows_per_domain=TEXTS)
    ids_DTS = torch.from_numpy(windows.tokens).view(len(SEEN), TEXTS, SEQ_LEN + 1)
    each = TEXTS // len(SEEN)
    gathered = [(d, t) for d in range(len(SEEN)) for t in range(each)]
    orders = {
        "one topic": [(0, t) for t in range(TEXTS)],
        "changing": sorted(gathered, key=lambda place: place[1]),
        "gathered": gathered,
    }
    return {
        name: ([SEEN[d] for d, _ in order], torch.stack([ids_DTS[place] for place in order]))
        for name, order in orders.items()
    }


def models(apart: Apart) -> dict[str, LanguageModel]:
    """The models as experts of one, by the way of choosing."""
    raw = as_experts(apart.models, top_k=1, options={"weighting": "raw"})
    corpus = load_corpus().only(*SEEN)
    return {
        BY_TEXT: as_experts(apart.models, top_k=1, router="hash"),
        BY_TOKEN: tuned_router(raw, corpus, steps=TUNED_STEPS, seq_len=SEQ_LEN).eval(),
    }


@torch.no_grad()
def read_stream(apart: Apart, model: LanguageModel, way: str, ids_TS: Tensor) -> list[Tensor]:
    """The losses of one text after the other."""
    losses = []
    for ids_1S in ids_TS.split(1):
        if way == BY_TEXT:
            send_all_to(model, int(apart.router(ids_1S[:, :PROMPT]).argmax()))
        losses.append(token_losses(model, ids_1S)[0])
    return losses


def one_turn(apart: Apart, path: Path, way: str, ids_TS: Tensor, wanted: list[Tensor]) -> Figures:
    """A stream through a file once; wanted: the losses of the same model in memory."""
    offloaded = open_offloaded(path, 1, from_disk=True)
    offloaded.file.drop_from_memory()
    before, times, by_text, losses = storage_bytes(), [], [], []
    for ids_1S in ids_TS.split(1):
        loads, start = offloaded.loads, time.perf_counter()
        losses += read_stream(apart, offloaded.model, way, ids_1S)
        times.append(1e3 * (time.perf_counter() - start))
        by_text.append(offloaded.loads - loads)
    after = storage_bytes()
    return {
        "asked": offloaded.asked,
        "hits": offloaded.hits,
        "loads": offloaded.loads,
        "by_text": by_text,
        "bytes_read": offloaded.file.bytes_read,
        "storage_bytes": None if before is None or after is None else after - before,
        "ms_a_text": sum(times) / len(times),
        "same": torch.allclose(torch.stack(losses), torch.stack(wanted), atol=1e-4),
    }


def expert_times(path: Path) -> list[float]:
    """Milliseconds of reading an expert from the disk, one after the other."""
    file = ExpertFile(path, from_disk=True)
    moe = file.config.moe
    assert moe is not None
    places = [(layer, e) for layer in file.config.moe_layers for e in range(moe.num_experts)]
    reads = [partial(file.expert, *places[i % len(places)]) for i in range(READS)]
    return [1e3 * seconds(read, CPU) for read in reads]


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Train the models, then measure every setting; write runs/loaded_experts.json under `out`."""
    load = load_average()
    torch.set_num_threads(1)
    rate = read_figures("models_as_experts")["rates"]["apart"]["chosen"]
    apart = train_apart(rate, 0, RECORDED)
    every, texts = models(apart), streams()
    turns: dict[tuple[str, str, str], list[Figures]] = {}
    in_memory: dict[str, list[float]] = {way: [] for way in every}
    with tempfile.TemporaryDirectory() as folder:
        paths, wanted, expert_bytes = {}, {}, {}
        for way, form in SETTINGS:
            paths[way, form] = Path(folder) / f"{way}_{form}.safetensors"
            saved = save_packed(every[way], paths[way, form], experts_in(form))
            experts = len(SEEN) * len(every[way].config.moe_layers)
            expert_bytes[form] = saved.bytes()["routed_experts"] / experts
            kept = quantised(every[way], experts_in(form))
            for name, (_, ids_TS) in texts.items():
                wanted[way, form, name] = read_stream(apart, kept, way, ids_TS)
        for turn in range(REPEATS):  # settings take turns
            for place, losses in wanted.items():
                way, form, name = place
                found = one_turn(apart, paths[way, form], way, texts[name][1], losses)
                turns.setdefault(place, []).append(found)
            for way, model in every.items():
                reading = partial(read_stream, apart, model, way, texts["changing"][1])
                in_memory[way].append(1e3 * seconds(reading, CPU) / TEXTS)
            on_step(turn + 1, REPEATS)
        expert_ms = {form: _rounded(expert_times(paths[BY_TEXT, form])) for form in FORMS}
    figures: Figures = {
        "prompt": PROMPT,
        "tokens": SEQ_LEN,
        "texts": TEXTS,
        "load": load,
        "expert_bytes": expert_bytes,
        "model_bytes": 4 * apart.models[0].num_parameters(),
        "expert_ms": expert_ms,
        "in_memory_ms": {way: _rounded(values) for way, values in in_memory.items()},
        "streams": {name: domains for name, (domains, _) in texts.items()},
        "runs": [
            {"way": way, "form": form, "stream": name}
            | of[0]
            | {"ms_a_text": _rounded([turn["ms_a_text"] for turn in of])}
            for (way, form, name), of in turns.items()
        ],
    }
    write_trained(out / "runs" / "loaded_experts.json", meta, figures)
    return {f"{r['way']}, {r['form']}, {r['stream']}": r["loads"] for r in figures["runs"]}


def _rounded(values: list[float]) -> Figures:
    return {key: round(value, 3) for key, value in spread(values).items()}
