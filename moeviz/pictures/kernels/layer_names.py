"""Layers and contenders of a benchmark in words: a learner knows none of its codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moeviz.pictures.kernels.layer_work import SHAPE

# How a benchmark's name of a layer begins, and the model that the layer is of.
MODELS = {"OLMoE": "OLMoE", "decode": "OLMoE", "Qwen3": "Qwen3", "Mixtral": "Mixtral",
          "DSv3": "DeepSeek-V3"}  # fmt: skip
# How the tokens of a benchmark's case choose, where it is not evenly.
ROUTINGS = {"zipf": "skewed", "all-to-one": "all to one expert"}
CONTENDERS = {
    "moeviz triton": "this lab's own Triton kernels",
    "moeviz grouped": "this lab's layer around torch's kernel",
    "torch grouped_mm": "one PyTorch kernel for all experts",
    "torch grouped_mm compiled": "that PyTorch kernel, compiled",
    "transformers Mixtral grouped_mm": "Hugging Face's layer, that kernel",
    "transformers Mixtral batched_mm": "Hugging Face's, weights copied a row",
    "transformers Mixtral eager": "Hugging Face's loop over experts",
    "naive loop over W[e]": "a plain loop over experts",
    "liger": "the Triton kernels of Liger, not tuned",
    "dense, equal active FLOPs": "no router, as many FLOPs",
    "dense compiled": "no router, compiled",
    "loop over W[e]": "a plain loop over experts",
    "loop over W.unbind()": "a loop that takes the weights apart first",
    "grouped_mm": "one PyTorch kernel for all experts",
    "matmul by expert": "a product an expert",
    "Triton": "this lab's own Triton kernels",
}


def layer_name(shape: Mapping[str, Any]) -> str:
    """A layer with its batch: by its model, or else by its experts."""
    name, tokens = str(shape["name"]), int(shape["tokens"])
    if " " in name:  # in words already
        return name
    batch = f"{tokens:,} tokens" if tokens > 1 else "1 token"
    if model := MODELS.get(name.partition("-")[0]):
        return f"{model}'s layer, {batch}"
    return f"{shape['num_experts']} experts of width {shape['d_expert']:,}, {batch}"


def sizes_of(shape: Mapping[str, Any]) -> str:
    """What a layer is made of, without its batch."""
    d_model, d_expert, experts, top_k = (shape[name] for name in SHAPE)
    return f"{experts} experts of width {d_expert:,}, top-{top_k} · d_model {d_model:,}"


def case_title(case: Mapping[str, Any], *, dtype: bool) -> str:
    """A case of a benchmark in words; dtype: with the number format."""
    words = [layer_name(case["shape"])]
    if case["routing"] in ROUTINGS:
        words.append(ROUTINGS[case["routing"]])
    return ", ".join([*words, case["dtype"]] if dtype else words)
