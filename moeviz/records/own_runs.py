"""What an expert of one's own did: as it was trained, and to whom it made a difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from moeviz.records.store import Record


@dataclass(frozen=True)
class OwnRun(Record):
    """One text, and the model with the experts that are plugged in. Losses are nats per token of
    held-out text.

    name: of the expert and of its text; form: "whole" or "rank 4"; replay: pieces of other text for
    each of its own; steps: of the training, of which `step` are done; num_bytes: of the expert.
    loss, float [N]: of the text at `loss_step`, int [N], the first before any training; visits,
    visits_elsewhere, float [N, L]: the share of the text's tokens, and of other text's, that chose
    the new expert in each MoE layer since the step before (NaN at the first).
    rows: whose loss is measured, R names, of which the first `own` are texts of plugged experts and
    the others domains; before, after, alone, float [R]: without any expert, with all that are
    plugged in, and of an own text with its own expert alone (NaN: not measured).
    plugged: the names of all experts that are plugged in, in their order.
    tokens: of the text's held-out part; chose, float [T, L, P]: the weight that each token gives to
    each plugged expert in each layer, 0 where it does not visit it.
    base, now: fingerprints of the model that ships, and of it with what is plugged in.
    """

    name: str
    form: str
    replay: float
    seed: int
    step: int
    steps: int
    num_bytes: int
    loss_step: np.ndarray
    loss: np.ndarray
    visits: np.ndarray
    visits_elsewhere: np.ndarray
    rows: tuple[str, ...]
    own: int
    before: np.ndarray
    after: np.ndarray
    alone: np.ndarray
    plugged: tuple[str, ...]
    tokens: tuple[str, ...]
    chose: np.ndarray
    layers: tuple[int, ...]
    base: str
    now: str

    kind: ClassVar[str] = "own run"

    @property
    def measured(self) -> bool:
        """Whether it tells of a model; an unmeasured one only says what is to be trained."""
        return bool(np.isfinite(self.after).any())


def unmeasured(
    name: str, form: str, steps: int, domains: tuple[str, ...], layers: tuple[int, ...]
) -> OwnRun:
    """What is to be trained, before anything is known of it."""
    unknown = np.full(1 + len(domains), np.nan)
    none_NL = np.zeros((0, len(layers)))
    return OwnRun(
        name, form, 0.0, 0, 0, steps, 0, np.zeros(0, np.int64), np.zeros(0), none_NL, none_NL,
        (name, *domains), 1, unknown, unknown, unknown, (), (), np.zeros((0, len(layers), 0)),
        layers, "", "",
    )  # fmt: skip
