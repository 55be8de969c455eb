"""A model whose experts stay in a file: each comes when a token asks for it, through a small cache.

The file (systems.packed_model) is mapped into memory and read expert by expert. A layer keeps
`slots` experts, unpacked, and decides by the policies of records.caching, so that what is measured
here is what a replay of the same choices computes. All else of the model is in memory.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from moeviz.checks import check_choice
from moeviz.costs.cost.quantisation import QuantPlan
from moeviz.model.config import ModelConfig
from moeviz.model.division import Division
from moeviz.model.experts import swiglu
from moeviz.model.layer import MoEFFN
from moeviz.model.transformer import LanguageModel
from moeviz.records.caching import LFU, LRU, Cache, NextLayer, check_room
from moeviz.records.store import fitting, load_header
from moeviz.routing import Plan, SoftPlan
from moeviz.systems.packed_model import (
    EXPERT_WEIGHTS,
    EXPERTS,
    KIND,
    PackedModel,
    Piece,
    checksum,
    component_of,
    expert_name,
    expert_weights,
    leave_experts_to,
)
from moeviz.systems.quantisation import Packed

Policy = Literal["lru", "lfu", "next_layer"]
Expert = tuple[Tensor, Tensor]  # w13 [2F, D], w2 [D, F]


class ExpertFile:
    """A file that save_packed wrote, open to be read expert by expert. bytes_read: of experts.

    from_disk: whether the system is asked to forget an expert as soon as it was read, so that the
    next time it comes from the disk again, and not from memory that is no part of the cache.
    ValueError where the file is damaged or of another kind.
    """

    def __init__(self, path: str | Path, *, from_disk: bool = False) -> None:
        self.path, self.from_disk, self.bytes_read = Path(path), from_disk, 0
        header = load_header(path, kind=KIND)
        with fitting(path):
            self.config = ModelConfig.from_dict(header["model"])
            name, default, parts = header["plan"]
            self.plan = QuantPlan(name, default, tuple((part, form) for part, form in parts))
            self.pieces = [
                Piece(m, p, kind, tuple(shape)) for m, p, kind, shape in header["pieces"]
            ]
            self._sums = dict(header["sums"])
        self._file = open(path, "rb")  # kept open: it is forgotten again and again
        weakref.finalize(self, self._file.close)
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)  # bring in no more than is asked for
        length = int.from_bytes(self._map[:8], "little")
        self._entries = json.loads(self._map[8 : 8 + length])
        self._start, self._proved = 8 + length, set[str]()

    @property
    def form(self) -> str:
        """The format of its experts."""
        return self.plan.format("routed_experts").name

    def expert(self, layer: int, expert: int) -> Expert:
        """An expert's matrices, read from the file now."""
        data = self._read(expert_name(layer, expert))
        self.bytes_read += len(data)
        if self.from_disk:
            self.drop_from_memory()
        return expert_weights(data, self.pieces, self.config, self.form)

    def others(self) -> PackedModel:
        """All that is not an expert."""
        from safetensors import safe_open

        buffers: dict[str, np.ndarray] = {}
        parts: dict[str, dict[str, np.ndarray]] = {}
        with safe_open(str(self.path), framework="numpy") as file:
            for name in self._entries.keys() - {"__metadata__"}:
                weight, packed, part = name.partition("#")
                if name.startswith(EXPERTS):
                    continue
                value = file.get_tensor(name)
                self._prove(name, value)
                if packed:
                    parts.setdefault(weight, {})[part] = value
                else:
                    buffers[name] = value
        shapes = {n: tuple(p.shape) for n, p in LanguageModel(self.config).named_parameters()}
        weights = {}
        for name, of_weight in parts.items():
            form = self.plan.format(component_of(name)).name
            weights[name] = Packed(form, shapes[name], of_weight)
        return PackedModel(self.config, self.plan, weights, buffers)

    def _read(self, name: str) -> np.ndarray:
        """An array's bytes, uint8, copied out of the file."""
        first, end = self._entries[name]["data_offsets"]
        data = np.frombuffer(self._map, np.uint8, end - first, self._start + first).copy()
        self._prove(name, data)
        return data

    def _prove(self, name: str, value: np.ndarray) -> None:
        """ValueError, the first time that an array is read, where it is not what was written."""
        if name not in self._proved and checksum(value) != self._sums.get(name):
            raise ValueError(
                f"{self.path} is damaged: {name} does not fit its checksum; write it again."
            )
        self._proved.add(name)

    def drop_from_memory(self) -> bool:
        """Ask the system to forget what it keeps of the file; whether it can be asked. It need not
        obey: storage_bytes tells."""
        if not (hasattr(os, "posix_fadvise") and hasattr(mmap, "MADV_DONTNEED")):
            return False
        self._map.madvise(mmap.MADV_DONTNEED)
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return True


