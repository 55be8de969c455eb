"""What pictures of routing say, draw and list is what was decided."""

import importlib
import inspect
import math
import pkgutil
import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import get_args
from urllib.parse import parse_qsl

import numpy as np
import pytest

import moeviz.pictures
from helpers.comparisons import made_capacity, numbers, sentences
from helpers.picture_cases import (
    LONG,
    NASTY,
    RULES,
    four,
    limited,
    make_anatomy,
    make_decision,
    make_trace,
    mixture,
    placed_batch,
    slots_by_hand,
)
from helpers.pictures import SVG, extent, marks, parse, presses, table, texts, things, tips, values
from moeviz.experiments.routers_on_a_text import every_name
from moeviz.experiments.slots import drops_by_place
from moeviz.experiments.slots_at_once import visit_chances
from moeviz.host import read_figures
from moeviz.panels.routing.real_models import QUESTIONS
from moeviz.pictures.routing.all_routers import overview
from moeviz.pictures.routing.batch import arrivals, so_far
from moeviz.pictures.routing.capacity import by_place, changed
from moeviz.pictures.routing.inside_layer import anatomy
from moeviz.pictures.routing.layer_dispatch import in_token_order, moving_rows
from moeviz.pictures.routing.layer_frame import MAX_TOKENS, STAGES
from moeviz.pictures.routing.limits import (
    BY_PROBABILITY,
    NO_LIMIT,
    POOLS,
    leak,
    limits,
    told_signature,
)
from moeviz.pictures.routing.names import named
from moeviz.pictures.routing.real_view import View
from moeviz.pictures.routing.router_facts import BEFORE, NAMES, facts_of, finding, most_telling
from moeviz.pictures.routing.routers import BAR, DROPPED, FEW, HOLLOW, SLOTS, UNSERVED, compare
from moeviz.pictures.routing.rule_steps import rule_steps, told_change
from moeviz.pictures.routing.slots import (
    FACTORS,
    drop_share,
    expected_drop,
    slots,
    trade_off,
    waste_share,
)
from moeviz.pictures.routing.tokens import SHOWN_TOKENS, load_bars, routing_matrix, token_strip
from moeviz.records.metrics import expected_drop_rate
from moeviz.routing.capacity import Priority


def experts(count):
    return [f"expert {e}" for e in range(count)]


# Tokens.


def test_the_strip_names_each_token_as_it_is_written_and_its_experts():
    trace = make_trace()
    picture = token_strip(trace, 1)
    labels = [", ".join(map(str, row)) for row in trace.expert[:, 1]]
    assert [row[1:3] for row in picture.rows] == list(zip(NASTY, labels, strict=True))
    shown = {token if len(token) <= 24 else token[:23] + "…" for token in NASTY}
    assert shown | set(labels) <= set(texts(picture))
    for t, row in enumerate(trace.expert[:, 1]):
        (tip,) = [tip for tip in tips(picture) if tip.startswith(f"token {t} ")]
        assert re.findall(r"expert (\d) weight", tip) == [str(e) for e in row]
    weights = [[float(v) for v in row[3].split()] for row in picture.rows]
    np.testing.assert_allclose(weights, trace.weight[:, 1], atol=0.006)


def test_twins_and_their_experts_are_lit_together():
    trace = make_trace(("a", "b", "a", "‹e4›"), num_experts=5)
    picture = token_strip(trace, 0)
    tokens = [t for t, row in enumerate(trace.tokens) if row == "a"]
    takes = {f"e{e}" for t in tokens for e in trace.expert[t, 0]}
    lit = [thing.get("data-kin").split() for thing in things(picture, "t0")]
    assert [kin[0] for kin in lit[:2]] == ["t0", "t0"], "both of them"
    assert {kin[0] for kin in lit[2:]} == takes, "and the bars of all that take one"
    for e in range(5):
        (bar,) = [kin for kin in things(picture, f"e{e}") if kin.get("data-kin")[0] == "e"]
        assert f"{trace.load()[0, e]} of 8 assignments" in bar.findtext("{*}title")
    assert any(text.startswith("‹e4›: one byte") for text in texts(picture))


def test_a_layer_is_gone_to_by_its_load():
    trace = make_trace(num_layers=3)
    assert [press for _, press in presses(token_strip(trace, 1))] == [
        {"layer": str(i)} for i in range(3)
    ]
    assert presses(load_bars(trace.load(), trace.layers))[2] == (
        "Show the text at layer 3", {"layer": "2", "view": "text"},
    )  # fmt: skip


def test_the_matrix_has_each_probability_and_marks_the_choices():
    trace = make_trace(LONG[:30], 6)
    picture = routing_matrix(trace, 0)
    np.testing.assert_allclose(table(picture, *experts(6)), trace.score[:, 0], atol=0.0006)
    assert len([t for t in texts(picture, "600") if t in "12"]) == 30 * 2
    for e in range(6):
        chosen = [t for t, row in enumerate(trace.expert[:, 0]) if e in row]
        lit = {thing.get("data-kin").split()[0] for thing in things(picture, f"e{e}")}
        assert lit == {f"e{e}", *(f"t{t}" for t in chosen)}
    many = routing_matrix(make_trace(LONG * 2), 0)
    assert len(many.rows) == SHOWN_TOKENS, "no more find room"
    assert f"the first {SHOWN_TOKENS} of {len(LONG) * 2} tokens" in many.summary


