"""The pictures of 05_capacity: pure, readable, with a twin of the same content; and their words."""

import copy
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from helpers.picture_cases import NASTY, figure
from helpers.picture_cases import capacity_runs as recording
from helpers.picture_cases import placed_batch as live
from helpers.picture_cases import slots_by_hand as by_hand
from helpers.pictures import SVG, parse
from helpers.pictures import texts as texts_of
from moeviz.experiments.slots import drops_by_place, placed, synthetic, visit_chances
from moeviz.host import data_path
from moeviz.pictures.routing.capacity import changed
from moeviz.pictures.routing.limits import difference, effects, leak, limits, seen, spread
from moeviz.pictures.routing.slots import (
    FACTORS,
    drop_share,
    expected_drop,
    slots,
    trade_off,
    waste_share,
)
from moeviz.records.metrics import expected_drop_rate
from moeviz.routing import Capacity


def texts(picture):
    return texts_of(parse(picture))


def test_the_twin_of_the_slots():
    picture = slots(by_hand(leaks=np.arange(8) == 2, causal=False))
    rows = {row[0]: row[2:] for row in picture.rows}
    assert rows[0] == ("0 1", "expert 0 slot 0, expert 1 slot 0", "", "")
    assert rows[2][3] == "yes"
    assert rows[6] == ("0 1", "expert 0 slot 6", "1", "")
    assert rows[7] == ("1 0", "none", "1 0", "")
    assert "3 of 16 assignments are dropped, 18.8%" in picture.summary
    assert "1 token gets no expert at all, the first is number 7" in picture.summary
    assert "looks into the future: the slots of at least 1 of 8 tokens" in picture.summary


def test_fully_and_partly_dropped_tokens_are_told_apart():
    root = ElementTree.fromstring(slots(by_hand()).svg)
    tips = {t.text for t in root.iter(SVG + "title")}
    assert any(tip.endswith(": 0 ×1 (struck)") for tip in tips)
    assert any(tip.endswith(": ×1 ×0 (no expert)") for tip in tips)
    assert sum(tip.endswith("(placed)") for tip in tips) == 6
    strip = [ln for ln in root.iter(SVG + "line") if float(ln.get("y1")) > 300]
    assert len(strip) == 3  # one stroke for token 6, two for token 7
    assert {"0 ×1", "×1 ×0"} <= set(texts(slots(by_hand())))


