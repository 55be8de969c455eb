"""Experts that stay in few bits while their model writes: unpacked whenever a token asks for one,
or multiplied as they are, by torch's own kernels for packed weights on a CPU.

Both compute with exactly the weights that systems.quantisation packs: its INT8 and INT4 share a
scale in groups that hold whole rows of a small matrix, or whose size the INT4 kernel takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from moeviz.checks import check_choice
from moeviz.costs.cost.quantisation import FORMATS, QuantPlan
from moeviz.model.division import Division
from moeviz.model.experts import swiglu
from moeviz.model.layer import MoEFFN
from moeviz.model.transformer import LanguageModel
from moeviz.routing import Plan, SoftPlan
from moeviz.systems.packed_model import EXPERT_WEIGHTS, leave_experts_to, pack_model
from moeviz.systems.quantisation import Packed, unpack, unpack_bits

Product = Literal["unpacked", "kernel"]
INT4_GROUPS = (32, 64, 128, 256)  # which the kernel takes


class Matrix(ABC):
    """A packed weight [N, K] that multiplies rows x_nK: y_nN. nbytes: of all that it keeps."""

    nbytes: int

    @abstractmethod
    def __init__(self, packed: Packed) -> None:
        """ValueError where the kernel does not take its groups."""

    @abstractmethod
    def __call__(self, x_nK: Tensor) -> Tensor:
        """x_nK times the weight's transpose."""


class Unpacked(Matrix):
    """Turned into float32 anew at each use: the plain form of the others."""

    def __init__(self, packed: Packed) -> None:
        self.packed, self.nbytes = packed, packed.nbytes

    def __call__(self, x_nK: Tensor) -> Tensor:
        return x_nK @ torch.from_numpy(unpack(self.packed)).T


class Float32(Matrix):
    """Not packed at all: what the others are held against."""

    def __init__(self, packed: Packed) -> None:
        self.weight_NK = torch.from_numpy(unpack(packed))
        self.nbytes = self.weight_NK.nbytes

    def __call__(self, x_nK: Tensor) -> Tensor:
        return x_nK @ self.weight_NK.T


class Int8(Matrix):
    """torch's INT8 kernel: whole numbers, and a float32 scale for each row."""

    def __init__(self, packed: Packed) -> None:
        scale_NG = _scales(packed)
        if scale_NG.shape[1] != 1:
            raise ValueError(
                f"torch's INT8 kernel has one scale a row, and a row of {packed.shape[1]} weights "
                f"has {scale_NG.shape[1]} here; use product='unpacked'."
            )
        self.code_NK = torch.from_numpy((_codes(packed, 8) - 128).astype(np.int8))
        self.scale_N = torch.from_numpy(scale_NG[:, 0].copy())
        self.nbytes = self.code_NK.nbytes + self.scale_N.nbytes

    def __call__(self, x_nK: Tensor) -> Tensor:
        return torch.ops.aten._weight_int8pack_mm(x_nK, self.code_NK, self.scale_N)


class Int4(Matrix):
    """torch's INT4 kernel: two codes a byte, in the kernel's own order, and for each group of a row
    a float32 scale and what the code 8 stands for, here 0."""

    def __init__(self, packed: Packed) -> None:
        scale_NG = _scales(packed)
        self.group = packed.shape[1] // scale_NG.shape[1]
        if self.group not in INT4_GROUPS:
            raise ValueError(
                f"torch's INT4 kernel takes groups of {', '.join(map(str, INT4_GROUPS))} weights, "
                f"not of {self.group}; use product='unpacked'."
            )
        codes = torch.from_numpy(_codes(packed, 4).astype(np.int32))
        self.code = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        scale_GN = torch.from_numpy(scale_NG.T.copy())
        self.scale_GN2 = torch.stack((scale_GN, torch.zeros_like(scale_GN)), dim=-1)
        self.nbytes = self.code.nbytes + self.scale_GN2.nbytes

    def __call__(self, x_nK: Tensor) -> Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(
            x_nK, self.code, self.group, self.scale_GN2
        )


KERNELS: dict[str, type[Matrix]] = {"fp32": Float32, "int8": Int8, "int4": Int4}


def matrix(packed: Packed, product: Product) -> Matrix:
    """A packed weight, ready to multiply. ValueError for a format that torch has no kernel for."""
    check_choice("product", product, get_args(Product))
    if product == "unpacked":
        return Unpacked(packed)
    check_choice("form, for product='kernel',", packed.form, KERNELS)
    return KERNELS[packed.form](packed)


def _codes(packed: Packed, bits: int) -> np.ndarray:
    """The codes of a packed weight, int64 [N, K]."""
    count = int(np.prod(packed.shape))
    return unpack_bits(packed.parts["code"], bits, count).reshape(packed.shape)


def _scales(packed: Packed) -> np.ndarray:
    """The scales of a packed weight by row, float32 [N, G]: a group of several rows gives each of
    them its scale."""
    (N, K), group = packed.shape, FORMATS[packed.form].group
    scale = packed.parts["scale"].astype(np.float32).ravel()
    return scale.repeat(group // K)[:, None] if group >= K else scale.reshape(N, K // group)


class PackedExperts(Division):
    """The experts of one layer, each a pair of matrices: W13 [2F, D] and W2 [D, F]."""

    def __init__(self, bank: list[tuple[Matrix, Matrix]]) -> None:
        super().__init__()
        self.bank = bank

    @property
    def nbytes(self) -> int:
        return sum(w13.nbytes + w2.nbytes for w13, w2 in self.bank)

    def experts(
        self, x_TD: Tensor, plan: Plan | SoftPlan, w13_E2FD: Tensor, w2_EDF: Tensor, backend: str
    ) -> Tensor:
        """One expert after the other on its rows, as reference_experts: y_TD. The weights given are
        those of a model without any."""
        if not isinstance(plan, Plan):
            raise ValueError("A soft router mixes tokens; packed experts take rows of a plan.")
        y_TD, bounds = torch.zeros_like(x_TD), plan.offsets.tolist()
        for e, (w13, w2) in enumerate(self.bank):
            if bounds[e] == bounds[e + 1]:
                continue
            rows = slice(bounds[e], bounds[e + 1])
            token_n = plan.token[rows].long()
            y_nD = w2(swiglu(w13(x_TD[token_n])))
            y_TD.index_add_(0, token_n, y_nD * plan.weight[rows, None])
        return y_TD


def with_packed_experts(
    model: LanguageModel, plan: QuantPlan | str, product: Product
) -> tuple[LanguageModel, int]:
    """A copy of the model whose experts stay in the plan's format, and the bytes that they take.
    ValueError as pack_model and `matrix`."""
    packed = pack_model(model, plan)
    copy = packed.model().requires_grad_(False)
    taken = 0
    for layer in model.config.moe_layers:
        ffn = copy.blocks[layer].ffn
        assert isinstance(ffn, MoEFFN) and model.config.moe is not None
        names = [f"blocks.{layer}.ffn.{name}#" for name in EXPERT_WEIGHTS]
        bank = [
            tuple(matrix(packed.weights[f"{name}{e}"], product) for name in names)
            for e in range(model.config.moe.num_experts)
        ]
        division = PackedExperts([(w13, w2) for w13, w2 in bank])
        leave_experts_to(ffn, division)
        taken += division.nbytes
    return copy, taken
