"""Expert matrices as products of two thinner ones, by the truncated SVD."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from moeviz.checks import check_number
from moeviz.model.config import ModelConfig
from moeviz.model.experts import swiglu
from moeviz.model.transformer import LanguageModel
from moeviz.surgery.calibration import Seen, check_experts

RIDGE = 1e-3  # of the mean square: directions that the text does not show are not given up for free


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


def truncated(weight_RC: Tensor, rank: int, input_NC: Tensor | None = None) -> Tensor:
    """The matrix of this rank that is nearest to the weight [R, C] in the sum of squares (Eckart
    and Young 1936); with inputs [N, C], nearest in what it says to them (as SVD-LLM, Wang et al.
    2024, 2403.07378): W S is truncated and multiplied by the inverse of S, where S S is the mean
    of x x^T over the inputs and RIDGE times its mean diagonal."""
    weight = weight_RC.double()
    if input_NC is None or not len(input_NC):
        return _nearest(weight, rank).to(weight_RC.dtype)
    square_CC = input_NC.double().T @ input_NC.double() / len(input_NC)
    value_C, vector_CC = torch.linalg.eigh(square_CC)
    root_C = (value_C.clamp(min=0) + RIDGE * square_CC.diagonal().mean()).sqrt()
    nearest_RC = _nearest(weight @ (vector_CC * root_C), rank)
    return (nearest_RC / root_C @ vector_CC.T).to(weight_RC.dtype)


def _nearest(weight_RC: Tensor, rank: int) -> Tensor:
    u_Rr, value_r, v_rC = torch.linalg.svd(weight_RC, full_matrices=False)
    return (u_Rr[:, :rank] * value_r[:rank]) @ v_rC[:rank]


@torch.no_grad()
def low_rank(
    model: LanguageModel, share: float, seen: Sequence[Seen] | None = None
) -> LanguageModel:
    """A copy that computes with the routed experts' matrices at the ranks whose factors take at
    most this share of their bytes (ranks_at). The products stand in the place of the matrices, so
    it is as large in memory; share_of counts what the factors would take.

    seen: what calibration.look saw of the model; then each matrix is truncated for the inputs that
    it has on that text, of the tokens that visit its expert. None: for no text.
    ValueError as ranks_at and calibration.check_experts.
    """
    check_experts(model)
    ranks = ranks_at(model.config, share)
    factored = copy.deepcopy(model).eval()
    for place, layer in enumerate(model.config.moe_layers):
        ffn = factored.blocks[layer].ffn
        for expert in range(len(ffn.w2_EDF)):
            x_ND = hidden_NF = None
            if seen is not None:
                x_ND = seen[place].x[seen[place].visits[:, expert]]
                hidden_NF = swiglu(x_ND @ ffn.w13_E2FD[expert].T)  # of the whole matrix
            for name, inputs in (("w13_E2FD", x_ND), ("w2_EDF", hidden_NF)):
                weight_ERC = getattr(ffn, name)
                weight_ERC[expert] = truncated(weight_ERC[expert], ranks[name], inputs)
    return factored
