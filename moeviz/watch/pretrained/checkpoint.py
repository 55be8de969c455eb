"""Loads a Hugging Face MoE checkpoint, from the Hub or a folder, or says in a sentence why not."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from moeviz.checks import brief, one_line
from moeviz.costs import Architecture, parameters
from moeviz.host import memory_bytes, package_version
from moeviz.text.tokenizer import BYTE_ALPHABET, readable
from moeviz.watch.pretrained.capture import sites

SMALL = 1e8  # bytes of a checkpoint that is loaded in a moment
LEAST = (5, 10)  # from here on the experts of nearly every family are one module
# Real checkpoints that a refusal may name, by the bytes that their weights take in bfloat16.
SMALLER = {
    "allenai/OLMoE-1B-7B-0924": 13.8e9,
    "microsoft/Phi-tiny-MoE-instruct": 7.5e9,
    "ibm-granite/granite-3.1-1b-a400m-base": 2.7e9,
}
NOT_KNOWN = {
    "doge": "its router finds experts by product keys, and has no score for each of them",
    "nllb-moe": "its experts are called with masks whose order is not known",
}


@dataclass(frozen=True)
class Pretrained:
    """A real MoE model, ready to read with: in evaluation mode, of an encoder-decoder the encoder.

    num_parameters: of the whole checkpoint, as loaded; counted: as the calculator counts them from
    its configuration, None where it does not know the model type.
    """

    name: str
    model_type: str
    model: nn.Module
    tokenizer: Any
    num_parameters: int
    counted: int | None

    def encode(self, text: str) -> Tensor:
        """Token ids int64 [S] of a text, without the tokenizer's own marks for its start and end;
        ValueError where it is empty."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        if not ids:
            raise ValueError("The text is empty; type a few words.")
        return torch.tensor(ids)

    def pieces(self, ids_S: Tensor) -> tuple[str, ...]:
        """What to show for each token, in the signs of moeviz's own tokenizer."""
        tokens = self.tokenizer.convert_ids_to_tokens(ids_S.tolist())
        return tuple(readable(_bytes_of(token, self._byte_level)) for token in tokens)

    @functools.cached_property
    def _byte_level(self) -> bool:
        return any(token.startswith("Ġ") for token in self.tokenizer.get_vocab())

    @torch.no_grad()
    def run(self, ids_S: Tensor) -> Any:
        """What the model says of the tokens as one sequence."""
        device = next(self.model.parameters()).device
        return self.model(input_ids=ids_S[None].to(device), use_cache=False)

    def facts(self) -> dict[str, Any]:
        """What a record says of the model."""
        return {
            "model": self.name,
            "model_type": self.model_type,
            "num_parameters": self.num_parameters,
            "counted": self.counted,
            "transformers": package_version("transformers"),
        }


def load(
    name: str | Path, *, device: str | None = None, say: Callable[[str], None] | None = None
) -> Pretrained:
    """A checkpoint by its name on the Hub or its folder, in the number type in which it was saved.

    device: where to; a GPU where there is one. say: is told, before any weight is loaded, how large
    the model is and what that leaves. ValueError in one sentence: no transformers, no such
    checkpoint, one that needs code of its own, a dense one, a family that is not known, too little
    memory, weights that are missing, damaged or pickled.
    """
    name, transformers = str(name), _transformers()
    config = _config(transformers, name)
    kind = config.model_type
    if kind in NOT_KNOWN:
        raise ValueError(f"{name} is of the type {kind}: {NOT_KNOWN[kind]}. It cannot be shown.")
    auto = transformers.AutoModelForCausalLM
    if getattr(config, "is_encoder_decoder", False):
        auto = transformers.AutoModelForSeq2SeqLM
    try:
        with torch.device("meta"):
            empty = auto.from_config(config)
    except Exception as error:  # whatever the library raises on what it cannot build
        raise ValueError(
            f"{name} ({kind}) cannot be built as a language model: {one_line(error)}."
        ) from None
    if not sites(empty):
        raise ValueError(
            f"{name} ({kind}) is a dense model, or a family whose experts moeviz does not know: "
            "none of its modules is called `experts`."
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = _check_memory(name, empty, config, device)
    if say:
        say(size)
    model = _weights(transformers, auto, name, config).to(device).eval()
    tokenizer = _tokenizer(transformers, name)
    reader = model.get_encoder() if config.is_encoder_decoder else model
    count = sum(p.numel() for p in model.parameters())
    if Path(name).is_dir():
        name = Path(name).resolve().name
    return Pretrained(name, kind, reader, tokenizer, count, _counted(config))


def _transformers() -> ModuleType:
    found = package_version("transformers")
    version = tuple(int(part) for part in re.findall(r"\d+", found or "0")[:2])
    if version < LEAST:
        has = f"it has {found}" if found else "it has none"
        raise ValueError(
            f"Real checkpoints need transformers {'.'.join(map(str, LEAST))} or newer in this "
            f'environment, and {has}: pip install "moeviz[models]".'
        )
    import transformers

    return transformers


def _config(transformers: ModuleType, name: str) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name} needs Python code of its own (trust_remote_code), and moeviz runs no code "
                "from a checkpoint. Give one whose family transformers itself knows."
            ) from None
        raise ValueError(
            f"There is no checkpoint {brief(name)} that can be read: {one_line(error)}. Give a "
            "folder with a config.json, or a name on the Hub (owner/model) while there is a "
            "network."
        ) from None
    return config.get_text_config(decoder=True) if hasattr(config, "text_config") else config


