"""What "99.3 % of dense quality" can mean: four ways to set a model beside another, which disagree.

A loss in nats has no 100 %. The ratio of two losses changes with the tokenizer. The ratio of two
perplexities falls by the same part with each nat. The gain over the unigram counts from a model
that knows how often each token occurs, and nothing else. Accuracy counts right guesses alone. So a
share of quality says little without its way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from moeviz.checks import check_number
from moeviz.records.arrays import amounts, check_equally_long


@dataclass(frozen=True)
class Quality:
    """How well a model foretells held-out text. loss: nats a token; accuracy: the share of tokens
    that it held to be the likeliest."""

    loss: float
    accuracy: float

    def __post_init__(self) -> None:
        check_number("loss", self.loss, open_low=True)
        check_number("accuracy", self.accuracy, 0, 1)


def unigram_loss(seen_V: ArrayLike, held_out_V: ArrayLike) -> float:
    """Nats a held-out token of a model that knows how often each token was seen in training, and
    nothing of what stands before it; each counts once more, so that none is impossible. From the
    counts of each token of the vocabulary; ValueError without a held-out one."""
    seen, held_out = amounts("seen_V", seen_V), amounts("held_out_V", held_out_V)
    check_equally_long(seen_V=seen, held_out_V=held_out)
    if not held_out.any():
        raise ValueError("held_out_V counts no token; give the counts of some text.")
    nats_V = math.log((seen + 1).sum()) - np.log(seen + 1)
    return float(held_out @ nats_V / held_out.sum())


def shares_of_quality(model: Quality, dense: Quality, unigram: float) -> dict[str, float]:
    """How much of a dense model's quality another one has, by each way; 1: as good, above 1:
    better. unigram: nats a token of `unigram_loss` on the same text. ValueError where the dense
    model is no better than that, or right in no token."""
    check_number("unigram", unigram, dense.loss, open_low=True)
    check_number("accuracy of the dense model", dense.accuracy, open_low=True)
    return {
        "loss ratio": dense.loss / model.loss,
        "perplexity": math.exp(dense.loss - model.loss),
        "gain over the unigram": (unigram - model.loss) / (unigram - dense.loss),
        "next-token accuracy": model.accuracy / dense.accuracy,
    }


def loss_allowed(share: float, dense: Quality, unigram: float) -> dict[str, float]:
    """How many nats above the dense model a share of its quality allows, by each way that goes by
    the loss. ValueError as shares_of_quality."""
    check_number("share", share, open_low=True)
    check_number("unigram", unigram, dense.loss, open_low=True)
    return {
        "loss ratio": dense.loss / share - dense.loss,
        "perplexity": -math.log(share),
        "gain over the unigram": (1 - share) * (unigram - dense.loss),
    }
