"""How the experts of one token hang together: from layer to layer, within one, and with the token
before it; each beside what would be by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moeviz.records.locality import RepeatRate, repeat_rate
from moeviz.records.routes import DomainTrace
from moeviz.records.specialisation import (
    CoActivation,
    co_activation_beside_null,
    joint_counts,
    mutual_information_of_counts,
    transitions,
    visits,
)
from moeviz.records.specialists import EFFECT

MEETINGS_SD = 4  # of the null, beyond which two experts meet more often than by chance
SAMPLES = 10


@dataclass(frozen=True)
class Paths:
    """One layer, by its place in `layers`. share: of the tokens that visit an expert in it, the
    share that visits each expert of each layer, float64 [L, E, E], NaN for an expert that none
    visits; of_all: the same of all tokens, [L, E]; told: what the first expert tells of the first
    one in the next layer, as a share of its entropy, NaN in the last layer, and told_null the same
    with tokens shuffled; often: pairs that meet EFFECT times as often as their loads make them or
    more, and beyond chance, bool [E, E]."""

    place: int
    layers: tuple[int, ...]
    top_k: int
    share: np.ndarray
    of_all: np.ndarray
    told: float
    told_null: float
    repeats: RepeatRate
    meetings: CoActivation

    @property
    def often(self) -> np.ndarray:
        beyond = self.meetings.null_mean + MEETINGS_SD * self.meetings.null_sd
        return (self.meetings.lift >= EFFECT) & (self.meetings.together > beyond)

    @property
    def closest(self) -> int | None:
        """An expert of the pair that meets most beyond its loads; None where no pair does."""
        lift_EE = np.where(self.often, np.nan_to_num(self.meetings.lift), 0.0)
        return int(lift_EE.max(1).argmax()) if lift_EE.any() else None

    @property
    def strongest(self) -> int:
        """The expert of whose tokens most more than of all go on to one expert of a neighbouring
        layer, the next one where there is one; of a single layer 0."""
        last = self.place + 1 == len(self.layers)
        neighbour = max(self.place - 1, 0) if last else self.place + 1
        more_EE = np.nan_to_num(self.share[neighbour] - self.of_all[neighbour])
        return 0 if len(self.layers) < 2 else int(more_EE.max(1).argmax())


def paths_of(trace: DomainTrace, place: int) -> Paths:
    """All of it for one layer. Shares are of tokens, so those of a layer sum to K."""
    expert_TK, _, sequence_T, num_experts, _ = trace.labelled(place)
    layers = range(len(trace.layers))
    told = told_null = float("nan")
    if place + 1 < len(trace.layers):
        here_T, there_T = trace.expert[:, place, 0], trace.expert[:, place + 1, 0]
        told = _told(here_T, there_T, num_experts)
        shuffled_T = np.random.default_rng(0).permutation(there_T)
        told_null = _told(here_T, shuffled_T, num_experts)
    return Paths(
        place=place,
        layers=trace.layers,
        top_k=trace.expert.shape[2],
        share=np.stack([transitions(expert_TK, trace.expert[:, n], num_experts) for n in layers]),
        of_all=np.stack([visits(trace.expert[:, n], num_experts).mean(0) for n in layers]),
        told=told,
        told_null=told_null,
        repeats=repeat_rate(expert_TK, num_experts, groups_T=sequence_T),
        meetings=co_activation_beside_null(expert_TK, num_experts, samples=SAMPLES),
    )


def _told(here_T: np.ndarray, there_T: np.ndarray, num_experts: int) -> float:
    """The information of a pair of first experts, as a share of the entropy of the second."""
    counts = joint_counts(there_T.astype(int), here_T.astype(int), num_experts, num_experts)
    return mutual_information_of_counts(counts)
