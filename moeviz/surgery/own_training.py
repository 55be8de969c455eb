"""Training an expert of one's own: one more in every MoE layer learns a text, all else stays.

The new expert starts as a copy of the one that the text visits most, with that one's row of the
router. Only the copy and its row learn, either whole or as W + B A of rank r, where A starts at
random and B at 0 (LoRA, Hu et al. 2021, 2106.09685).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from moeviz.checks import check_number, check_whole
from moeviz.model.adamw import AdamW
from moeviz.model.transformer import LanguageModel
from moeviz.surgery import lora
from moeviz.surgery.added_experts import check_growable, fingerprint, grown, with_rows
from moeviz.surgery.own_expert import (
    OwnExpert,
    check_name,
    matrices,
    part_name,
    sizes_of,
    weights_of,
)
from moeviz.text.corpus import Corpus

HELD_OUT = 0.2  # the end of a text, which is not trained on
BATCH, SEQ_LEN = 8, 64
LEAST = 4 * SEQ_LEN  # tokens of a text
WARMUP = 10  # steps


@dataclass(frozen=True)
class OwnStep:
    """One step. loss: nats per token of the text in this batch; visits: of its tokens, the share
    that chose the new expert, float [L]; visits_elsewhere: the same of the corpus's text, NaN
    where none is replayed."""

    step: int
    loss: float
    visits: np.ndarray
    visits_elsewhere: np.ndarray


class OwnTraining(Iterator[OwnStep]):
    """Trains an expert of one's own: `for step in training:` runs it to `steps`; it may be stopped
    at any of them, and `expert()` is what it has learnt so far.

    model: on the CPU; ids: the text's tokens, int [N], of which the last fifth is never trained on
    (held_out). rank: None trains whole matrices, a number LoRA's two of that rank. replay: the
    corpus's own text in the batch, as sequences for each of the new text's; the row may learn to
    leave other text alone, and the copy to serve what comes. learning_rate: reached after WARMUP
    steps, then it falls to 0 in a straight line. ValueError for a text that is too short, for
    impossible sizes, and as check_growable.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: np.ndarray,
        corpus: Corpus,
        *,
        name: str = "mine",
        steps: int = 120,
        rank: int | None = None,
        replay: float = 3.0,
        learning_rate: float = 3e-3,
        seed: int = 0,
    ) -> None:
        check_growable(model)
        check_name(name)
        check_whole("steps", steps)
        check_number("learning_rate", learning_rate, open_low=True)
        check_number("replay", replay, 0, 16)
        if rank is not None:
            check_whole("rank", rank, high=min(sizes_of(model)[1:]))
        self.base, self.corpus, self.name, self.rank = model, corpus, name, rank
        self.steps, self.seed, self.learning_rate = steps, seed, learning_rate
        self.replayed = round(replay * BATCH)
        self.seen, self.held_out = split_text(ids)
        self.start = most_visited(model, self.seen)
        self.step = 0
        # The shape alone: its weights come anew with every step.
        first = list(weights_of(model, self.start, {}))
        self._grown = grown(model, [first]).requires_grad_(False).train()
        self._parts = self._beginning()
        self._optimizer = AdamW(self._parts.values(), learning_rate, weight_decay=0.0)

    def __next__(self) -> OwnStep:
        if self.step >= self.steps:
            raise StopIteration
        fall = 1 - self.step / self.steps
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (self.step + 1) / WARMUP) * fall
        ids_BS = torch.from_numpy(self.batch(self.step))
        inputs, targets = (ids_BS[:, :-1],), {"targets_BS": ids_BS[:, 1:]}
        out = functional_call(self._grown, self._state(), inputs, targets)
        self._optimizer.zero_grad(set_to_none=True)
        out.loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(self._parts.values(), 1.0)
        self._optimizer.step()
        self.step += 1
        own = BATCH * (ids_BS.shape[1] - 1)  # the text's own tokens come first
        plans = [route.plan for route in out.routes if route is not None]
        chose_L = [plan.token[plan.expert == plan.num_experts - 1] for plan in plans]
        visits = np.array([float((chose < own).sum()) / own for chose in chose_L])
        other = self.replayed * (ids_BS.shape[1] - 1)
        elsewhere = [float((chose >= own).sum()) / other if other else np.nan for chose in chose_L]
        loss = float(out.loss.detach()[:BATCH].mean())
        return OwnStep(self.step, loss, visits, np.array(elsewhere))

    def batch(self, step: int) -> np.ndarray:
        """Sequences of the text, then of the corpus: int64 [B, SEQ_LEN + 1]; the same for a step
        whatever was done before."""
        rng = np.random.default_rng((self.seed, step))
        first_B = rng.integers(0, len(self.seen) - SEQ_LEN, size=BATCH)
        own_BS = self.seen[first_B[:, None] + np.arange(SEQ_LEN + 1)]
        if not self.replayed:
            return own_BS
        others = self.corpus.batch(
            seed=self.seed, step=step, batch_size=self.replayed, seq_len=SEQ_LEN
        )
        return np.concatenate([own_BS, others.tokens])

    def expert(self) -> OwnExpert:
        """What has been learnt so far."""
        arrays = {name: part.detach().numpy().copy() for name, part in self._parts.items()}
        base, tokenizer = fingerprint(self.base), self.corpus.tokenizer.sha256
        return OwnExpert(self.name, base, tokenizer, self.start, self.rank, arrays)

    def _beginning(self) -> dict[str, nn.Parameter]:
        copies = list(weights_of(self.base, self.start, {}))
        w13_L2FD, w2_LDF, row_LD = (torch.stack(part) for part in zip(*copies, strict=True))
        whole, targets = {"w13": w13_L2FD, "w2": w2_LDF}, matrices(len(self.start), self.rank)
        begun = lora.start(whole, targets, self.seed)
        parts = {"row": row_LD} | {part_name(name): part for name, part in begun.items()}
        return {name: nn.Parameter(part.detach().clone()) for name, part in parts.items()}

    def _state(self) -> dict[str, Tensor]:
        """The tensors of the grown model that learning changes, as a function of its parts."""
        own = weights_of(self.base, self.start, self._parts)
        pairs = zip(self.base.config.moe_layers, own, strict=True)
        return {k: v for n, new in pairs for k, v in with_rows(self.base, n, [new]).items()}


