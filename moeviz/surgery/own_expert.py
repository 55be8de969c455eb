"""An expert of one's own: a small file, plugged into the model that it was trained for.

The expert began as a copy of one of the model's own (surgery.own_training), and either is whole or
was learnt as W + B A of rank r (LoRA, Hu et al. 2021, 2106.09685, with alpha = r).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from moeviz.checks import brief, check_whole
from moeviz.model.transformer import LanguageModel
from moeviz.records.store import checksum, fitting, load_arrays, save_arrays
from moeviz.surgery.added_experts import Weights, check_growable, fingerprint, grown
from moeviz.surgery.lora import Target, changed
from moeviz.text.tokenizer import Tokenizer

KIND = "own expert"
LONGEST_NAME = 40

Sizes = tuple[int, int, int]  # MoE layers, D, F


@dataclass(frozen=True, eq=False)
class OwnExpert:
    """One trained expert for every MoE layer of one model.

    base: the fingerprint of that model; tokenizer: that of its tokenizer; start: the expert of each
    layer that it began as. arrays, float32: where it is whole (rank None) w13 [L, 2F, D],
    w2 [L, D, F], row [L, D]; else what is added to the start's matrices, b13 [L, 2F, r]
    a13 [L, r, D] and b2 [L, D, r] a2 [L, r, F], and row. ValueError where they do not fit each
    other.
    """

    name: str
    base: str
    tokenizer: str
    start: tuple[int, ...]
    rank: int | None
    arrays: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.rank is not None:
            check_whole("rank", self.rank)
        found = {name: array.shape for name, array in self.arrays.items()}
        if found != _shapes(self.sizes, self.rank):
            what = "a whole expert" if self.rank is None else f"an expert of rank {self.rank}"
            raise ValueError(f"the arrays of '{self.name}' have not the shapes of {what}")
        if any(a.dtype != np.float32 or not np.isfinite(a).all() for a in self.arrays.values()):
            raise ValueError(f"the arrays of '{self.name}' must be finite numbers in float32")

    @property
    def sizes(self) -> Sizes:
        """MoE layers, the model's width D and the expert's width F."""
        second = "w2" if "w2" in self.arrays else "a2"
        return len(self.start), self.arrays["row"].shape[-1], self.arrays[second].shape[-1]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    @cached_property
    def content(self) -> str:
        """A checksum of what it has learnt, whatever it is called."""
        return checksum(self.arrays, {"start": self.start})

    def save(self, path: str | Path, meta: Mapping[str, Any] | None = None) -> None:
        """Write a safetensors file, with what it comes from (meta) beside it in the header; OSError
        (one sentence) where it cannot be written."""
        header = {name: value for name, value in vars(self).items() if name in _HEADER}
        save_arrays(path, self.arrays, header | {"meta": dict(meta or {})}, kind=KIND)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote; FileNotFoundError, or ValueError (one sentence) on a file that is
        damaged, of another kind, or whose arrays do not fit each other."""
        arrays, header = load_arrays(path, kind=KIND)
        with fitting(path):
            start = tuple(check_whole("start", expert, 0) for expert in header["start"])
            values = {name: header[name] for name in _HEADER} | {"start": start}
            return cls(**values, arrays=arrays)

    def weights(self, model: LanguageModel) -> list[Weights]:
        """Of each MoE layer of its model, with the parts of rank r added up."""
        parts = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        return list(weights_of(model, self.start, parts))


_HEADER = ("name", "base", "tokenizer", "start", "rank")


