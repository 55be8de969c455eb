"""What pictures of training say, draw and list is what the runs did."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers.comparisons import made_race, numbers, sentences
from helpers.picture_cases import (
    CASES,
    RUN,
    TWIN,
    learner,
    make_gpu_run,
    make_run,
    pair,
    recorded_json,
)
from helpers.pictures import SVG, corners, marks, parse, presses, table, texts, tips
from moeviz import nb
from moeviz.pictures.colours import heat_colour
from moeviz.pictures.plot import smooth
from moeviz.pictures.training.at_scale import LEFT, RIGHT, at_scale
from moeviz.pictures.training.balance import describe, standing
from moeviz.pictures.training.collapse import LEGEND, RIBBON, collapse
from moeviz.pictures.training.race import AXES, ENDS, GAP, gaps, race
from moeviz.pictures.training.seeds import race_seeds
from moeviz.pictures.training.settings import by_verdict
from moeviz.records.metrics import gap, noise_floor, validation_at

# A race.


def test_the_twin_of_the_race():
    dense, moe = learners = pair()
    picture = race(learners, "step")
    assert [row[0] for row in picture.rows] == ['dense <b>&"', "MoE"]
    wanted = [[12, 2_000_000, 500_000, one.curve.validation[-1]] for one in learners]
    columns = "step", "parameters", "active parameters", "validation loss"
    np.testing.assert_allclose(table(picture, *columns), wanted, atol=1e-3)
    assert picture.rows[0][-1] == "" and float(picture.rows[1][-1]) > 1
    ahead = gap(dense.curve, moe.curve, "step")
    assert f"MoE is ahead by {ahead:.3f} nats per token" in picture.summary
    assert picture.summary.startswith("Step 12 of 600, about 735 s left. So far ")
    for name in ("without points", "without validation", "of one learner"):
        summary = CASES[f"race {name}"]().summary
        assert summary.endswith("No validation loss of both to compare here yet.")


def test_the_race_marks_every_validation_and_never_tells_by_colour_alone():
    picture = race([learner("dense", 40), learner("MoE", 40, 8)], "step")
    dashed = ["dasharray" in line.get("style") for line in marks(picture, "polyline")]
    assert dashed == [True, False, True], "the gap, and below it dense and MoE"
    assert len(marks(picture, "circle", "#0072b2")) == 10 + 1, "the dense marks and their legend"
    assert sum(r.get("width") in ("6.8", "8") for r in marks(picture, "rect")) == 10 + 1


def things_of(picture, kin):
    return [m for m in parse(picture).iter() if kin in m.get("data-kin", "").split()]


def things(picture, kin):
    """The hover texts of what is of this kin."""
    return [thing.findtext(SVG + "title", "") for thing in things_of(picture, kin)]


def test_a_learner_of_a_race_is_one_thing_with_the_numbers_of_its_validations():
    picture = race(pair(), "step")
    tips = things(picture, "MoE")
    assert "MoE, 8 steps: validation loss 2.500" in tips
    assert "MoE: 1,333 tokens per second" in tips and len(tips) == 6, "line, legend, 3 points"
    assert things(picture, "gap")[1:] == [
        f"{s} steps: MoE is ahead by 0.250 nats" for s in (12, 8, 4)
    ]


def test_of_learners_that_other_work_slowed_only_the_ratio_is_told():
    dense, moe = learners = pair()
    picture = race(learners, "seconds", beside_work=True)
    ratio = f"{moe.tokens_per_second / dense.tokens_per_second:.2f} ×"
    assert f"MoE: {ratio} {dense.label}" in things(picture, "MoE") and ratio in texts(picture)
    told = " ".join(texts(picture))
    assert told.count("beside other work: only") == 2, "the axis and the speed"
    assert "tokens per second" not in told and "1,333" not in picture.svg
    assert {row[2:4] for row in picture.rows} == {("", "")}


@pytest.mark.parametrize("ahead", [0.04, -0.06])
@pytest.mark.parametrize("running", [False, True])
def test_who_is_ahead_within_luck_is_too_close_to_call(ahead, running):
    """At the end, and so far: by how far luck goes where both have come, not at the end."""
    dense, moe = pair() if running else pair(total=12)
    moe = replace(moe, curve=replace(moe.curve, validation=dense.curve.validation - ahead))
    luck = [(4.0, 0.9), (12.0, 0.05), (600.0, 0.01)] if running else [(4.0, 0.9), (12.0, 0.05)]
    words = race([dense, moe], "step", luck=luck).summary
    within, winner = abs(ahead) < 0.05, (moe if ahead > 0 else dense).label
    assert f"{winner} is ahead by {abs(ahead):.3f} nats" in words and "± 0.050" in words
    assert ("too close to call: " in words) == within
    assert ("beyond the ± 0.050 of luck alone" in words) != within
    *_, tip = things(race([dense, moe], "step", luck=luck), "gap")[1:]
    assert tip.startswith("4 steps: ") and tip.endswith(", within luck alone (± 0.900)")
    assert ("So far" in words) == running and ("At 12 steps" in words) != running


@pytest.mark.parametrize("luck", [[], [(600.0, 0.05)]])
def test_where_luck_is_not_known_no_verdict_stands(luck):
    words = race(pair(), "step", luck=luck).summary
    assert (
        "MoE is ahead by 0.250 nats per token; how far luck alone goes here is not known" in words
    )
    assert "beyond" not in words and "too close" not in words


def test_the_band_of_luck_is_drawn_where_it_is_known():
    """Over a whole race, or over the last pixels where only the end is known; never past the plot,
    which early luck does not fit into."""
    areas = [p for p in marks(race(pair(), "step"), "polygon") if "opacity" in p.get("style")]
    for luck, width in (([(25.0, 9.0), (300.0, 0.1), (600.0, 0.05)], 575), ([(600.0, 0.05)], 18)):
        picture = race(pair(), "step", luck=luck)
        band, *others = [p for p in marks(picture, "polygon") if "opacity" in p.get("style")]
        assert len(others) == len(areas)
        x, y = corners(band).T
        wanted = (ENDS[1] - ENDS[0]) * width / 600
        assert np.ptp(x) == pytest.approx(wanted, abs=1) and x.max() == pytest.approx(ENDS[1])
        assert GAP[1] <= y.min() < y.max() <= GAP[0]
        at_end = y[np.isclose(x, ENDS[1])]
        assert np.ptp(at_end) < np.ptp(y) or width == 18


def test_of_a_learner_that_has_not_begun_nothing_is_told():
    """A panel shows the start of another setting's recording, whose sizes may be others."""
    picture = race(
        [learner("dense", 40).at("step", 0), learner("MoE", 40, 8).at("step", 0)], "step"
    )
    shown = " ".join(texts(picture))
    assert "no step has been trained yet" in shown and "MoE: not trained yet" in shown
    assert "2.00 M" not in shown and {*picture.rows[1][2:]} == {""}


