"""A record of many sequences and what it says of a layer, against loops and known answers."""

import math
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from helpers.picture_cases import make_domain_trace, make_killed, make_settled, make_trace
from moeviz.experiments import saturation
from moeviz.pictures.specialisation.domain_table import below_colour
from moeviz.pictures.specialisation.expert_paths import expert_paths, told_paths
from moeviz.pictures.specialisation.killed_experts import (
    PEAK,
    killed_experts,
    told_killed,
    told_layers,
)
from moeviz.pictures.specialisation.lift import SHUFFLED, _other_head, told_look
from moeviz.pictures.specialisation.settled import told_settled
from moeviz.pictures.specialisation.written import told_written
from moeviz.records.domain_look import from_tokens, look, sampled
from moeviz.records.expert_paths import paths_of
from moeviz.records.imports import of_domains
from moeviz.records.routes import DomainTrace
from moeviz.records.specialisation import CoActivation
from moeviz.records.specialists import EFFECT, domain_lift
from moeviz.words import percent


def uneven():
    """Three sequences of two domains, whose experts tell their row."""
    expert = np.arange(12, dtype=np.int16).reshape(12, 1, 1)
    return DomainTrace(
        ("a", "b"), expert, np.arange(12, dtype=np.int32), np.array([1, 0, 1], np.int32),
        np.array([3, 5, 4], np.int32), 12, (0,),
    )  # fmt: skip


@pytest.mark.parametrize("tokens", [1, 4, 6, 100])
def test_a_sample_is_of_whole_sequences_until_there_are_enough(tokens):
    trace = uneven()
    sample = trace.sample(tokens, seed=tokens)
    sizes = np.bincount(sample.domain, sample.length)
    assert sizes.tolist() == [min(tokens, 5), min(tokens, 7)]
    starts = {0: 1, 3: 0, 8: 1}  # of a sequence: its domain
    begin = sample.length.cumsum() - sample.length
    for first, length, domain in zip(begin, sample.length, sample.domain, strict=True):
        rows = sample.expert[first : first + length, 0, 0]
        assert rows.tolist() == list(range(rows[0], rows[0] + length))
        assert starts[int(rows[0])] == domain
    np.testing.assert_array_equal(sample.token, sample.expert[:, 0, 0])
    assert trace.shortest == 5


def test_a_record_may_have_more_choices_than_layers():
    three = np.arange(36, dtype=np.int16).reshape(12, 1, 3) % 12
    assert replace(uneven(), expert=three).sample(100, seed=0).expert.shape == (12, 1, 3)


def test_the_order_of_a_sample_hangs_on_its_seed_alone():
    trace = make_domain_trace(sequences=6)
    drawn = [trace.sample(16, seed=seed).expert.tolist() for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] and (drawn[0] != drawn[2] or drawn[0] != drawn[3])


def test_traces_of_domains_become_one_record_whose_tokens_are_told_apart_by_their_pieces():
    first, second = make_trace(tuple("abca")), make_trace(tuple("bd"))
    record = of_domains({"one": [first], "two": [second, first]})
    assert record.domains == ("one", "two") and record.domain.tolist() == [0, 1, 1]
    assert record.length.tolist() == [4, 2, 4] and record.layers == first.layers
    assert record.token.tolist() == [0, 1, 2, 0, 1, 3, 0, 1, 2, 0]
    np.testing.assert_array_equal(record.expert[4:6], second.expert)
    for place in range(2):
        load_E = (second.load() + first.load())[place] / (second.load() + first.load())[place].sum()
        np.testing.assert_allclose(record.load(place)[1], load_E)
    unnamed = replace(second, meta={"tokens": "positions"})
    assert not of_domains({"one": [first], "two": [unnamed]}).has_tokens
    with pytest.raises(ValueError, match="two has none"):
        of_domains({"one": [first], "two": []})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(length=np.array([3, 5, 3], np.int32)),
            "expert of a trace must have the size",
        ),
        (dict(token=np.zeros(3, np.int32)), "token of a trace must have the size"),
        (dict(num_experts=11), r"experts of a trace must lie in -1\.\.10, got 0\.\.11"),
        (dict(domains=("a",)), r"domains of a trace must lie in -1\.\.0, got 0\.\.1"),
    ],
)
def test_a_record_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(uneven(), **change)


def drawn(rng, by_context, sequences=40, length=50):
    """Two domains with words of their own shares. An expert is its token's, or its domain's."""
    domain = np.repeat([0, 1], sequences).astype(np.int32)
    share = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    token = np.concatenate([rng.choice(4, length, p=share[d]) for d in domain])
    own = np.repeat(domain, length)
    expert = (own if by_context else token).astype(np.int16)[:, None, None]
    return DomainTrace(
        ("a", "b"), expert, token.astype(np.int32), domain,
        np.full(len(domain), length, np.int32), 4, (0,),
    )  # fmt: skip


