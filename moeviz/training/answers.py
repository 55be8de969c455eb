"""Training on questions and answers: the answer's tokens alone are learned and counted."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from moeviz.model.config import ModelConfig
from moeviz.model.division import Division
from moeviz.model.transformer import LossOut
from moeviz.records.runs import Snapshot
from moeviz.text.split import Part
from moeviz.text.tasks import Task
from moeviz.training.config import TrainConfig
from moeviz.training.trainer import StepResult, Trainer

QUESTIONS = 500  # of a point of a curve
TASK, RIGHT = "task", "right"  # the notes of what is learned, and of the shares along the way


@dataclasses.dataclass(frozen=True)
class Answered:
    """How many questions a model answers. right: the share of answers with every token right;
    tokens: the share of their tokens; loss: nats per token of an answer."""

    right: float
    tokens: float
    loss: float


class AnswerTrainer(Trainer):
    """A Trainer whose loss is the mean over the answers' tokens: questions are random, and there is
    nothing in them to learn. Where validation is due it also counts right answers. Its notes, which
    stand in a snapshot's meta too, have the task's name and [step, share] of each time."""

    corpus: Task

    def __init__(
        self, model: ModelConfig, config: TrainConfig, task: Task, division: Division | None = None
    ) -> None:
        super().__init__(model, config, task, division)
        weight_S = torch.zeros(task.seq_len, device=self.device)
        weight_S[-task.answer :] = task.seq_len / task.answer
        self._weight_S = weight_S
        self.notes[TASK] = task.name

    def _loss(self, *args: Any, **options: Any) -> LossOut:
        out = super()._loss(*args, **options)
        return dataclasses.replace(out, loss=out.loss * self._weight_S)

    def __next__(self) -> StepResult:
        result = super().__next__()
        every = self.config.validate_every
        if every and (self.step % every == 0 or self.step == self.config.steps):
            before = [point for point in self.notes.get(RIGHT, []) if point[0] < self.step]
            share = round(self.answered("validation").right, 4)
            self.notes[RIGHT] = [*before, [self.step, share]]
        return result

    @torch.no_grad()
    def answered(self, part: Part, questions: int = QUESTIONS) -> Answered:
        """Ask as many questions of a part, evenly spaced over it. Each token of an answer is the
        likeliest one after the question and the right tokens before it: all are right exactly where
        the model, left alone, would write the whole answer."""
        answer = self.corpus.answer
        windows = self.corpus.windows(
            part, seq_len=self.corpus.seq_len, windows_per_domain=questions
        )
        tokens_BS = torch.from_numpy(windows.tokens).to(self.device)
        targets_BA = tokens_BS[:, -answer:]
        with self.model.evaluating(), self._autocast():
            logits_BAV = self.model(tokens_BS[:, :-1]).logits[:, -answer:].float()
        right_BA = logits_BAV.argmax(-1) == targets_BA
        loss = torch.nn.functional.cross_entropy(logits_BAV.flatten(0, 1), targets_BA.flatten())
        return Answered(
            right=float(right_BA.all(1).float().mean()),
            tokens=float(right_BA.float().mean()),
            loss=float(loss),
        )

    def snapshot(self, label: str) -> Snapshot:
        """The run so far, with its notes."""
        snapshot = super().snapshot(label)
        return dataclasses.replace(snapshot, meta=snapshot.meta | {"notes": {**self.notes}})