def split_text(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A text's tokens to train on, and its last fifth. ValueError where it is too short."""
    ids = np.asarray(ids, np.int64)
    if len(ids) < LEAST:
        raise ValueError(
            f"The text has {len(ids)} tokens; give one of {LEAST} or more, so that there is enough "
            "to learn from and a part to test on."
        )
    cut = round(len(ids) * (1 - HELD_OUT))
    return ids[:cut], ids[cut:]


@torch.no_grad()
def most_visited(model: LanguageModel, ids: np.ndarray) -> tuple[int, ...]:
    """The expert of each MoE layer to which most of a text's tokens go; ids: int [N], of SEQ_LEN
    tokens at least."""
    ids_GS = torch.from_numpy(ids[: len(ids) // SEQ_LEN * SEQ_LEN].reshape(-1, SEQ_LEN))
    with model.evaluating():
        routes = model(ids_GS).routes
    return tuple(int(route.plan.load().argmax()) for route in routes if route is not None)


@torch.no_grad()
def text_loss(model: LanguageModel, ids: np.ndarray) -> float:
    """Nats per token of a text, int [N], which is read in pieces of SEQ_LEN tokens: the first token
    of each is given, and those after the last whole piece are left out. ids: of 2 tokens at
    least."""
    length = min(SEQ_LEN, len(ids) - 1)
    first_G = np.arange(0, len(ids) - length, length)
    ids_GS = torch.from_numpy(ids[first_G[:, None] + np.arange(length + 1)])
    with model.evaluating():
        logits_GSV = model(ids_GS[:, :-1]).logits.float()
    return float(F.cross_entropy(logits_GSV.flatten(0, 1), ids_GS[:, 1:].flatten()))
