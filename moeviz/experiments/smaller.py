"""The model that ships, made smaller by several recipes at once, for the panel of 11."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import torch

from moeviz.checks import check_choice
from moeviz.costs import parameters
from moeviz.costs.cost.quantisation import FORMATS, QuantPlan
from moeviz.experiments.quantised import by_domain
from moeviz.experiments.recipes import (
    ABLATION,
    MERGES,
    PLAIN_RANK,
    RANK,
    RECIPES,
    Calibrated,
    share_kept,
)
from moeviz.experiments.recorded import recorded_figures
from moeviz.model.architecture import architecture_of
from moeviz.model.transformer import LanguageModel
from moeviz.records.compressed import Compressed
from moeviz.systems.packed_model import quantised
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.text.tokenizer import Tokenizer

WHOLE_BITS = 16  # a weight of the model as it ships
PARTS = {
    "experts": ("routed_experts",),
    "attention": ("attention",),
    "output head": ("head",),
    "all three": ("routed_experts", "attention", "head"),
}
TOKENS = 24  # that are written


class Smaller:
    """The model that ships beside what recipes make of it. ablation_LE: what saliency.ablation says
    of its experts, as recorded; None: it is measured when it is asked for, in some ten seconds."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        corpus: Corpus,
        ablation_LE: np.ndarray | None = None,
    ) -> None:
        self.calibrated, self.tokenizer = Calibrated(model, corpus), tokenizer
        if ablation_LE is not None:
            self.calibrated.ablation_LE = ablation_LE

    @cached_property
    def before_D(self) -> np.ndarray:
        """The loss of each domain as the model ships, float64 [D]."""
        return by_domain(self.calibrated.model, self.calibrated.corpus)

    def made(
        self, kept: int, choice: str, weights: tuple[str, str], part: str
    ) -> tuple[LanguageModel, dict[str, float]]:
        """First experts are pruned or merged, then the weights are stored in another way.

        kept: experts of each layer; choice: the recipe by which others go; weights: (recipe,
        amount) of what then becomes of the weights, ("", "") for nothing; part: of PARTS, what bits
        are for. Returns the model, and the bits that each component's weights take in all.
        ValueError for other words, and as surgery and packing have it.
        """
        check_choice("part", part, PARTS)
        model, corpus = self.calibrated.model, self.calibrated.corpus
        num_experts = self.calibrated.load_LE.shape[1]
        if kept < num_experts:
            model = self.calibrated.compressed(choice, str(kept))
        counts = parameters(architecture_of(model.config)).components
        if kept < num_experts and choice in MERGES:  # a file holds a group's weights once
            counts = counts | {"routed_experts": counts["routed_experts"] * kept / num_experts}
        each = dict.fromkeys(counts, float(WHOLE_BITS))
        recipe, amount = weights
        if recipe in (PLAIN_RANK, RANK):
            share = share_kept(model.config, recipe, amount)
            model = Calibrated(model, corpus).compressed(recipe, amount)
            each["routed_experts"] *= share
        elif recipe:
            check_choice("recipe", recipe, RECIPES)
            components = PARTS[part]
            each |= dict.fromkeys(components, FORMATS[amount].bits)
            plan = QuantPlan.mixed(amount, "fp32", **dict.fromkeys(components, amount))
            model = quantised(model, plan)
        return model, {name: counts[name] * each[name] for name in counts}

    def compressed(
        self, kept: int, choice: str, weights: tuple[str, str], part: str, prompt: str
    ) -> Compressed:
        """What `made` makes of the model: losses, bytes, and how both go on from a prompt.
        ValueError as `made`, and for an empty prompt."""
        whole = self.calibrated.model
        counts = parameters(architecture_of(whole.config)).components
        model, bits = self.made(kept, choice, weights, part)
        return Compressed(
            domains=tuple(self.calibrated.corpus.domains),
            rise=by_domain(model, self.calibrated.corpus) - self.before_D,
            share=bits["routed_experts"] / (WHOLE_BITS * counts["routed_experts"]),
            whole=WHOLE_BITS * sum(counts.values()) / 8,
            bytes=sum(bits.values()) / 8,
            prompt=prompt,
            wrote_before=self._write(whole, prompt),
            wrote_after=self._write(model, prompt),
        )

    def _write(self, model: LanguageModel, prompt: str) -> str:
        prompt_S = torch.from_numpy(self.tokenizer.encode(prompt).astype("int64"))
        written = model.generate(prompt_S, TOKENS, temperature=0)[len(prompt_S) :]
        return self.tokenizer.decode(written.numpy())


@lru_cache(1)
def smaller_of(model: LanguageModel, tokenizer: Tokenizer) -> Smaller:
    """Of the model that ships, with what is recorded of its experts."""
    recorded = recorded_figures("compression")
    worth = None if recorded is None else np.array(recorded["shipped"]["saliency"][ABLATION])
    return Smaller(model, tokenizer, load_corpus(), worth)
