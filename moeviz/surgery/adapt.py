"""Adapting a model to a task with few trained numbers; all else is frozen, the model never changed.

WAYS says what is trained:
    experts    LoRA on some experts of every MoE layer, each its own: all, or those that matter for
               the task (ESFT, Wang et al. 2024, 2407.01906; `important` finds them)
    attention  LoRA on the attention's matrices
    dense      one LoRA for all experts of a layer alike, as if it stood beside a dense FFN
    whole      the chosen experts' matrices themselves, as ESFT trains them
    all        every number of the model, for comparison
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from moeviz.checks import brief, check_choice, check_number, check_whole
from moeviz.model.adamw import AdamW
from moeviz.model.transformer import LanguageModel
from moeviz.records.important import gate_share, important_experts, token_share
from moeviz.records.store import fitting, load_arrays, save_arrays
from moeviz.surgery.added_experts import fingerprint
from moeviz.surgery.lora import Target, changed, num_trained, start
from moeviz.text.tokenizer import Tokenizer

KIND = "adapter"
WAYS = ("experts", "attention", "dense", "whole", "all")
BATCH, SEQ_LEN = 8, 64
WARMUP = 10  # steps
AT_ONCE = 32  # sequences

Experts = tuple[tuple[int, ...], ...]  # of each MoE layer
Score = Literal["gate", "token"]


@torch.no_grad()
def important(
    model: LanguageModel, ids: np.ndarray, *, score: Score = "gate", top_p: float = 0.5
) -> Experts:
    """The experts of each MoE layer that matter most for a text, as ESFT chooses them: by their
    share of the gate weights, or of the choices. ids: its tokens, int [N]. ValueError for a dense
    model or a soft router, and as important_experts."""
    check_choice("score", score, ("gate", "token"))
    _check_experts(model)
    ids_GS = _sequences(ids)
    rows: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {n: [] for n in model.routers()}
    with model.evaluating():
        for ids_BS in ids_GS.split(AT_ONCE):
            out = model(ids_BS)
            for layer, of_layer in rows.items():
                plan = out.routes[layer].plan
                of_layer.append((plan.expert.numpy(), plan.weight.numpy()))
    chosen = []
    for layer, router in model.routers().items():
        expert, weight = (np.concatenate(part)[:, None] for part in zip(*rows[layer], strict=True))
        share_E = token_share(expert, router.num_experts)
        if score == "gate":
            share_E = gate_share(expert, weight, router.num_experts)
        chosen.append(important_experts(share_E, top_p))
    return tuple(chosen)


def targets_of(
    model: LanguageModel, way: str, *, rank: int = 4, experts: Experts | None = None
) -> tuple[Target, ...]:
    """What a way trains in this model. experts: of "experts" and "whole", for each MoE layer the
    ones that change; None: all. ValueError for an unknown way, a dense model where experts are
    meant, experts that are not there, and a rank that is none."""
    check_choice("way", way, WAYS)
    if way == "all":
        return tuple(Target(name) for name, _ in model.named_parameters())
    if way == "attention":
        names = [f"blocks.{n}.attention" for n in range(model.config.num_layers)]
        targets = tuple(Target(f"{n}.{m}.weight", rank) for n in names for m in ("qkv", "out"))
    else:
        _check_experts(model)
        chosen = _chosen(model, experts) if way != "dense" else [None] * len(model.routers())
        targets = tuple(
            Target(f"blocks.{layer}.ffn.{name}", None if way == "whole" else rank, of_layer)
            for layer, of_layer in zip(model.routers(), chosen, strict=True)
            if of_layer != ()
            for name in ("w13_E2FD", "w2_EDF")
        )
    num_trained(model.state_dict(), targets)  # refuses an impossible rank
    return targets


def rank_of_size(model: LanguageModel, way: str, size: int, experts: Experts | None = None) -> int:
    """The rank at which a way trains `size` numbers, or as near to that as a rank comes. ValueError
    as targets_of."""
    targets, state = targets_of(model, way, rank=1, experts=experts), model.state_dict()
    highest = min(min(state[target.tensor].shape[-2:]) for target in targets)
    return min(max(1, round(size / num_trained(state, targets))), highest)


@dataclass(frozen=True, eq=False)
class Adapter:
    """What was trained. base: the fingerprint of its model; tokenizer: the sha256 of its tokenizer;
    arrays: by "tensor/part", float32."""

    way: str
    base: str
    tokenizer: str
    targets: tuple[Target, ...]
    arrays: dict[str, np.ndarray]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; OSError (one sentence) where it cannot be written."""
        header = {
            "way": self.way,
            "base": self.base,
            "tokenizer": self.tokenizer,
            "targets": [[target.tensor, target.rank, target.experts] for target in self.targets],
        }
        save_arrays(path, self.arrays, header, kind=KIND)


def load_adapter(path: str | Path, model: LanguageModel, tokenizer: Tokenizer) -> Adapter:
    """What `Adapter.save` wrote, for the model that it was trained on. FileNotFoundError, or
    ValueError for a file that is damaged or of another kind, an adapter of another model or
    tokenizer, and arrays that are not of the rank and the experts that it names."""
    arrays, header = load_arrays(path, kind=KIND)
    with fitting(path):
        targets = tuple(
            Target(str(name), rank, None if experts is None else tuple(experts))
            for name, rank, experts in header["targets"]
        )
        adapter = Adapter(header["way"], header["base"], header["tokenizer"], targets, arrays)
    _check_base(adapter, model)
    if adapter.tokenizer != tokenizer.sha256:
        raise ValueError(
            f"{path} was trained with another tokenizer; give the one that its text was cut with."
        )
    shapes = {name: array.shape for name, array in arrays.items()}
    with fitting(path):
        wanted = {
            f"{target.tensor}/{part}": shape
            for target in targets
            for part, shape in target.shapes(model.state_dict()[target.tensor].shape).items()
        }
    if shapes != wanted:
        raise ValueError(f"{path} does not hold arrays of the rank and the experts that it names.")
    return adapter


