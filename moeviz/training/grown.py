"""Training that goes on from a grown model, and looks at how alike its experts are."""

from __future__ import annotations

import dataclasses

import torch

from moeviz.model.transformer import LanguageModel
from moeviz.records.growth import BEFORE, COSINE
from moeviz.records.runs import Snapshot
from moeviz.surgery.upcycle import expert_cosine
from moeviz.training.trainer import StepResult, Trainer


class GrownTrainer(Trainer):
    """A Trainer that may begin from given weights. At its first step, and where validation is due,
    it notes the cosine of each two experts' weights; its notes stand in a snapshot's meta too."""

    def begin_from(self, model: LanguageModel, flops: float) -> None:
        """Take over a model's weights. flops: what was spent on them before."""
        self.model.load_state_dict(model.state_dict())
        self.notes[BEFORE] = flops

    def __next__(self) -> StepResult:
        if self.step == 0:
            self._look()
        result = super().__next__()
        every = self.config.validate_every
        if every and (self.step % every == 0 or self.step == self.config.steps):
            self._look()
        return result

    def _look(self) -> None:
        if not self.moe_layers:
            return
        kept = [look for look in self.notes.get(COSINE, []) if look[0] < self.step]
        layers = []
        for layer in self.moe_layers:
            cosine_EE = expert_cosine(self.model.blocks[layer].ffn)
            one, other = torch.triu_indices(self.num_experts, self.num_experts, offset=1)
            layers.append([round(float(value), 4) for value in cosine_EE[one, other]])
        self.notes[COSINE] = [*kept, [self.step, layers]]

    def snapshot(self, label: str) -> Snapshot:
        """The run so far, with its notes."""
        snapshot = super().snapshot(label)
        return dataclasses.replace(snapshot, meta=snapshot.meta | {"notes": {**self.notes}})
