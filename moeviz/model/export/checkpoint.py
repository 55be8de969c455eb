"""A checkpoint on the disk: whether the format can hold the model, and the folder as one piece."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from moeviz.checks import check_choice
from moeviz.model.config import ModelConfig
from moeviz.model.export.decision import Decision, decision_of
from moeviz.model.export.deepseek_v3 import DEEPSEEK_V3
from moeviz.model.export.mixtral import MIXTRAL
from moeviz.model.export.olmoe import OLMOE
from moeviz.model.export.parts import Format, common_config
from moeviz.model.export.qwen3_moe import QWEN3_MOE
from moeviz.model.transformer import LanguageModel
from moeviz.text.tokenizer import Tokenizer

FORMATS = {
    "mixtral": MIXTRAL,
    "olmoe": OLMOE,
    "qwen3_moe": QWEN3_MOE,
    "deepseek_v3": DEEPSEEK_V3,
}


@torch.no_grad()
def write_checkpoint(
    model: LanguageModel, tokenizer: Tokenizer, name: str, out: str | Path
) -> tuple[str, ...]:
    """Write the model as a new folder `out` that AutoModelForCausalLM and AutoTokenizer of Hugging
    Face transformers load: the same logits to rounding, by the same routing. Returns the names of
    its files.

    The numbers are float32, whatever the model's own type: the places that make a norm a constant
    (see widened) need its range, and overflow where the checkpoint is loaded as float16. ValueError
    for an unknown format, for a model that it cannot hold or that has diverged, for another
    model's tokenizer, and for a folder that is not empty; OSError, in one sentence, where it cannot
    be written. Nothing is left half written.
    """
    check_choice("format", name, FORMATS)
    out = Path(out).resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; give a new one.")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size:,} pieces, and the model's vocabulary "
            f"{model.config.vocab_size:,}; give the one that it was trained with."
        )
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        model = copy.deepcopy(model).float()
    decision = _decision(model, name)
    form = FORMATS[name]
    with model.head.weight.device:
        tensors = form.tensors(model)
        config = common_config(model, name, form.architecture) | form.config(model, decision)
    arrays = {n: np.array(v.float().cpu().numpy(), order="C") for n, v in tensors.items()}
    if damaged := [n for n, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(
            f"The model holds numbers that are not finite, the first in {damaged[0]}: its training "
            "has diverged; export an earlier state."
        )
    return _write(out, arrays, config, tokenizer)


def _write(
    out: Path, arrays: dict[str, np.ndarray], config: dict[str, object], tokenizer: Tokenizer
) -> tuple[str, ...]:
    """All files in a folder beside its place, which is then moved there."""
    from safetensors.numpy import save

    words = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
            folder = Path(beside) / out.name
            folder.mkdir()
            weights = save(arrays, metadata={"format": "pt"})
            (folder / "model.safetensors").write_bytes(weights)
            tokenizer.save(folder / "tokenizer.json")
            for file, values in (("config", config), ("tokenizer_config", words)):
                text = json.dumps(values, indent=2) + "\n"
                (folder / f"{file}.json").write_text(text, encoding="utf-8")
            if out.exists():
                out.rmdir()
            os.replace(folder, out)
    except OSError as error:
        raise OSError(
            f"Could not write {out} ({error.strerror or error}); free some space or give another "
            "path."
        ) from None
    return tuple(sorted(path.name for path in out.iterdir()))


# --- whether it can hold the model ----------------------------------------------------------------


def _decision(model: LanguageModel, name: str) -> Decision:
    """How its routers decide; ValueError where the format cannot hold the model."""
    if not model.config.moe_layers:
        raise ValueError(
            f"This model is dense, and a checkpoint of format {name} has experts; train one with "
            "experts."
        )
    decisions = [decision_of(router) for router in model.routers().values()]
    if refusal := next(_refusals(model.config, decisions[0], name), None):
        raise ValueError(refusal)
    return decisions[0]


def _refusals(config: ModelConfig, decision: Decision, name: str) -> Iterator[str]:
    """Each thing of the model that the format cannot hold, as a sentence."""
    form, moe, dense = FORMATS[name], config.moe, config.dense_layers
    assert moe is not None
    if dense and form.dense == "none":
        yield (
            f"Format {name} has experts in every block, and here blocks {dense} are dense; "
            f"{_others(lambda other: other.dense != 'none')}, or train without dense_layers."
        )
    if form.dense == "first" and set(dense) != set(range(len(dense))):
        yield (
            f"Format {name} has its dense blocks before all others, and here blocks {dense} are "
            f"dense; {_others(lambda other: other.dense == 'any')}."
        )
    if moe.num_shared and not form.shared:
        yield (
            f"Format {name} has no shared experts, and this model has {moe.num_shared}; train with "
            f"num_shared=0, or with sigmoid scores and {_others(lambda other: other.shared)}."
        )
    if moe.num_shared and moe.shared_gate != "one":
        yield (
            f"Format {name} has no gate for shared experts, and this model has shared_gate="
            f"{moe.shared_gate!r}; train with shared_gate='one'."
        )

    def weighs(other: Format) -> bool:
        return other.score == decision.score and decision.weighting in other.weightings

    if not weighs(form):
        weightings = " or ".join(form.weightings)
        yield (
            f"Format {name} has {form.score} scores with the weighting {weightings}, and this "
            f"router has {decision.score} scores with the weighting {decision.weighting}; "
            f"{_others(weighs)}."
        )
    yield from _steering(decision, name, moe.num_experts)


def _steering(decision: Decision, name: str, num_experts: int) -> Iterator[str]:
    """The same of what steers a router's choice."""
    groups = decision.num_groups
    if not FORMATS[name].steered:
        for has, what in (
            (decision.scale != 1, "a scale of the weights"),
            (decision.bias_E is not None, "a bias for the choice"),
            (groups > 1, "groups of experts"),
        ):
            if has:
                yield (
                    f"Format {name} has no place for {what}, which this router has; train one "
                    "without, or a router of sigmoid scores for deepseek_v3."
                )
        return
    if groups > 1 and decision.group_score != "top2":
        yield (
            f"Format {name} scores a group of experts by its two best, and this router by its best "
            "alone; train with group_score='top2'."
        )
    if num_experts // groups < 2:
        yield (
            f"Format {name} scores a group by its two best experts, and here {groups} groups hold "
            f"{num_experts} experts; train with two experts a group or more."
        )


def _others(fits: Callable[[Format], bool]) -> str:
    names = [name for name, form in FORMATS.items() if fits(form)]
    return f"export as {' or '.join(names)}"