def test_a_matrix_names_the_real_model_that_was_read():
    trace = make_trace()
    named = replace(trace, meta={**trace.meta, "model": "owner/name"})
    assert "read by owner/name" in texts(routing_matrix(named, 0))
    assert not any("read by" in text for text in texts(routing_matrix(trace, 0)))


def test_the_bars_are_the_load():
    load_LE = make_trace(LONG, 5).load()
    picture = load_bars(load_LE, (1, 2))
    np.testing.assert_array_equal(table(picture, *experts(5)), load_LE)
    bars = [[g for g in things(picture, f"l{i}") if "expert" in g.findtext("{*}title")]
            for i in range(2)]  # fmt: skip
    heights = np.array([[float(g.find("{*}rect").get("height")) for g in row] for row in bars])
    np.testing.assert_allclose(heights / heights.max(), load_LE / load_LE.max(), atol=0.001)


def test_the_load_says_over_how_many_assignments():
    """Eight tokens cannot reach 64 experts: that the others got nothing is no news."""
    few = load_bars(np.array([[1] * 8 + [0] * 56]), (0,)).summary
    assert "a layer's 8 assignments" in few
    assert "56 of 64 got nothing. Of the 64 of a layer 8 assignments reach at most as many." in few
    assert load_bars(np.array([[300, 0, 0, 100]]), (0,)).summary.endswith("2 of 4 got nothing.")


# A layer taken apart.


@pytest.mark.parametrize("stage", STAGES)
def test_the_twins_of_a_layer(stage):
    layer = make_anatomy(LONG[:30], num_experts=6)
    picture = anatomy(layer, stage)
    kept = layer.score.copy()
    np.put_along_axis(kept, layer.expert.astype(int), layer.weight, 1)
    shown = layer.row_token < MAX_TOKENS
    columns, wanted = {
        "logits": (experts(6), layer.logits),
        "softmax": (experts(6), layer.score),
        "top-k": (experts(6), kept),
        "dispatch": (["expert", "weight"], np.stack([layer.row_expert, layer.row_weight], 1)),
        "experts": (["length"], np.linalg.norm(layer.row_output[shown], axis=1, keepdims=True)),
        "combine": (["length"], np.linalg.norm(layer.y, axis=1, keepdims=True)),
    }[stage]
    np.testing.assert_allclose(table(picture, *columns), wanted, atol=0.0006)
    tokens = [row[picture.columns.index("token")] for row in picture.rows]
    by_row = {"dispatch": layer.row_token, "experts": layer.row_token[shown]}.get(stage, range(30))
    assert tokens == [layer.tokens[t] for t in by_row]
    assert layer.tokens[MAX_TOKENS - 1] in texts(picture)
    assert layer.tokens[MAX_TOKENS] not in texts(picture)


def test_a_layer_says_how_it_weighs_and_when_it_is_not_the_sum_of_its_rows():
    layer, raw = make_anatomy(), make_anatomy(weighting="raw")
    assert "every row's weights sum to 1" in anatomy(layer, "top-k").summary
    sums = raw.weight.sum(1)
    wanted = f"rows sum to {sums.min():.2f} to {sums.max():.2f}"
    assert wanted in anatomy(raw, "top-k").summary
    assert "to the last bit" in anatomy(layer, "combine").summary
    assert "at most 1e+00" in anatomy(replace(layer, y=layer.y + 1), "combine").summary


@pytest.mark.parametrize("stage", STAGES)
def test_a_token_is_followed_through_every_stage(stage):
    layer = make_anatomy(NASTY, num_experts=6)
    picture = anatomy(layer, stage, follow=3)
    framed = [g for g in things(picture, "t3") if g.get("data-kin").startswith("t3")]
    wanted = {"dispatch": 1 + 2, "experts": 2}.get(stage, 1)  # its name and its rows
    assert len(framed) == wanted + 1, "and its thread"
    assert [t.text for t in framed[0].iter(SVG + "text")][1] == f"{layer.logits[3].max():.1f}"
    fates = {dict(parse_qsl(g.get("data-press")))["follow"] for g in framed}
    assert fates == {"-1"}, "pressed again it is followed no longer"
    rings = marks(picture, "rect", "#d55e00;stroke-width:2.5")
    bold = [text for text in texts(picture, "600 13px") if text == NASTY[3]]
    assert len(rings) == {"dispatch": 0, "experts": 2}.get(stage, 1) and bold
    others = {press["follow"] for _, press in presses(picture) if "follow" in press} - {"-1"}
    assert others == {str(t) for t in range(8) if t != 3}
    experts = {f"e{e}" for e in layer.expert[3]}
    kin = {name for g in framed for name in g.get("data-kin").split()}
    assert kin == {"t3", *experts}
    if stage == "dispatch":
        pale = {"opacity:0.2" in m.get("style") for g in framed for m in g.iter(SVG + "polyline")}
        every = ["opacity:0.2" in line.get("style") for line in marks(picture, "polyline")]
        assert pale == {False} and every.count(False) == 2 * 2, "only its threads are strong"