def test_the_race_is_drawn_on_the_axis_it_names_up_to_the_finish():
    far = {}
    for axis, (label, _) in AXES.items():
        picture = race(pair(), axis)
        assert {label, "finish"} <= {*texts(picture)}
        far[axis] = [corners(line)[-1, 0] for line in marks(picture, "polyline")[1:]]
    # At equal steps both are as far; in seconds the slower one is further.
    at = ENDS[0] + (ENDS[1] - ENDS[0]) * 12 / 600
    assert far["step"] == far["flops"] == pytest.approx([at, at], abs=0.1)
    assert far["seconds"] == pytest.approx([ENDS[0] + (at - ENDS[0]) * 0.5 / 0.75, at], abs=0.1)


def test_the_gap_is_dense_minus_moe_where_both_were_measured():
    dense, moe = learners = pair()
    assert gaps(learners, "step") == pytest.approx([(s, 0.25) for s in (4.0, 8.0, 12.0)])
    # In seconds dense ends at 6 and MoE at 9, and neither is known before its first measurement.
    places = [place for place, _ in gaps(learners, "seconds")]
    assert places == [3.0, 4.0, 6.0]
    for place, ahead in gaps(learners, "seconds"):
        losses = [validation_at(one.curve, "seconds", place) for one in (dense, moe)]
        assert ahead == pytest.approx(losses[0] - losses[1])
    third = race([*learners, learner("dense, all parameters", 12)], "step")
    assert third.summary == race(learners, "step").summary and len(third.rows) == 3
    assert len(marks(third, "polyline")) == 4


