"""The pictures and sentences of `experiment frontier`, on made-up recordings."""

import math
import re

import numpy as np
import pytest
from scipy.stats import linregress

from helpers.pictures import parse, texts
from helpers.recorded_frontier import made_frontier
from moeviz.costs.laws.published import LAWS
from moeviz.experiments.frontier import arms
from moeviz.experiments.recording import small_model
from moeviz.host import read_figures
from moeviz.model import LanguageModel
from moeviz.pictures.training import frontier_read as read
from moeviz.pictures.training import frontier_told as told
from moeviz.pictures.training import powers_of_experts as powers
from moeviz.pictures.training.frontier import frontier
from moeviz.pictures.training.shares_of_quality import shares_of_quality
from moeviz.records.compare import compare, half_interval
from moeviz.training.config import TrainConfig

LEAST, HASHED, WIDEST = "learned, 256 experts", "hash, 256 experts", "dense, width 2048"


@pytest.mark.parametrize(
    ("fall", "words"),
    [(0.03, "falls in 3 of 3 steps to four times the experts and rises in 0."),
     (-0.03, "falls in 0 of 3 steps to four times the experts and rises in 3."),
     (0.0, "none of 3 single steps to four times the experts is shown to change the loss.")],
)  # fmt: skip
def test_what_more_experts_change_follows_the_verdicts(fall, words):
    recorded = made_frontier(fall=fall)
    for kind in (told.LEARNED, told.HASH):
        assert words in told.told_grown(recorded, kind)


@pytest.mark.parametrize(
    ("hashed", "words"),
    [(0.05, "lower loss with 0 of 4 numbers of experts, and hash with 4."),
     (-0.05, "lower loss with 4 of 4 numbers of experts, and hash with 0."),
     (0.0, "told apart with none of 4 numbers of experts.")],
)  # fmt: skip
def test_who_chooses_better_follows_the_verdicts(hashed, words):
    assert words in told.told_choosers(made_frontier(hashed=hashed))


def test_an_arm_is_told_beside_the_twin_and_by_the_dense_width_that_is_as_good():
    recorded = made_frontier(fall=0.025, noise=0.001)
    words = told.told_arm(recorded, LEAST)
    assert re.match(r"A learned router over 256 experts: \d\.\d{3} nats per token, below", words)
    # 0.1 lower than the twin, which a doubling of the width is worth.
    width = read.dense_width(recorded, LEAST)
    assert width.value == pytest.approx(512, rel=0.02) and width.low <= 512 <= width.high
    assert told.told_arm(recorded, told.TWIN).startswith("The dense model of width 256: ")
    assert "the widest recorded" in told.told_arm(made_frontier(fall=0.5), LEAST)
    assert "the narrowest recorded" in told.told_arm(made_frontier(fall=-0.5), LEAST)


def test_equal_spending_is_read_off_between_two_dense_models_and_never_beyond():
    recorded = made_frontier(hashed=0.05)
    assert "A token meets 3.1 % of its parameters, and 0.8 %" in told.told_axis(
        recorded, LEAST, "share"
    )
    same = told.told_axis(recorded, LEAST, "flops")
    own, twin = (read.losses(recorded, name) for name in (LEAST, told.TWIN))
    assert f"its loss is {compare(own, twin).mean:+.3f} nats per token (" in same
    beyond = told.told_axis(recorded, LEAST, "parameters")
    wide = recorded["arms"][LEAST]["parameters"] / recorded["arms"][WIDEST]["parameters"]
    assert f"It takes {wide:.3g} times the parameters of the widest dense model" in beyond
    assert "Beside that one its loss is +0." in beyond
    assert "not recorded yet" in told.told_axis(made_frontier(timed=False), LEAST, "seconds")
    assert told.told_axis(recorded, WIDEST, "seconds") == ""
    # 2 of 4 experts cost in time what a dense model does that is a little wider than they are met.
    assert "read off between two" in told.told_axis(recorded, "learned, 4 experts", "seconds")
    open_words = told.told_axis(made_frontier(fall=0.0), LEAST, "flops")
    assert open_words.endswith("), which is open.")


@pytest.mark.parametrize("axis", read.AXES)
@pytest.mark.parametrize("arm", [LEAST, HASHED, told.TWIN, WIDEST])
def test_every_arm_stands_at_its_place_and_can_be_pressed(axis, arm):
    recorded = made_frontier()
    picture = frontier(recorded, axis=axis, arm=arm)
    marks = parse(picture)[0].findall(".//*[@data-press]")
    pressed = [mark.get("data-press") for mark in marks]
    assert len(pressed) == len(recorded["arms"]) == len(picture.rows)
    assert texts(picture)[0].startswith("How far does the loss fall")
    assert told.told_arm(recorded, arm).split(" (")[0] in " ".join(texts(picture)[1:9])
    assert {len(row) for row in picture.rows} == {len(picture.columns)}


