"""What is told of finer and shared experts follows the figures, and so do the verdicts on them."""

import copy
import re

import pytest

from helpers.fine_grained import made_fine_grained
from helpers.pictures import parse, texts
from moeviz.costs import evaluate
from moeviz.costs.claims import measured
from moeviz.experiments.fine_grained import TRAINED, name_of, split_arm
from moeviz.pictures.training.fine_grained import (
    ends_words,
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
    found = recorded["settings"]["fair 1200"]["arms"]["split 4"]["multipliers"]
    (tip,) = (m.get("aria-label") for m in pressed if m.get("aria-label").startswith("m = 4: "))
    assert tip.endswith(f"× compute {found['compute']:.2f}, 95 % interval "
                        f"{ends_words(*found['interval'])}")  # fmt: skip
    rows = {row[0]: row for row in picture.rows}
    loss = recorded["settings"]["fair 1200"]["arms"]["split 8"]["minus_dense"]["mean"]
    assert rows["m = 8"][6] == f"{loss:+z.3f}"


def test_the_finding_is_that_of_the_chosen_layer():
    finding = {
        (finer, split): split_experts(
            made_fine_grained(finer=finer), split=split, shared=0, steps=1200
        ).summary
        for finer in (-0.05, 0.05)
        for split in (1, 4)
    }
    assert "nats per token below that of whole experts" in finding[-0.05, 4]
    assert "nats per token above that of whole experts" in finding[0.05, 4]
    assert re.search("[1-9] end lower, 0 end higher", finding[-0.05, 1])
    assert re.search("0 end lower, [1-9] end higher", finding[0.05, 1])


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


def test_a_multiplier_is_told_with_an_interval_that_reaches_as_far_on_both_measures():
    recorded = made_fine_grained()
    arms = recorded["settings"]["fair 1200"]["arms"]
    for arm, compute, ends, clock in (
        ("split 1", 0.8, [0.7, 0.9], 0.4), ("split 2", 1.5, [1.2, 1.8], 0.75),
        ("split 4", 1.0, [None, 1.3], 1.0), ("split 8", 1.4, [1.1, None], 1.4),
    ):  # fmt: skip
        arms[arm]["multipliers"] = {"compute": compute, "interval": ends, "wall_clock": clock}
    lines = told_multipliers(recorded).split("\n")
    assert lines[1:] == [
        "m = 1: 0.80 by FLOPs (0.70 to 0.90), 0.40 by the clock (0.35 to 0.45)",
        "m = 2: 1.50 by FLOPs (1.20 to 1.80), 0.75 by the clock (0.60 to 0.90)",
        "m = 4: 1.00 by FLOPs (up to 1.30), 1.00 by the clock (up to 1.30)",
        "m = 8: 1.40 by FLOPs (1.10 upwards), 1.40 by the clock (1.10 upwards)",
        "By FLOPs the interval lies above 1 for 2 of 4, and below 1 for 1.",
        "By the clock the interval lies above 1 for 1 of 4, and below 1 for 2.",
    ]
    arms["split 1"]["multipliers"] = {"compute": None, "wall_clock": None, "why": "too far"}
    arms["split 2"]["multipliers"]["interval"] = [None, None]
    told = told_multipliers(recorded)
    assert "m = 1: too far\n" in told and "1.50 by FLOPs (no interval)" in told
    assert "above 1 for 1 of 3, and below 1 for none" in told


def test_the_rate_of_the_finest_is_told_where_it_is_another():
    recorded = made_fine_grained()
    told = "Of the rates 0.008, 0.016 the finest experts too do best at that of all arms, 0.016."
    assert told_rate(recorded) == told
    recorded["finest"]["chosen"] = 8e-3
    assert "at the rate 0.008 and were trained at 0.016" in told_rate(recorded)


def turned(verdict, even="open", first="lower"):
    """A recording in which the shared expert is missed so, beside a drawn choice and a first one,
    and so evenly."""
    recorded = copy.deepcopy(made_fine_grained())
    pairs = recorded["left_out"][ARM]["pairs"]
    pairs["shared or drawn"]["verdict"], pairs["evenness"]["verdict"] = verdict, even
    pairs["shared or first"]["verdict"] = first
    return recorded


@pytest.mark.parametrize(
    ("verdict", "told"),
    [("higher", "more than without as many of each token's own choices, drawn (95 % interval "),
     ("lower", "less than without as many of each token's own choices, drawn"),
     ("open", "Whether it differs from that without as many of each token's own choices, drawn is "
              "open: the difference is +0.")],
)  # fmt: skip
def test_what_is_left_out_is_told_with_its_rivals(verdict, told):
    found = told_left_out(turned(verdict), ARM)
    assert "without the shared experts the loss rises by 0.5" in found and told in found
    assert "less than without as many of its first choices" in found


@pytest.mark.parametrize(
    ("even", "told"),
    [("lower", "Over the domains it is more even than"), ("higher", "it is less even than"),
     ("open", "Whether it is more even over the domains than that of the drawn choices is open")],
)  # fmt: skip
def test_how_even_the_rise_is_is_told_by_its_verdict(even, told):
    assert told in told_left_out(turned("higher", even), ARM)


def test_where_a_token_has_one_choice_it_is_told_once():
    told = told_left_out(made_fine_grained(), "split 1, 1 shared")
    assert "own choices, drawn" in told and "first choices" not in told


@pytest.mark.parametrize(
    ("verdict", "option"),
    [("higher", fine_grained.SHARED), ("lower", fine_grained.CHOSEN),
     ("open", "no difference that the seeds can show")],
)  # fmt: skip
def test_the_prediction_of_the_shared_expert_follows_its_verdict(verdict, option, monkeypatch):
    monkeypatch.setattr(fine_grained, "recorded_run", lambda name: turned(verdict))
    assert find("06.shared").measure().option == option


@pytest.mark.parametrize(("first", "told"), [("lower", "by 0.7"), ("open", "no other reason")])
def test_why_the_shared_expert_is_missed_is_told_by_what_was_measured(first, told, monkeypatch):
    recorded = turned("higher", first=first)
    monkeypatch.setattr(fine_grained, "recorded_run", lambda name: recorded)
    assert told in find("06.shared").measure().because


@pytest.mark.parametrize(
    ("ends", "told"),
    [((-0.2, 0.1), "the interval holds 0"), ((-0.2, -0.1), "so many comparisons at once"),
     ((None, None), "one seed")],
)  # fmt: skip
def test_why_a_difference_is_open_is_told_by_its_interval(ends, told, monkeypatch):
    recorded = turned("open")
    gap = recorded["left_out"][ARM]["pairs"]["shared or drawn"]
    gap["low"], gap["high"] = ends
    monkeypatch.setattr(fine_grained, "recorded_run", lambda name: recorded)
    assert told in find("06.shared").measure().because


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