def adapted(model: LanguageModel, adapter: Adapter) -> LanguageModel:
    """A copy of the model with the adapter's changes added to its weights. ValueError for an
    adapter of another model."""
    _check_base(adapter, model)
    parts = {name: torch.from_numpy(array) for name, array in adapter.arrays.items()}
    new = copy.deepcopy(model)
    new.load_state_dict(changed(model.state_dict(), adapter.targets, parts), strict=False)
    return new


class AdapterTraining(Iterator[float]):
    """Trains an adapter: `for loss in training:` runs it to `steps`, each loss in nats per token of
    a batch of the text; it may be stopped at any of them, and `adapter()` is what is learnt so far.

    ids: the task's tokens, int [N]; rank, experts: see targets_of. AdamW without weight decay at
    `learning_rate` after WARMUP steps; the loss is the text's alone, without the routers'.
    ValueError for a text shorter than a sequence, for impossible sizes, and as targets_of.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: np.ndarray,
        tokenizer: Tokenizer,
        way: str = "experts",
        *,
        rank: int = 4,
        experts: Experts | None = None,
        steps: int = 100,
        learning_rate: float = 3e-3,
        seed: int = 0,
    ) -> None:
        check_whole("steps", steps)
        check_number("learning_rate", learning_rate, open_low=True)
        self.ids = _checked(ids)
        self.base, self.way, self.tokenizer = model, way, tokenizer
        self.targets = targets_of(model, way, rank=rank, experts=experts)
        self.steps, self.learning_rate, self.step = steps, learning_rate, 0
        self._frozen = copy.deepcopy(model).requires_grad_(False).eval()
        self._weights = self._frozen.state_dict()
        self._parts = {
            name: nn.Parameter(part)
            for name, part in start(self._weights, self.targets, seed).items()
        }
        self._optimizer = AdamW(self._parts.values(), learning_rate, weight_decay=0.0)
        self._rng = np.random.default_rng(seed)

    def __next__(self) -> float:
        if self.step >= self.steps:
            raise StopIteration
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (self.step + 1) / WARMUP)
        first_B = self._rng.integers(0, len(self.ids) - SEQ_LEN, size=BATCH)
        ids_BS = torch.from_numpy(self.ids[first_B[:, None] + np.arange(SEQ_LEN + 1)])
        state = changed(self._weights, self.targets, self._parts)
        out = functional_call(self._frozen, state, (ids_BS[:, :-1],), {"targets_BS": ids_BS[:, 1:]})
        loss = out.loss.mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parts.values(), 1.0)
        self._optimizer.step()
        self.step += 1
        return float(loss.detach())

    def adapter(self) -> Adapter:
        """What has been learnt so far."""
        arrays = {name: part.detach().numpy().copy() for name, part in self._parts.items()}
        base = fingerprint(self.base)
        return Adapter(self.way, base, self.tokenizer.sha256, self.targets, arrays)


def _check_base(adapter: Adapter, model: LanguageModel) -> None:
    if adapter.base != fingerprint(model):
        raise ValueError(
            "This adapter was trained on another model than this one: its changes add to the "
            "weights that it was trained beside. Give it that model."
        )


def _check_experts(model: LanguageModel) -> None:
    if not model.config.moe_layers:
        raise ValueError("This model is dense: it has no experts to adapt. Use way='attention'.")
    if any(router.soft for router in model.routers().values()):
        raise ValueError(
            "This model's router is a soft one: every expert works for every token, so none "
            "matters more for a task. Give a model whose router chooses."
        )


def _chosen(model: LanguageModel, experts: Any) -> list[tuple[int, ...]]:
    """For each MoE layer its experts, in rising order."""
    routers = list(model.routers().values())
    if experts is None:
        return [tuple(range(router.num_experts)) for router in routers]
    if len(experts) != len(routers):
        raise ValueError(
            f"experts must name those of each of the {len(routers)} MoE layers, got "
            f"{len(experts)} lists."
        )
    for router, of_layer in zip(routers, experts, strict=True):
        unknown = [e for e in of_layer if e not in range(router.num_experts)]
        if unknown or len({*of_layer}) < len(of_layer):
            raise ValueError(
                f"A layer's experts must be different numbers of 0..{router.num_experts - 1}, got "
                f"{brief(tuple(of_layer))}."
            )
    if not any(map(len, experts)):
        raise ValueError("No layer has an expert to train; name one at least.")
    return [tuple(sorted(of_layer)) for of_layer in experts]


def _checked(ids: np.ndarray) -> np.ndarray:
    ids = np.asarray(ids, np.int64)
    if len(ids) < 2 * SEQ_LEN:
        raise ValueError(
            f"The text has {len(ids)} tokens; give one of {2 * SEQ_LEN} or more, so that there is "
            "enough to learn from."
        )
    return ids


def _sequences(ids: np.ndarray) -> torch.Tensor:
    """The text as sequences int64 [G, SEQ_LEN]; what is left at its end is not read."""
    ids = _checked(ids)
    whole = len(ids) // SEQ_LEN * SEQ_LEN
    return torch.from_numpy(ids[:whole].reshape(-1, SEQ_LEN))
