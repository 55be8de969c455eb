"""Exercises of 14_many_models_in_one on adapting experts: who matters, and a packed bank."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.exercises.compression import as_array
from moeviz.exercises.exercise import Wrong, function_asked

TRIES = 6
LAYERS, EXPERTS = 4, 12


def trained_experts(sum_LE, top_p):
    share_LE = sum_LE / sum_LE.sum(1, keepdims=True)
    order_LE = np.argsort(-share_LE, axis=1)
    sorted_LE = np.take_along_axis(share_LE, order_LE, axis=1)
    before_LE = np.cumsum(sorted_LE, axis=1) - sorted_LE
    chosen_LE = np.zeros(share_LE.shape, dtype=bool)
    np.put_along_axis(chosen_LE, order_LE, before_LE < top_p, axis=1)
    return chosen_LE


def _with_shares(share_LE: np.ndarray, top_p: float) -> np.ndarray:
    """The choice where the shares are taken as they are."""
    chosen_LE = np.zeros(share_LE.shape, dtype=bool)
    for chosen_E, share_E in zip(chosen_LE, share_LE, strict=True):
        reached = 0.0
        for expert in np.argsort(-share_E):
            if reached >= top_p:
                break
            chosen_E[expert] = True
            reached += share_E[expert]
    return chosen_LE


def _over_layers(sum_LE: np.ndarray, top_p: float) -> np.ndarray:
    return _with_shares(sum_LE / sum_LE.sum(0), top_p)


def _one_short(sum_LE: np.ndarray, top_p: float) -> np.ndarray:
    chosen_LE = trained_experts(sum_LE, top_p)
    last_L = np.where(chosen_LE, sum_LE, np.inf).argmin(1)
    chosen_LE[np.arange(len(last_L)), last_L] = False
    return chosen_LE


def _above(sum_LE: np.ndarray, top_p: float) -> np.ndarray:
    return sum_LE / sum_LE.sum(1, keepdims=True) >= top_p


def _table(value: Any) -> np.ndarray:
    """True or false for each expert of each layer, as 1 or 0."""
    found = as_array(value)
    if found.shape != (LAYERS, EXPERTS):
        raise Wrong("it must give true or false for each expert of each layer, shaped as sum_LE.")
    return found


def _used() -> list[tuple[np.ndarray, float]]:
    """Gate weights that a task's tokens gave 12 experts in 4 layers, in all: no shares."""
    rng = np.random.default_rng(143)
    tops = (0.2, 0.5, 0.35) * (TRIES // 3)
    return [(rng.gamma(0.5, size=(LAYERS, EXPERTS)) * 300 + 1, top_p) for top_p in tops]


function_asked(
    "14.3",
    "First make shares: of a layer's sums, each expert's part. Over which axis do you add?",
    "Go through a layer's experts from the largest share on. Take the next one as long as the sum "
    "of those before is below top_p.",
    difficulty=2,
    minutes=10,
    solution=trained_experts,
    praise="That is ESFT's choice by gate weights. On its public trace the shares of choices, "
    "not of gate weights, give the experts that were published.",
    cases=_used,
    read=_table,
    mistakes=(
        (
            _over_layers,
            "those shares are of an expert's sum over the layers: add over a layer's experts. The "
            "newest script of ESFT's repository makes the same slip.",
        ),
        (_with_shares, "sums of weights are no shares: one expert reaches top_p by itself."),
        (_one_short, "those do not reach top_p: the one that reaches it belongs to them."),
        (_above, "top_p is what the chosen ones have together, not each alone."),
    ),
    words="at top_p {1} those are not the fewest experts of each layer that reach it.",
)


def unpack(lora_A, lora_B, num_experts):
    a_ErI = lora_A.reshape(num_experts, -1, lora_A.shape[1])
    b_OrE = lora_B.reshape(len(lora_B), -1, num_experts)
    return b_OrE.transpose(2, 0, 1) @ a_ErI


def _expert_slowest(lora_A: np.ndarray, lora_B: np.ndarray, num_experts: int) -> np.ndarray:
    b_OEr = lora_B.reshape(len(lora_B), num_experts, -1)
    return b_OEr.transpose(1, 0, 2) @ lora_A.reshape(num_experts, -1, lora_A.shape[1])


def _expert_fastest(lora_A: np.ndarray, lora_B: np.ndarray, num_experts: int) -> np.ndarray:
    a_rEI = lora_A.reshape(-1, num_experts, lora_A.shape[1])
    b_OrE = lora_B.reshape(len(lora_B), -1, num_experts)
    return b_OrE.transpose(2, 0, 1) @ a_rEI.transpose(1, 0, 2)


def _swapped(lora_A: np.ndarray, lora_B: np.ndarray, num_experts: int) -> np.ndarray:
    a_rEI = lora_A.reshape(-1, num_experts, lora_A.shape[1])
    b_OEr = lora_B.reshape(len(lora_B), num_experts, -1)
    return b_OEr.transpose(1, 0, 2) @ a_rEI.transpose(1, 0, 2)


def _packed() -> list[tuple[np.ndarray, np.ndarray, int]]:
    """lora_A [E r, in] and lora_B [out, r E] as PEFT keeps them."""
    rng = np.random.default_rng(144)
    sizes = ((4, 2, 5, 7), (3, 3, 6, 4), (2, 4, 5, 5), (5, 2, 3, 8))
    return [(rng.normal(size=(e * r, i)), rng.normal(size=(o, r * e)), e) for e, r, i, o in sizes]


# What the notebook's cell begins with: it reads both matrices with the expert slowest.
BEGUN = """def unpack(lora_A, lora_B, num_experts):
    a_ErI = lora_A.reshape(num_experts, -1, lora_A.shape[1])
    b_OEr = lora_B.reshape(len(lora_B), num_experts, -1)
    return b_OEr.transpose(1, 0, 2) @ a_ErI"""

function_asked(
    "14.4",
    "The rows of lora_A are expert by expert. The columns of lora_B are rank by rank: the first "
    "columns are one of each expert.",
    "So reshape lora_B to [out, rank, expert], and move the expert to the front.",
    difficulty=2,
    minutes=6,
    solution=unpack,
    start=BEGUN,
    praise="The shapes fit either way, so nothing but such a comparison finds it.",
    cases=_packed,
    read=as_array,
    mistakes=(
        (_expert_slowest, "lora_B is still read expert by expert; its columns are rank by rank."),
        (_expert_fastest, "now lora_A is read rank by rank too; its rows are expert by expert."),
        (_swapped, "you turned the wrong one: lora_A is expert by expert, lora_B rank by rank."),
    ),
    words="for {2} experts those are not the changes of W that PEFT would make.",
)