def test_rows_move_to_their_experts_in_token_order():
    layer = make_anatomy(LONG[:30])
    come = in_token_order(layer)
    assert [layer.row_token[row] for row in come] == [t for t in range(MAX_TOKENS) for _ in "12"]
    for step in (0, 5, len(come)):
        picture = moving_rows(layer, -1, step)
        there = [int(n) for tip in tips(picture) for n in re.findall(r": row (\d+), weight", tip)]
        waits = [int(n) for tip in tips(picture) for n in re.findall(r"will be row (\d+)$", tip)]
        assert sorted(there) == sorted(come[:step]) and sorted(waits) == sorted(come[step:])
        walkers = [g for g in parse(picture).iter(SVG + "g") if g.get("class") == "a"]
        assert len(walkers) == (step == 5), "only the row that moves now"
    row, token = come[4], int(layer.row_token[come[4]])
    words = f"5 of 48 rows have moved: {named(token, layer.tokens[token])} goes to expert "
    assert f"{words}{layer.row_expert[row]}, as row {row}." == moving_rows(layer, -1, 5).summary
    assert moving_rows(layer, -1, 48) == anatomy(layer, "dispatch")


@pytest.mark.parametrize("stage", ["experts", "combine"])
def test_zero_is_the_middle_of_what_has_a_sign(stage):
    layer = make_anatomy()
    values = layer.row_output if stage == "experts" else layer.y
    peak = f"{np.abs(values).max():.2g}"
    assert {f"-{peak}", "0", peak} <= set(texts(anatomy(layer, stage)))


# Slots.


def test_the_slots_by_hand():
    picture = slots(slots_by_hand(leaks=np.arange(8) == 2, causal=False))
    rows = {row[0]: row[2:] for row in picture.rows}
    assert rows[0] == ("0 1", "expert 0 slot 0, expert 1 slot 0", "", "")
    assert rows[2][3] == "yes"
    assert rows[6] == ("0 1", "expert 0 slot 6", "1", "")
    assert rows[7] == ("1 0", "none", "1 0", "")
    assert "3 of 16 assignments are dropped: 18.8 %. The closed form" in picture.summary
    assert "% are dropped. 1 token" in picture.summary, "a whole sentence"
    assert "1 token gets no expert at all; the first is number 7." in picture.summary
    assert "looks into the future: the slots of at least 1 of 8 tokens" in picture.summary
    assert all(len(numbers(sentence)) <= 3 for sentence in sentences(picture.summary))
    heading = " ".join(texts(picture)[:2])
    assert heading.startswith("3 of 16 assignments find no slot, 1 token no expert; 18.8 % of the")
    fates = [
        re.findall(r"\((placed|not all its experts|no expert)\)$", tip) for tip in tips(picture)
    ]
    assert sorted(sum(fates, [])) == ["no expert", "not all its experts", *["placed"] * 6]
    struck = [sum(len(g.findall("{*}line")) for g in things(picture, f"t{t}")) for t in range(8)]
    assert struck == [0] * 6 + [1 + 1, 2 + 2], "one for token 6, two for token 7; and their boxes"
    assert {"0 ×1", "×1 ×0"} <= set(texts(picture))


