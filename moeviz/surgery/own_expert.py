"""An expert of one's own: one more in every MoE layer, trained on a text while all else stays.

The new expert starts as a copy of the one that the text visits most, with that one's row of the
gate. Only the copy and its row learn, either whole or as W + B A of rank r (LoRA, Hu et al. 2021,
2106.09685). A model that it is plugged into is a copy with one expert more; the model itself is
never changed, so that unplugging gives it back bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from moeviz.checks import brief, check_number, check_whole
from moeviz.model.transformer import LanguageModel
from moeviz.records.store import checksum, fitting, load_arrays, save_arrays
from moeviz.routing.token_choice import TokenChoice
from moeviz.text.corpus import Corpus

KIND = "own expert"
HELD_OUT = 0.2  # the end of a text, which is not trained on
BATCH, SEQ_LEN = 8, 64
WARMUP = 10  # steps

Weights = tuple[Tensor, Tensor, Tensor]  # of one layer: w13 [2F, D], w2 [D, F], the gate's row [D]


@dataclass(frozen=True, eq=False)
class OwnExpert:
    """One trained expert for every MoE layer of one model.

    base: the fingerprint of that model; start: the expert of each layer that it began as. whole
    (rank None): w13 [L, 2F, D], w2 [L, D, F], row [L, D]; else what was added to the start's
    matrices, b13 [L, 2F, r] a13 [L, r, D] and b2 [L, D, r] a2 [L, r, F], and row.
    """

    name: str
    base: str
    start: tuple[int, ...]
    rank: int | None
    arrays: dict[str, np.ndarray]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; OSError (one sentence) where it cannot be written."""
        header = {"name": self.name, "base": self.base, "start": self.start, "rank": self.rank}
        save_arrays(path, self.arrays, header, kind=KIND)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote; FileNotFoundError, or ValueError on another or a damaged file."""
        arrays, header = load_arrays(path, kind=KIND)
        with fitting(path):
            start = tuple(int(expert) for expert in header["start"])
            return cls(str(header["name"]), str(header["base"]), start, header["rank"], arrays)

    def weights(self, model: LanguageModel) -> list[Weights]:
        """Of each MoE layer of its model, with the parts of rank r added up."""
        parts = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        return list(_weights(model, self.start, parts))


@dataclass(frozen=True)
class Plugged:
    """A model and the experts that are plugged into it. model: a copy that has them all."""

    base: LanguageModel
    experts: tuple[OwnExpert, ...] = ()

    @cached_property
    def model(self) -> LanguageModel:
        return grown(self.base, [one.weights(self.base) for one in self.experts])

    def plug(self, expert: OwnExpert) -> Plugged:
        """With one more; its number in every layer is the next one. ValueError for an expert of
        another model, and for one that is plugged in already."""
        check_growable(self.base)
        if expert.base != fingerprint(self.base):
            raise ValueError(
                f"The expert '{expert.name}' was trained for another model than this one; plug it "
                "into the model that it comes from."
            )
        if expert.name in self.names:
            raise ValueError(
                f"An expert called '{expert.name}' is plugged in already; unplug it first, or give "
                "the new one another name."
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


@dataclass(frozen=True)
class OwnStep:
    """One step. loss: nats per token of the text in this batch; visits: of its tokens, the share
    that chose the new expert, float [L]."""

    step: int
    loss: float
    visits: np.ndarray


class OwnTraining(Iterator[OwnStep]):
    """Trains an expert of one's own: `for step in training:` runs it to `steps`; it may be stopped
    at any of them, and `expert()` is what it has learnt so far.

    ids: the text's tokens, int [N], of which the last fifth is never trained on (held_out).
    rank: None trains whole matrices, a number LoRA's two of that rank. replay: the corpus's own
    text in the batch, as sequences for each of the new text's; it teaches the row to leave other
    text alone. ValueError for a text that is too short, for impossible sizes, and as
    check_growable.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: np.ndarray,
        corpus: Corpus,
        *,
        name: str = "mine",
        steps: int = 200,
        rank: int | None = None,
        replay: float = 1.0,
        learning_rate: float = 3e-3,
        seed: int = 0,
    ) -> None:
        check_growable(model)
        check_whole("steps", steps)
        check_number("learning_rate", learning_rate, open_low=True)
        check_number("replay", replay, 0, 4)
        assert model.config.moe is not None
        if rank is not None:
            narrowest = min(model.config.d_model, model.config.moe.d_expert)
            check_whole("rank", rank, high=narrowest)
        self.base, self.corpus, self.name, self.rank = model, corpus, name, rank
        self.steps, self.seed, self.learning_rate = steps, seed, learning_rate
        self.replayed = round(replay * BATCH)
        self.seen, self.held_out = split_text(ids)
        self.start = most_visited(model, self.seen)
        self.step = 0
        # The shape alone: its weights come anew with every step.
        self._grown = grown(model, [list(_weights(model, self.start, {}))]).requires_grad_(False)
        self._parts = self._beginning()
        self._optimizer = torch.optim.AdamW(self._parts.values(), learning_rate, weight_decay=0.0)
        self._rng = np.random.default_rng(seed)

    def __next__(self) -> OwnStep:
        if self.step >= self.steps:
            raise StopIteration
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (self.step + 1) / WARMUP)
        ids_BS = torch.from_numpy(self._batch())
        out = functional_call(
            self._grown.train(), self._state(), (ids_BS[:, :-1],), {"targets_BS": ids_BS[:, 1:]}
        )
        self._optimizer.zero_grad(set_to_none=True)
        out.loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(self._parts.values(), 1.0)
        self._optimizer.step()
        self.step += 1
        own = BATCH * (ids_BS.shape[1] - 1)  # the text's own tokens come first
        new = self._grown.routers()[self._grown.config.moe_layers[0]].num_experts - 1
        visits = [
            float((route.plan.token[route.plan.expert == new] < own).sum()) / own
            for route in out.routes
            if route is not None
        ]
        return OwnStep(self.step, float(out.loss.detach()[:BATCH].mean()), np.array(visits))

    def expert(self) -> OwnExpert:
        """What has been learnt so far."""
        arrays = {name: part.detach().numpy().copy() for name, part in self._parts.items()}
        return OwnExpert(self.name, fingerprint(self.base), self.start, self.rank, arrays)

    def _beginning(self) -> dict[str, nn.Parameter]:
        copies = list(_weights(self.base, self.start, {}))
        w13_L2FD, w2_LDF, row_LD = (torch.stack(part) for part in zip(*copies, strict=True))
        if self.rank is None:
            parts = {"w13": w13_L2FD, "w2": w2_LDF, "row": row_LD}
        else:
            generator = torch.Generator().manual_seed(self.seed)
            parts = {"row": row_LD}
            for name, matrix in (("13", w13_L2FD), ("2", w2_LDF)):
                layers, rows, columns = matrix.shape
                a = torch.randn(layers, self.rank, columns, generator=generator) * columns**-0.5
                parts |= {f"a{name}": a, f"b{name}": torch.zeros(layers, rows, self.rank)}
        return {name: nn.Parameter(part.detach().clone()) for name, part in parts.items()}

    def _state(self) -> dict[str, Tensor]:
        """The tensors of the grown model that learning changes, as a function of its parts."""
        state = {}
        own = _weights(self.base, self.start, self._parts)
        for layer, new in zip(self.base.config.moe_layers, own, strict=True):
            for name, whole in _of_layer(self.base, layer, [new]).items():
                state[f"blocks.{layer}.ffn.{name}"] = whole
        return state

    def _batch(self) -> np.ndarray:
        """Sequences of the text, then of the corpus: int64 [B, SEQ_LEN + 1], or shorter ones for a
        short text."""
        length = min(SEQ_LEN, len(self.seen) - 1)
        first_B = self._rng.integers(0, len(self.seen) - length, size=BATCH)
        own_BS = self.seen[first_B[:, None] + np.arange(length + 1)]
        if not self.replayed:
            return own_BS
        others = self.corpus.batch(
            seed=self.seed, step=self.step, batch_size=self.replayed, seq_len=length
        )
        return np.concatenate([own_BS, others.tokens])