def test_the_identity_of_tokens_explains_all_where_nothing_else_decides_and_else_little():
    rng = np.random.default_rng(0)
    trace = drawn(rng, by_context=False)
    found = from_tokens(trace, 0)
    counts = np.array([[((trace.token == e) & (np.repeat(trace.domain, 50) == d)).sum()
                        for e in range(4)] for d in range(2)])  # fmt: skip
    np.testing.assert_allclose(found.lift, domain_lift(counts), rtol=1e-6)
    assert found.explained == pytest.approx(1) and found.seen == 1
    context = from_tokens(drawn(rng, by_context=True), 0)
    assert context.explained < 0.3
    assert np.nanmax(context.lift) < 1.5, "the experts of a token alone know no domain"


def test_a_token_goes_where_its_like_went_in_the_other_half_by_a_loop():
    """Of a dozen words most come once or twice."""
    rng = np.random.default_rng(2)
    trace = drawn(rng, by_context=False, sequences=4, length=4)
    trace = replace(trace, token=rng.integers(0, 12, 32).astype(np.int32))
    domain, half = np.repeat(trace.domain, 4), np.tile(np.repeat([0, 1], 4), 4)
    wanted, seen = np.zeros((2, 4)), 0
    for t in range(32):
        like = np.flatnonzero((half != half[t]) & (trace.token == trace.token[t]))
        seen += len(like) > 0
        for other in like:
            wanted[domain[t], trace.expert[other, 0, 0]] += 1 / len(like)
    found = from_tokens(trace, 0)
    np.testing.assert_allclose(found.lift, domain_lift(wanted))
    assert found.seen == seen / 32 and 0.5 < found.seen < 1


def test_tokens_that_only_one_half_has_do_not_count():
    trace = replace(drawn(np.random.default_rng(0), False), token=np.arange(4000, dtype=np.int32))
    found = from_tokens(trace, 0)
    assert found.seen == 0 and np.isnan(found.lift).all() and np.isnan(found.explained)


def test_few_sequences_show_likings_that_shuffles_show_too_and_many_tell():
    trace = drawn(np.random.default_rng(1), by_context=True)
    few, many = sampled(trace, 0, (50, 2000))
    assert few.likings == few.by_chance == 2 and few.told == 0, "one sequence of each domain"
    assert many.likings == many.told == 2 and many.by_chance < 0.1
    seen = look(trace, 0, 50)
    assert seen.halves is None and seen.by_tokens is None and seen.sequences == 2
    assert "show 2.0 (each domain is one sequence, " in told_look(seen)
    heads = {tokens: _other_head(look(trace, 0, tokens), SHUFFLED).note for tokens in (50, 2000)}
    assert "only gives the rows other names" in heads[50] and "is noise" not in heads[50]
    assert "what is large here is noise" in heads[2000]
    seen = look(trace, 0, 2000)
    assert seen.halves.both == 2 and "one sequence" not in told_look(seen)