def test_what_is_not_there_is_refused_or_left_out():
    recorded = made_frontier(missing=("hash, 64 experts",), timed=False)
    assert len(frontier(recorded, axis="seconds", arm=LEAST).rows) == 12
    for options in ({"axis": "joules", "arm": LEAST}, {"axis": "share", "arm": "base"}):
        with pytest.raises(ValueError, match="must be one of"):
            frontier(recorded, **options)
    assert "of 3 numbers of experts" in told.told_choosers(recorded)
    one = frontier(made_frontier(seeds=1), axis="share", arm=LEAST)
    assert "not told apart from" in one.summary


def test_the_shares_disagree_and_are_counted():
    recorded = made_frontier()
    picture = shares_of_quality(recorded, beside=WIDEST, arm=LEAST, claimed=0.9)
    row = next(row for row in picture.rows if row[0] == LEAST)
    shares = [float(cell.split()[0]) for cell in row[3:]]
    assert f"{sum(share >= 90 for share in shares)} of 4 ways say 90.0 % or more" in picture.summary
    assert max(shares) - min(shares) > 5
    gap = compare(*(recorded["arms"][arm]["loss"]["values"] for arm in (LEAST, WIDEST)))
    ends = [f"{100 * math.exp(-nats):.1f} %" for nats in (gap.high, gap.low)]
    assert (
        f"{gap.low:+.3f} to {gap.high:+.3f}. That is a share of {' to '.join(ends)} by"
        in picture.summary
    )
    alone = shares_of_quality(made_frontier(seeds=1), beside=WIDEST, arm=LEAST)
    assert "One seed does not tell" in alone.summary and "nan" not in alone.summary
    better = shares_of_quality(recorded, beside="dense, width 128", arm=LEAST)
    assert "4 of 4 ways" in better.summary
    for options in ({"beside": LEAST, "arm": LEAST}, {"beside": WIDEST, "arm": WIDEST}):
        with pytest.raises(ValueError, match="must be one of"):
            shares_of_quality(recorded, **options)


@pytest.mark.parametrize(
    ("fall", "words"),
    [(0.06, "More experts lower it with a learned router and lower it with hash."),
     (-0.06, "More experts raise it with a learned router and raise it with hash."),
     (0.0, "More experts are not shown to change it with a learned router and")],
)  # fmt: skip
def test_what_experts_bring_where_width_does_follows_the_fits(fall, words):
    recorded = made_frontier(fall=fall, noise=0.001)
    assert words in told.told_use(recorded)
    for name, arm in recorded["arms"].items():
        if name.startswith("dense"):
            arm["loss"]["values"] = recorded["arms"][told.TWIN]["loss"]["values"]
    assert told.told_use(recorded) == ""


def test_the_constants_are_those_of_the_models():
    model = LanguageModel(small_model(arms()[LEAST].experts, d_ff=256))
    assert model.config.vocab_size == powers.VOCABULARY
    assert TrainConfig().batch_size * TrainConfig().seq_len == read.TOKENS_A_STEP


def test_powers_by_hand_and_what_is_told_of_them():
    recorded, gpu = made_frontier(fall=0.025, noise=0.0), read_figures("gpu_experts")
    first, last = (3.1 - 0.025 * math.log(n, 4) for n in (4, 256))
    learned, hashed = powers.small_powers(recorded)
    assert learned.what == "small models, a learned router, 1,200 steps"
    assert learned.of == pytest.approx(math.log(last / first) / math.log(64), rel=0.02)
    assert learned.low <= learned.of <= learned.high and hashed.tokens == 1200 * 1024
    large = powers.gpu_power(gpu)
    sizes = [arm["experts"] for arm in gpu["arms"].values() if "experts" in arm]
    losses = [a["validation_loss"]["mean"] for a in gpu["arms"].values() if "experts" in a]
    line = linregress(np.log(sizes), np.log(losses))
    reach = half_interval(line.stderr, len(sizes) - 2)
    assert large[1:4] == pytest.approx((line.slope, line.slope - reach, line.slope + reach))
    finding, rest = powers.told_powers(recorded, made_frontier(fall=-0.03), gpu)
    assert finding.startswith(f"The loss falls with E^{large.of:+.4f} on a GPU, from 8 to 128")
    assert f"The loss falls with E^{learned.of:+.4f} in the small models" in finding
    laws = powers.law_powers(gpu)
    assert {law.what for law in laws} < {*LAWS} and all(law.beyond for law in laws)
    assert "none of them was fitted on runs like these" in rest
    assert "below zero in 2 (a learned router, 1,200 steps; hash, 1,200 steps) of 4 fits" in rest
    flat = made_frontier(fall=0.0)
    finding, rest = powers.told_powers(flat, flat, gpu)
    assert "No power of E is shown" in finding
    assert "below zero in none of 4 fits, and above zero in none." in rest


