"""Published orders are told from ours by paired seeds, and only where the interval says so."""

from xml.etree import ElementTree

import pytest
import scipy.stats

from moeviz.experiments.routers_trained import DENSE, arms
from moeviz.pictures.training.published import CLAIMS, published, verdicts


def recorded(values):
    """values: name -> losses by seed; 3.0 for all others."""
    seeds = len(next(iter(values.values())))
    names = {name for claim in CLAIMS for name in (claim.better, claim.worse)}
    arms = {n: {"validation_loss": {"values": values.get(n, [3.0] * seeds)}} for n in names}
    return {"arms": arms}


def test_every_claim_is_about_arms_that_are_recorded():
    for claim in CLAIMS:
        assert {claim.better, claim.worse} <= {DENSE, *arms()}
        assert claim.better != claim.worse and claim.source


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 11, 15, 30])
@pytest.mark.parametrize("margin", [0.99, 1.01])
def test_the_interval_is_students_for_any_number_of_seeds(seeds, margin):
    """A mean just within and just beyond t(0.975) standard errors from zero."""
    spread = [(-1.0) ** i for i in range(seeds - seeds % 2)] + [0.0] * (seeds % 2)
    error = scipy.stats.sem(spread)
    shift = margin * scipy.stats.t.ppf(0.975, seeds - 1) * error
    claim = CLAIMS[0]
    ours = [3.0 + value - shift for value in spread]
    seen = verdicts(recorded({claim.better: ours, claim.worse: [3.0] * seeds}))[0].seen
    assert seen == ("agrees" if margin > 1 else "open")


def test_one_seed_leaves_everything_open():
    claim = CLAIMS[0]
    assert verdicts(recorded({claim.better: [1.0], claim.worse: [3.0]}))[0].seen == "open"


@pytest.mark.parametrize(
    ("ours", "seen"),
    [
        ([2.9, 2.91, 2.89, 2.9, 2.9], "agrees"),
        ([3.1, 3.11, 3.09, 3.1, 3.1], "disagrees"),
        ([2.8, 3.1, 2.9, 3.05, 3.0], "open"),
        ([3.0, 3.0, 3.0, 3.0, 3.0], "open"),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side_of_zero(ours, seen):
    claim = CLAIMS[0]
    found = verdicts(recorded({claim.better: ours, claim.worse: [3.0] * 5}))[0]
    assert (found.claim, found.seen) == (claim, seen)
    assert found.gap["mean"] == pytest.approx(sum(ours) / 5 - 3.0)
    interval = scipy.stats.ttest_1samp([v - 3.0 for v in ours], 0).pvalue
    assert (interval < 0.05) == (seen != "open")


def test_seeds_are_compared_in_pairs():
    """Both vary by 0.5 between seeds, their difference by nothing."""
    claim = CLAIMS[0]
    worse = [3.0, 3.5, 2.5, 3.2, 2.9]
    better = [v - 0.01 - 1e-4 * i for i, v in enumerate(worse)]
    assert verdicts(recorded({claim.better: better, claim.worse: worse}))[0].seen == "agrees"


def test_the_picture_and_its_table_say_the_same():
    claim = next(c for c in CLAIMS if c.better == "sign bias, no loss")  # its arms stand once
    picture = published(recorded({claim.better: [2.9, 2.91, 2.9], claim.worse: [3.0, 3.0, 3.0]}))
    assert "agree with 1, disagree with 0" in picture.summary
    assert picture.rows[CLAIMS.index(claim)] == (
        claim.better, claim.worse, claim.source, "-0.097 ± 0.006", "agrees"
    )  # fmt: skip
    ElementTree.fromstring(picture.svg)
