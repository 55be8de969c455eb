"""The shipped model with its experts in a file, and in fewer bits, as it writes (2 minutes).

Everything is measured on this machine with one thread, generation of TOKENS tokens, the likeliest
each time. At this size an expert is some hundred kilobytes and the processor's own work hides most
of what the file costs; bytes and hits are those of any machine.

runs/offloaded.json: tokens; prompt, its length; expert_bytes, by format; in_memory: tokens a second
of the model and of its dense twin; runs, a list, one entry for each setting:
    form, slots, from_disk  experts' format; experts of each layer that are kept in memory; whether
                            the system was asked to forget each expert that it had read
    asked, hits, loads      experts asked for, held when they were, and read from the file
    bytes_read              of the file; computed: the same by costs' arithmetic from the hit rate
    storage_bytes           what the system fetched from the disk for that; None where it is silent
    tokens_per_s            median and quartiles of REPEATS turns
    same                    whether it wrote what the model in memory writes with such weights
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeviz.costs import offload_bound
from moeviz.costs.cost.quantisation import QuantPlan
from moeviz.experiments import Progress
from moeviz.experiments.recording import recorded_model, write_json
from moeviz.model.architecture import architecture_of
from moeviz.model.transformer import LanguageModel
from moeviz.systems.offload import open_offloaded, storage_bytes
from moeviz.systems.packed_model import quantised, save_packed
from moeviz.watch.timing import CPU, seconds, spread

TOKENS = 128
REPEATS = 5
FORMS = ("fp32", "int8", "int4")
SETTINGS = (
    *(("fp32", slots, disk) for slots in (2, 3, 4, 6, 8) for disk in (True, False)),
    *((form, slots, True) for form in FORMS[1:] for slots in (2, 4)),
)
PROMPT = "def area(width, height):\n    return"

Figures = dict[str, Any]


def experts_in(form: str) -> QuantPlan:
    """The routed experts in a format, all else as it is."""
    return QuantPlan.mixed(f"experts in {form}", "fp32", routed_experts=form)


def write(model: LanguageModel, prompt_S: Tensor, tokens: int) -> tuple[Tensor, float]:
    """What the model writes, and tokens a second."""
    written: list[Tensor] = []
    taken = seconds(lambda: written.append(model.generate(prompt_S, tokens, temperature=0)), CPU)
    return written[0], tokens / taken


def run_offloaded(
    path: Path, model: LanguageModel, prompt_S: Tensor, slots: int, from_disk: bool, tokens: int
) -> Figures:
    """One turn with a file that holds the model; see the head of this file."""
    offloaded = open_offloaded(path, slots, from_disk=from_disk)
    offloaded.file.drop_from_memory()
    before = storage_bytes()
    written, speed = write(offloaded.model, prompt_S, tokens)
    after = storage_bytes()
    hit_rate = offloaded.hits / offloaded.asked
    architecture, plan = architecture_of(model.config), offloaded.file.plan
    bound = offload_bound(architecture, 1.0, plan=plan, hit_rate=hit_rate)
    read = len(prompt_S) + tokens - 1  # the last token is not read any more
    return {
        "slots": slots,
        "from_disk": from_disk,
        "asked": offloaded.asked,
        "hits": offloaded.hits,
        "loads": offloaded.loads,
        "bytes_read": offloaded.file.bytes_read,
        "computed": round(bound.bytes.total * read),
        "storage_bytes": None if before is None or after is None else after - before,
        "tokens_per_s": speed,
        "same": torch.equal(written, write(model, prompt_S, tokens)[0]),
    }


def median_of(turns: list[Figures]) -> Figures:
    """The turns of one setting as one entry: what is counted is the same in each."""
    speeds = [turn["tokens_per_s"] for turn in turns]
    return turns[0] | {"tokens_per_s": {k: round(v, 2) for k, v in spread(speeds).items()}}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Measure every setting; write runs/offloaded.json under `out`."""
    torch.set_num_threads(1)
    model, tokenizer = recorded_model()
    prompt_S = torch.from_numpy(tokenizer.encode(PROMPT).astype("int64"))
    twin = LanguageModel(model.config.dense_twin()).eval()
    kept = {form: quantised(model, experts_in(form)) for form in FORMS}
    in_memory = {"MoE": model, "dense twin": twin}
    speeds: dict[str, list[float]] = {name: [] for name in in_memory}
    turns: list[list[Figures]] = [[] for _ in SETTINGS]
    expert_bytes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: Path(folder) / f"{form}.safetensors" for form in FORMS}
        for form, path in paths.items():
            packed = save_packed(model, path, experts_in(form))
            assert model.config.moe is not None
            experts = len(model.config.moe_layers) * model.config.moe.num_experts
            expert_bytes[form] = packed.bytes()["routed_experts"] / experts
        for turn in range(REPEATS):  # settings take turns, so that a disturbance hits all of them
            for name, each in in_memory.items():
                speeds[name].append(write(each, prompt_S, TOKENS)[1])
            for place, (form, slots, disk) in enumerate(SETTINGS):
                found = run_offloaded(paths[form], kept[form], prompt_S, slots, disk, TOKENS)
                turns[place].append({"form": form} | found)
            on_step(turn + 1, REPEATS)
    figures = {
        "tokens": TOKENS,
        "prompt": len(prompt_S),
        "expert_bytes": expert_bytes,
        "in_memory": {
            name: {key: round(value, 2) for key, value in spread(values).items()}
            for name, values in speeds.items()
        },
        "runs": [median_of(of_setting) for of_setting in turns],
    }
    write_json(out / "runs" / "offloaded.json", meta, figures)
    return figures