@pytest.mark.parametrize("pool", ["batch", "sequence"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_drawn_slots_are_those_of_the_plan(pool, top_k):
    decision = placed_batch(40, top_k, pool=pool)
    drawn = "\n".join(tips(slots(decision)))

    def counted(pattern):
        return np.bincount([int(e) for e in re.findall(pattern, drawn)], minlength=8)

    np.testing.assert_array_equal(counted(r", slot \d+ of expert (\d)"), decision.load)
    lost_E = counted(r"no slot with expert (\d)")
    np.testing.assert_array_equal(lost_E, decision.demand - decision.load)
    empty = sum(map(int, re.findall(r"(\d+) empty", drawn)))
    there = 8 * (4 if pool == "sequence" else 1) * decision.capacity
    assert empty == there - decision.load.sum()
    assert waste_share(decision) == pytest.approx(empty / there)


def test_an_experts_row_stands_in_the_order_of_placement():
    decision = placed_batch(40, priority="probability")
    for e in range(8):
        weights = [decision.score[t, e] for i, t, _ in decision.meta["placed"] if i == e]
        assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize("priority", get_args(Priority))
def test_assignments_come_in_the_order_in_which_they_are_placed(priority):
    """Each with a slot of its expert while one is left, as the real limit gives them."""
    decision = placed_batch(40, 2, factor=1.0, priority=priority)
    come, used = arrivals(decision), Counter()
    placed, lost = so_far(decision, come)
    assert sorted(come) == sorted(placed + lost) and len(come) == 80
    for row in come:
        assert (row in placed) == (used[row[0]] < decision.capacity)
        used[row[0]] += 1
    for e in range(8):
        kept = [row for row in come if row[0] == e and row in placed]
        assert kept == [row for row in placed if row[0] == e]


def test_the_slots_fill_step_by_step():
    decision = placed_batch(40, factor=1.0)
    come = arrivals(decision)
    for step in (0, 1, 30):
        picture = slots(decision, step=step)
        drawn = [tip for tip in tips(picture) if re.search("slot (\\d+ of|with) expert", tip)]
        assert len(drawn) == step and f"{step} of 40 assignments have come" in picture.summary
        assert all(len(numbers(sentence)) <= 3 for sentence in sentences(picture.summary))
        waiting = [tip for tip in tips(picture) if tip.endswith("(not come yet)")]
        assert len(waiting) == 40 - step
        walkers = [g for g in parse(picture).iter(SVG + "g") if g.get("class") == "a"]
        assert len(walkers) == (step > 0), "only the one that comes now"
    e, t, _ = come[29]
    assert f"token {t} 'c{e}' asks expert {e} and " in picture.summary
    assert slots(decision, step=40) == slots(decision)


def test_the_limit_is_dragged_over_the_factors_on_offer():
    decision, offered = placed_batch(40), (0.5, 1.0, 1.25, 2.0)
    assert presses(slots(decision)) == []
    found = presses(slots(decision, offered=offered))
    over_the_curve = [press["factor"] for _, press in found[-4:]]
    assert over_the_curve == [str(f) for f in offered]
    for tip, press in found[:-4]:
        limit = math.ceil(float(press["factor"]) * 40 / 8 - 1e-9)
        assert tip.startswith(f"C = {limit}: factor ")
    assert {press["factor"] for _, press in found[:-4]} <= set(map(str, offered))


@pytest.mark.parametrize(("top_k", "pool"), [(2, "batch"), (1, "sequence")])
def test_the_closed_form_is_the_mean_over_batches(top_k, pool):
    drawn = [placed_batch(64, top_k, factor=1.0, pool=pool, seed=seed) for seed in range(60)]
    dropped = [drop_share(decision) for decision in drawn]
    error = np.std(dropped) / np.sqrt(len(dropped))
    assert abs(np.mean(dropped) - expected_drop(drawn[0])) < 4 * error


def test_the_curves_cross_the_marks_and_fall():
    visits = tuple(visit_chances(1.0, 1))
    dropped, empty = np.array(trade_off(visits, 64, 1, 1)).T
    assert (np.diff(dropped) <= 1e-12).all() and (np.diff(empty) >= -1e-12).all()
    at = FACTORS.index(1.25)
    assert dropped[at] == pytest.approx(expected_drop_rate(visits, 64, 10))
    assert empty[at] == pytest.approx(1 - 64 * (1 - dropped[at]) / 80)


def test_priority_says_who_and_not_how_many():
    """What the notebook says of drops_by_place: the end pays under position, no end by weight."""
    shares = drops_by_place(top_k=2, factor=1.0, seeds=10)
    position, choice, probability, batch, by_sequence = shares.values()
    assert position[:6].sum() == 0 and position[-4:].mean() > 0.3
    assert choice[-4:].mean() > 2 * choice[:4].mean() > 0
    for flat in (probability, batch):
        assert abs(flat[:4].mean() - flat[-4:].mean()) < 0.05
    means = [shares.mean() for shares in (position, choice, probability, batch)]
    assert np.ptp(means) < 1e-9, "an expert with n assignments drops n - C, whoever comes first"
    assert by_sequence.mean() > means[0] + 0.02
    assert by_sequence[[0, 4, 8, 12]].max() < 0.05 < by_sequence[[3, 7, 11, 15]].min()
    told = sentences(by_place(shares).summary)
    assert "differently under “position”" in told[0]
    assert told[2].endswith("most under “position, by sequence”.")
    assert all(len(numbers(sentence)) <= 3 for sentence in told)


def test_what_changed_is_marked():
    before, after = slots_by_hand(), slots_by_hand()
    after.visits[3] = [True, False]
    picture = changed(before, after)
    assert [row[0] for row in picture.rows if row[4]] == [3]
    assert "1 of 8 earlier tokens has other experts" in picture.summary
    picture = changed(before, slots_by_hand(tokens=(*NASTY[:6], "new", "words")))
    assert "'newwords' behind it, 0 of 6 earlier tokens have other" in picture.summary
    assert [row[2] for row in picture.rows[6:]] == ["", ""]


# What a limit costs, and what the future is worth: words that the figures decide.

COSTS = {("factor 1.25", pool): cost for pool, cost in (("mixed", 0.02), ("domain", 0.14))}


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        (
            COSTS,
            "In pools of all domains a model under factor 1.25 ends 0.020 nats per token above",
        ),
        ({}, "under factor 1.25 differs from the same model freed of its limit is open"),
    ],
)
def test_the_cost_of_a_limit_is_that_of_mixed_pools_and_the_others_stand_beside(costs, words):
    recorded = made_capacity(costs=costs)
    picture = limits(recorded)
    assert words in picture.summary
    for pool in ("mixed", "domain"):
        assert f"{costs.get(('factor 1.25', pool), 0):+.3f}" in picture.summary
    told = "The model without a limit ends 0.049 nats per token below its dense twin"
    assert told in picture.summary, "no cost of a limit says whether the experts are worth anything"
    row = next(row for row in picture.rows if row[0] == "factor 1.25")
    cost = "+0.140 (+0.140 to +0.140), higher" if costs else "+0.000 (+0.000 to +0.000), open"
    assert row[2] == cost and row[7] == "7.0 %" and NO_LIMIT not in [r[0] for r in picture.rows]
    squares = [m for m in marks(picture, "rect") if m.get("width") == "8"]
    assert len(squares) - 1 == len(costs), "one mark a verdict, and its key"


