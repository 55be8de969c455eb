"""Four ways to say a share of a dense model's quality, and what they are measured from."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moeviz.model import LanguageModel
from moeviz.model.config import ModelConfig
from moeviz.records.quality import (
    Quality,
    loss_allowed,
    shares_of_quality,
    unigram_loss,
)
from moeviz.watch.quality import AT_ONCE, quality

DENSE, UNIGRAM = Quality(2.0, 0.5), 6.0


def test_the_four_ways_by_hand():
    model = Quality(2.5, 0.4)
    assert shares_of_quality(model, DENSE, UNIGRAM) == pytest.approx(
        {
            "loss ratio": 0.8,
            "perplexity": math.exp(-0.5),
            "gain over the unigram": 3.5 / 4,
            "next-token accuracy": 0.8,
        }
    )
    assert set(shares_of_quality(DENSE, DENSE, UNIGRAM).values()) == {1.0}
    assert min(shares_of_quality(Quality(1.9, 0.51), DENSE, UNIGRAM).values()) > 1


@pytest.mark.parametrize("share", [0.5, 0.993, 1, 1.05])
def test_a_loss_that_a_share_allows_has_that_share(share):
    for way, more in loss_allowed(share, DENSE, UNIGRAM).items():
        found = shares_of_quality(Quality(DENSE.loss + more, 0.5), DENSE, UNIGRAM)
        assert found[way] == pytest.approx(share)


def test_a_unigram_by_hand():
    # One more of each: 4, 2 and 1 of 7.
    nats = -(math.log(4 / 7) + math.log(1 / 7)) / 2
    assert unigram_loss([3, 1, 0], [5, 0, 5]) == pytest.approx(nats)


def test_a_model_is_judged_on_every_token_that_something_stands_before():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=11, d_model=16, num_heads=2)).train()
    tokens_WS = np.random.default_rng(0).integers(0, 11, (AT_ONCE + 3, 9))
    found = quality(model, tokens_WS)
    ids = torch.from_numpy(tokens_WS)
    with torch.no_grad(), model.evaluating():
        logits = model(ids[:, :-1]).logits.flatten(0, 1)
    loss = F.cross_entropy(logits, ids[:, 1:].flatten()).item()
    assert found.loss == pytest.approx(loss, rel=1e-5)
    right = (logits.argmax(-1) == ids[:, 1:].flatten()).float().mean().item()
    assert found.accuracy == pytest.approx(right) and 0 < right < 1
    assert model.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Quality(-1, 0.5), "loss must be"),
        (lambda: Quality(1, 1.5), "accuracy must be"),
        (lambda: shares_of_quality(DENSE, DENSE, 2.0), "unigram must be a finite number above 2"),
        (lambda: shares_of_quality(DENSE, Quality(2.0, 0), 6.0), "accuracy of the dense model"),
        (lambda: loss_allowed(0, DENSE, UNIGRAM), "share must be"),
        (lambda: unigram_loss([1, 2], [0, 0]), "counts no token"),
        (lambda: unigram_loss([1, 2], [1]), "equally long"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
