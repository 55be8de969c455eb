"""The router trained again after experts are gone, and nothing else."""

from __future__ import annotations

import copy

import torch

from moeviz.checks import check_number, check_whole
from moeviz.model.adamw import AdamW
from moeviz.model.transformer import LanguageModel
from moeviz.surgery.calibration import check_experts
from moeviz.text.corpus import Corpus


def tuned_router(
    model: LanguageModel,
    corpus: Corpus,
    *,
    steps: int = 200,
    learning_rate: float = 1e-2,
    batch_size: int = 16,
    seq_len: int = 64,
    seed: int = 0,
) -> LanguageModel:
    """A copy whose routers' matrices were trained on the text's loss alone, by AdamW at a rate that
    falls to 0 in a straight line; experts and all else stay as they were. seed: of the batches,
    which are those of the training part. ValueError as calibration.check_experts."""
    check_experts(model)
    check_whole("steps", steps)
    check_number("learning_rate", learning_rate, open_low=True)
    tuned = copy.deepcopy(model).requires_grad_(False)
    matrices = [router.weight_ED.requires_grad_() for router in tuned.routers().values()]
    optimiser = AdamW(matrices, lr=learning_rate, weight_decay=0.0)
    fall = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    tuned.eval()  # without the noise of training
    for step in range(steps):
        batch = corpus.batch(seed=seed, step=step, batch_size=batch_size, seq_len=seq_len)
        ids_BS = torch.from_numpy(batch.tokens)
        optimiser.zero_grad()
        tuned(ids_BS[:, :-1], targets_BS=ids_BS[:, 1:]).loss.mean().backward()
        optimiser.step()
        fall.step()
    return tuned.requires_grad_(True)