def test_worth_is_the_rise_of_each_domain_and_load_need_not_tell_it():
    killed = make_killed()
    cost_ED = killed.cost[0]
    np.testing.assert_allclose(cost_ED[:, 0], [0, 0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(cost_ED[:, 1], 0, atol=1e-6)
    verdict = killed.verdicts(0)
    assert [verdict[e, 0] for e in range(4)] == ["open", "higher", "higher", "higher"]
    assert {verdict[e, 1] for e in range(4)} == {"open"}
    assert killed.load_and_cost(0).value == pytest.approx(-1), "the busier, the less it is missed"
    assert killed.load_and_cost(0).p == pytest.approx(2 / 24), "of 24 orders two are so strong"
    assert make_killed(9).load_and_cost(0).p < 1e-4
    even = replace(killed, load=np.ones_like(killed.load))
    assert np.isnan(even.load_and_cost(0).value)
    assert "it is open in every layer whether load tells worth" in told_layers(killed)
    assert "3 of 4 experts are missed by some domain" in told_layers(killed)
    words = told_killed(killed, 0)
    assert words.startswith("Layer 2: without expert 3 the loss rises most, by 0.150 nats")
    assert "Without the busiest one, expert 0 (40.0 %), the loss rises by 0.000." in words
    assert "Of 8 pairs with a domain the loss rises in 3 and falls in 0" in words
    assert "falls by" not in killed_experts(killed, 0).svg
    sick = replace(killed, after=(2 * killed.before - killed.after).astype(np.float32))
    picture = killed_experts(sick, 0, pressable=True)
    heading = " ".join(re.findall(r">([^<>]+)</text>", picture.svg))
    assert "Without expert 3 the loss falls by 0.15: it does harm. No expert is missed" in heading
    assert picture.summary.startswith("Layer 2: no expert is missed. Without expert 3 the loss f")
    for cost in sick.cost[0][1:, 0]:  # of a hue that no value above zero has
        assert below_colour(-cost / PEAK) in picture.svg
    assert 'data-press="layer=0"' in picture.svg and "data-press" not in killed_experts(sick, 0).svg


def test_no_expert_stands_hidden_under_another_and_a_moved_one_points_to_its_place():
    killed = make_killed()
    alike = replace(killed, after=np.tile(killed.before, (1, 4, 1)), load=np.ones((1, 2, 4)) / 4)
    circles = re.findall(
        r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)" r="9"', killed_experts(alike, 0).svg
    )
    places = [tuple(map(float, at)) for at in circles]
    assert len(places) == 4
    assert min(math.dist(a, b) for a, b in combinations(places, 2)) > 14


def test_paths_are_shares_of_tokens_and_know_chance():
    trace = make_domain_trace(sequences=8)
    paths = paths_of(trace, 0)
    expert = trace.expert
    for e, j in ((0, 0), (2, 5)):
        rows = (expert[:, 0] == e).any(1)
        wanted = (expert[rows, 1] == j).any(1).mean()
        assert paths.share[1, e, j] == pytest.approx(wanted)
    np.testing.assert_allclose(paths.of_all.sum(1), 2, err_msg="each token has two choices")
    assert paths.share[0, 1, 1] == pytest.approx(1)
    more_EE = paths.share[1] - paths.of_all[1]
    assert np.nanmax(more_EE[paths.strongest]) == np.nanmax(more_EE)
    alone = "none on the left, for layer 1 is the first one"
    assert alone in expert_paths(paths, 1).svg
    assert "none on the left" not in expert_paths(paths_of(trace, 1), 1).svg
    of_two = (expert[:, 0] == 2).any(1)
    here_E, all_E = (
        np.array([(rows == j).any(1).mean() for j in range(6)])
        for rows in (expert[of_two, 1], expert[:, 1])
    )
    j = int(abs(here_E - all_E).argmax())
    wanted = f"{percent(here_E[j])} visit expert {j} of the next layer, of all tokens "
    assert wanted + percent(all_E[j]) in told_paths(paths, 2)
    # The last domain alone has expert 0 in the later layer first.
    known = replace(trace, expert=np.repeat(expert[:, 1:], 2, axis=1))
    same = paths_of(known, 0)
    assert same.told == pytest.approx(1) and same.told_null < 0.2
    assert np.isnan(paths_of(known, 1).told)


def test_two_experts_meet_often_beyond_their_loads_and_beyond_four_deviations_of_chance():
    """Of loads that make them meet 10 times, with a deviation of 3: from 22 times on it is more."""
    together = np.array([[np.nan, 21.9, 22.1, 0], [0] * 4, [22.1, 0, 0, 30], [0, 0, 30, 0]])
    mean, deviation = np.full((4, 4), 10.0), np.full((4, 4), 3.0)
    paths = paths_of(make_domain_trace(sequences=2), 0)
    many = replace(paths, meetings=CoActivation(together, mean, deviation))
    assert np.argwhere(many.often).tolist() == [[0, 2], [2, 0], [2, 3], [3, 2]]
    assert many.closest == 2
    few = replace(paths, meetings=CoActivation(together, mean * 3.001 / EFFECT, 0 * deviation))
    assert not few.often.any() and few.closest is None


def test_choices_settle_towards_the_last_checkpoint_and_chance_knows_the_loads_alone():
    final = make_domain_trace(sequences=3)
    other = replace(final, expert=(final.expert + 1) % 6)
    found = saturation.of_checkpoints([other, final])
    for place in range(2):
        last, now = (trace.expert[:, place] for trace in (final, other))
        rows = zip(now.tolist(), last.tolist(), strict=True)
        shared = np.mean([len({*a} & {*b}) / 2 for a, b in rows])
        assert found["settled"][place] == pytest.approx([shared, 1])
        assert found["settled_first"][place] == pytest.approx([0, 1])
        pairs = [len({*a} & {*b}) / 2 for a in now.tolist() for b in last.tolist()]
        assert found["chance"][place][0] == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("higher", "The first layer is ahead (+20.0 % "), ("lower", "The last layer is ahead ("),
     ("open", "Whether the first layer is ahead is open (")],
)  # fmt: skip
def test_who_settles_first_follows_the_verdict(verdict, words):
    recorded = make_settled()
    recorded["first_minus_last"]["100"]["verdict"] = verdict
    told = told_settled(recorded)
    assert (
        told.startswith("After 100 of 1,200 steps a token has 74 % of its final") and words in told
    )
    assert "Before the first step it is 24 % in the first layer, 0 % by chance." in told


@pytest.mark.parametrize(
    ("most", "words"),
    [(5.0, "1 of 2 experts raises a word as much"), (0.5, "0 of 2 experts raise")],
)
def test_what_experts_write_is_told_beside_both_nulls(most, words):
    told = told_written(np.array([most, 0.4]), np.array([[0.1, 0.6], [0.2, 0.3]]), np.full(2, 5), 2)
    assert "1 of 2 experts raises a word more than any such draw, 1 would by chance." in told
    assert f"would raise its word by 5.00; {words}" in told
