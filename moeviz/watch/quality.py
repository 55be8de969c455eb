"""How well a model foretells text: its loss, and how often the likeliest token is the right one."""

from __future__ import annotations

import numpy as np
import torch

from moeviz.model.transformer import LanguageModel, token_loss
from moeviz.records.quality import Quality

AT_ONCE = 32  # sequences


@torch.no_grad()
def quality(model: LanguageModel, tokens_WS: np.ndarray) -> Quality:
    """Over every token of these windows but the first of each, which nothing foretells. Windows
    meet in batches of 32 in their order: mix their domains first where a router compares tokens."""
    device = next(model.parameters()).device
    nats = right = 0.0
    with model.evaluating():
        for ids_BS in torch.from_numpy(tokens_WS).to(device).split(AT_ONCE):
            logits_BSV, next_BS = model(ids_BS[:, :-1]).logits, ids_BS[:, 1:]
            nats += token_loss(logits_BSV, next_BS).double().sum().item()
            right += (logits_BSV.argmax(-1) == next_BS).sum().item()
    count = tokens_WS[:, 1:].size
    return Quality(nats / count, right / count)
