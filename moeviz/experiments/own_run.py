"""The model that ships, and experts of one's own that are trained, plugged in and unplugged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from moeviz.experiments.killed_experts import held_out
from moeviz.experiments.quantised import by_window
from moeviz.model.transformer import LanguageModel
from moeviz.records.own_runs import OwnRun
from moeviz.surgery.added_experts import fingerprint
from moeviz.surgery.own_expert import OwnExpert, Plugged
from moeviz.surgery.own_training import BATCH, OwnTraining, split_text, text_loss
from moeviz.text.corpus import Corpus
from moeviz.text.own_texts import TEXTS, own_text
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch.text import rows_by_token

SHARED = "german"  # the text whose expert ships, as a friend's
WINDOWS = 24  # of each domain: enough for a picture
SHOWN = 110  # tokens of the held-out text
MOST = 20_000  # tokens of a text
EVERY = 10  # steps between two looks


class OwnRunning:
    """What the panel of 14 works with. plugged: the model with the experts that are in it now."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, corpus: Corpus) -> None:
        self.plugged, self.corpus = Plugged(model, tokenizer), corpus
        self.trained: OwnTraining | None = None  # the latest
        self._windows = held_out(corpus, WINDOWS)
        self._before_D = by_window(model, self._windows)
        self._name = ""  # of the text that is shown
        self.tokens = (0, 0)  # of that text: those that are read, and all
        self._held: dict[str, np.ndarray] = {}  # of texts that are known here, their held-out part
        self._alone: dict[str, float] = {}  # by an expert's content, the loss of its text
        self._curve: list[tuple[int, float]] = []
        self._visits: list[tuple[np.ndarray, np.ndarray]] = []

    def read(self, name: str, text: str) -> np.ndarray:
        """Show this text from now on; its tokens. ValueError where it is too short."""
        whole = self.plugged.tokenizer.encode(text)
        ids = whole[:MOST]
        held = split_text(ids)[1]
        self._name, self._held[name] = name, held
        self.tokens = (len(ids), len(whole))
        self._curve, self._visits = [], []
        return ids

    def training(
        self, name: str, text: str, steps: int, rank: int | None, rate: float, replay: float,
        seed: int = 0,
    ) -> Iterator[int]:  # fmt: skip
        """Learn a text, and yield the number of each step; every EVERY steps what has been learnt
        so far is plugged in (see keep). ValueError as OwnTraining, and nothing is changed then."""
        model, tokenizer = self.plugged.base, self.plugged.tokenizer
        training = OwnTraining(
            model, tokenizer.encode(text)[:MOST], self.corpus, name=name, steps=steps, rank=rank,
            replay=replay, learning_rate=rate, seed=seed,
        )  # fmt: skip
        self.read(name, text)
        self.trained = training
        self._curve = [(0, text_loss(model, training.held_out))]
        for step in training:
            self._visits.append((step.visits, step.visits_elsewhere))
            if step.step % EVERY == 0 or step.step == steps:
                self.keep()
            yield step.step

    def keep(self) -> None:
        """Plug in what the latest training has learnt so far, in place of what it had before."""
        assert self.trained is not None
        expert = self.trained.expert()
        others = tuple(other for other in self.plugged.experts if other.name != expert.name)
        self.plugged = dataclasses.replace(self.plugged, experts=others).plug(expert)
        if self._curve[-1][0] < self.trained.step:
            self._curve.append((self.trained.step, self._loss_alone(expert)))

    def plug(self, expert: OwnExpert) -> None:
        """Plug in one that was saved; of one that is called as a text that ships, the loss of that
        text is measured too. ValueError as Plugged.plug."""
        self.plugged = self.plugged.plug(expert)
        if expert.name in TEXTS and expert.name not in self._held:
            ids = self.plugged.tokenizer.encode(own_text(expert.name))
            self._held[expert.name] = split_text(ids)[1]

    def unplug(self, name: str) -> None:
        """ValueError where none is called so."""
        self.plugged = self.plugged.unplug(name)

    def look(self) -> OwnRun:
        """What there is now, measured: a second or less. ValueError before any text was read."""
        if not self._name:
            raise ValueError("No text was read yet: press Train first.")
        names, model, base = self.plugged.names, self.plugged.model, self.plugged.base
        own = [n for n in dict.fromkeys((self._name, *names)) if n in self._held]
        experts = {expert.name: expert for expert in self.plugged.experts}
        alone = [self._loss_alone(experts[n]) if n in experts else np.nan for n in own]
        before = [text_loss(base, self._held[n]) for n in own]
        after = [text_loss(model, self._held[n]) for n in own]
        layers = base.config.moe_layers
        visits = np.array(self._visits).reshape(-1, 2, len(layers))
        shown = self._held[self._name][:SHOWN]
        # Of a text that was read only there was no training.
        training = self.trained if self._curve else None
        return OwnRun(
            name=self._name,
            form=f"rank {training.rank}" if training and training.rank else "whole",
            replay=training.replayed / BATCH if training else 0.0,
            seed=training.seed if training else 0,
            step=training.step if training else 0,
            steps=training.steps if training else 1,
            num_bytes=training.expert().num_bytes if training else 0,
            loss_step=np.array([step for step, _ in self._curve], np.int64),
            loss=np.array([loss for _, loss in self._curve], np.float64),
            visits=visits[:, 0],
            visits_elsewhere=visits[:, 1],
            rows=(*own, *self.corpus.domains),
            own=len(own),
            before=np.array([*before, *self._before_D]),
            after=np.array([*after, *by_window(model, self._windows)]),
            alone=np.array([*alone, *[np.nan] * len(self.corpus.domains)]),
            plugged=names,
            tokens=tuple(self.plugged.tokenizer.pieces(shown)),
            chose=self._chosen(model, shown),
            layers=layers,
            base=fingerprint(base),
            now=fingerprint(model),
        )

    def _loss_alone(self, expert: OwnExpert) -> float:
        """Of an expert's own text, with that expert alone."""
        if expert.content not in self._alone:
            only = Plugged(self.plugged.base, self.plugged.tokenizer, (expert,)).model
            self._alone[expert.content] = text_loss(only, self._held[expert.name])
        return self._alone[expert.content]

    @torch.no_grad()
    def _chosen(self, model: LanguageModel, ids: np.ndarray) -> np.ndarray:
        """The weight that each token gives to each plugged expert, [T, L, P]."""
        first = self.plugged.base.routers()[model.config.moe_layers[0]].num_experts
        with model.evaluating():
            routes = model(torch.from_numpy(ids)[None]).routes
        weight_TLP = np.zeros((len(ids), len(model.config.moe_layers), len(self.plugged.names)))
        for place, layer in enumerate(model.config.moe_layers):
            expert_TK, weight_TK = rows_by_token(routes[layer].plan, len(ids))
            for number in range(weight_TLP.shape[2]):
                weights = np.where(expert_TK == first + number, weight_TK, 0)
                weight_TLP[:, place, number] = np.nan_to_num(weights).sum(1)
        return weight_TLP


def expert_values(expert: OwnExpert) -> dict[str, Any]:
    """An expert as JSON values."""
    arrays = {name: array.tolist() for name, array in expert.arrays.items()}
    return {**vars(expert), "arrays": arrays}


def expert_from(values: dict[str, Any]) -> OwnExpert:
    """The expert that `expert_values` took apart."""
    arrays = {name: np.array(rows, np.float32) for name, rows in values["arrays"].items()}
    return OwnExpert(**values | {"start": tuple(values["start"]), "arrays": arrays})
