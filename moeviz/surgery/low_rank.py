"""Expert matrices as products of two thinner ones: the truncated SVD, which is the nearest in the
sum of squares (Eckart and Young 1936). Nothing is calibrated."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from moeviz.checks import check_number
from moeviz.model.transformer import LanguageModel, ModelConfig
from moeviz.surgery.calibration import check_experts

MATRICES = ("w13_E2FD", "w2_EDF")


def sizes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Rows and columns of an expert's two matrices; the gate and the up projection are one."""
    assert config.moe is not None
    D, F = config.d_model, config.moe.d_expert
    return {"w13_E2FD": (2 * F, D), "w2_EDF": (D, F)}


def ranks_at(config: ModelConfig, share: float) -> dict[str, int]:
    """The largest rank r of each matrix whose factors, r (rows + columns) numbers, take at most
    this share of the matrix's own bytes. ValueError where not even one fits."""
    check_number("share", share, high=1.0, open_low=True)
    ranks = {
        name: int(share * rows * columns / (rows + columns))
        for name, (rows, columns) in sizes(config).items()
    }
    if not all(ranks.values()):
        raise ValueError(f"At a share of {share:g} no rank fits; give a larger share.")
    return ranks


def share_of(config: ModelConfig, ranks: dict[str, int]) -> float:
    """The bytes of the factors as a share of the matrices' own."""
    shapes = sizes(config)
    numbers = sum(rank * sum(shapes[name]) for name, rank in ranks.items())
    return numbers / sum(rows * columns for rows, columns in shapes.values())


def truncated(weight_ERC: Tensor, rank: int) -> Tensor:
    """The nearest matrices of this rank, [E, R, C]."""
    u_ERr, value_Er, v_ErC = torch.linalg.svd(weight_ERC.double(), full_matrices=False)
    kept_ERr = u_ERr[..., :rank] * value_Er[:, None, :rank]
    return (kept_ERr @ v_ErC[:, :rank]).to(weight_ERC.dtype)


@torch.no_grad()
def low_rank(model: LanguageModel, share: float) -> LanguageModel:
    """A copy that computes with the routed experts' matrices at the ranks whose factors take at
    most this share of their bytes (ranks_at). The products stand in the place of the matrices, so
    it is as large in memory; share_of counts what the factors would take.

    ValueError as ranks_at and calibration.check_experts.
    """
    check_experts(model)
    ranks = ranks_at(model.config, share)
    factored = copy.deepcopy(model).eval()
    for layer in model.config.moe_layers:
        for name, rank in ranks.items():
            weight = getattr(factored.blocks[layer].ffn, name)
            weight.copy_(truncated(weight, rank))
    return factored