def check_growable(model: LanguageModel) -> None:
    """ValueError where no expert can be added: to a dense model, and to a router that has no row
    for each expert, or compares experts in another way than by their scores."""
    if not model.config.moe_layers:
        raise ValueError("This model is dense: no router could choose a new expert.")
    for router in model.routers().values():
        if type(router) is not TokenChoice or router.bias is not None or router.num_groups > 1:
            assert model.config.moe is not None
            raise ValueError(
                f"No row can be added to the router '{model.config.moe.router}' of this model; an "
                "expert of one's own needs router='token_choice' without groups, bias and capacity."
            )


def split_text(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A text's tokens to train on, and its last fifth. ValueError where it is too short."""
    ids = np.asarray(ids, np.int64)
    least = 2 * SEQ_LEN
    if len(ids) < least:
        raise ValueError(
            f"The text has {len(ids)} tokens; give one of {least} or more, so that there is enough "
            "to learn from and a part to test on."
        )
    cut = round(len(ids) * (1 - HELD_OUT))
    return ids[:cut], ids[cut:]


def fingerprint(model: LanguageModel) -> str:
    """What tells one model from another: a checksum of its shape and of all its weights."""
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    return checksum(arrays, model.config.to_dict())


@torch.no_grad()
def most_visited(model: LanguageModel, ids: np.ndarray) -> tuple[int, ...]:
    """The expert of each MoE layer to which most of a text's tokens go."""
    length = min(SEQ_LEN, len(ids))
    ids_GS = torch.from_numpy(ids[: len(ids) // length * length].reshape(-1, length))
    with model.evaluating():
        routes = model(ids_GS).routes
    return tuple(int(route.plan.load().argmax()) for route in routes if route is not None)


def grown(model: LanguageModel, experts: Sequence[Sequence[Weights]]) -> LanguageModel:
    """A copy of the model with these experts after its own, each given by its weights in every MoE
    layer; the mode is the model's."""
    moe = model.config.moe
    assert moe is not None
    more = dataclasses.replace(moe, num_experts=moe.num_experts + len(experts))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for place, layer in enumerate(model.config.moe_layers):
        new = [expert[place] for expert in experts]
        for name, whole in _of_layer(model, layer, new).items():
            state[f"blocks.{layer}.ffn.{name}"] = whole.detach()
    with torch.random.fork_rng(devices=[]):
        copied = LanguageModel(dataclasses.replace(model.config, moe=more))
    for layer in model.config.moe_layers:  # a buffer that is None would refuse the value
        copied.blocks[layer].ffn.factor_P = model.blocks[layer].ffn.factor_P
    copied.load_state_dict(state)
    return copied.train(model.training)


def _of_layer(model: LanguageModel, layer: int, new: Sequence[Weights]) -> dict[str, Tensor]:
    """A layer's tensors that have a row for each expert, the new ones last."""
    ffn = model.blocks[layer].ffn
    own = (ffn.w13_E2FD, ffn.w2_EDF, ffn.router.weight_ED)
    columns = [[expert[i][None] for expert in new] for i in range(3)]
    names = ("w13_E2FD", "w2_EDF", "router.weight_ED")
    return {
        name: torch.cat([whole.detach(), *rows])
        for name, whole, rows in zip(names, own, columns, strict=True)
    }


def _weights(
    model: LanguageModel, start: Sequence[int], parts: dict[str, Any]
) -> Iterator[Weights]:
    """Of each MoE layer: the starting expert's weights, or what the parts make of them."""
    for place, (layer, expert) in enumerate(zip(model.config.moe_layers, start, strict=True)):
        ffn = model.blocks[layer].ffn
        w13, w2 = ffn.w13_E2FD[expert].detach(), ffn.w2_EDF[expert].detach()
        row = ffn.router.weight_ED[expert].detach()
        if "a13" in parts:
            w13 = w13 + parts["b13"][place] @ parts["a13"][place]
            w2 = w2 + parts["b2"][place] @ parts["a2"][place]
        elif parts:
            w13, w2 = parts["w13"][place], parts["w2"][place]
        yield w13, w2, parts["row"][place] if parts else row