@pytest.mark.parametrize(
    ("cost", "words"),
    [(0.02, "That model ends 0.020 nats per token above"), (0.0, "Whether that model differs")],
)
def test_who_is_dropped_stands_beside_how_many(cost, words):
    told = limits(made_capacity(costs={(BY_PROBABILITY, "mixed"): cost})).summary
    assert f"By probability a factor of 1 drops 5.0 % in pools of all domains. {words}" in told


@pytest.mark.parametrize(
    ("worth", "words"),
    [
        (0.07, "without the later tokens ends 0.070 nats per token above the same with them"),
        (-0.07, "without the later tokens ends 0.070 nats per token below the same with them"),
        (0.0, "without the later tokens differs from the same with them is open"),
    ],
)
def test_the_future_is_worth_what_other_tokens_in_its_place_cost(worth, words):
    worths = {"pool of 16 neighbours": worth}
    told = leak(made_capacity(worths=worths)).summary
    assert words in told and "Token choice has the same loss" in told
    told = leak(made_capacity(worths=worths | {"token choice": 0.1})).summary
    assert "Token choice has another loss" in told


def test_what_else_the_exchange_does_is_told_where_it_lowers_a_loss():
    worths = {"pool of 16 neighbours": 0.07, "pool of the whole batch": -0.06,
              "pool of 16, shuffled": -0.03}  # fmt: skip
    told = leak(made_capacity(worths=worths)).summary
    assert (
        "With 2 of the 5 pools the loss is lower without them, by up to 0.060. That the exchange "
        "also mixes two kinds of text in a pool may be why."
    ) in told
    assert "mixes" not in leak(made_capacity(worths={"pool of 16 neighbours": 0.07})).summary


@pytest.mark.parametrize(
    ("signature", "words"), [(-0.034, "ends 0.034 nats per token below"), (0.0, "is open")]
)
def test_a_gain_in_training_is_told_beside_the_published_one(signature, words):
    recorded = made_capacity(signature=signature)
    told = told_signature(recorded)
    assert (
        words in told and f"That is {100 * signature / 3.4:+.1f} % of the loss; Wang et al." in told
    )
    picture = leak(recorded)
    row = next(row for row in picture.rows if row[0] == "pool of 16 neighbours")
    assert row[-1].startswith(f"{signature:+.3f} (")
    (dashed,) = [m for m in marks(picture, "line") if "dasharray" in m.get("style")]
    zero = [m for m in marks(picture, "line") if "width:1.5;" in m.get("style") + ";"]
    assert float(dashed.get("x1")) < max(values(zero, "x1"))


def test_an_arm_is_lit_in_all_plots_with_its_figures():
    recorded = made_capacity(costs=COSTS)
    picture = limits(recorded)
    lit = [g.findtext("{*}title", "") for g in things(picture, "factor_1.25")]
    assert len(lit) == 2 + len(POOLS) + 1 + 1, "its names, costs, model alone, and what it drops"
    assert "factor 1.25, pool: one domain: +0.140 (+0.140 to +0.140), higher" in lit
    assert len(parse(picture)) == 2
    names = [g.get("data-kin") for g in parse(leak(recorded)).iter(SVG + "g") if g.get("data-kin")]
    assert {"token_choice", "pool_of_16"} <= set(names)