def test_the_area_of_the_gap_has_the_colour_of_who_is_ahead():
    for ahead, colour in ((0.25, "#d55e00"), (-0.25, "#0072b2")):
        dense, moe = pair()
        moe = replace(moe, curve=replace(moe.curve, validation=dense.curve.validation - ahead))
        picture = race([dense, moe], "step")
        areas = [p for p in marks(picture, "polygon") if "opacity" in p.get("style")]
        assert len(areas) == 2 and all(colour in area.get("style") for area in areas)
        assert f"{ahead:+.3f}" in texts(picture)
        (zero,) = {y for area in areas for _, y in corners(area)[2:]}
        assert GAP[1] < zero < GAP[0]


def test_the_smoothed_line_does_not_lag_where_the_loss_falls_steeply():
    falling = 9 * np.exp(-np.arange(60) / 6)
    assert np.abs(smooth(falling, 9) - falling).max() < 0.7


def test_each_recorded_setting_has_its_verdict_on_the_side_of_who_is_ahead():
    picture = CASES["race among settings"]()
    assert [sets["experts"] for _, sets in presses(picture)] == ["4", "8", "16"]
    told = "Over the seeds of each E and K, MoE wins 1 of 3, dense 1; the rest is open."
    assert told in picture.summary
    listed = {m.get("aria-label"): m for m in parse(picture).iter() if m.get("data-press")}
    upright = [m for m in marks(picture, "line", "stroke-width:1.5") if m.get("x1") == m.get("x2")]
    zero = float(max(upright, key=lambda m: float(m.get("y1")) - float(m.get("y2"))).get("x1"))
    for (tip, row), (side, words) in zip(
        listed.items(),
        [
            (-1, "dense ends ahead"),
            (1, "MoE ends ahead"),
            (0, "which of the two ends ahead is open"),
        ],
        strict=True,
    ):
        assert words in tip and "95 % interval" in tip
        ticks = [float(m.get("x1")) - zero for m in row.findall(SVG + "line")]
        assert len(ticks) == 3 and {np.sign(tick) * side for tick in ticks} in ({1.0}, {0.0})


def test_settings_are_told_by_verdict_each_once():
    first, *lines = by_verdict(recorded_json("race_settings"))
    rows = recorded_json("race_settings")["MoE"]
    assert first == f"over {len(rows[0]['ahead']['values'])} seeds"
    told = {"higher": "MoE ends ahead in", "lower": "dense ends ahead in", "open": "open in"}
    for row in rows:
        (line,) = (at for at in lines if f"E = {row['experts']}, K = {row['top_k']} (" in at)
        count = sum(other["ahead"]["verdict"] == row["ahead"]["verdict"] for other in rows)
        assert line.startswith(f"{told[row['ahead']['verdict']]} {count} of {len(rows)}: ")
        assert f"({row['ahead']['mean']:+.3f})" in line


def test_the_heat_of_a_race_is_its_load():
    moe = learner("MoE", 60, 8)
    image, *_ = marks(race([learner("dense", 60), moe], "step"), "image")
    data = base64.b64decode(image.get("href").split(",", 1)[1])
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (8, 60, 3)
    # Three times an even share is the top of the scale; the last column is the last point.
    wanted = [heat_colour(round(min(v * 8 / 3, 1) * 255) / 255) for v in moe.curve.load[-1, -1]]
    assert ["#" + bytes(pixel).hex() for pixel in pixels[:, 59]] == wanted


@pytest.mark.parametrize(
    ("seconds", "last"),
    [
        (2.0, "So the MoE model saves compute alone."),
        (1.0, "Both say that the MoE model is the cheaper one."),
    ],
)
def test_both_multipliers_stand_side_by_side(seconds, last):
    recorded = made_race(seconds=seconds)
    picture = race_seeds(recorded)
    numbers_shown = [t for t in texts(picture) if t.endswith("×")]
    assert len(numbers_shown) == 2 and last in picture.summary
    times = [recorded["multipliers"][kind]["mean"] for kind in ("compute", "time")]
    assert numbers_shown == [f"{value:.2f}×" for value in times]
    multipliers = recorded["multipliers"]
    wide = {**multipliers["compute"], "values": [0.5, 1.0, 1.7]}
    told = race_seeds(recorded | {"multipliers": multipliers | {"compute": wide}}).summary
    assert "is the cheaper one; in compute that is open." in told
    both = {"compute": wide, "time": wide}
    assert (
        "Which of them is the cheaper one is open."
        in race_seeds(recorded | {"multipliers": multipliers | both}).summary
    )
    unknown = recorded | {"multipliers": {"why": "the dense twin was below 3.000 when measured"}}
    assert "There is no multiplier: the dense twin was below" in race_seeds(unknown).summary


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(("ahead", "word"), [(0.25, "above"), (-0.25, "below"), (0.0, "open")])
def test_the_words_of_the_seeds(ahead, word, seeds):
    picture = race_seeds(made_race(seeds, ahead=ahead))
    first = sentences(picture.summary)[0]
    assert (word if seeds > 1 else "only one seed") in first
    assert picture.rows[0][2] == f"{ahead:+.3f}" and len(picture.rows[0]) == 2 + seeds
    assert [row[0] for row in picture.rows[3:5]] == [
        "dense, all parameters, minus dense", "dense, all parameters, minus MoE",
    ]  # fmt: skip
    for sentence in sentences(picture.summary):
        assert len(numbers(sentence)) <= 3, sentence


