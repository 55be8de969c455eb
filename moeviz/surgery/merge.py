"""Experts merged into one: who belongs together, their weights averaged, and what that must lose.

The router keeps all its rows, and each of a group's rows leads to the group's one expert, as in
HC-SMoE and M-SMoE: a token that chose two of a group gets the merged expert with both weights.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moeviz.checks import check_whole
from moeviz.model.experts import swiglu
from moeviz.model.transformer import LanguageModel
from moeviz.surgery.calibration import Seen, check_experts
from moeviz.surgery.saliency import load

Expert = tuple[Tensor, Tensor]  # w13 [2F, D], w2 [D, F]


# --- who belongs together -------------------------------------------------------------------------


def groups_by_output(seen: Sequence[Seen], groups: int) -> np.ndarray:
    """HC-SMoE (Chen et al. 2024, 2410.08589): experts are clustered, step by step, by the distance
    of their mean outputs over all tokens, chosen or not; between groups counts the average.
    Returns each expert's group, int [L, E], in 0..groups-1."""
    from scipy.cluster.hierarchy import cut_tree, linkage

    check_whole("groups", groups, high=seen[0].logits.shape[1])
    trees = [linkage(layer.output.double().mean(1).numpy(), "average") for layer in seen]
    return np.array([cut_tree(tree, groups)[:, 0] for tree in trees])


def groups_by_logits(seen: Sequence[Seen], groups: int) -> np.ndarray:
    """M-SMoE (Li et al. 2023, 2310.01334): the most used experts lead a group each, and every other
    joins the leader whose router logits over the tokens are most like its own (cosine). Returns
    each expert's group, int [L, E], in 0..groups-1."""
    check_whole("groups", groups, high=seen[0].logits.shape[1])
    found = []
    for layer, load_E in zip(seen, load(seen), strict=True):
        leader_G = np.sort(np.argsort(-load_E, kind="stable")[:groups])
        logits_ET = F.normalize(layer.logits.double().T, dim=1)
        group_E = (logits_ET @ logits_ET[leader_G].T).argmax(1).numpy()
        group_E[leader_G] = np.arange(groups)
        found.append(group_E)
    return np.array(found)


# --- weights averaged -----------------------------------------------------------------------------


def matching(reference: Expert, other: Expert) -> np.ndarray:
    """Which neuron of the other expert fits each of the reference's, int [F]: the assignment with
    the largest sum of products of their weights (gate row, up row and down column of a neuron).
    An expert computes the same whatever the order of its neurons, so that without this an average
    mixes neurons that have nothing in common."""
    from scipy.optimize import linear_sum_assignment

    def neurons(w13_2FD: Tensor, w2_DF: Tensor) -> Tensor:
        return torch.cat((*w13_2FD.chunk(2), w2_DF.T), dim=1).double()

    likeness_FF = neurons(*reference) @ neurons(*other).T
    return linear_sum_assignment(likeness_FF.detach().numpy(), maximize=True)[1]


def reordered(expert: Expert, order_F: np.ndarray) -> Expert:
    """The same expert with its neurons in another order."""
    w13_2FD, w2_DF = expert
    gate_FD, up_FD = w13_2FD.chunk(2)
    return torch.cat((gate_FD[order_F], up_FD[order_F])), w2_DF[:, order_F]


def average(experts: Sequence[Expert], weight_N: np.ndarray, *, align: bool) -> Expert:
    """The experts' weights averaged, each by its share of weight_N (all alike where these are 0).
    align: with the neurons of each first brought into the order of the heaviest's."""
    leader = experts[int(np.argmax(weight_N))]
    if align:
        experts = [reordered(expert, matching(leader, expert)) for expert in experts]
    total = float(weight_N.sum())
    share_N = weight_N / total if total else np.full(len(experts), 1 / len(experts))
    w13_2FD, w2_DF = (
        sum(share * part for share, part in zip(share_N.tolist(), parts, strict=True))
        for parts in zip(*experts, strict=True)
    )
    return w13_2FD, w2_DF


