"""Three dense models from one start, each trained on a domain of its own, and what chooses of them.

1. one model learns all of SEEN for a while: the common start
2. a copy of it each learns one domain alone (branches)
3. a router of texts learns on text of SEEN which of the three to weigh by how much
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moeviz.experiments.recording import small_model
from moeviz.leaving import Stopped
from moeviz.model.config import ModelConfig
from moeviz.model.transformer import LanguageModel
from moeviz.records.models_as_experts import PROMPT, SEEN, MixedText
from moeviz.surgery.mix import TextRouter, by_prompt_loss, token_losses, train_text_router
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.text.tokenizer import Tokenizer
from moeviz.training.config import TrainConfig
from moeviz.training.trainer import Trainer

RATE = 16e-3  # of the start, which dense models and MoEs of this size suit (runs/routers.json)
SEQ_LEN = 64
LONGEST = 256  # tokens of a text that is read
GoOn = Callable[[int, int], bool]  # steps done and in all -> whether to go on


@dataclass(frozen=True)
class Lengths:
    """Steps of the start and of each branch, and texts that the router learns from."""

    start: int
    apart: int
    texts: int

    @property
    def steps(self) -> int:
        return self.start + len(SEEN) * self.apart


RECORDED, LIVE = Lengths(200, 300, 1536), Lengths(100, 150, 384)


@dataclass(frozen=True)
class Apart:
    """start: what all began as; models: one for each domain of SEEN; router: of texts."""

    start: LanguageModel
    models: tuple[LanguageModel, ...]
    router: TextRouter

    def losses(self, ids_BS: Tensor) -> Tensor:
        """Nats of every token but the first under each model, float [M, B, S]."""
        return torch.stack([token_losses(model, ids_BS) for model in self.models])


def trained(
    model: ModelConfig,
    corpus: Corpus,
    steps: int,
    rate: float,
    seed: int,
    *,
    start: LanguageModel | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> LanguageModel:
    """A model trained on a corpus, from the start's weights where there is one; seed: of the
    batches, and else of the weights."""
    train = TrainConfig(
        steps=steps, seed=seed, learning_rate=rate, seq_len=SEQ_LEN, validate_every=0, device="cpu"
    )
    trainer = Trainer(model, train, corpus)
    if start is not None:
        trainer.model.load_state_dict(start.state_dict())
    for _ in trainer:
        on_step()
    return trainer.model.eval()


def common_start(
    seed: int, steps: int, on_step: Callable[[], object] = lambda: None
) -> LanguageModel:
    """The model that all branches begin as."""
    corpus = load_corpus().only(*SEEN)
    return trained(small_model(None), corpus, steps, RATE, seed, on_step=on_step)


def branches(
    start: LanguageModel,
    steps: int,
    rate: float,
    seed: int,
    on_step: Callable[[], object] = lambda: None,
) -> tuple[LanguageModel, ...]:
    """One model for each domain of SEEN, trained on that alone."""
    return tuple(
        trained(
            start.config, load_corpus().only(domain), steps, rate, seed + 100, start=start,
            on_step=on_step,
        )
        for domain in SEEN
    )  # fmt: skip


def routed(start: LanguageModel, models: tuple[LanguageModel, ...], texts: int, seed: int) -> Apart:
    """With a router that learned from so many texts of SEEN, whose domains it was not told."""
    apart = Apart(start, models, TextRouter(start.embedding.weight, len(models)))
    batch = load_corpus().only(*SEEN).batch(
        seed=seed + 200, step=0, batch_size=texts, seq_len=SEQ_LEN
    )  # fmt: skip
    ids_BS = torch.from_numpy(batch.tokens)
    loss_MBS = apart.losses(ids_BS)[:, :, PROMPT - 1 :]
    train_text_router(apart.router, ids_BS[:, :PROMPT], loss_MBS)
    return apart


def train_apart(rate: float, seed: int, lengths: Lengths, go_on: GoOn = lambda *_: True) -> Apart:
    """All three steps; Stopped where go_on says no."""
    done = 0

    def on_step() -> None:
        nonlocal done
        done += 1
        if not go_on(done, lengths.steps):
            raise Stopped

    start = common_start(seed, lengths.start, on_step)
    models = branches(start, lengths.apart, rate, seed, on_step)
    return routed(start, models, lengths.texts, seed)


@torch.no_grad()
def read_text(apart: Apart, tokenizer: Tokenizer, text: str) -> MixedText:
    """What the models make of a text, of which the first LONGEST tokens are read. ValueError for a
    text of fewer than two tokens."""
    ids_S = tokenizer.encode(text)[:LONGEST].astype(np.int64)
    if len(ids_S) < 2:
        raise ValueError(
            f"The text has {len(ids_S)} tokens; give at least two: the first is given, and the "
            "models say how likely the second is."
        )
    ids_1S = torch.from_numpy(ids_S)[None]
    loss_M1S = apart.losses(ids_1S)
    weights = apart.router(ids_1S[:, :PROMPT]), by_prompt_loss(loss_M1S[:, :, : PROMPT - 1])
    return MixedText(
        tuple(tokenizer.pieces(ids_S)),
        loss_M1S[:, 0].double().numpy(),
        *(weight_1M[0].exp().double().numpy() for weight_1M in weights),
    )
