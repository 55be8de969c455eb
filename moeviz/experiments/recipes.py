"""The ways in which the experts of a model are made smaller, by name, for panel and recording."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from moeviz.checks import check_choice
from moeviz.costs.cost.quantisation import FORMATS
from moeviz.experiments.offloaded import experts_in
from moeviz.model.config import ModelConfig
from moeviz.model.transformer import LanguageModel
from moeviz.surgery import merge, saliency
from moeviz.surgery.calibration import Seen, look
from moeviz.surgery.low_rank import low_rank, ranks_at, share_of
from moeviz.surgery.prune import best_subset, keep_best, pruned
from moeviz.systems.packed_model import quantised
from moeviz.text.corpus import Corpus
from moeviz.watch.domains import LENGTH

SEQUENCES = 16  # of each domain, to calibrate by
BITS, PLAIN_RANK, RANK = "bits", "low rank", "low rank, calibrated"
LOAD, ABLATION, CHANCE = "prune by load", "prune by ablation", "prune by chance"
REAP, FIRST_REAP = "prune by REAP", "prune by REAP, not renormalised"
NAEE = "prune by output error (NAEE)"
HC, MATCHED = "merge by output (HC-SMoE)", "merge by output, neurons matched"
M_SMOE = "merge by logits (M-SMoE)"
CRITERIA = (LOAD, ABLATION, FIRST_REAP, REAP, NAEE)
MERGES = (HC, MATCHED, M_SMOE)
SHARES = {"half": 0.5, "quarter": 0.25}
KEPT = ("6", "4", "2")
RECIPES: dict[str, tuple[str, ...]] = {
    BITS: ("int8", "int4", "int3", "int2"),
    PLAIN_RANK: tuple(SHARES),
    RANK: tuple(SHARES),
    **dict.fromkeys((*CRITERIA, CHANCE), KEPT),
    **dict.fromkeys(MERGES, KEPT),
}


class Calibrated:
    """A model, and what validation text says of its experts."""

    def __init__(self, model: LanguageModel, corpus: Corpus) -> None:
        self.model, self.corpus = model, corpus
        windows = corpus.windows("validation", seq_len=LENGTH, windows_per_domain=SEQUENCES)
        self.ids_GS = torch.from_numpy(windows.tokens)

    @cached_property
    def seen(self) -> list[Seen]:
        return look(self.model, self.ids_GS)

    @cached_property
    def load_LE(self) -> np.ndarray:
        return saliency.load(self.seen)

    @cached_property
    def ablation_LE(self) -> np.ndarray:
        """Takes some seconds."""
        return saliency.ablation(self.model, self.ids_GS)

    def saliency(self, criterion: str, seed: int = 0) -> np.ndarray:
        """What a criterion of pruning says of each expert, [L, E]; seed: of CHANCE."""
        if criterion == LOAD:
            return self.load_LE
        if criterion == ABLATION:
            return self.ablation_LE
        if criterion == CHANCE:
            return saliency.chance(self.load_LE.shape, seed)
        return saliency.reap(self.seen, renormalised=criterion == REAP)

    def compressed(self, recipe: str, amount: str, seed: int = 0) -> LanguageModel:
        """The model by one of RECIPES, with one of its amounts: a format, a share of the bytes, or
        how many experts each layer keeps. seed: of CHANCE. ValueError for other words."""
        check_choice("recipe", recipe, RECIPES)
        check_choice("amount", amount, RECIPES[recipe])
        if recipe == BITS:
            return quantised(self.model, experts_in(amount))
        if recipe in (PLAIN_RANK, RANK):
            return low_rank(self.model, SHARES[amount], self.seen if recipe == RANK else None)
        kept = int(amount)
        if recipe in MERGES:
            find = merge.groups_by_logits if recipe == M_SMOE else merge.groups_by_output
            group_LE = find(self.seen, kept)
            return merge.merged(self.model, group_LE, self.load_LE, align=recipe != HC)
        if recipe == NAEE:
            return pruned(self.model, best_subset(self.model, self.seen, kept))
        return pruned(self.model, keep_best(self.saliency(recipe, seed), kept))


def share_kept(config: ModelConfig, recipe: str, amount: str) -> float:
    """The bytes of the routed experts after a recipe as a share of those at 16 bits a weight."""
    if recipe == BITS:
        return FORMATS[amount].bits / 16
    if recipe in (PLAIN_RANK, RANK):
        return share_of(config, ranks_at(config, SHARES[amount]))
    assert config.moe is not None
    return int(amount) / config.moe.num_experts