def _check_memory(name: str, empty: nn.Module, config: Any, device: str) -> str:
    """How large the model is, in a sentence; ValueError where the weights alone do not fit."""
    dtype = getattr(config, "dtype", None) or torch.float32
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    count = _counted(config) or sum(p.numel() for p in empty.parameters())
    need = count * dtype.itemsize
    have = memory_bytes()
    if device.startswith("cuda"):
        have = torch.cuda.get_device_properties(device).total_memory
    if need > 0.9 * have:
        fitting = [other for other, size in SMALLER.items() if size < 0.9 * have]
        advice = f"{fitting[0]} would fit" if fitting else "no real MoE checkpoint is that small"
        raise ValueError(
            f"{name} needs {_gigabytes(need)} for its weights in {str(dtype)[6:]}, and this "
            f"machine has {_gigabytes(have)}: {advice}."
        )
    room = f", and this machine has {_gigabytes(have)}" if have < math.inf else ""
    return (
        f"By its configuration {Path(name).name} has {count:,} parameters: {_gigabytes(need)} of "
        f"weights in {str(dtype)[6:]}{room}."
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _weights(transformers: ModuleType, auto: Any, name: str, config: Any) -> Any:
    logging = transformers.utils.logging
    bars = logging.is_progress_bar_enabled()
    if Path(name).is_dir() and _bytes_in(Path(name)) < SMALL:
        logging.disable_progress_bar()  # it would only flash
    try:
        model, report = auto.from_pretrained(
            name,
            config=config,
            dtype="auto",
            trust_remote_code=False,
            use_safetensors=True,  # no pickles
            output_loading_info=True,
        )
    except Exception as error:
        raise ValueError(f"The weights of {name} cannot be loaded: {one_line(error)}.") from None
    finally:
        if bars:
            logging.enable_progress_bar()
    # The library would draw them at random.
    for what in ("missing_keys", "mismatched_keys"):
        if lost := sorted(map(str, report.get(what, ()))):
            raise ValueError(
                f"{len(lost)} of the weights of {name} are missing or of another shape, the first "
                f"is {brief(lost[0])}: the checkpoint is not whole."
            )
    return model


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _tokenizer(transformers: ModuleType, name: str) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{name} has no tokenizer that can be read: {one_line(error)}.") from None


def _counted(config: Any) -> int | None:
    try:
        return round(parameters(Architecture.from_hf(config.to_dict())).total)
    except ValueError:
        return None


def _bytes_of(token: str, byte_level: bool) -> bytes:
    """What a vocabulary's entry stands for: of byte-level BPE each character is a byte, of a
    SentencePiece model "▁" is a space, and <0x0A> a byte."""
    if byte_level and all(character in BYTE_ALPHABET for character in token):
        return bytes(BYTE_ALPHABET[character] for character in token)
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
