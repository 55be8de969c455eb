"""From a checkpoint's config.json to the arguments of an Architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from moeviz.checks import brief
from moeviz.costs.read_hf.dense import DENSE
from moeviz.costs.read_hf.fields import Fields
from moeviz.costs.read_hf.hybrid import HYBRID
from moeviz.costs.read_hf.moe import SPARSE

MODEL_TYPES: dict[str, Callable[[Fields], dict[str, Any]]] = {**DENSE, **SPARSE, **HYBRID}
LONGEST_TYPE = 40  # letters, of what is compared with the known ones


def read_hf(config: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """The arguments of Architecture for a config.json, read by its model_type.

    A multimodal config's text_config is read instead, with what only the outer one says of the
    tables. Raises ValueError as Architecture.from_hf says.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"config must be a JSON object, got {type(config).__name__}.")
    outer = config
    if isinstance(config.get("text_config"), Mapping):
        tied = {k: outer[k] for k in ("tie_word_embeddings",) if outer.get(k) is not None}
        config = {**tied, **outer["text_config"]}
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ValueError("model_type is missing: without it the fields have no certain meaning.")
    if model_type not in MODEL_TYPES:
        nearest = get_close_matches(model_type[:LONGEST_TYPE], MODEL_TYPES, 5, cutoff=0)
        raise ValueError(
            f"model_type {brief(model_type)} is not known; known are {len(MODEL_TYPES)} types "
            f"(moeviz.costs.read_hf.read.MODEL_TYPES), nearest in name {', '.join(nearest)}."
        )
    fields = Fields(config, model_type)
    arguments = MODEL_TYPES[model_type](fields)
    fields.finish()
    name = name or str(outer.get("_name_or_path") or model_type)
    # JSON can write half of a surrogate pair, which no picture can.
    return dict(name=name.encode("utf-8", "replace").decode(), **arguments)
