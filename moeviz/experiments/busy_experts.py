"""Do busy experts learn faster? What one step, and fifty, do to experts with many and few tokens.

What would make the answer unfair, and how it is closed:

1. The size of the gradient. A busy expert's gradient is several times larger; but AdamW divides
   each weight's step by the size of its own recent gradients. So the *update* is measured beside
   the gradient: how far the weights really move.
2. The direction. Updates of equal length may add up or cancel out. So the way from the first step
   to the last is measured, and the length of the path beside it.
3. Movement is not learning. So each expert is put back to where it started, alone, and the loss of
   the held-out tokens that visit it is measured again: its gain in nats per visiting token.
4. The choice of experts. All of a layer are measured; "busy" and "rare" are the quarters with the
   most and the fewest tokens over the same steps, among those that got any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from moeviz.model.layer import MoEFFN
    from moeviz.training.trainer import Trainer

STEPS = 50
WINDOWS = 8  # per domain


@dataclass(frozen=True)
class Learning:
    """What some steps did to a layer's experts, each float64 [E]. tokens: in all; gradient, update:
    norm of all weights of an expert, mean over the steps (the gradient as the optimiser got it,
    clipped); path: sum of the updates; moved: from the start to the end in a straight line; gain:
    nats per visiting held-out token that the expert has become better by, NaN without any."""

    tokens: np.ndarray
    gradient: np.ndarray
    update: np.ndarray
    path: np.ndarray
    moved: np.ndarray
    gain: np.ndarray


def learning_of_experts(trainer: Trainer, layer: int, steps: int = STEPS) -> Learning:
    """Train so many steps, and watch the experts of one MoE layer."""
    ffn = trainer.model.blocks[trainer.moe_layers[layer]].ffn
    start_EN = before_EN = _weights(ffn)
    tokens_E, gradient_E, path_E = np.zeros((3, len(start_EN)))
    for _ in range(steps):
        tokens_E += next(trainer).load[layer]
        gradients = [p.grad.flatten(1) for p in (ffn.w13_E2FD, ffn.w2_EDF)]
        gradient_E += torch.cat(gradients, 1).norm(dim=1).numpy()
        after_EN = _weights(ffn)
        path_E += (after_EN - before_EN).norm(dim=1).numpy()
        before_EN = after_EN
    return Learning(
        tokens_E,
        gradient_E / steps,
        path_E / steps,
        path_E,
        (before_EN - start_EN).norm(dim=1).double().numpy(),
        _gain(trainer, layer, start_EN),
    )


def busy_and_rare(learning: Learning) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the quarter of experts with the most tokens, and of that with the fewest among
    those that got any."""
    order = np.argsort(-learning.tokens, kind="stable")
    served = order[learning.tokens[order] > 0]
    quarter = max(1, len(order) // 4)
    return served[:quarter], served[-quarter:]


def figures(learning: Learning) -> dict[str, float]:
    """Means over the busy and over the rare experts, of which some may serve no held-out token."""
    result = {}
    for kind, experts in zip(("busy", "rare"), busy_and_rare(learning), strict=True):
        for name, value_E in vars(learning).items():
            known = value_E[experts][~np.isnan(value_E[experts])]
            result[f"{kind}_{name}"] = float(known.mean()) if len(known) else float("nan")
    return result


def _weights(ffn: MoEFFN) -> torch.Tensor:
    """A copy of all weights of each expert: [E, N]."""
    parts = [p.detach().flatten(1) for p in (ffn.w13_E2FD, ffn.w2_EDF)]
    return torch.cat(parts, 1).clone()


def _put(ffn: MoEFFN, expert: int, weights_N: torch.Tensor) -> None:
    split = ffn.w13_E2FD[expert].numel()
    for values, part_N in ((ffn.w13_E2FD, weights_N[:split]), (ffn.w2_EDF, weights_N[split:])):
        values.data[expert] = part_N.view_as(values[expert])


@torch.no_grad()
def _gain(trainer: Trainer, layer: int, start_EN: torch.Tensor) -> np.ndarray:
    """How much better each expert serves its held-out tokens than at its start."""
    config, model = trainer.config, trainer.model.eval()
    batch = trainer.corpus.windows("validation", seq_len=config.seq_len, windows_per_domain=WINDOWS)
    tokens_BS = torch.from_numpy(batch.tokens)
    block = trainer.moe_layers[layer]
    ffn = model.blocks[block].ffn

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        out = model(tokens_BS[:, :-1])
        target_T = tokens_BS[:, 1:].flatten()
        loss_T = F.cross_entropy(out.logits.float().flatten(0, 1), target_T, reduction="none")
        visits_TE = torch.zeros(len(loss_T), len(start_EN), dtype=torch.bool)
        plan = out.routes[block].plan
        visits_TE[plan.token.long(), plan.expert.long()] = True
        return loss_T, visits_TE

    now_EN = _weights(ffn)
    loss_T, visits_TE = losses()
    gain_E = np.full(len(start_EN), np.nan)
    for expert in visits_TE.any(0).nonzero().flatten().tolist():
        _put(ffn, expert, start_EN[expert])
        change_T = losses()[0] - loss_T
        gain_E[expert] = change_T[visits_TE[:, expert]].mean().item()
        _put(ffn, expert, now_EN[expert])
    return gain_E
