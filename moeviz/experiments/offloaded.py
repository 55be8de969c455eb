"""The shipped model as it writes: dense, in fewer bits, and with its experts in a file (3 minutes).

Everything is measured on this machine with one thread, generation of TOKENS tokens, the likeliest
each time. What could make it unfair, and what is done:
- A disturbance: all ways take turns, REPEATS times; medians and quartiles are told, and how busy
  the machine was.
- Another loop: packed experts are computed one after the other. So are those of "fp32" in `packed`,
  which is what the packed ones are to be compared with.
- Weights that were left as they were: bytes are counted and held against the arithmetic.
- Other words: each way is held against a model in memory with the same weights.
Not closed: the dense twin is not trained, for its speed alone is asked for. At this size an expert
is some hundred kilobytes, and the processor's own work hides most of what memory or the file cost;
bytes and hits are those of any machine.

runs/offloaded.json: tokens; prompt, its length; load, of the machine's cores over the last 1, 5 and
15 minutes; expert_bytes, by format; kernels: whether torch's kernels for packed weights run here;
in_memory: tokens a second of the model and of its dense twin; packed, a list, one entry for each of
PACKED:
    form, product           experts' format, and how they are multiplied (systems.packed_experts)
    bytes, computed         of all routed experts, as they lie in memory and by the arithmetic
    tokens_per_s, same      as below
and runs, a list, one entry for each of SETTINGS:
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeviz.costs import offload_bound, weight_bytes
from moeviz.costs.cost.quantisation import FORMATS, QuantPlan
from moeviz.experiments import Progress
from moeviz.experiments.recording import recorded_model, write_json
from moeviz.host import load_average
from moeviz.model.architecture import architecture_of
from moeviz.model.config import ModelConfig
from moeviz.model.transformer import LanguageModel
from moeviz.systems.offload import open_offloaded, storage_bytes
from moeviz.systems.packed_experts import Product, with_packed_experts
from moeviz.systems.packed_model import quantised, save_packed
from moeviz.watch.timing import CPU, seconds, spread

TOKENS = 128
REPEATS = 5
FORMS = ("fp32", "int8", "int4")
SETTINGS = (
    *(("fp32", slots, disk) for slots in (2, 3, 4, 6, 8) for disk in (True, False)),
    *((form, slots, disk) for form in FORMS[1:] for slots in (2, 4) for disk in (True, False)),
)
PACKED: tuple[tuple[str, Product], ...] = (
    ("fp32", "kernel"), ("int8", "unpacked"), ("int8", "kernel"), ("int4", "unpacked"),
    ("int4", "kernel"),
)  # fmt: skip
SCALE_BYTES = {"fp32": 0, "int8": 4, "int4": 8}  # of a row, where torch's kernels multiply
PROMPT = "def area(width, height):\n    return"

Figures = dict[str, Any]


def experts_in(form: str) -> QuantPlan:
    """The routed experts in a format, all else as it is."""
    return QuantPlan.mixed(f"experts in {form}", "fp32", routed_experts=form)


def kernel_bytes(config: ModelConfig, form: str) -> int:
    """What all routed experts take for torch's kernels, by arithmetic: a scale for each row."""
    moe = config.moe
    assert moe is not None
    weights, rows = 3 * config.d_model * moe.d_expert, 2 * moe.d_expert + config.d_model
    each = weights * FORMATS[form].weight_bits / 8 + rows * SCALE_BYTES[form]
    return round(len(config.moe_layers) * moe.num_experts * each)


