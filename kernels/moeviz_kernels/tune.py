"""The six products of a layer's training step, and the cuts that a GPU may prefer for them.

    forward     up    x W13 and SwiGLU      down  h W2
    backward    grad_hidden  dy W2, SwiGLU's slope      dx  dz W13      dW2  dy h      dW13  dz x

`Products` calls each kernel as the layer does, on random rows, in the cut that is asked for, and
holds its results to float64. `candidates` lists the cuts worth a try; aot.py compiles each of them
ahead of time. Measuring them is the business of a GPU: `python -m moeviz bench gpu` does it and
leaves a table that configs.py reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moeviz_kernels.configs import KERNEL_OF, Gemm, Kernel, Role
from moeviz_kernels.gemm import grouped_gemm
from moeviz_kernels.grad_hidden import grad_hidden
from moeviz_kernels.grad_weight import grad_weight
from moeviz_kernels.sort import sort_by_expert
from moeviz_kernels.tiles import tile_map
from moeviz_kernels.up import up_swiglu

# By kernel and height of its tiles of rows (grad_weight's block is of the weight's gradient), then
# by path: (BLOCK_N, BLOCK_K, warps, stages, maxnreg, epilogue). A cut with few registers and little
# shared memory lets two programs share a multiprocessor: one computes while the other begins or
# ends a tile. Those by pointers are what the others have to beat. What never came within 3 % of the
# best at any size on an H200 is gone, but for cuts that share.
Paths = dict[str, tuple[tuple[Any, ...], ...]]
_WIDE = ((256, 64, 8, 4), (256, 64, 8, 3))
_TALL_PATHS: Paths = {
    "pointer": _WIDE,
    "tma": ((256, 64, 8, 4), (128, 64, 8, 3, 128), (128, 64, 4, 3)),
    "flat": _WIDE,
}
_LOW_PATHS: Paths = {
    "pointer": ((256, 64, 8, 4),),
    "tma": ((256, 64, 8, 4), (128, 64, 4, 3, 168)),
    "flat": ((256, 64, 8, 4),),
}
CANDIDATES: dict[tuple[Kernel, int], Paths] = {
    ("up", 128): _TALL_PATHS,
    ("up", 64): _LOW_PATHS,
    ("gemm", 128): _TALL_PATHS,
    ("gemm", 64): _LOW_PATHS,
    ("grad_hidden", 128): {
        "pointer": ((128, 64, 8, 3, 128), (128, 64, 8, 4), (256, 64, 8, 4, None, 16),
                    (256, 64, 8, 3, None, 16)),
    },
    ("grad_hidden", 64): {"pointer": ((128, 64, 4, 4),)},
    ("grad_weight", 128): {
        "pointer": ((256, 64, 8, 5),),
        "ahead": ((256, 64, 8, 4),),
        "tma": ((256, 64, 8, 3), (256, 64, 8, 4), (128, 64, 8, 3)),
    },
}  # fmt: skip
GROUPS = (4, 16)  # beside the usual 8, for the first of the candidates on each path


def candidates(kernel: Kernel, height: int) -> list[Gemm]:
    """The cuts worth a try for 16-bit numbers, the shipped one among them."""
    cuts: list[Gemm] = []
    for path, of_path in CANDIDATES[kernel, height].items():
        for block_n, block_k, warps, stages, *few in of_path:
            maxnreg = few[0] if few else None
            epilogue = few[1] if len(few) > 1 else Gemm.epilogue
            cut = Gemm(height, block_n, block_k, warps, stages, 8, maxnreg, path, epilogue)
            groups = GROUPS if (block_n, block_k, warps, stages, *few) == of_path[0] else ()
            cuts += [cut, *(replace(cut, group=group) for group in groups)]
    return cuts


class Products:
    """The layer's products on random rows. The first expert has no token, the others about as many
    each. Sizes: T tokens, D = d_model, F = d_expert, E experts, K of them for each token."""

    def __init__(
        self, sizes: tuple[int, int, int, int, int], dtype: torch.dtype, device: str
    ) -> None:
        num_tokens, d_model, d_expert, num_experts, top_k = sizes
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int, scale: float = 1.0) -> Tensor:
            numbers = torch.randn(shape, generator=generator, device=device, dtype=dtype)
            return numbers.mul_(scale)

        self.num_rows = num_tokens * top_k
        low = min(1, num_experts - 1)
        expert_N = torch.randint(
            low, num_experts, (self.num_rows,), generator=generator, device=device
        )
        order, _, _, _, self.offsets = sort_by_expert(expert_N, num_experts)
        self.token = order // top_k
        self.weight = torch.rand(self.num_rows, generator=generator, device=device)
        self.x_TD, self.grad_TD = random(num_tokens, d_model), random(num_tokens, d_model)
        self.h_NF, self.z_N2F = random(self.num_rows, d_expert), random(self.num_rows, 2 * d_expert)
        self.w13_E2FD = random(num_experts, 2 * d_expert, d_model, scale=d_model**-0.5)
        self.w2_EDF = random(num_experts, d_model, d_expert, scale=d_expert**-0.5)
        # What configs.choose is asked for: the columns of a product and the length of its sums.
        self.width_and_depth: dict[Role, tuple[int, int]] = {
            "up": (2 * d_expert, d_model), "down": (d_model, d_expert),
            "grad_hidden": (d_expert, d_model), "dx": (d_model, 2 * d_expert),
            "dW2": (d_expert, d_model), "dW13": (d_model, 2 * d_expert),
        }  # fmt: skip
        self._tiles: dict[int, tuple[Tensor, Tensor]] = {}

    def call(self, role: Role, cut: Gemm) -> tuple[Tensor, ...]:
        """The results of one product, as its kernel gives them."""
        if KERNEL_OF[role] == "grad_weight":
            left, right = (self.grad_TD, self.h_NF) if role == "dW2" else (self.z_N2F, self.x_TD)
            walk = (self.token, self.offsets, cut)
            return (grad_weight(left, right, *walk, gather_left=role == "dW2"),)
        if cut.block_m not in self._tiles:
            self._tiles[cut.block_m] = tile_map(self.offsets, self.num_rows, cut.block_m)
        rows, tiles = (self.token, self.weight), (self.offsets, self._tiles[cut.block_m])
        if role == "up":
            return up_swiglu(self.x_TD, *rows, self.w13_E2FD, *tiles, cut, save=True)
        if role == "grad_hidden":
            return grad_hidden(self.grad_TD, *rows, self.w2_EDF, self.z_N2F, *tiles, cut)
        if role == "down":
            return (grouped_gemm(self.h_NF, self.w2_EDF.transpose(1, 2), *tiles, cut),)
        return (grouped_gemm(self.z_N2F, self.w13_E2FD, *tiles, cut),)

    def errors(self, role: Role, results: tuple[Tensor, ...]) -> list[float]:
        """||a - b|| / ||b|| of each result, b by float64, one expert at a time."""
        squares = torch.zeros(len(results), 2, dtype=torch.float64, device=self.x_TD.device)
        for part, exact in self._exact(role):
            for i, (result, wanted) in enumerate(zip(results, exact, strict=True)):
                squares[i, 0] += (result[part].double() - wanted).square().sum()
                squares[i, 1] += wanted.square().sum()
        return [float(error) for error in (squares[:, 0] / squares[:, 1]).sqrt()]

    def _exact(self, role: Role) -> Iterator[tuple[slice | int, tuple[Tensor, ...]]]:
        """For each expert: where its part of the results lies, and what stands there."""
        ends = self.offsets.tolist()
        for e, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
            rows = slice(start, end)
            token, weight_N1 = self.token[rows].long(), self.weight[rows, None].double()
            x, grad = self.x_TD[token].double(), self.grad_TD[token].double()
            h, z = self.h_NF[rows].double(), self.z_N2F[rows].double()
            w13, w2 = self.w13_E2FD[e].double(), self.w2_EDF[e].double()
            if role == "up":
                z = x @ w13.T
                gate, up = z.chunk(2, dim=1)
                yield rows, (weight_N1 * torch.nn.functional.silu(gate) * up, z)
            elif role == "down":
                yield rows, (h @ w2.T,)
            elif role == "dx":
                yield rows, (z @ w13,)
            elif role == "grad_hidden":
                gate, up = (half.requires_grad_() for half in z.chunk(2, dim=1))
                weight_N1.requires_grad_()
                h = weight_N1 * torch.nn.functional.silu(gate) * up
                slopes = torch.autograd.grad(h, (gate, up, weight_N1), grad @ w2)
                dz = torch.cat(slopes[:2], dim=1)
                yield rows, (h.detach(), dz, slopes[2][:, 0])
            else:
                yield e, (grad.T @ h if role == "dW2" else z.T @ x,)