@torch.no_grad()
def merged(
    model: LanguageModel, group_LE: np.ndarray, load_LE: np.ndarray, *, align: bool
) -> LanguageModel:
    """A copy in which all experts of a group have one set of weights: their average by load.

    group_LE: int [L, E], each expert's group in its layer; load_LE: float [L, E], saliency.load;
    align: whether neurons are matched first (M-SMoE) or averaged as they stand (HC-SMoE). A file
    needs to hold each group's weights once.

    ValueError for tables of another shape, and as calibration.check_experts.
    """
    check_experts(model)
    shape = (len(model.config.moe_layers), model.routers()[model.config.moe_layers[0]].num_experts)
    for name, table in (("group_LE", group_LE), ("load_LE", load_LE)):
        if np.shape(table) != shape:
            raise ValueError(
                f"{name} must be [L, E] = {list(shape)}, one value for each expert of each MoE "
                f"layer, got {list(np.shape(table))}."
            )
    copied = copy.deepcopy(model).eval()
    for place, layer in enumerate(model.config.moe_layers):
        ffn = copied.blocks[layer].ffn
        for group in np.unique(group_LE[place]):
            members = np.flatnonzero(group_LE[place] == group)
            experts = [(ffn.w13_E2FD[m], ffn.w2_EDF[m]) for m in members]
            w13_2FD, w2_DF = average(experts, load_LE[place, members], align=align)
            ffn.w13_E2FD[members], ffn.w2_EDF[members] = w13_2FD, w2_DF
    return copied


# --- what a merge must lose -----------------------------------------------------------------------


def mixture_errors(seen: Seen) -> np.ndarray:
    """What merging two experts must lose however well it is done, float64 [E, E], the mean over all
    tokens of the squared distance in the layer's output; 0 on the diagonal.

    Experts i and j add g_i f_i + g_j f_j = s (r f_i + (1 - r) f_j), with s = g_i + g_j and the
    share r = g_i / s, which the router sets anew for each token. One expert that stands for both
    has one fixed mixture a f_i + (1 - a) f_j. That leaves E[s^2 (r - a)^2 |f_i - f_j|^2], least
    for a = E[s^2 |f_i - f_j|^2 r] / E[s^2 |f_i - f_j|^2]: REAP's irreducible error (2510.13999,
    section 3), there E[s^2 Var(r) |f_i - f_j|^2]. It is 0 only where the router never varies r,
    or the experts agree.
    """
    num_experts = len(seen.output)
    error_EE = np.zeros((num_experts, num_experts))
    weight_TE = seen.weight.double()
    for i in range(num_experts):
        for j in range(i):
            gap_T = (seen.output[i] - seen.output[j]).double().square().sum(-1)
            gate_T, sum_T = weight_TE[:, i], weight_TE[:, i] + weight_TE[:, j]
            moved = float((sum_T.square() * gap_T).sum())
            mix = float((sum_T * gate_T * gap_T).sum()) / moved if moved else 0.0
            error = float(((gate_T - mix * sum_T).square() * gap_T).mean())
            error_EE[i, j] = error_EE[j, i] = error
    return error_EE


@torch.no_grad()
def merge_errors(model: LanguageModel, seen: Seen, *, align: bool) -> np.ndarray:
    """What merging two experts by averaging their weights does lose, [E, E], measured as
    mixture_errors: the bound holds for mixed outputs, and an average of weights may lie below or,
    as a rule, far above it."""
    ffn = model.blocks[seen.layer].ffn
    load_E = load([seen])[0]
    num_experts = len(seen.output)
    error_EE = np.zeros((num_experts, num_experts))
    factor = 1.0 if ffn.factor_P is None else ffn.factor_P[0]
    for i in range(num_experts):
        for j in range(i):
            experts = [(ffn.w13_E2FD[e], ffn.w2_EDF[e]) for e in (i, j)]
            w13_2FD, w2_DF = average(experts, load_E[[i, j]], align=align)
            mixed_TD = swiglu(seen.x @ w13_2FD.T) @ w2_DF.T * factor
            gap_TD = sum(seen.weight[:, e, None] * (seen.output[e] - mixed_TD) for e in (i, j))
            assert isinstance(gap_TD, Tensor)
            error_EE[i, j] = error_EE[j, i] = float(gap_TD.square().sum(1).mean())
    return error_EE
