"""LoRA: a frozen matrix plus a trained change of low rank, W + B A (Hu et al. 2021, 2106.09685).

LoRA multiplies B A by α / r. Here α = r, so the factor is 1: under Adam a factor does what another
learning rate does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moeviz.checks import brief, check_whole

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Target:
    """What of a model is trained. tensor: its name in the state dict, a matrix [out, in] or a bank
    of experts [E, out, in]; rank: of the change, None where all its numbers are trained; experts:
    those of a bank that change, each by its own; None: the whole tensor, and of a bank every expert
    by the same change."""

    tensor: str
    rank: int | None = None
    experts: tuple[int, ...] | None = None

    def shapes(self, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what is trained of a tensor of this shape: "w" alone, or A "a" and
        B "b". ValueError for a rank that is no change of low rank, and for experts that the tensor
        does not have."""
        if self.experts and not 0 <= min(self.experts) <= max(self.experts) < shape[0]:
            raise ValueError(f"experts must lie in 0..{shape[0] - 1}, got {brief(self.experts)}.")
        own = () if self.experts is None else (len(self.experts),)
        if self.rank is None:
            return {"w": own + tuple(shape[len(own) :])}
        rows, columns = shape[-2:]
        check_whole("rank", self.rank, high=min(rows, columns))
        return {"a": (*own, self.rank, columns), "b": (*own, rows, self.rank)}


def start(weights: Tensors, targets: Sequence[Target], seed: int) -> dict[str, Tensor]:
    """Where training begins, by "tensor/part": A at random, B 0, a whole tensor as it is. So the
    model computes at first what it did before."""
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for target in targets:
        weight = weights[target.tensor].detach()
        for part, shape in target.shapes(weight.shape).items():
            if part == "w":
                value = weight if target.experts is None else weight[list(target.experts)]
            elif part == "a":
                value = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
            else:
                value = torch.zeros(shape)
            parts[f"{target.tensor}/{part}"] = value.clone()
    return parts


def changed(weights: Tensors, targets: Sequence[Target], parts: Tensors) -> dict[str, Tensor]:
    """Each target's tensor as the parts make it, a function of them with a gradient: W + B A, of a
    bank for each of the target's experts, or for all of them by one A and B."""
    found = {}
    for target in targets:
        name, weight = target.tensor, weights[target.tensor].detach()
        index = None if target.experts is None else torch.tensor(target.experts)
        if target.rank is None:
            whole = parts[f"{name}/w"]
            found[name] = whole if index is None else weight.index_copy(0, index, whole)
        else:
            change = parts[f"{name}/b"] @ parts[f"{name}/a"]
            found[name] = weight + change if index is None else weight.index_add(0, index, change)
    return found


def num_trained(weights: Tensors, targets: Sequence[Target]) -> int:
    """How many numbers are trained."""
    shapes = (target.shapes(weights[target.tensor].shape).values() for target in targets)
    return sum(torch.Size(shape).numel() for of_target in shapes for shape in of_target)


def packed(a_ErI: Tensor, b_EOr: Tensor) -> tuple[Tensor, Tensor]:
    """A and B of a bank of experts as the two matrices in which PEFT keeps them for a parameter
    [E, out, in] (`target_parameters`): lora_A [E r, in], where the rank runs fastest, and lora_B
    [out, r E], where the *expert* runs fastest."""
    return a_ErI.flatten(0, 1), b_EOr.permute(1, 2, 0).flatten(1)


def unpacked(lora_A: Tensor, lora_B: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """A [E, r, in] and B [E, out, r] of what `packed` made. ValueError where the two do not fit."""
    rows, columns = len(lora_A), lora_B.shape[1]
    if rows != columns or rows % num_experts:
        raise ValueError(
            f"lora_A must have as many rows as lora_B has columns, a multiple of the "
            f"{num_experts} experts, got {rows} and {columns}."
        )
    a_ErI = lora_A.reshape(num_experts, -1, lora_A.shape[1])
    return a_ErI, lora_B.reshape(len(lora_B), -1, num_experts).permute(2, 0, 1)