def test_a_curve_of_drops_is_lit_with_its_legend():
    picture = by_place({"a": np.array([0.0, 0.5]), "b": np.zeros(2)})
    chart, key = parse(picture)
    titles = [g.findtext("{*}title") for g in chart.iter(SVG + "g") if g.get("data-kin") == "a"]
    assert {"a: 25.0 % in all", "a, part 1 of 2: 0.0 %", "a, part 2 of 2: 50.0 %"} == set(titles)
    assert [g.get("data-kin") for g in key.findall("{*}g")] == ["a", "b"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_no_sentence_of_limits_has_more_than_three_figures(seeds):
    recorded = made_capacity(seeds, costs=COSTS, signature=-0.03)
    for draw in (limits, leak):
        for sentence in sentences(draw(recorded).summary):
            assert len(numbers(sentence)) <= 3, sentence


# Routers side by side.


@pytest.mark.parametrize("count", [2, 3, 4])
def test_texts_of_one_line_do_not_touch_and_every_rule_has_room(count):
    """With the longest label and facts that there are."""
    named = every_name().values()
    label = max((one.title for one in named), key=len)
    busy = limited(tokens=LONG[:40], label=label, demand=np.full(8, 20))
    for one in named:
        picture = compare([replace(busy, label=f"{label[:-1]}{n}") for n in range(count)],
                          [one.rule] * count, heading="T")  # fmt: skip
        lines = defaultdict(list)
        for text in marks(picture, "text"):
            lines[text.get("y")].append((*extent(text), text.text))
        for line in lines.values():
            for (_, end, before), (start, _, after) in pairwise(sorted(line)):
                assert end <= start, (before, after)
        shown = " ".join(texts(picture))
        assert all(shown.count(word) >= count for word in one.rule.split()), one.rule


def test_the_twin_says_of_each_token_what_the_row_shows():
    top, switch = make_decision(), limited()
    picture = compare([top, switch], RULES[:2], heading="T")
    assert picture.columns == ("#", "token", "Top-K", "Switch")
    facts = {row[1]: row for row in picture.rows if row[0] == ""}
    assert [facts[n][3] for n in NAMES] == list(facts_of(switch))
    assert facts["load"][2:] == ("2 2 2 2 2 2 2 2", "1 1 1 1 0 0 0 0")
    rows = [row for row in picture.rows if row[0] != ""]
    assert [row[1] for row in rows] == list(NASTY)
    assert rows[0][2:] == ("e0 0.75, e3 0.38", "e0 0.75")
    assert rows[7][3] == "no expert; dropped at e7; sees later tokens"
    wanted = {f"{named(t, token)}: {cell}" for t, token, *cells in rows for cell in cells}
    assert wanted <= set(tips(picture))
    first = next(tip for tip in tips(picture) if tip.startswith("token 7 "))
    fates = [f"{name}: {cell}" for name, cell in zip(("Top-K", "Switch"), rows[7][2:], strict=True)]
    assert first.split("\n") == [named(7, NASTY[7]), *fates], "and its name says all of it"


def test_a_routers_name_is_pressed_where_that_selects_something():
    press = {"Switch": {"routers": "token_choice,switch"}}
    found = presses(compare([make_decision(), limited()], RULES[:2], heading="T", press=press))
    assert [sets for _, sets in found] == [press["Switch"]] and found[0][0].startswith("Switch: ")


def test_the_facts():
    assert facts_of(make_decision()) == ("no", "nothing", "none", "0.00")
    assert facts_of(limited()) == ("yes: 4 of 8 tokens", "4 of 8 (50 %)", "4 of 8 tokens", "0.00")
    crowd = np.array([8, 0, 0, 0, 0, 0, 0, 0])
    assert facts_of(limited(demand=crowd))[3] == "7.00", "dropping does not look like balance"
    quiet = make_decision(causal=False)
    assert facts_of(quiet)[0] == "can, but not seen here"
    meta = {"training": False, "substitute": "by some other rule"}
    assert facts_of(replace(quiet, meta=meta))[0] == "no: another rule"
    nothing = np.zeros(8, np.int64)
    nobody = make_decision(load=nothing, demand=nothing, visits=np.zeros((8, 8), bool))
    assert facts_of(nobody)[2:] == ("8 of 8 tokens", "no load")


def test_what_was_decided_is_marked_and_the_load_drawn():
    top, switch = make_decision(), limited()
    picture = compare([top, switch], RULES[:2], heading="T")
    # One mark for each case and one in the legend.
    shown = texts(picture)
    assert len(marks(picture, "polyline")) == int(switch.dropped.sum()) + 1
    assert shown.count("∅") == int((~switch.visits.any(1)).sum()) + 1
    assert shown.count("↓") == int(switch.leaks.sum()) + 1
    assert shown.count(".75") == 8 + 4 and shown.count(".38") == 8
    loads = [
        g for g in parse(picture).iter(SVG + "g") if "assignments" in g.findtext("{*}title", "")
    ]
    heights = np.array([float(g.findall("{*}rect")[1].get("height")) for g in loads])
    assert heights / heights.max() == pytest.approx([*top.load / 2, *switch.load / 2], abs=0.01)
    assert loads[8].findtext("{*}title") == "Switch, expert 0: 1 of 1 assignments"
    even = marks(picture, "line", "dasharray")
    assert len(even) == 2 and "even load" in shown, "in each block, and named beside the first"
    drawn = [BAR * d.demand.mean() / top.load.max() for d in (top, switch)]
    assert float(even[1].get("y1")) - float(even[0].get("y1")) == pytest.approx(drawn[0] - drawn[1])
    assert len(marks(picture, "line", "#d55e00")) == 1 + 1, "the places of Switch"
    alone = texts(compare([top, top], RULES[:2], heading="T"))
    marked = {"∅", "↓", SLOTS, HOLLOW, DROPPED, UNSERVED}
    assert marked <= {*shown} and not marked & {*alone}, "the key has what is on screen"


def test_the_heading_says_what_sets_routers_apart():
    top, switch = make_decision(), limited()
    crowd = make_decision("B", demand=np.array([9, 1, 1, 1, 1, 1, 1, 1]))
    ahead = "Switch looks ahead: 4 of 8 decisions change when only later tokens do."
    assert finding([top, switch]) == f"{ahead} Switch drops 4 of 8 choices: no slot was left."
    assert finding([top, crowd]) == (
        "The busiest expert is asked for 4.5 times the even share under B, 1.0 under Top-K."
    )
    assert finding([top, top]).endswith("for 1.0 times the even share under all of them.")
    shown = " ".join(texts(compare([top, switch], RULES[:2], heading="T")))
    assert finding([top, switch]) in shown


def test_few_rows_are_the_page_that_tells_most_and_a_press_shows_all():
    top, switch = (make(tokens=LONG[:40]) for make in (make_decision, limited))
    late = replace(switch, dropped=switch.dropped & (np.arange(40) > 30)[:, None],
                   leaks=np.zeros(40, bool), visits=top.visits)  # fmt: skip
    page = most_telling([top, late], FEW)
    assert [*page] == [*range(24, 36)]
    few, whole = (
        compare([top, late], RULES[:2], heading="T", rows=rows, pressed=True)
        for rows in ("few", "all")
    )
    assert few.rows == whole.rows
    for picture, other, tokens in ((few, "all", page), (whole, "few", range(40))):
        assert presses(picture)[-1][1] == {"rows": other}
        assert {t for t in range(40) if things(picture, f"t{t}")} == {*tokens}


def test_the_words_name_who_does_what():
    hashed = make_decision("Hash", meta={"learned": 0, "substitute": ""})
    base = make_decision("BASE", causal=False, meta={"learned": 512, "substitute": "another"})
    decisions = [make_decision(), limited(), mixture(), hashed, base]
    picture = compare(decisions[:3], RULES[:3], heading="A text, K = 2")
    assert picture.summary == (
        "A text, K = 2. See later tokens: Switch, Soft MoE. Drop assignments: Switch. "
        "Leave tokens without an expert: Switch."
    )
    assert "Drop assignments: none." in compare(decisions[::3], RULES[:2], heading="T").summary
    picture = overview(decisions, heading="All")
    assert "2 of 5 see later tokens: Switch, Soft MoE." in picture.summary
    assert "1 of 5 learn nothing: Hash." in picture.summary
    rows = {row[0]: dict(zip(picture.columns, row, strict=True)) for row in picture.rows}
    generates = ["yes", "no", "no", "yes", "by another rule"]
    assert [row["generates"] for row in rows.values()] == generates
    assert rows["Switch"]["dropped"] == "4 of 8 (50 %)" and rows["Switch"][BEFORE] == "0.00"
    assert rows["Soft MoE"]["experts a token"] == "mixtures"
    assert rows["Top-K"]["experts a token"] == "2.00"
    assert rows["Hash"]["learned numbers"] == "none"


def test_a_token_an_expert_and_a_router_are_lit_in_every_column():
    top, switch = make_decision(), limited()
    picture = compare([top, switch], RULES[:2], heading="T")
    for t in range(8):
        asked = [d.visits[t].sum() + d.dropped[t].sum() for d in (top, switch)]
        # Its name, a row in each column, and each of its cells.
        assert len(things(picture, f"t{t}")) == 1 + 2 + sum(asked)
    for e in range(8):
        cells = [g for g in things(picture, f"e{e}") if g.get("data-kin")[0] == "t"]
        asked = sum(d.visits[:, e].sum() + d.dropped[:, e].sum() for d in (top, switch))
        assert len(cells) == asked and len(things(picture, f"e{e}")) == asked + 2, "and its bars"
    ends = [extent(mark) for g in things(picture, "Switch") for mark in g.iter(SVG + "text")]
    assert min(left for left, _ in ends) > 300, "the right column and nothing else"


def test_a_row_of_the_table_is_one_thing_in_both_its_parts():
    picture = overview(four(NASTY), heading="All")
    assert [len(part.findall("{*}g")) for part in parse(picture)] == [4, 4]
    first, second = (g.findtext("{*}title") for g in things(picture, "Switch"))
    assert "dropped 4 of 8 (50 %)" in first and f"{BEFORE} 0.00" in second


# A rule step by step.


def test_a_step_shows_its_matrix_with_its_sums_and_the_film_has_them_all():
    first, second = np.array([[-1.0, 3.0], [2.0, 0.0]]), np.array([[0.0, 3.0], [1.0, 0.0]])
    picture = rule_steps([("scores", first), ("best", second)], 1, tokens=["a", "b"])
    assert picture.columns == ("token", "0", "1", "sum")
    np.testing.assert_allclose(table(picture, "0", "1", "sum"), [[0, 3, 3], [1, 0, 1], [1, 3, 4]])
    assert presses(picture) == [
        ("Go to step 1: scores", {"step": "1"}), ("Go to step 2: best", {"step": "2"}),
    ]  # fmt: skip
    cells = [tip for tip in tips(picture) if ", expert" in tip]
    assert cells == [
        "a, expert 0: 0, before -1.0000", "a, expert 1: 3.0000",
        "b, expert 0: 1.0000, before 2.0000",
    ]  # fmt: skip
    assert len(marks(picture, "polyline", "dasharray")) == 1 + 1, "what became 0, and its key"
    assert {"just became 0", "mean expert's sum"} <= {*texts(picture)}
    assert len(parse(picture).findall(".//*[@class='f']")) == 1, "only what changed fades in"
    assert picture.summary == (
        "Step 2 of 2: best. The fullest expert holds 1.50 times the mean one. "
        "The fullest token holds 1.50 times the mean one. 2 of 4 cells changed, 1 of them to 0."
    )
    negative = rule_steps([("scores", first)], 0, tokens=["a", "b"])
    assert len([tip for tip in tips(negative) if ", expert" in tip]) == 4
    assert negative.summary == "Step 1 of 1: scores."
    even = rule_steps([("even", np.full((3, 2), 0.5))] * 2, 1, tokens="abc")
    means = "The load is even: all experts have the same sum."
    assert even.summary.endswith(f"{means} All tokens have the same sum. Nothing changed.")
    assert texts(even)[1:3] == [means, "Nothing changed."], "what it means comes first"


SCORES = np.array([[1.0, 2.0, 0.5], [3.0, 0.2, 4.0]])


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (SCORES / SCORES.sum(0), "The values of every expert were divided by their sum."),
        (SCORES / SCORES.sum(1, keepdims=True), "of every token were divided by their sum."),
        (np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True), "Every token went through a soft"),
        (SCORES * (SCORES > 1), "3 of 6 cells became 0; the others stayed as they were."),
        (SCORES + (SCORES > 1), "3 of 6 cells changed."),
        (SCORES, "Nothing changed."),
        (SCORES[:, :2], "Now 2 columns; the step before had 3."),
    ],
)
def test_a_step_says_what_it_has_done(after, words):
    steps = [("scores", SCORES), ("then", after)]
    assert told_change(steps, 0) == "" and words in told_change(steps, 1)
    assert any(words in text for text in texts(rule_steps(steps, 1, tokens="ab"))[1:3])