def test_of_dense_widths_that_are_alike_none_is_read_off():
    flat = made_frontier()
    same = flat["arms"][told.TWIN]["loss"]["values"]
    for width in ("128", "512", "1024", "2048"):
        flat["gaps"][f"dense, width {width} minus {told.TWIN}"]["verdict"] = "open"
        turn = int(width) % 5 - 2
        own = [loss + 0.01 * ((n + turn) % 5 - 2) for n, loss in enumerate(same)]
        flat["arms"][f"dense, width {width}"]["loss"]["values"] = own
    assert read.dense_width(flat, LEAST) is None
    assert "no dense width of equal loss can be read off" in told.told_dense(flat)
    assert "that of a dense width" not in frontier(flat, axis="share", arm=LEAST).summary
    assert "likely limit" not in told.told_dense(made_frontier())


def test_the_change_with_each_doubling_is_that_of_the_losses():
    # The dense losses fall by 0.1 of some 3.1 with each doubling, hash's by half of `fall`.
    recorded = made_frontier(fall=0.06, noise=0.001)
    words = told.told_trend(recorded, told.DENSE)
    assert words.startswith("Over dense models the loss falls with the width: -3.")
    hashed = [told.told_trend(made_frontier(fall=f), told.HASH) for f in (0.06, -0.06, 0.0)]
    assert [w.split(" the loss ")[1].split(" with ")[0] for w in hashed] == [
        "falls", "rises", "is not shown to change",
    ]  # fmt: skip
    change = float(re.search(r": (-[\d.]+) % with", hashed[0])[1])
    assert change == pytest.approx(100 * -0.03 / 3.0, abs=0.1)
    assert "(one seed)" in told.told_trend(made_frontier(seeds=1), told.HASH)


def test_the_finding_tells_what_each_doubling_changes_in_figures_and_by_the_verdict():
    for fall, words in ((0.06, "falls by "), (-0.06, "rises by "), (0.0, "is not shown to change")):
        recorded = made_frontier(fall=fall, noise=0.001)
        of_hash = told.told_changes(recorded).split(" and ")[1].split(" with hash. ")[0]
        assert of_hash.startswith(words)
        change = re.search(r": ([-+][\d.]+) % with", told.told_trend(recorded, told.HASH))[1]
        assert change.lstrip("-" if fall > 0 else "+" if fall < 0 else "") in of_hash
        assert " ".join(texts(frontier(recorded, axis="share", arm=LEAST))[1:4]).startswith(
            told.told_changes(recorded)
        )


def test_a_fall_over_all_widths_is_enough_to_read_a_width_off():
    recorded = made_frontier()
    for width in ("128", "512", "1024", "2048"):
        recorded["gaps"][f"dense, width {width} minus {told.TWIN}"]["verdict"] = "open"
    assert not read.is_flat(recorded)
    for name, arm in read.of_kind(recorded, told.DENSE).items():
        arm["loss"]["values"] = recorded["arms"][told.TWIN]["loss"]["values"][:]
        arm["loss"]["values"][0] += 0.001 * len(name)
    assert read.is_flat(recorded)


def test_edges_of_grids_are_told_until_a_wider_one_finds_the_same_rate():
    recorded, short = made_frontier(), made_frontier()
    assert told.told_edges(recorded) == ""
    for name in (LEAST, HASHED):
        recorded["rates"][name]["at_edge"] = True
    short["rates"][HASHED]["chosen"] = 0.004
    assert told.told_edges(recorded).startswith(f"For {LEAST} and {HASHED} the best learning")
    settled = read.settled(recorded, short)
    assert told.told_edges(settled).startswith(f"For {HASHED} the best learning rate lies at")
    assert settled["arms"] is recorded["arms"]


def test_the_change_of_each_kind_of_text_is_that_of_the_means():
    recorded = made_frontier()
    recorded["arms"]["hash, 4 experts"]["domain_loss"] = [1.0] * 6
    recorded["arms"][HASHED]["domain_loss"] = [1.0, 0.9, 1.0, 1.0, 1.2, 1.0]
    words = told.told_domains(recorded, told.HASH)
    assert "changes by -0.100 in english" in words and "and +0.200 in hex: means" in words


def test_a_floor_is_told_where_the_sizes_carry_it():
    gpu = read_figures("gpu_experts")
    assert "goes from none to" in powers.told_floor(gpu)
    for arm in gpu["arms"].values():
        if "experts" in arm:
            loss = 3.0 + 2 * arm["experts"] ** -0.5
            arm["validation_loss"] = {"mean": loss, "values": [loss + 1e-5 * (arm["experts"] % 3)]}
    assert "give L = 3.000 nats per token (" in powers.told_floor(gpu)
    assert powers.told_floor(gpu).endswith("Its b is 0.50.")