@dataclass(frozen=True, eq=False)
class Plugged:
    """A model with its tokenizer, and the experts that are plugged into it. model: a copy that has
    them all; without any it equals the base bit for bit."""

    base: LanguageModel
    tokenizer: Tokenizer
    experts: tuple[OwnExpert, ...] = ()

    @cached_property
    def model(self) -> LanguageModel:
        return grown(self.base, [one.weights(self.base) for one in self.experts])

    def plug(self, expert: OwnExpert) -> Plugged:
        """With one more; its number in every layer is the next one. ValueError (one sentence) for
        an expert of another tokenizer, shape or model, and for one that is plugged in already."""
        check_growable(self.base)
        self._check_fits(expert)
        for other in self.experts:
            if other.name == expert.name:
                raise ValueError(
                    f"An expert called '{expert.name}' is plugged in already; unplug it first, or "
                    "give the new one another name."
                )
            if other.content == expert.content:
                raise ValueError(
                    f"The expert '{expert.name}' is plugged in already, under the name "
                    f"'{other.name}'; unplug that one first."
                )
        return dataclasses.replace(self, experts=(*self.experts, expert))

    def unplug(self, name: str) -> Plugged:
        """Without that one; ValueError where none is called so."""
        if name not in self.names:
            there = ", ".join(self.names) or "none"
            raise ValueError(f"No expert called {brief(name)} is plugged in; there is {there}.")
        left = tuple(expert for expert in self.experts if expert.name != name)
        return dataclasses.replace(self, experts=left)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(expert.name for expert in self.experts)

    def _check_fits(self, expert: OwnExpert) -> None:
        sizes = sizes_of(self.base)
        if expert.tokenizer != self.tokenizer.sha256:
            raise ValueError(
                f"The expert '{expert.name}' was trained with another tokenizer: its tokens are "
                "other pieces of text than this model's; train it again with this one."
            )
        if expert.sizes != sizes:
            raise ValueError(
                f"The expert '{expert.name}' is for {_in_words(expert.sizes)}; this model has "
                f"{_in_words(sizes)}."
            )
        if expert.base != fingerprint(self.base):
            raise ValueError(
                f"The expert '{expert.name}' was trained for another model of the same shape; plug "
                "it into the model that it comes from."
            )


def check_name(name: str) -> str:
    """The name of an expert; ValueError where it is none, or longer than a picture has room for."""
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME:
        raise ValueError(
            f"An expert's name must be words of at most {LONGEST_NAME} letters, got {brief(name)}."
        )
    return name


def sizes_of(model: LanguageModel) -> Sizes:
    """MoE layers, width D and the experts' width F of a model that has experts."""
    assert model.config.moe is not None
    return len(model.config.moe_layers), model.config.d_model, model.config.moe.d_expert


def matrices(layers: int, rank: int | None) -> tuple[Target, Target]:
    """w13 [L, 2F, D] and w2 [L, D, F] of an expert, of which every layer learns its own change."""
    own = tuple(range(layers))
    return Target("w13", rank, own), Target("w2", rank, own)


def part_name(tensor_part: str) -> str:
    """How an expert's file calls a part of surgery.lora: "w13/w" is w13, and "w13/a" is a13."""
    tensor, part = tensor_part.split("/")
    return part + tensor.removeprefix("w")


def weights_of(
    model: LanguageModel, start: Sequence[int], parts: Mapping[str, Tensor]
) -> Iterator[Weights]:
    """Of each MoE layer: what an expert's parts make of the starting expert's weights; without
    parts those alone."""
    rank = parts["a13"].shape[1] if "a13" in parts else None
    for place, (layer, expert) in enumerate(zip(model.config.moe_layers, start, strict=True)):
        ffn = model.blocks[layer].ffn
        row = ffn.router.weight_ED[expert].detach()
        new = {"w13": ffn.w13_E2FD[expert].detach(), "w2": ffn.w2_EDF[expert].detach()}
        if parts:
            row = parts["row"][place]
            names = [f"{tensor}/{part}" for tensor in new for part in ("ab" if rank else "w")]
            learnt = {name: parts[part_name(name)][place] for name in names}
            new = changed(new, [Target(tensor, rank) for tensor in new], learnt)
        yield new["w13"], new["w2"], row


def _shapes(sizes: Sizes, rank: int | None) -> dict[str, tuple[int, ...]]:
    layers, d_model, width = sizes
    shapes: dict[str, tuple[int, ...]] = {"row": (layers, d_model)}
    whole = ((layers, 2 * width, d_model), (layers, d_model, width))
    for target, shape in zip(matrices(layers, rank), whole, strict=True):
        of_parts = target.shapes(shape)
        shapes |= {part_name(f"{target.tensor}/{part}"): of for part, of in of_parts.items()}
    return shapes


def _in_words(sizes: Sizes) -> str:
    layers, d_model, width = sizes
    return f"{layers} MoE layers of width {d_model} with experts of width {width}"
