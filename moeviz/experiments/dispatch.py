"""Two batches through the kernels, which 12_kernels opens on; the backends timed here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.experiments import Progress
from moeviz.records.dispatch import DispatchTrace
from moeviz.watch.kernels import experts_of, own_experts, watch
from moeviz.watch.routers import synthetic_tokens, text_tokens

if TYPE_CHECKING:
    from moeviz.model.transformer import LanguageModel
    from moeviz.text.tokenizer import Tokenizer

NUM_EXPERTS = 8
TEXT = "for x in values:\n    total += x\nWhat is 12 + 7?"
LAYER = 1
# Near enough to their centres that first choices follow the skew.
SPREAD = 0.15
# What a panel's controls say of the recorded dispatches, by source.
RECORDED: dict[str, dict[str, Any]] = {
    "text": {
        "source": "text", "text": TEXT, "layer": LAYER, "tokens": 16, "top_k": 2,
        "sort_block": 8, "tile_block": 4,
    },
    "synthetic": {
        "source": "synthetic", "skew": 1.0, "seed": 0, "tokens": 16, "top_k": 2,
        "sort_block": 8, "tile_block": 4,
    },
}  # fmt: skip
FILES = {"text": "dispatch", "synthetic": "dispatch_zipf"}


def dispatch_of(
    values: dict[str, Any], loaded: tuple[LanguageModel, Tokenizer] | None = None
) -> DispatchTrace:
    """What a panel with these controls shows; loaded: the model and its tokenizer, for a text."""
    if values["source"] == "text":
        assert loaded is not None, "a text is read by a model"
        tokens = text_tokens(*loaded, values["text"], layer=values["layer"])
        tokens = tokens.first(values["tokens"])
        experts = experts_of(loaded[0], values["layer"])
    else:
        tokens = synthetic_tokens(
            values["tokens"], NUM_EXPERTS, skew=values["skew"], spread=SPREAD, seed=values["seed"]
        )
        experts = own_experts(NUM_EXPERTS, NUM_EXPERTS, seed=values["seed"])
    return watch(
        tokens,
        *experts,
        top_k=values["top_k"],
        sort_block=values["sort_block"],
        tile_block=values["tile_block"],
        meta={"controls": values},
    )


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """Write traces/dispatch and traces/dispatch_zipf, and runs/kernels.json: the contest and the
    ceilings of the device at hand, in the form of the recorded layer benchmarks."""
    from moeviz.experiments.backends_timed import EXPERTS, contest, machine
    from moeviz.experiments.recording import recorded_model, write_json

    loaded, facts = recorded_model(), {}
    for source, values in RECORDED.items():
        trace = dispatch_of(values, loaded)
        kept = dataclasses.replace(trace, meta={**meta, **trace.meta})
        kept.save(out / "traces" / f"{FILES[source]}.safetensors")
        facts[source] = {"rows": len(trace.order), "load": trace.total.tolist(),
                        "relative_error": f"{trace.error:.0e}"}  # fmt: skip
    cases = []
    for number, num_experts in enumerate(EXPERTS):
        cases.append(contest(num_experts, on_turn=lambda done, total: True))
        on_step(number + 1, len(EXPERTS) + 1)
    figures = {**machine(lambda done, total: True), "cases": cases}
    on_step(len(EXPERTS) + 1, len(EXPERTS) + 1)
    write_json(out / "runs" / "kernels.json", meta, figures)
    return facts | {"device": figures["device"]["name"]}


def kept_bytes(backend: str) -> int:
    """What a forward pass of 4 experts, K = 2, on 64 tokens keeps for its backward pass, beyond the
    weights, x and the plan; counted by PyTorch's hooks. ValueError where the backend does not run
    here."""
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    from moeviz.experiments.backends_timed import problem_of
    from moeviz.model.experts import apply_experts
    from moeviz.routing import Plan
    from moeviz.watch.kernels import kernels_alone

    shape = {"tokens": 64, "d_model": 32, "d_expert": 32, "num_experts": 4, "top_k": 2}
    with kernels_alone() as kernels:
        device = torch.device("cpu" if kernels.interpreted() else "cuda")
        problem = problem_of(shape, device, torch.float32)
        weight_TK, expert_TK = problem["choice"]
        plan = Plan.from_topk(expert_TK, weight_TK.requires_grad_(), num_experts=4)
        x_TD, w13_E2FD, w2_EDF = problem["x"], problem["w13"], problem["w2"]
        given = (x_TD, w13_E2FD, w2_EDF, *vars(plan).values())
        known = {v.untyped_storage().data_ptr() for v in given}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            y_TD = apply_experts(x_TD, plan, w13_E2FD, w2_EDF, backend=backend)
        total = sum(size for at, size in kept.items() if at not in known)
        del y_TD
    return total
