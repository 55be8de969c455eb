"""What a trained layer with shared experts loses when active experts are left out, untrained after.

DeepSeekMoE (2401.06066, section 4.5) leaves out the shared expert, lets every token take one more
of the chosen kind, and sees the loss rise from 1.808 to 2.414: what the shared expert knows, it
says, no other does. What would make such a test unfair, and how it is closed:

1. A shared expert works for every token, a chosen one for few. So beside it each token loses as
   many of the experts that it chose: drawn at random, and its first ones. The same experts for all
   are left out too; most tokens did not choose them, so that is no equal share of the work.
2. Weights. A chosen expert is weighted by its score, a shared one by 1; both are multiplied by the
   factor that the fair scale gave their kind (model.layer.MoEFFN.fix_scale). Weights of those that
   stay are not raised.
3. Luck. Three draws where there is one, whose mean is a seed's figure; paired over seeds; one table
   for all arms (Holm).

Not closed: nothing is trained on after the loss. A share of the loss that comes back by training
was in the habit of working together, not in knowledge.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeviz.experiments.recording import judged, mean_sd
from moeviz.training.evaluation import FINAL_WINDOWS
from moeviz.training.trainer import Trainer
from moeviz.watch.intervene import Change, Table, changed, kill

NOTHING, SHARED, REPLACED = "nothing", "shared", "shared, one more chosen for each"
DRAWN, FIRST = "as many of its choices, drawn", "as many of its choices, its first"
SAME, BUSIEST = "the same for all, drawn", "the same for all, the busiest"
DRAWS = 3
# The comparisons of the table: what rises by the first of two minus what rises by the second.
PAIRS = {"shared or drawn": DRAWN, "shared or first": FIRST, "replaced or not": REPLACED}
EVENNESS = "evenness"


def without_choices(number: int, seed: int | None) -> Change:
    """Each token loses so many of the experts that it chose: its first ones, or, given a seed, some
    that are drawn. The weights of those that stay are not raised."""

    def change(expert_TK: Tensor, weight_TK: Tensor, _: int) -> Table:
        rank_TK = weight_TK
        if seed is not None:
            chosen = expert_TK.numpy().tobytes()  # other draws in every layer and batch
            generator = torch.Generator().manual_seed(zlib.crc32(chosen, seed))
            rank_TK = torch.rand(weight_TK.shape, generator=generator)
        return expert_TK, weight_TK.scatter(1, rank_TK.topk(number, dim=-1).indices, 0)

    return change


@contextmanager
def without_shared(trainer: Trainer, more: int = 0) -> Iterator[None]:
    """Within, the shared experts add nothing, and every token chooses so many more."""
    ffns = [trainer.model.blocks[layer].ffn for layer in trainer.moe_layers]
    before = [ffn.shared.w2_DF.data for ffn in ffns]
    for ffn in ffns:
        ffn.shared.w2_DF.data = torch.zeros_like(ffn.shared.w2_DF)
        ffn.router.top_k += more
    try:
        yield
    finally:
        for ffn, w2_DF in zip(ffns, before, strict=True):
            ffn.shared.w2_DF.data = w2_DF
            ffn.router.top_k -= more


def losses_without(trainer: Trainer) -> dict[str, list[float]]:
    """By what is left out, the loss of each domain, nats per token; of draws the mean. As many
    experts as there are shared ones are left out in every MoE layer."""
    model = trainer.model
    number = model.blocks[trainer.moe_layers[0]].ffn.num_active[1]
    whole = trainer.evaluate(FINAL_WINDOWS, part="reserve")

    def domain_loss() -> np.ndarray:
        return trainer.evaluate(FINAL_WINDOWS, part="reserve").domain_loss

    def changed_loss(change: Change) -> np.ndarray:
        with changed(model, change):
            return domain_loss()

    def killed_loss(expert_Ln: np.ndarray) -> np.ndarray:
        with ExitStack() as stack:
            for layer, expert_n in zip(trainer.moe_layers, expert_Ln, strict=True):
                for expert in expert_n.tolist():
                    stack.enter_context(changed(model, kill(expert), (layer,)))
            return domain_loss()

    def drawn(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        layers, experts = len(trainer.moe_layers), trainer.num_experts
        return np.stack([rng.permutation(experts)[:number] for _ in range(layers)])

    draws = range(DRAWS)
    losses = {
        NOTHING: whole.domain_loss,
        DRAWN: np.mean([changed_loss(without_choices(number, n)) for n in draws], axis=0),
        FIRST: changed_loss(without_choices(number, None)),
        SAME: np.mean([killed_loss(drawn(n)) for n in draws], axis=0),
        BUSIEST: killed_loss(np.argsort(-whole.load.sum(1), axis=1, kind="stable")[:, :number]),
    }
    with without_shared(trainer):
        losses[SHARED] = domain_loss()
    with without_shared(trainer, more=number):
        losses[REPLACED] = domain_loss()
    return {name: loss.tolist() for name, loss in losses.items()}


def rises(runs: Sequence[dict[str, list[float]]]) -> dict[str, np.ndarray]:
    """By what is left out, how much each domain's loss rises, float64 [seeds, domains]."""
    whole = np.array([run[NOTHING] for run in runs])
    return {name: np.array([run[name] for run in runs]) - whole for name in runs[0]}


def unevenness(rise_ND: np.ndarray) -> np.ndarray:
    """Of each seed the standard deviation of the rise over domains, as a share of its mean [N]."""
    return rise_ND.std(1) / np.abs(rise_ND.mean(1))


def left_out(runs: Mapping[str, Sequence[dict[str, list[float]]]]) -> dict[str, Any]:
    """What fine_grained's head calls "left_out", from losses_without by arm and seed."""
    arms: dict[str, Any] = {}
    pairs = {}
    for arm, of_arm in runs.items():
        rise = rises(of_arm)
        arms[arm] = {
            name: {
                "rise": mean_sd(rise_ND.mean(1).tolist()),
                "by_domain": [round(float(mean), 4) for mean in rise_ND.mean(0)],
                "unevenness": mean_sd(unevenness(rise_ND).tolist()),
            }
            for name, rise_ND in rise.items()
            if name != NOTHING
        }
        for label, other in PAIRS.items():
            pairs[arm, label] = (rise[SHARED].mean(1), rise[other].mean(1))
        pairs[arm, EVENNESS] = (unevenness(rise[SHARED]), unevenness(rise[DRAWN]))
    verdicts = judged(pairs)
    for arm, label in pairs:
        arms[arm].setdefault("pairs", {})[label] = verdicts[arm, label]
    return arms
