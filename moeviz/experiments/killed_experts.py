"""What becomes of the loss when one expert of a model is left out, expert by expert."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from moeviz.leaving import Stopped
from moeviz.model.transformer import LanguageModel
from moeviz.records.killed import Killed
from moeviz.text.corpus import Batch, Corpus
from moeviz.watch.domains import LENGTH, route_windows
from moeviz.watch.intervene import Change, changed, kill

SEQUENCES = 16  # of each domain
AT_ONCE = 32  # sequences


def held_out(corpus: Corpus, sequences: int = SEQUENCES) -> Batch:
    """The sequences that all interventions are judged on."""
    return corpus.windows("reserve", seq_len=LENGTH, windows_per_domain=sequences)


@torch.no_grad()
def losses(model: LanguageModel, windows: Batch) -> np.ndarray:
    """Nats per token of each sequence, float32 [G]."""
    found = []
    with model.evaluating():
        for ids_BS in torch.from_numpy(windows.tokens).split(AT_ONCE):
            logits_BSV = model(ids_BS[:, :-1]).logits.float()
            nats_BS = F.cross_entropy(logits_BSV.mT, ids_BS[:, 1:], reduction="none")
            found.append(nats_BS.mean(1))
    return torch.cat(found).numpy()


def losses_changed(
    model: LanguageModel, windows: Batch, change: Change, layers: tuple[int, ...] | None = None
) -> np.ndarray:
    """The same with the routing of these layers (None: of all) changed."""
    with changed(model, change, layers):
        return losses(model, windows)


def kill_each(
    model: LanguageModel,
    corpus: Corpus,
    on_turn: Callable[[int, int], bool] = lambda done, total: True,
) -> Killed:
    """Every expert of every layer in turn (24 of the shipped model: 15 s). on_turn is told how many
    are done of how many, and says whether to go on; Stopped where it does not."""
    windows = held_out(corpus)
    routed = route_windows(model, windows, corpus)
    layers, num_experts = routed.layers, routed.num_experts
    before, after = losses(model, windows), []
    for number, (layer, expert) in enumerate(np.ndindex(len(layers), num_experts)):
        if not on_turn(number, len(layers) * num_experts):
            raise Stopped
        after.append(losses_changed(model, windows, kill(expert), (layers[layer],)))
    load = [routed.load(place) for place in range(len(layers))]
    return Killed(
        domains=corpus.domains,
        before=before,
        after=np.reshape(after, (len(layers), num_experts, -1)),
        domain=windows.domain.astype(np.int32),
        load=np.array(load),
        layers=layers,
        meta=routed.meta,
    )
