"""The shipped model in files of several formats: bytes, seconds to load, loss (1 minute).

One model and one machine, one thread; how fast each format writes is runs/offloaded.json, and what
formats cost over seeds runs/compression.json. All weights but the experts' stay as they ship, in
float16. Loading is what a device does before its first token: every array is read, proved by its
checksum and unpacked to float32. The system is asked to forget the file first (from_disk), or the
file lies in its memory (from_ram).

runs/packed_files.json: files, by format of the experts:
    bytes, computed   of the file; of the weights alone by costs' arithmetic
    load_seconds      from_disk and from_ram: median and quartiles of REPEATS turns
    loss              of held-out text, nats per token, domains weighing the same
    same              whether what was loaded is what was packed, to the bit
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from moeviz.costs import weight_bytes
from moeviz.costs.cost.quantisation import QuantPlan
from moeviz.experiments import Progress
from moeviz.experiments.quantised import by_domain
from moeviz.experiments.recording import recorded_model, write_trained
from moeviz.model.architecture import architecture_of
from moeviz.model.transformer import LanguageModel
from moeviz.systems.offload import ExpertFile
from moeviz.systems.packed_model import EXPERT_WEIGHTS, save_packed
from moeviz.text.corpus import load_corpus
from moeviz.watch.timing import CPU, seconds, spread

SHIPPED = "fp16"
FORMS = (SHIPPED, "int8", "int4_g32", "mxfp4", "int4", "int3", "int2")
REPEATS = 7

Figures = dict[str, Any]


def loaded(path: Path) -> LanguageModel:
    """The model of a packed file, all of it in memory, in float32."""
    file = ExpertFile(path)
    state = file.others().state()
    assert file.config.moe is not None
    for layer in file.config.moe_layers:
        experts = [file.expert(layer, e) for e in range(file.config.moe.num_experts)]
        for name, parts in zip(EXPERT_WEIGHTS, zip(*experts, strict=True), strict=True):
            state[f"blocks.{layer}.ffn.{name}"] = torch.stack(parts)
    model = LanguageModel(file.config)
    model.load_state_dict(state)
    return model.eval()


def measured(model: LanguageModel, path: Path, form: str) -> Figures:
    """One format of the experts; see the head of this file."""
    plan = QuantPlan.mixed(form, SHIPPED, routed_experts=form)
    packed = save_packed(model, path, plan)
    turns: dict[str, list[float]] = {"from_disk": [], "from_ram": []}
    for _ in range(REPEATS):
        for where, each in turns.items():
            if where == "from_disk":
                ExpertFile(path).drop_from_memory()
            each.append(seconds(lambda: loaded(path), CPU))
    smaller, wanted = loaded(path), packed.model().state_dict()
    return {
        "bytes": path.stat().st_size,
        "computed": round(weight_bytes(architecture_of(model.config), plan).total),
        "load_seconds": {
            where: {key: round(value, 4) for key, value in spread(each).items()}
            for where, each in turns.items()
        },
        "loss": round(float(by_domain(smaller, load_corpus()).mean()), 4),
        "same": all(torch.equal(value, wanted[n]) for n, value in smaller.state_dict().items()),
    }


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Measure every format; write runs/packed_files.json under `out`."""
    torch.set_num_threads(1)
    model, _ = recorded_model()
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, form in enumerate(FORMS):
            files[form] = measured(model, Path(folder) / f"{form}.safetensors", form)
            on_step(number + 1, len(FORMS))
    write_trained(out / "runs" / "packed_files.json", meta, {"files": files})
    return files
