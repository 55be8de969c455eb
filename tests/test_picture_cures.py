"""What pictures of collapse and its cures say is what the recorded figures are."""

import numpy as np
import pytest

from helpers.comparisons import made_collapse, numbers, sentences
from helpers.picture_cases import learned
from helpers.pictures import SVG, marks, parse, texts, values
from helpers.recorded_routers import routers
from moeviz.experiments.cures import ARMS, BASE, DENSE, SETTINGS
from moeviz.pictures.training.as_written import as_written, told_scale
from moeviz.pictures.training.balance_over_time import (
    SHOWN,
    balance_over_time,
    restarts,
    told_restarts,
)
from moeviz.pictures.training.busy_experts import busy_experts, told_busy
from moeviz.pictures.training.cures import FEW, cures
from moeviz.pictures.training.cures_told import (
    cures_of,
    failing,
    told_against_dense,
    told_cures,
    told_frozen,
    told_layers,
    told_quality,
    told_rate,
    told_versus,
    worst_layer,
)
from moeviz.pictures.training.kept_experts import kept_experts, told_kept

EVEN = {"balancing loss 0.1": 0.5, "sign bias": 0.5}


def test_cures_are_the_settings_in_which_one_thing_is_changed():
    assert cures_of(made_collapse()) == [name for name in ARMS if name != BASE]
    assert {*FEW, *SHOWN} <= {*SETTINGS}


def test_the_words_name_the_layer_and_the_runs_that_fell():
    summary = made_collapse(fallen={BASE: 2})
    assert worst_layer(summary) == 1
    words = told_layers(summary)
    assert words.startswith("Without a cure training ends with MaxVio 5.0 in layer 1, and 1.0 in")
    assert words.endswith("more are dead in 2 of 3 runs.")


def test_who_cures_is_a_verdict_over_seeds():
    summary = made_collapse(violations=EVEN | {"noise 1": 8.0})
    words = told_cures(summary)
    assert words.startswith("The cures, by the load of layer 1 beside no cure: more even under ")
    assert "more even under balancing loss 0.1 and sign bias; less even under noise 1;" in words
    assert "; open under 10 of them" in words
    assert told_cures(made_collapse(1)).startswith("One seed does not show")


def test_a_cure_fails_where_half_of_its_runs_fell():
    fallen = {BASE: 4, "noise 1": 4, "z-loss 0.001": 2, "sign bias": 1, "nothing, as written": 4}
    assert failing(made_collapse(4, fallen=fallen)) == ["z-loss 0.001", "noise 1"]


@pytest.mark.parametrize(
    ("losses", "last"),
    [
        ({}, "So no more even load is shown to lower the loss."),
        ({"sign bias": -0.2}, "So an even load alone does not decide about the loss."),
        (dict.fromkeys(EVEN, -0.2), "Here every more even load went with a lower loss."),
        (dict.fromkeys(EVEN, 0.2), "So no more even load is shown to lower the loss."),
    ],
)
def test_whether_balance_is_quality_follows_the_losses(losses, last):
    words = told_quality(made_collapse(violations=EVEN, losses=losses))
    assert words.startswith("2 of 13 cures are shown to make the load more even.")
    assert words.endswith(last)
    for claim in (" is lower ", " is higher ", " was lower", " is the same"):
        assert claim not in words, "what is open is not told as a finding"
    assert ("is shown to be lower than without a cure under sign bias." in words) == (
        losses.get("sign bias") == -0.2 and len(losses) == 1
    )
    assert told_quality(made_collapse()).startswith("No cure is shown to make the load more even")


@pytest.mark.parametrize(("loss", "word"), [(-0.3, " below "), (0.3, " above "), (0.0, " is open")])
def test_the_dense_twin_is_the_yardstick(loss, word):
    assert word in told_against_dense(made_collapse(losses={BASE: loss}))


def test_the_dense_twin_is_told_at_both_rates():
    """The rate of collapse is far from the best one, and a lead there is no lead elsewhere."""
    words = told_rate(made_collapse(), routers({"GShard": 0.1}))
    here = made_collapse()["arms"]["dense"]["reserve_loss"]["mean"]
    assert f"ends at {here:.3f} nats per token here, after 300 steps" in words
    assert "it ends at 3.620, after 300 steps." in words


