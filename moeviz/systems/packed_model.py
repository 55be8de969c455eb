"""A model whose weights are packed in few bits: in memory, and as a file.

The file is safetensors. Each expert of a layer lies in it in one piece, so that it can be read
alone, and its header holds a checksum of each. Buffers (of routers, the fixed output scale) stay as
they are and are no part of the arithmetic.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from moeviz.costs.cost.memory import weight_bytes
from moeviz.costs.cost.quantisation import QuantPlan, plan_of
from moeviz.model.architecture import architecture_of
from moeviz.model.config import ModelConfig
from moeviz.model.division import Division
from moeviz.model.layer import MoEFFN
from moeviz.model.transformer import LanguageModel
from moeviz.records.store import save_arrays
from moeviz.systems.quantisation import Packed, pack, unpack

KIND = "packed"
EXPERTS = "experts."
EXPERT_WEIGHTS = ("w13_E2FD", "w2_EDF")
MATRIX_SCALE_BYTES = 4  # of fp8, which costs leave out

# What a parameter's name says of its component (costs), the first that fits.
_COMPONENTS = (
    ("embedding.", "embedding"), ("head.", "head"), ("norm.", "norms"), ("_norm.", "norms"),
    (".attention.", "attention"), (".router.", "router"), (".shared", "shared_experts"),
    (".w13_E2FD", "routed_experts"), (".w2_EDF", "routed_experts"), (".ffn.", "dense_ffn"),
)  # fmt: skip


@dataclass(frozen=True)
class PackedModel:
    """config: of the model; plan: which component is in which format; weights: by the parameter's
    name, for experts with the expert's number behind it; buffers: as they were."""

    config: ModelConfig
    plan: QuantPlan
    weights: dict[str, Packed]
    buffers: dict[str, np.ndarray]

    def bytes(self) -> dict[str, int]:
        """What each component takes, counted from the packed arrays."""
        sizes: dict[str, int] = {}
        for name, packed in self.weights.items():
            component = component_of(name)
            sizes[component] = sizes.get(component, 0) + packed.nbytes
        return sizes

    def state(self) -> dict[str, torch.Tensor]:
        """The model's state_dict, every weight as its packed form stands for it."""
        state = {name: torch.from_numpy(value) for name, value in self.buffers.items()}
        rows: dict[str, list[np.ndarray]] = {}
        for name, packed in self.weights.items():
            rows.setdefault(name.partition("#")[0], []).append(unpack(packed))
        for name, parts in rows.items():
            stacked = np.stack(parts) if name.endswith(EXPERT_WEIGHTS) else parts[0]
            state[name] = torch.from_numpy(stacked)
        return state

    def model(self) -> LanguageModel:
        """The model that computes with those weights, in float32."""
        model = LanguageModel(self.config)
        model.load_state_dict(self.state())
        return model.eval()


def component_of(name: str) -> str:
    """Which component of costs a parameter counts to; ValueError for one that has none."""
    for part, component in _COMPONENTS:
        if part in f".{name}" or name.startswith(part):
            return component
    raise ValueError(f"{name} counts to no component, so no plan says how it is packed.")


def pack_model(
    model: LanguageModel, plan: QuantPlan | str, *, layers: Sequence[int] | None = None
) -> PackedModel:
    """The model in a plan's formats; in these blocks alone where `layers` names some, in float32
    elsewhere. ValueError for formats that nobody packs, or that do not fit a matrix."""
    plan = plan_of(plan)
    named = dict(model.named_parameters())
    weights: dict[str, Packed] = {}
    for name, weight in named.items():
        inside = layers is None or any(name.startswith(f"blocks.{layer}.") for layer in layers)
        form = plan.format(component_of(name)).name if inside else "fp32"
        value = weight.detach().float().cpu().numpy()
        if name.endswith(EXPERT_WEIGHTS):
            weights |= {f"{name}#{e}": pack(each, form) for e, each in enumerate(value)}
        else:
            weights[name] = pack(value, form)
    buffers = {n: v.cpu().numpy() for n, v in model.state_dict().items() if n not in named}
    packed = PackedModel(model.config, plan, weights, buffers)
    if layers is None:
        check_bytes(packed)
    return packed


def quantised(
    model: LanguageModel, plan: QuantPlan | str, *, layers: Sequence[int] | None = None
) -> LanguageModel:
    """A model with the weights that the plan's formats keep of this one's."""
    return pack_model(model, plan, layers=layers).model()