# A collapse.


def test_the_sentence_is_of_the_last_steps():
    now = standing(RUN, 1)
    load_E = RUN.curve.load[-6:, 1].mean(0)
    assert now.busiest == 3 and now.largest == pytest.approx(load_E[3])
    assert now.dead == 15 and now.max_violation == pytest.approx(16 * load_E[3] - 1)
    assert now.floor == noise_floor(6 * 1024, 16, 1)
    early = standing(RUN.at("step", 5), 1)
    assert early.floor == noise_floor(5 * 1024, 16, 1) and early.dead == 0
    assert describe(RUN, 1).startswith(
        "nothing <&>, layer 1, step 300 of 300. Over the last 6 steps expert 3 takes 98 % of the "
        "tokens. 15 of 16 experts get less than a tenth"
    )


@pytest.mark.parametrize("step", [300, 60, 1, 0])
def test_the_dense_twin_stands_in_the_loss_and_no_sentence_has_more_than_three_figures(step):
    picture = collapse(RUN.at("step", step), 1, before=RUN, twin=TWIN)
    assert {"this run", "before", "dense twin"} <= {*texts(picture)}, "at the ends of the losses"
    assert "dense twin, recorded" in texts(picture)
    drawn = [g.findtext("{*}title") for g in things_of(picture, "dense_twin,_recorded")]
    assert "dense twin, recorded, 300 steps: validation loss 2.017" in drawn
    told = sentences(picture.summary)
    assert all(len(numbers(sentence)) <= 3 for sentence in told)
    beside = {row[1]: row[-1] for row in picture.rows if row[0] == RUN.label}
    if step < 25:
        assert "twin" not in picture.summary and not any(beside.values())
        return
    if step == 60:  # so early that the others' late losses lie far below
        assert f"{RUN.label}, 25 steps: validation loss 2.325" in tips(picture)
    last = 25 * (step // 25)
    wanted = f"At step {last} its validation loss lies 0.125 nats per token above that of the"
    assert told[-1].startswith(wanted) and beside[last] == f"{2 + 5 / last:.3f}"
    assert all(row[-1] == "" for row in picture.rows if row[0] != RUN.label)
    assert "dense" not in collapse(RUN, 1).svg


def bands(picture):
    """The plain areas of the ribbon: one an expert."""
    return [corners(p) for p in marks(picture, "polygon") if "url" not in p.get("style")]


def test_a_recording_with_fewer_points_says_and_draws_the_same():
    """Recorded curves hold means of three steps."""
    columns = {}
    for name, points in vars(RUN.curve).items():
        threes = points.reshape(100, 3, *points.shape[1:])
        at_end = name in ("step", "seconds", "flops", "validation")
        columns[name] = threes[:, -1] if at_end else threes.mean(1)
    small = replace(RUN, curve=replace(RUN.curve, **columns))
    assert describe(small, 1) == describe(RUN, 1)
    of_all, of_means = (bands(collapse(run, 1))[:4] for run in (RUN, small))
    np.testing.assert_allclose(of_all, of_means, atol=0.02)


def test_the_bands_fill_the_ribbon_and_are_hatched_from_the_eighth_on():
    picture = collapse(RUN, 0)
    assert len(marks(picture, "polygon", "url(#mv-hatch-")) == 8 and marks(picture, "pattern")
    assert marks(collapse(RUN, 1), "pattern"), "only expert 3 is left, but the others have been"
    upper, lower = np.split(np.array(bands(picture)), 2, axis=1)
    np.testing.assert_allclose(upper[..., 0], lower[:, ::-1, 0])
    np.testing.assert_allclose(
        (lower[:, ::-1] - upper).sum(0)[:, 1], RIBBON[0] - RIBBON[1], atol=0.2
    )


def test_the_level_of_chance_is_drawn_for_the_tokens_of_one_point():
    shown = texts(collapse(RUN, 1))
    assert f"about {noise_floor(6 * 1024, 16, 1):.2f}" in shown
    assert "MaxVio of 6 steps: 0 is even (square-root axis)" in shown
    shown = " ".join(texts(CASES["collapse of a long run"]()))
    assert "MaxVio of 40 steps: 0 is even" in shown
    # Only the dead of this layer and of the past are marked.
    shown = texts(CASES["collapse beside another"]())
    assert [t for t in shown if t.startswith("✕")] == ["✕ expert 3"]


def test_the_table_has_the_validations_and_the_end_and_a_hash_has_no_entropy():
    picture = collapse(make_run(points=110), 1)
    assert [row[1] for row in picture.rows] == [25, 50, 75, 100, 110]
    assert picture.rows[-1][2:4] == (3, "98 %") and picture.rows[-1][-2:] == ("", "")
    picture = CASES["collapse of a hash"]()
    assert "a hash has no gate" in texts(picture)
    at = picture.columns.index("gate entropy")
    assert all((row[0] == "hash") == (row[at] == "") for row in picture.rows)


def test_every_band_is_its_expert_and_only_a_panel_lets_one_choose():
    still, picture = collapse(RUN, 0), collapse(RUN, 0, victim=3)
    assert "data-press" not in still.svg
    for e in range(16):
        band, tip = things(picture, f"e{e}")
        share = RUN.curve.load[-6:, 0].mean(0)[e] / RUN.curve.load[-6:, 0].mean(0).sum()
        assert (
            tip == f"expert {e}: {100 * share:.1f} % of the tokens" and band == f"{tip} at step 300"
        )
    pressed = {m.get("data-press") for m in parse(picture).iter() if m.get("data-press")}
    assert pressed == {"layer=0", "layer=1", *(f"victim={e}" for e in range(16))}
    assert len(marks(picture, "polyline")) == len(marks(still, "polyline")) + 1, "one is framed"


def test_an_expert_without_a_token_can_be_chosen_too():
    """Of layer 1 nearly all bands are gone."""
    picture = collapse(RUN, 1, victim=9)
    *_, chip = things_of(picture, "e9")
    assert chip.get("data-press") == "victim=9"
    assert float(chip.find(SVG + "rect").get("width")) >= 24
    words = "Expert 9 is selected: ✕ Kill the selected takes it away while it trains here."
    assert words in texts(picture)


@pytest.mark.parametrize("step", [150, 152, 300])
def test_the_curve_ends_at_the_maxvio_that_the_sentence_tells(step):
    run = RUN.at("step", step)
    picture, now = collapse(run, 1), standing(run, 1)
    told = [tip for tip in tips(picture) if ": MaxVio" in tip and tip.startswith("step")]
    assert told[-1].endswith(f"MaxVio {now.max_violation:.2f}")
    assert f"layer 1: MaxVio {now.max_violation:.1f}" in texts(picture)
    took = f"1 of 16 experts takes {now.largest * 100:.0f} % of the tokens"
    assert texts(picture)[0] == f"Step {step} of 300: {took}"
    words = "15 of 16 experts hardly get a token: 94 % of the experts' weights."
    assert texts(picture)[1] == words, "dead is below a tenth of a share, and not without a token"
    assert texts(collapse(run, 0))[1].startswith("Every expert gets at least a tenth"), "there"


def test_a_hand_reads_both_runs_at_a_step():
    picture = CASES["collapse beside another"]()
    values = [tip for tip in tips(picture) if tip.startswith("step 114: MaxVio")]
    assert values == ["step 114: MaxVio 14.61 and 14.61, dashed"]
    late = [tip for tip in tips(picture) if tip.startswith("step 294: ")]
    assert len(late) == 3 and all(tip.endswith(", dashed") and "and" not in tip for tip in late)


def test_a_long_name_has_lines_enough_and_the_plots_stay_where_they_are():
    name = " + ".join(["balancing loss 0.1 per sequence", *["z-loss 0.001"] * 3])
    long, short = (collapse(make_run(label), 1, before=RUN) for label in (name, "short"))
    legend = [t.text for t in parse(long)[1].iter(SVG + "text") if float(t.get("y")) >= LEGEND]
    assert " ".join(legend[:3]) == f"{name}: step 300 of 300" and len(legend) == 4
    tops = [min(corners(p)[:, 1].min() for p in marks(one, "polygon")) for one in (long, short)]
    assert tops[0] == tops[1]


# Trainings on a GPU.


@pytest.mark.parametrize(
    ("gap", "wide", "words"),
    [
        (-0.1, 0.02, "MoE ended 0.100 nats per token below dense (95 % interval -0.120 to -0.080,"),
        (0.1, 0.02, "MoE ended 0.100 nats per token above dense (95 % interval +0.080 to +0.120,"),
        (-0.1, 0.11, "A difference between MoE and dense is not shown (95 % interval -0.210 to"),
    ],
)
def test_a_difference_within_its_interval_is_told_as_not_shown(gap, wide, words):
    picture = at_scale("gpu_race", make_gpu_run(gap=gap, wide=wide))
    assert ("for the loss of MoE was not measured" in picture.summary) == (gap < 0)
    assert words in picture.summary and ("is not shown" in picture.summary) == (wide > 0.1)
    assert "MoE read 0.50 times the tokens of dense per second." in picture.summary
    moe = dict(zip(picture.columns, picture.rows[1], strict=True))
    assert moe["minus the first arm's"] == f"{gap:+.3f} ± {wide:.3f}"
    assert (moe["experts in effect"], moe["dead experts"]) == ("6.0 of 16", "2.0")
    assert dict(zip(picture.columns, picture.rows[0], strict=True))["experts in effect"] == ""


def test_one_seed_shows_no_difference_of_loss():
    picture = at_scale("gpu_collapse", make_gpu_run(["nothing", "sign bias", "dense"], seeds=1))
    assert "With one seed no difference of loss is shown" in picture.summary
    assert (
        "Under sign bias at most 2 of 16 experts of a layer are dead, and at least 6.0"
        in picture.summary
    )
    assert "No arm collapsed in this time" in picture.summary
    lost = make_gpu_run(["nothing", "sign bias"], seeds=1)
    lost["arms"]["nothing"]["collapsed"] = {"mean": 1.0}
    assert "No arm collapsed" not in at_scale("gpu_collapse", lost).summary


@pytest.mark.parametrize(
    ("slope", "words"),
    [
        (
            {"mean": -0.05, "interval": 0.01},
            "Each doubling of E lowers the held-out loss by 0.050",
        ),
        ({"mean": 0.05, "interval": 0.01}, "Each doubling of E raises the held-out loss by 0.050"),
        ({"mean": -0.05, "interval": 0.06}, "An effect of more experts on the loss is not shown "),
        (None, "Too few sizes were trained to tell"),
    ],
)
def test_the_slope_over_experts_is_told_with_its_interval(slope, words):
    recorded = make_gpu_run(["dense", "E = 8", "E = 16", "E = 32"], seeds=1)
    picture = at_scale("gpu_experts", recorded | ({"loss_per_doubling": slope} if slope else {}))
    assert words in picture.summary
    assert "E = 8 read 0.50 times the tokens of dense per second." in picture.summary
    assert "E = 32 read 0.25 times the tokens of dense per second." in picture.summary


def test_every_run_of_a_gpu_is_a_line_that_ends_at_its_last_token():
    picture = at_scale("gpu_race", make_gpu_run(seeds=2))
    ends = [corners(line)[-1, 0] for line in marks(picture, "polyline")]
    assert sorted(ends) == [RIGHT[1]] * 2 + [LEFT[1]] * 4


def test_a_notebook_shows_a_gpus_run_or_says_that_there_is_none(tmp_path, monkeypatch, capsys):
    def missing(*parts):
        raise FileNotFoundError(*parts)

    monkeypatch.setattr("moeviz.host.data_path", missing)
    nb.show_gpu_run("gpu_collapse")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Not recorded yet: ") and "experiment gpu_collapse --seconds" in line
    path = tmp_path / "gpu_race.json"
    path.write_text(json.dumps(make_gpu_run()))
    monkeypatch.setattr("moeviz.host.data_path", lambda *parts: tmp_path / parts[-1])
    nb.show_gpu_run("gpu_race")
    assert at_scale("gpu_race", make_gpu_run()).summary in capsys.readouterr().out