def storage_bytes() -> int | None:
    """What this process had to fetch from storage so far; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["read_bytes"])
    return None


class OffloadedLayer(Division):
    """The experts of one layer, out of a file through a cache of a few. asked, hits, loads: what
    its tokens asked for, what lay in the cache then, and what came from the file, guesses included.

    Tokens take turns, also those of a prompt: a token's experts are in memory together, those of
    two tokens need not be.
    """

    def __init__(
        self,
        file: ExpertFile,
        layer: int,
        slots: int,
        policy: Policy,
        before: OffloadedLayer | None,
    ) -> None:
        super().__init__()
        moe = file.config.moe
        assert moe is not None
        self.file, self.layer, self.before, self.top_k = file, layer, before, moe.top_k
        kind = LFU if policy == "lfu" else LRU
        self.cache = Cache(1, moe.num_experts, slots, kind(1, moe.num_experts))
        guesses = policy == "next_layer" and before is not None
        self.guesses = NextLayer(2, moe.num_experts) if guesses else None
        self.bank: dict[int, Expert] = {}
        self.choices: list[np.ndarray] = []  # of the tokens that were worked on last, each [K]
        self.asked = self.hits = self.loads = 0

    def experts(
        self, x_TD: Tensor, plan: Plan | SoftPlan, w13_E2FD: Tensor, w2_EDF: Tensor, backend: str
    ) -> Tensor:
        """Every token through its experts, in the order of their numbers: y_TD. The weights given
        are those of a model without any."""
        if not isinstance(plan, Plan):
            raise ValueError("A soft router reads every expert for every token: nothing to cache.")
        y_TD, self.choices = torch.zeros_like(x_TD), []
        row_N, ends = plan.inverse.long(), plan.token_offsets.tolist()
        for token, x_D in enumerate(x_TD):
            row_K = row_N[ends[token] : ends[token + 1]].sort().values  # rows are sorted by expert
            experts = plan.expert[row_K].tolist()
            self._fetch(experts)
            for expert, weight in zip(experts, plan.weight[row_K], strict=True):
                w13_2FD, w2_DF = self.bank[expert]
                y_D = swiglu(x_D @ w13_2FD.T.to(x_D)) @ w2_DF.T.to(x_D)
                y_TD[token] += y_D * weight.to(x_D)
        return y_TD

    def _fetch(self, experts: list[int]) -> None:
        """Let the bank hold these."""
        if len(experts) > self.cache.slots:
            raise ValueError(
                f"A token asks for {len(experts)} experts of layer {self.layer} at once, and the "
                f"cache has {self.cache.slots} slots: give it more."
            )
        choice_K = np.full(max(self.top_k, len(experts)), -1)
        choice_K[: len(experts)] = experts
        if self.guesses is not None and self.before is not None:
            pair_2K = np.stack([self.before.choices[len(self.choices)], choice_K])
            self._load(self.cache.prefetch(self.guesses.guess(pair_2K)[1:]))
            self.guesses.see(pair_2K)
        hits_1, loaded_1E = self.cache.take(choice_K[None])
        self._load(loaded_1E)
        self.choices.append(choice_K)
        self.asked += len(experts)
        self.hits += int(hits_1[0])

    def _load(self, loaded_1E: np.ndarray) -> None:
        """Bring these, after what is no longer held has left."""
        held = np.flatnonzero(self.cache.held_GM[0, :-1]).tolist()
        self.bank = {expert: self.bank[expert] for expert in held if expert in self.bank}
        for expert in np.flatnonzero(loaded_1E[0]).tolist():
            self.bank[expert] = self.file.expert(self.layer, expert)
            self.loads += 1


@dataclass(frozen=True)
class Offloaded:
    """A model that reads and generates as any other, its experts in a file."""

    model: LanguageModel
    file: ExpertFile
    layers: list[OffloadedLayer]

    @property
    def asked(self) -> int:
        return sum(layer.asked for layer in self.layers)

    @property
    def hits(self) -> int:
        return sum(layer.hits for layer in self.layers)

    @property
    def loads(self) -> int:
        return sum(layer.loads for layer in self.layers)


def open_offloaded(
    path: str | Path, slots: int, policy: Policy = "lru", *, from_disk: bool = False
) -> Offloaded:
    """The model of a file that save_packed wrote, with `slots` experts of each layer in memory.

    policy: see records.caching; what knows the future cannot run. from_disk: see ExpertFile.
    ValueError for a damaged file and for a cache that is smaller than what one token asks for.
    """
    check_choice("policy", policy, get_args(Policy))
    file = ExpertFile(path, from_disk=from_disk)
    moe = file.config.moe
    assert moe is not None
    check_room(slots, moe.top_k)
    model = LanguageModel(file.config).eval().requires_grad_(False)
    with fitting(path):
        missing, unknown = model.load_state_dict(file.others().state(), strict=False)
        wrong = [name for name in missing if not name.endswith(EXPERT_WEIGHTS)] + unknown
        if wrong:
            raise ValueError(f"{wrong[0]} is missing there, or not of this model")
    layers: list[OffloadedLayer] = []
    for layer in file.config.moe_layers:
        ffn = model.blocks[layer].ffn
        assert isinstance(ffn, MoEFFN)
        before = layers[-1] if layers else None
        layers.append(OffloadedLayer(file, layer, slots, policy, before))
        leave_experts_to(ffn, layers[-1])
    return Offloaded(model, file, layers)