@pytest.mark.parametrize("pool", ["batch", "sequence"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_drawn_slots_are_those_of_the_plan(pool, top_k):
    decision = live(40, top_k, pool=pool)
    tips = [t.text for t in ElementTree.fromstring(slots(decision).svg).iter(SVG + "title")]
    placed_rows = [re.search(r"slot (\d+) of expert (\d)", tip) for tip in tips]
    found = np.bincount([int(m[2]) for m in placed_rows if m], minlength=8)
    np.testing.assert_array_equal(found, decision.load)
    gone = np.bincount([int(tip[-1]) for tip in tips if "no slot with" in tip], minlength=8)
    np.testing.assert_array_equal(gone, decision.demand - decision.load)
    empty = sum(int(tip.split()[2]) for tip in tips if tip.endswith("empty"))
    parts = 4 if pool == "sequence" else 1
    assert empty == 8 * parts * decision.places - decision.load.sum()
    assert waste_share(decision) == pytest.approx(empty / (8 * parts * decision.places))


def test_an_experts_row_stands_in_the_order_of_placement():
    decision = live(40, priority="probability")
    place = {(e, t): i for i, (e, t, _) in enumerate(decision.meta["placed"])}
    for e in range(8):
        taken = sorted((place[e, t], t) for t in np.flatnonzero(decision.visits[:, e]))
        weights = [decision.score[t, e] for _, t in taken]
        assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize(("top_k", "pool"), [(1, "batch"), (2, "batch"), (1, "sequence")])
def test_the_closed_form_is_the_mean_over_batches(top_k, pool):
    found = []
    for seed in range(60):
        tokens = synthetic(64, skew=1.0, seed=seed)
        visits = visit_chances(1.0, top_k)
        decision = placed(tokens, top_k=top_k, capacity=Capacity(1.0, pool=pool), visits=visits)
        found.append(drop_share(decision))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - expected_drop(decision)) < 4 * error


def test_the_curves_cross_the_marks_and_fall():
    visits = tuple(visit_chances(1.0, 1))
    curve = np.array(trade_off(visits, 64, 1, 1))
    assert (np.diff(curve[:, 0]) <= 1e-12).all() and (np.diff(curve[:, 1]) >= -1e-12).all()
    here = curve[FACTORS.index(1.25)]
    assert here[0] == pytest.approx(expected_drop_rate(visits, 64, 10))
    assert here[1] == pytest.approx(1 - 64 * (1 - here[0]) / 80)


def test_priority_says_who_and_not_how_many():
    """What the notebook says of drops_by_place: the end pays under position, no end by weight."""
    shares = drops_by_place(top_k=2, factor=1.0, seeds=10)
    position, choice, probability, batch, by_sequence = shares.values()
    assert position[:6].sum() == 0 and position[-4:].mean() > 0.3
    assert choice[-4:].mean() > 2 * choice[:4].mean() > 0
    for flat in (probability, batch):
        assert abs(flat[:4].mean() - flat[-4:].mean()) < 0.05
    means = [values.mean() for values in (position, choice, probability, batch)]
    assert np.ptp(means) < 0.005 and by_sequence.mean() > means[0] + 0.02
    assert by_sequence[[0, 4, 8, 12]].max() < 0.05 < by_sequence[[3, 7, 11, 15]].min()


def test_what_changed_is_marked():
    before, after = by_hand(), by_hand()
    after.visits[3] = [True, False]
    picture = changed(before, after)
    assert [row[0] for row in picture.rows if row[4]] == [3]
    assert "1 of 8 earlier tokens has other experts" in picture.summary
    longer = by_hand(tokens=(*NASTY[:6], "new", "words"), label="some router")
    picture = changed(before, longer)
    assert "'newwords' behind it, 0 of 6 earlier tokens have other" in picture.summary
    assert [row[2] for row in picture.rows[6:]] == ["", ""]


# Words that the figures decide.


@pytest.mark.parametrize(
    ("values", "stands_out"),
    [
        ((0.1, 0.11, 0.09), True),
        ((-0.1, -0.11, -0.09), True),
        ((0.1, -0.001, 0.1), False),
        ((0.01, 0.09, 0.001), False),
        ((0.0, 0.0), False),
        ((0.1,), False),
    ],
)
def test_an_effect_within_its_spread_is_not_seen(values, stands_out):
    assert seen(figure(*values)) == stands_out
    words = effects({"arm": figure(*values)})
    wanted = "no difference seen" if not stands_out else "higher" if values[0] > 0 else "lower"
    assert words == f"{wanted}: arm ({spread(figure(*values))})"


def test_no_minus_before_nothing():
    assert spread(figure(-0.0001, -0.0001)) == "+0.000 ± 0.000"


def test_the_sentences_follow_the_figures():
    summary = limits(recording()).summary
    free, bound, orders = summary.split("valuated ")[1:][0], summary, summary.split("At factor")[1]
    assert "higher: factor 1 (+0.011 ± 0.002)" in free and "factor 0.5 (+0.081" in free
    assert "no difference seen: factor 2" in free and "factor 0.5 (+0.161" in bound
    assert "lower: batch prioritised (-0.012 ± 0.000)" in orders
    assert "no difference seen: by probability" in orders
    told = leak(recording()).summary
    assert "Token choice has the same loss" in told and "lower: pool of one sequence" in told
    assert "higher: pool of one sequence (+0.100 ± 0.000)." in told
    none = leak(recording(worth=0.0)).summary
    assert none.count("no difference seen: pool of one sequence") == 3
    turned = copy.deepcopy(recording())
    turned["leaks"]["token choice"]["worth_of_later_tokens"] = figure(0.1, 0.1, 0.1)
    assert "Token choice has another loss" in leak(turned).summary
    assert difference(figure(1.0, 2.0), figure(0.5, 1.0))["values"] == [0.5, 1.0]


def test_what_05_says_of_the_recorded_runs():
    recorded = json.loads(data_path("runs", "capacity.json").read_text("utf-8"))
    arms, neighbours = recorded["limits"], recorded["leaks"]["pool of 16 neighbours"]
    # "Expert choice from 16 neighbours does better with the later tokens at hand than without."
    worth = neighbours["worth_of_later_tokens"]
    assert len(worth["values"]) >= 5 and min(worth["values"]) > 0
    assert worth["mean"] > 2 * worth["sd"]
    same = recorded["leaks"]["token choice"]["worth_of_later_tokens"]["values"]
    assert max(map(abs, same)) < 5e-4, "a causal router needs no later token"
    # "by probability and batch prioritised are one rule here"
    same = (arms[f"factor 1, {name}"] for name in ("by probability", "batch prioritised"))
    first, second = (arm["validation_loss"]["values"] for arm in same)
    assert first == second