@pytest.mark.parametrize(("loss", "word"), [(-0.3, "0.300 lower than"), (0.3, "0.300 higher than")])
def test_one_setting_beside_another(loss, word):
    summary = made_collapse(losses={"hash": loss})
    summary["arms"]["hash"]["reserve_loss"]["values"][0] += 1e-4
    assert word in told_versus(summary, "hash", BASE, "reserve_loss", "The loss")
    same = told_versus(summary, "sign bias", BASE, "reserve_loss", "The loss")
    assert "is not shown to differ" in same


def test_every_setting_is_a_row_with_a_mark_for_each_verdict_and_layer():
    summary = made_collapse(losses={"hash": -0.3, "noise 1": 0.3})
    picture = cures(summary)
    assert [row[0] for row in picture.rows] == [DENSE, *ARMS]
    row = dict(zip(picture.columns, picture.rows[0], strict=True))
    assert row["loss minus dense"] == "+0.000 (+0.000 to +0.000), open"
    assert row["collapsed"] == row["MaxVio in training, layer 1"] == ""
    # Each of 13 cures and nothing has two layers; each of 15 rows two losses but its own.
    assert len(marks(picture, "polygon")) == len(ARMS) + 1, "layer 0, and its key"
    rings = len(marks(picture, "circle", "fill:none"))
    squares = [m for m in marks(picture, "rect") if m.get("width") == "8"]
    lower = marks(picture, "circle", "#0072b2")
    assert (rings - 1, len(squares) - 1, len(lower) - 1) == (2 * 15 - 2 - 4, 2, 2)
    few = cures(summary, FEW)
    assert [row[0] for row in few.rows] == [*FEW] and few.summary == picture.summary


@pytest.mark.parametrize(
    ("draw", "names"), [(cures, [DENSE, *ARMS]), (as_written, ["nothing", "hash, as written"])]
)
def test_a_setting_is_one_thing_in_both_parts_and_a_verdict_lights_its_own(draw, names):
    summary = made_collapse(losses={"hash": -0.3, "nothing": -0.3})
    main, side = parse(draw(summary))
    for part in (main, side):
        first = {thing.get("data-kin").split()[0] for thing in part.iter() if thing.get("data-kin")}
        assert {name.replace(" ", "_") for name in names} <= first
    lower = [t for t in side.iter() if "lower" in t.get("data-kin", "").split()[1:]]
    tips = [t.findtext(SVG + "title") for t in lower]
    assert tips and all(tip.endswith(", lower") for tip in tips)


def test_the_scale_is_told_to_decide_only_where_a_verdict_turns():
    same = made_collapse()
    assert told_scale(same).startswith("The scale changes no verdict")
    turned = made_collapse(losses={"nothing": -0.3, "hash, at one sixteenth": 0.3})
    words = told_scale(turned)
    assert words.startswith("The scale alone changes the verdict against the dense twin for noth")
    assert "as written ends 0.300 nats per token above the dense twin" in words
    rows = as_written(turned).rows
    assert [row[:2] for row in rows[:3]] == [
        ("nothing", "fair scale"), ("nothing", "as written"), ("frozen router", "fair scale"),
    ]  # fmt: skip
    assert rows[-1][:2] == ("hash", "at one sixteenth") and rows[0][-1].endswith("lower")


def test_a_run_is_drawn_with_the_loss_of_its_dense_twin():
    picture = balance_over_time(made_collapse())
    # Four settings have a router: MaxVio twice, the two losses and the loss; dense has the last.
    inner = [m for m in marks(picture, "polyline") if "--i" not in m.get("style")]
    assert len(inner) == 4 * 5 + 1
    dense = [row for row in picture.rows if row[0] == DENSE]
    assert [row[1:] for row in dense][-1] == (300, "", "", "", "", "3.500")


