"""From a checkpoint's config.json to the arguments of an Architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moeviz.checks import brief
from moeviz.costs.read_hf.dense import DENSE
from moeviz.costs.read_hf.fields import Fields
from moeviz.costs.read_hf.hybrid import HYBRID
from moeviz.costs.read_hf.moe import SPARSE

MODEL_TYPES: dict[str, Callable[[Fields], dict[str, Any]]] = {**DENSE, **SPARSE, **HYBRID}


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
        raise ValueError(
            f"model_type {brief(model_type)} is not known; known are "
            f"{', '.join(sorted(MODEL_TYPES))}."
        )
    fields = Fields(config, model_type)
    arguments = MODEL_TYPES[model_type](fields)
    fields.finish()
    name = name or str(outer.get("_name_or_path") or model_type)
    # JSON can write half of a surrogate pair, which no picture can.
    return dict(name=name.encode("utf-8", "replace").decode(), **arguments)