def leave_experts_to(ffn: MoEFFN, division: Division) -> None:
    """Let a layer ask `division` for its experts: its own keep their shapes, their memory goes."""
    for name in EXPERT_WEIGHTS:
        empty = torch.empty_like(getattr(ffn, name), device="meta")
        setattr(ffn, name, nn.Parameter(empty, requires_grad=False))
    ffn.division = division


def check_bytes(packed: PackedModel) -> None:
    """ValueError where a component's bytes are not what costs' arithmetic says: some of its weights
    were left as they were, or are not there (what quantising tools did in silence: ModelOpt 1173
    skipped 91 % of a model's weights)."""
    wanted = weight_bytes(architecture_of(packed.config), packed.plan).components
    found = packed.bytes()
    for component in {*wanted, *found}:
        form = packed.plan.format(component).name
        of_scales = 0
        if form == "fp8":
            of_scales = MATRIX_SCALE_BYTES * sum(
                component_of(n) == component for n in packed.weights
            )
        expected = wanted.get(component, 0) + of_scales
        if found.get(component, 0) != expected:
            raise ValueError(
                f"{component} in {form} must take {expected:,.0f} bytes and takes "
                f"{found.get(component, 0):,}: some of its weights were not packed in that format."
            )


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One array of an expert's bytes: of which of its two matrices, of which part of it."""

    matrix: str
    part: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def expert_name(layer: int, expert: int) -> str:
    return f"{EXPERTS}{layer:04d}.{expert:05d}"


def _matrices(packed: PackedModel, layer: int, expert: int) -> dict[str, Packed]:
    return {name: packed.weights[f"blocks.{layer}.ffn.{name}#{expert}"] for name in EXPERT_WEIGHTS}


def _pieces(matrices: dict[str, Packed]) -> list[Piece]:
    return [
        Piece(name, part, value.dtype.str, value.shape)
        for name, packed in matrices.items()
        for part, value in packed.parts.items()
    ]


def expert_weights(
    data: np.ndarray, pieces: Sequence[Piece], config: ModelConfig, form: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """An expert's matrices, float32 [2F, D] and [D, F], from its bytes, uint8."""
    assert config.moe is not None
    D, F = config.d_model, config.moe.d_expert
    parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in EXPERT_WEIGHTS}
    start = 0
    for piece in pieces:
        values = data[start : start + piece.nbytes].view(piece.dtype)
        parts[piece.matrix][piece.part] = values.reshape(piece.shape)
        start += piece.nbytes
    shapes = dict(zip(EXPERT_WEIGHTS, ((2 * F, D), (D, F)), strict=True))
    w13, w2 = (unpack(Packed(form, shapes[name], parts[name])) for name in EXPERT_WEIGHTS)
    return torch.from_numpy(w13), torch.from_numpy(w2)


def save_packed(model: LanguageModel, path: str | Path, plan: QuantPlan | str) -> PackedModel:
    """Write the model in a plan's formats, atomically. OSError (one sentence) where the disk is
    full; ValueError as pack_model, and for a model without experts."""
    packed, config = pack_model(model, plan), model.config
    if config.moe is None:
        raise ValueError("A dense model has no experts to keep apart; give one with experts.")
    arrays, pieces = dict(packed.buffers), []
    for name, weight in packed.weights.items():
        if "#" not in name:
            arrays |= {f"{name}#{part}": value for part, value in weight.parts.items()}
    for layer in config.moe_layers:
        for expert in range(config.moe.num_experts):
            matrices = {
                name: packed.weights[f"blocks.{layer}.ffn.{name}#{expert}"]
                for name in EXPERT_WEIGHTS
            }
            pieces = _pieces(matrices)
            values = [part for matrix in matrices.values() for part in matrix.parts.values()]
            arrays[expert_name(layer, expert)] = np.concatenate(
                [value.ravel().view(np.uint8) for value in values]
            )
    header = {
        "model": config.to_dict(),
        "plan": [packed.plan.name, packed.plan.default, packed.plan.parts],
        "pieces": [[p.matrix, p.part, p.dtype, p.shape] for p in pieces],
        "sums": {name: checksum(value) for name, value in arrays.items()},
    }
    save_arrays(path, arrays, header, kind=KIND)
    return packed


def checksum(value: np.ndarray) -> int:
    """Of one array's bytes, quick enough to be made whenever it is read."""
    return zlib.crc32(np.ascontiguousarray(value).data)