@pytest.mark.parametrize(
    ("restart", "words"),
    [(0.5, "is 0.505 higher than"), (-0.5, "is 0.505 lower than"), (0.0, "is not shown to differ")],
)
def test_a_restart_is_compared_with_the_same_steps_of_a_constant_rate(restart, words):
    summary = made_collapse(restart=restart, fallen={"nothing, warm restarts": 1})
    assert words in told_restarts(summary)
    words = (
        "dead in 1 of 3 runs with restarts, and in 0 without: so few runs do not tell these apart."
    )
    assert words in told_restarts(summary)
    picture = restarts(summary)
    assert [row[0] for row in picture.rows] == ["step 125", "step 200", "mean of all"]
    _, constant, restarted = picture.rows[-1]
    assert constant == "+0.00 ± 0.00"
    assert float(restarted.split()[0]) == pytest.approx(1.01 * restart, abs=0.0051)
    dashes = [line for line in marks(picture, "line") if "dasharray:2 3" in line.get("style")]
    assert len(dashes) == 2


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.1, "is 0.150 lower"), (0.6, "is 0.350 higher"), (0.25, "is not shown to differ")],
)
def test_a_frozen_matrix_is_told_by_what_its_tokens_do(share, words):
    summary = made_collapse(kept={"frozen router": share, "hash": 1.0})
    frozen = summary["arms"]["frozen router"]["kept_experts"][1]["values"]
    frozen[0] += 1e-6  # equal gaps would have an interval of no width
    assert f"in layer 1 {words}" in told_kept(summary)
    assert "in layer 0 is not shown to differ" in told_kept(summary), "each layer has its own"
    assert kept_experts(summary).rows[1][0] == "frozen"


@pytest.mark.parametrize(
    ("violation", "words"),
    [(2.0, "is 3.000 lower than that"), (8.0, "is 3.000 higher"), (5.0, "is not shown to differ")],
)
def test_a_router_that_cannot_learn_is_the_control_of_the_loop(violation, words):
    summary = made_collapse(violations={"frozen router": violation})
    assert told_frozen(summary).startswith(f"MaxVio in layer 1 with a frozen router {words}")


@pytest.mark.parametrize(
    ("gain", "words"),
    [(0.03, "is 0.033 higher than that of a rare one (95 % interval +"), (0.0, "is not shown to")],
)
def test_what_an_early_step_gains_stands_with_its_interval(gain, words):
    summary = made_collapse()
    busy, rare = (summary["busy_experts"][f"step_{kind}_gain"] for kind in ("busy", "rare"))
    busy["values"] = [value + gain * (1 + 0.1 * i) for i, value in enumerate(rare["values"])]
    assert f"In one early step the gain of a busy expert {words}" in told_busy(summary)


def test_counts_of_runs_are_told_apart_where_there_are_enough():
    fallen = {"nothing, as written": 5}
    words = "5 of 5 runs without a cure as written, and in 0 at the fair scale."
    assert words in told_scale(made_collapse(5, fallen=fallen))
    few = told_scale(made_collapse(5, fallen=fallen | {"nothing": 2}))
    assert few.endswith("and in 2 at the fair scale: so few runs do not tell these apart.")


def test_busy_experts_are_drawn_where_they_are():
    made = learned()
    picture = busy_experts(made, np.array([0, 1]), np.array([6, 7]))
    assert "AdamW divides most of that out." in picture.summary
    assert f"{35 / 6.5:.1f} times the tokens" in picture.summary
    assert picture.rows[4] == (4, "", "0", "0.0100", "0.1000", "0.1000", "")
    assert [row[1] for row in picture.rows].count("busy") == 2
    squares = [m for m in marks(picture, "rect") if m.get("width") == "10"]
    assert len(squares) == 4 * 2 and (values(squares, "x") > 0).all()


@pytest.mark.parametrize(
    ("power", "words"), [(0.25, "most of that out"), (0.75, "less than half of that out")]
)
def test_what_adamw_leaves_is_told_by_its_size(power, words):
    summary = made_collapse(1)
    busy = summary["busy_experts"]
    busy["run_busy_update"]["values"] = [busy["run_busy_gradient"]["values"][0] ** power]
    assert words in told_busy(summary)


@pytest.mark.parametrize("seeds", [1, 3])
def test_no_sentence_has_more_than_three_figures(seeds):
    summary = made_collapse(seeds, violations=EVEN, losses={BASE: -0.1})
    pictures = [
        draw(summary) for draw in (cures, as_written, balance_over_time, restarts, kept_experts)
    ]
    for words in [*(picture.summary for picture in pictures), told_busy(summary)]:
        for sentence in sentences(words):
            assert len(numbers(sentence)) <= 3, sentence
    assert any("1 seed ·" in words for words in texts(pictures[0])) == (seeds == 1)
