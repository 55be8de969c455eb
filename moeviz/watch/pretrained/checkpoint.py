"""Loads a Hugging Face MoE checkpoint, from the Hub or a folder, or says in a sentence why not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from moeviz.checks import brief, one_line
from moeviz.costs import Architecture, parameters
from moeviz.host import free_memory_bytes, memory_bytes, package_version
from moeviz.watch.pretrained.capture import sites
from moeviz.watch.pretrained.model import Pretrained

SMALL = 1e8  # bytes of a checkpoint that is loaded in a moment
LEAST = (5, 10)  # from here on the experts of nearly every family are one module
# Real checkpoints that a refusal may name, by the bytes that their weights take in bfloat16.
SMALLER = {
    "allenai/OLMoE-1B-7B-0924": 13.8e9,
    "microsoft/Phi-tiny-MoE-instruct": 7.5e9,
    "ibm-granite/granite-3.1-1b-a400m-base": 2.7e9,
}
ON_THE_HUB = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
GIVE = (
    "give a folder with a config.json, or a name on the Hub (owner/model) while there is a network"
)
NOT_KNOWN = {
    "doge": "its router finds experts by product keys, and has no score for each of them",
    "nllb-moe": "its experts are called with masks whose order is not known",
}


def load(
    name: str | Path, *, device: str | None = None, say: Callable[[str], None] | None = None
) -> Pretrained:
    """A checkpoint by its name on the Hub or its folder, in the number type in which it was saved.

    device: where to; a GPU where there is one. say: is told, before any weight is loaded, how large
    the model is and what that leaves. ValueError in one sentence: no transformers, no such
    checkpoint or device, one that needs code of its own, a dense one, a family that is not known,
    too little memory, weights that are missing, damaged, pickled, or more than the model has.
    """
    name, transformers = str(name), _transformers()
    device = _device(device)
    config = _config(transformers, name)
    kind = config.model_type
    if kind in NOT_KNOWN:
        raise ValueError(f"{name} is of the type {kind}: {NOT_KNOWN[kind]}. It cannot be shown.")
    auto, empty = _empty(transformers, name, config)
    if not sites(empty):
        raise ValueError(
            f"{name} ({kind}) is a dense model, or a family whose experts moeviz does not know: "
            "none of its modules is called `experts`."
        )
    size = _check_memory(name, empty, config, device)
    if say:
        say(size)
    model, unused = _weights(transformers, auto, name, config)
    model = model.to(device).eval()
    tokenizer = _tokenizer(transformers, name)
    reader = model.get_encoder() if _is_encoder_decoder(config) else model
    count = sum(p.numel() for p in model.parameters())
    if Path(name).is_dir():
        name = Path(name).resolve().name
    return Pretrained(name, kind, reader, tokenizer, count, _counted(config), unused)


def _device(device: str | None) -> str:
    """The device, or the one by default; ValueError for one that is not there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA
        raise ValueError(
            f"The device {brief(device)} cannot be used ({one_line(error)}); give 'cpu'."
        ) from None
    return device


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
    path = Path(name)
    if not path.is_dir() and (path.exists() or not ON_THE_HUB.fullmatch(name)):
        raise ValueError(f"There is no folder {brief(name)}; {GIVE}.")
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name} needs Python code of its own (trust_remote_code), and moeviz runs no code "
                "from a checkpoint. Give one whose family transformers itself knows."
            ) from None
        raise ValueError(
            f"There is no checkpoint {brief(name)} that can be read ({one_line(error)}); {GIVE}."
        ) from None
    return config


def _is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def _empty(transformers: ModuleType, name: str, config: Any) -> tuple[Any, nn.Module]:
    """The model without numbers, and the class that builds it. Of one that sees and reads it is
    often the whole that the library knows, and not its language model alone."""
    autos = [transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText]
    if _is_encoder_decoder(config):
        autos = [transformers.AutoModelForSeq2SeqLM]
    refusals = []
    for auto in autos:
        try:
            with torch.device("meta"):
                return auto, auto.from_config(config, trust_remote_code=False)
        except Exception as error:  # whatever the library raises on what it cannot build
            refusals.append(one_line(error))
    raise ValueError(
        f"{name} ({config.model_type}) cannot be built as a language model: {refusals[0]}."
    )


def _check_memory(name: str, empty: nn.Module, config: Any, device: str) -> str:
    """How large the model is, in a sentence; ValueError where the weights alone do not fit."""
    dtype = getattr(config, "dtype", None) or torch.float32
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    count = max(_counted(config) or 0, sum(p.numel() for p in empty.parameters()))
    need = count * dtype.itemsize
    have, free = memory_bytes(), free_memory_bytes()
    if device.startswith("cuda"):
        free, have = torch.cuda.mem_get_info(device)
    free = min(free, have)
    if need > 0.9 * free:
        fitting = [other for other, size in SMALLER.items() if size < 0.9 * free]
        left = "" if need > 0.9 * have else f", of which {_gigabytes(free)} are free"
        advice = f"{fitting[0]} would fit" if fitting else "no real MoE checkpoint is that small"
        raise ValueError(
            f"{name} needs {_gigabytes(need)} for its weights in {str(dtype)[6:]}, and this "
            f"machine has {_gigabytes(have)}{left}: {advice}."
        )
    return (
        f"By its configuration {Path(name).name} has {count:,} parameters: {_gigabytes(need)} of "
        f"weights in {str(dtype)[6:]}."
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _weights(transformers: ModuleType, auto: Any, name: str, config: Any) -> tuple[Any, int]:
    """The model, and how many tensors of the files it has no place for. ValueError where the files
    lack some, and where a MoE layer has no place for some: they would change what it computes."""
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
            ignore_mismatched_sizes=True,  # they are refused below, by their name
        )
    except Exception as error:
        raise ValueError(f"The weights of {name} cannot be loaded: {one_line(error)}.") from None
    finally:
        if bars:
            logging.enable_progress_bar()
    # The library would draw them at random.
    lost = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if lost:
        raise ValueError(
            f"{len(lost)} of the weights of {name} are missing or of another shape, the first is "
            f"{brief(lost[0])}: the checkpoint is not whole."
        )
    unused = sorted(report["unexpected_keys"])
    blocks = tuple(f"{block}." for block in _moe_blocks(model))
    if strays := [key for key in unused if key.startswith(blocks)]:
        raise ValueError(
            f"{len(strays)} of the weights of {name} have no place in the MoE layers that its "
            f"config.json describes, the first is {brief(strays[0])}: they are scales of quantised "
            "experts, or a part of the model that would be left out."
        )
    return model, len(unused)


def _moe_blocks(model: nn.Module) -> list[str]:
    """The names of the modules that hold experts and their router alone; of experts that stand in
    a whole block, their own."""
    experts = {id(site.experts) for site in sites(model)}
    names = [name for name, module in model.named_modules() if id(module) in experts]
    parents = [name.rpartition(".")[0] for name in names]
    return [n if p[-1:].isdigit() else p for n, p in zip(names, parents, strict=True)]


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
