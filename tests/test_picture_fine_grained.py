"""What is told of finer and shared experts follows the figures, and so do the verdicts on them."""

import copy

import pytest

from helpers.fine_grained import made_fine_grained
from helpers.pictures import parse, texts
from moeviz.costs import evaluate
from moeviz.costs.claims import measured
from moeviz.experiments.fine_grained import TRAINED, name_of, split_arm
from moeviz.pictures.training.fine_grained import (
    told_multipliers,
    told_rate,
    told_sharing,
    told_splitting,
)
from moeviz.pictures.training.left_out import told_left_out
from moeviz.pictures.training.split_experts import SHOWN, Shape, count_words, split_experts
from moeviz.predictions import find, fine_grained

ARM = "split 4, 1 shared"


@pytest.mark.parametrize("key", SHOWN)
def test_the_shape_is_that_of_the_layer_that_is_trained(key):
    shape, experts = Shape(*key), split_arm(*key).experts
    assert (shape.routed, shape.chosen, shape.width, shape.shared) == (
        experts.num_experts, experts.top_k, experts.d_expert, experts.num_shared,
    )  # fmt: skip
    router = experts.build_router(64).flops(1)
    assert shape.router_flops == pytest.approx(router / experts.flops_per_token(64, 1))
    assert shape.name == name_of(*key)


def test_sets_are_counted_as_by_hand():
    assert Shape(1, 0).sets == 120 == 16 * 15 // 2
    assert Shape(2, 0).sets == 35_960
    assert count_words(Shape(4, 0).sets) == "4.4 · 10⁹"
    assert count_words(Shape(8, 0).sets) == "9.3 · 10¹⁹"
    with pytest.raises(ValueError, match=r"2 shared ones leave none to choose: take a larger m"):
        Shape(1, 2)


def test_a_layer_that_was_not_trained_says_so():
    recorded = made_fine_grained()
    picture = split_experts(recorded, split=8, shared=2, steps=1200)
    assert "m = 8, 2 shared is not recorded" in picture.summary
    assert texts(picture).count("not recorded") == len(SHOWN) - len(TRAINED) - 2
    pressed = parse(picture).findall(".//*[@data-press]")
    assert len(pressed) == len(SHOWN)
    rows = {row[0]: row for row in picture.rows}
    loss = recorded["settings"]["fair 1200"]["arms"]["split 8"]["minus_dense"]["mean"]
    assert rows["m = 8"][6] == f"{loss:+z.3f}"


@pytest.mark.parametrize(
    ("finer", "lower", "higher"), [(-0.02, "3 of 3", "none"), (0.02, "none of 3", "3")]
)
def test_what_is_told_of_splitting_follows_the_verdicts(finer, lower, higher):
    told = told_splitting(made_fine_grained(finer=finer))
    assert told.count(f"is shown for {lower}, a higher one for {higher}.") == 2


def test_what_is_told_of_sharing_follows_the_verdicts():
    # One pair is of recorded losses; three follow the effect.
    assert told_sharing(made_fine_grained(shared=-0.05)).count("is shown for 3 of 4") == 2
    assert told_sharing(made_fine_grained(shared=0.05)).count("a higher one for 3.") == 2


def test_a_clock_that_nobody_read_is_not_told():
    assert "The steps are not timed yet." in told_multipliers(made_fine_grained(timed=False))
    assert "not timed" not in told_multipliers(made_fine_grained())


def test_the_rate_of_the_finest_is_told_where_it_is_another():
    recorded = made_fine_grained()
    assert "too do best at the rate of all arms, 0.016" in told_rate(recorded)
    recorded["finest"]["chosen"] = 8e-3
    assert "at the rate 0.008 and were trained at 0.016" in told_rate(recorded)


def turned(verdict, even="open"):
    """A recording in which the shared expert is missed so, and so evenly."""
    recorded = copy.deepcopy(made_fine_grained())
    pairs = recorded["left_out"][ARM]["pairs"]
    pairs["shared or drawn"]["verdict"], pairs["evenness"]["verdict"] = verdict, even
    return recorded


def test_what_is_left_out_is_told_with_its_rivals():
    told = told_left_out(made_fine_grained(), ARM)
    assert "without the shared experts the loss rises by 0.5" in told
    assert "its first choices: -0.2" in told and "higher" in told and "lower" in told


@pytest.mark.parametrize(
    ("verdict", "option"),
    [("higher", fine_grained.SHARED), ("lower", fine_grained.CHOSEN),
     ("open", "no difference that the seeds can show")],
)  # fmt: skip
def test_the_prediction_of_the_shared_expert_follows_its_verdict(verdict, option, monkeypatch):
    monkeypatch.setattr(fine_grained, "recorded_run", lambda name: turned(verdict))
    assert find("06.shared").measure().option == option


@pytest.mark.parametrize(("finer", "option"), [(-0.02, "it is lower"), (0.02, "it is higher")])
def test_the_prediction_of_finer_experts_follows_its_verdict(finer, option, monkeypatch):
    recorded = made_fine_grained(finer=finer)
    monkeypatch.setattr(fine_grained, "recorded_run", lambda name: recorded)
    assert find("06.split").measure().option == option


@pytest.mark.parametrize(
    ("verdict", "even", "found"),
    [("higher", "lower", "holds"), ("higher", "open", "inaccurate"),
     ("lower", "lower", "contradicted"), ("open", "lower", "unverifiable")],
)  # fmt: skip
def test_the_claim_of_common_knowledge_needs_both_verdicts(verdict, even, found, monkeypatch):
    monkeypatch.setattr(measured, "recorded", lambda name: turned(verdict, even))
    assert evaluate("shared_knowledge").verdict == found