def test_the_bars_of_a_step_are_its_sums():
    matrix = np.array([[1.0, 2.0, 0.0], [3.0, 0.0, 4.0]])
    picture = rule_steps([("m", matrix)], 0, tokens="ab")
    rows = values(marks(picture, "rect", "#8a8a8a"), "width")
    np.testing.assert_allclose(rows / rows[1], matrix.sum(1) / matrix.sum(1)[1], atol=1e-3)


def taking_a_trace():
    """Every picture of a Trace."""
    for module in pkgutil.walk_packages(moeviz.pictures.__path__, "moeviz.pictures."):
        for name, draw in inspect.getmembers(importlib.import_module(module.name)):
            if inspect.isfunction(draw) and not name.startswith("_"):
                signature = inspect.signature(draw)
                given = {p.annotation for p in signature.parameters.values()}
                if "Trace" in given and signature.return_annotation == "Picture":
                    yield draw


def test_what_a_trace_lacks_is_said_and_never_drawn_as_a_number():
    """A trace of another program may hold ids alone (vLLM)."""
    whole = make_trace(LONG[:9], 8, 2, 3)
    nothing = np.float32(np.nan)
    ids = replace(
        whole,
        weight=np.full_like(whole.weight, nothing),
        score=np.broadcast_to(nothing, whole.score.shape),
    )
    pictures = {*taking_a_trace()}
    assert {token_strip, routing_matrix} <= pictures
    for draw in pictures:
        rest = {"layer": 1} if "layer" in inspect.signature(draw).parameters else {}
        picture = draw(ids, **rest)
        shown = " ".join([picture.summary, *filter(None, texts(picture) + tips(picture))])
        assert "nan" not in shown and "nan" not in str(picture.rows), draw.__name__
        lacks = "This trace holds no " in picture.summary
        assert lacks == (str(draw(whole, **rest)) != str(picture)), draw.__name__
        assert "This trace holds" not in draw(whole, **rest).summary


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_picture_of_a_real_model_names_a_task_where_its_answer_is_of_one(question):
    recorded, (_, draw) = read_figures("real_traces"), QUESTIONS[question]
    figures, source = recorded["deepseek_v2_lite"], recorded["sources"]["deepseek_v2_lite"]
    heads = []
    for task in ("law", "summary"):
        picture = draw(View("a model", figures, source, 3, task))
        answer = picture.summary.partition(": ")[2].partition(". ")[0]
        heads.append((task in texts(picture)[0], answer))
    named, answers = zip(*heads, strict=True)
    assert set(named) == {answers[0] != answers[1]}


def test_what_experts_add_is_never_told_as_nothing():
    """In a real model an expert may add a thousandth."""
    layer = make_anatomy()
    small = replace(layer, row_output=layer.row_output * 1e-4, y=layer.y * 1e-4)
    for stage in ("experts", "combine"):
        picture = anatomy(small, stage, 0)
        words = " ".join([*texts(picture), *tips(picture)])
        lengths = re.findall(r"length (\d\S*)", words)
        assert lengths and all(float(length) > 0 for length in lengths)
        assert (table(picture, "length") > 0).all()