def kernels_here() -> dict[str, bool]:
    """Whether torch's kernels for packed weights run on this machine's CPU."""
    x_nK, codes = torch.ones(16, 64), torch.zeros(64, 64, dtype=torch.int32)
    scale_N, aten = torch.ones(64), torch.ops.aten
    scale_GN2 = torch.ones(1, 64, 2)

    def int4_for_gpus() -> None:
        packed = aten._convert_weight_to_int4pack(torch.zeros(64, 32, dtype=torch.uint8), 2)
        aten._weight_int4pack_mm(x_nK.bfloat16(), packed, 64, scale_GN2.bfloat16())

    def fp8() -> None:
        x_nK8 = x_nK.to(torch.float8_e4m3fn)
        one = torch.ones(())
        torch._scaled_mm(x_nK8, x_nK8.t(), one, one, out_dtype=torch.bfloat16)

    def int4() -> None:
        packed = aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        aten._weight_int4pack_mm_for_cpu(x_nK, packed, 64, scale_GN2)

    tried: dict[str, Callable[[], object]] = {
        "_weight_int8pack_mm": lambda: aten._weight_int8pack_mm(x_nK, codes.char(), scale_N),
        "_weight_int4pack_mm_for_cpu": int4,
        "_weight_int4pack_mm": int4_for_gpus,
        "_scaled_mm in FP8": fp8,
    }
    found = {}
    for name, call in tried.items():
        try:
            call()
            found[name] = True
        except (RuntimeError, NotImplementedError, AttributeError, ValueError):
            found[name] = False
    return found


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


def same(model: LanguageModel, other: LanguageModel, prompt_S: Tensor) -> bool:
    """Whether two models write the same."""
    return torch.equal(*(write(each, prompt_S, TOKENS)[0] for each in (model, other)))


def computed(model: LanguageModel, form: str, product: Product) -> int:
    """The bytes of all routed experts by arithmetic."""
    if product == "kernel":
        return kernel_bytes(model.config, form)
    plan = experts_in(form)
    return round(weight_bytes(architecture_of(model.config), plan).part("routed_experts"))


def median_of(turns: list[Figures]) -> Figures:
    """The turns of one setting as one entry: what is counted is the same in each."""
    speeds = [turn["tokens_per_s"] for turn in turns]
    return turns[0] | {"tokens_per_s": _rounded(speeds)}


def _rounded(speeds: list[float]) -> Figures:
    return {key: round(value, 2) for key, value in spread(speeds).items()}


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Measure every setting; write runs/offloaded.json under `out`."""
    load = load_average()
    torch.set_num_threads(1)
    model, tokenizer = recorded_model()
    prompt_S = torch.from_numpy(tokenizer.encode(PROMPT).astype("int64"))
    twin = LanguageModel(model.config.dense_twin()).eval()
    kept = {form: quantised(model, experts_in(form)) for form in FORMS}
    in_memory = {"MoE": model, "dense twin": twin}
    packed = {way: with_packed_experts(model, experts_in(way[0]), way[1]) for way in PACKED}
    packed_speeds: dict[tuple[str, Product], list[float]] = {way: [] for way in PACKED}
    speeds: dict[str, list[float]] = {name: [] for name in in_memory}
    turns: list[list[Figures]] = [[] for _ in SETTINGS]
    expert_bytes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: Path(folder) / f"{form}.safetensors" for form in FORMS}
        for form, path in paths.items():
            saved = save_packed(model, path, experts_in(form))
            assert model.config.moe is not None
            experts = len(model.config.moe_layers) * model.config.moe.num_experts
            expert_bytes[form] = saved.bytes()["routed_experts"] / experts
        for turn in range(REPEATS):  # settings take turns, so that a disturbance hits all of them
            for name, each in in_memory.items():
                speeds[name].append(write(each, prompt_S, TOKENS)[1])
            for way, (each, _) in packed.items():
                packed_speeds[way].append(write(each, prompt_S, TOKENS)[1])
            for place, (form, slots, disk) in enumerate(SETTINGS):
                found = run_offloaded(paths[form], kept[form], prompt_S, slots, disk, TOKENS)
                turns[place].append({"form": form} | found)
            on_step(turn + 1, REPEATS)
    figures = {
        "tokens": TOKENS,
        "prompt": len(prompt_S),
        "load": load,
        "kernels": kernels_here(),
        "expert_bytes": expert_bytes,
        "in_memory": {name: _rounded(values) for name, values in speeds.items()},
        "packed": [
            {"form": form, "product": product, "bytes": packed[form, product][1]}
            | {"computed": computed(model, form, product)}
            | {"tokens_per_s": _rounded(packed_speeds[form, product])}
            | {"same": same(packed[form, product][0], kept[form], prompt_S)}
            for form, product in PACKED
        ],
        "runs": [median_of(of_setting) for of_setting in turns],
    }
    write_json(out / "runs" / "offloaded.json", meta, figures)
    return figures
