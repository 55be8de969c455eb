"""What pictures of recorded routers say, draw and list is what was recorded, whole or in part."""

import re

import numpy as np
import pytest
import scipy.stats

from helpers.pictures import SVG, corners, marks, parse, texts, values
from helpers.recorded_routers import SECOND_LOOK, base_loss, routers, routers_longer, scale
from moeviz.experiments import router_arms
from moeviz.host import read_figures
from moeviz.pictures.training import arms as names
from moeviz.pictures.training.arms import (
    DENSE,
    FAIR,
    FIVE,
    LONG,
    MIXTRAL,
    OLMOE,
    WRITTEN,
    minus_dense,
)
from moeviz.pictures.training.fair_and_written import (
    OTHER_RATE,
    STAR,
    fair_and_written,
    told_change,
)
from moeviz.pictures.training.lengths import changes, lengths, tables_of
from moeviz.pictures.training.order import order
from moeviz.pictures.training.output_scale import output_scale
from moeviz.pictures.training.pools import pools
from moeviz.pictures.training.published import CLAIMS, judged_orders, published
from moeviz.pictures.training.standings import PLOT, standings

ARMS = list(router_arms.arms())
ROUTERS = [arm for arm in ARMS if arm not in (DENSE, router_arms.DENSE_ALL)]
HASH = "hash, random"
GAPS = {MIXTRAL: -0.1, OLMOE: 0.1, HASH: -0.2, "Soft MoE": -0.3, "GShard": 0.1}


@pytest.fixture(scope="module")
def whole():
    """All settings. Mixtral is below the dense twin when fair and above it as written; hash falls
    behind in the long training."""
    written = GAPS | {MIXTRAL: 0.3, OLMOE: 0.25}
    return routers({FAIR: GAPS, WRITTEN: written, LONG: GAPS | {HASH: 0.4}})


def twin(picture):
    """The table's rows by arm, a value by its column."""
    return {row[0]: dict(zip(picture.columns, row, strict=True)) for row in picture.rows}


def sentences(picture):
    return [words for words in re.split(r"(?<=\.) (?=[A-Z\d])", picture.summary) if words]


def lies_of(gap):
    return f"{abs(gap['mean']):.3f} nats per token {'lower' if gap['mean'] < 0 else 'higher'}"


def test_names_are_those_of_the_experiment():
    assert (names.FAIR, names.WRITTEN, names.LONG) == (
        router_arms.FAIR, router_arms.WRITTEN, router_arms.LONG,
    )  # fmt: skip
    assert (names.DENSE, names.DENSE_ALL) == (router_arms.DENSE, router_arms.DENSE_ALL)
    assert {*FIVE, *(arm for c in CLAIMS for arm in (c.better, c.worse))} <= set(ARMS)


def test_no_sentence_lists_more_than_three_numbers(whole):
    """Beside the 95 of an interval, which every interval has, and numbers in names of routers."""
    drawn = [standings(whole), standings(whole, LONG, FIVE), fair_and_written(whole), order(whole),
             pools(whole), published(whole), output_scale(scale()),
             lengths(whole, routers_longer(GAPS))]  # fmt: skip
    for picture in drawn:
        for sentence in sentences(picture):
            for arm in sorted(ARMS, key=len, reverse=True):
                sentence = sentence.replace(arm, "")
            found = re.findall(r"\d[\d,./]*", sentence.replace("95 %", ""))
            setting = re.search("steps, .* seeds?:", sentence)  # "…, 300 steps, 5 seeds: …"
            assert len(found) - 2 * bool(setting) <= 3, sentence


def test_an_open_verdict_is_not_told_as_no_effect():
    """Of seeds that show nothing at all, "none" and "no" tell of what is shown."""
    nothing = routers({name: {} for name in router_arms.SETTINGS}, seeds=1)
    told = [draw(nothing) for draw in (standings, fair_and_written, order, pools, published)]
    for picture in (*told, output_scale(scale(0, seeds=1))):
        for sentence in sentences(picture):
            if re.search(r"\b(none|no|not|the same|equal)\b", sentence.lower()):
                assert re.search(r"shown|verdict|its place|not tested by|no interval", sentence)


# Standings.


def test_the_standings_have_the_lowest_loss_first_and_every_figure(whole):
    picture = standings(whole)
    rows = twin(picture)
    assert set(rows) == set(ARMS) and picture.rows[0][0] == "Soft MoE"
    losses = [float(row["loss"][:5]) for row in rows.values()]
    assert losses == sorted(losses)
    mixtral = rows[MIXTRAL]
    assert mixtral["MaxVio of training"] == "1.50", "of the least even layer"
    assert mixtral["step time / dense"] == "1.25" and mixtral["of"] == 16
    assert rows[DENSE]["minus dense"] == rows[DENSE]["sees later tokens"] == ""
    assert rows[OLMOE]["losses"] == "balance 0.01, z 0.001" and mixtral["losses"] == ""
    assert rows["noisy top-K (Shazeer)"]["losses"] == "importance + load 0.1"
    later = {arm: row["sees later tokens"] for arm, row in rows.items()}
    assert (later["Soft MoE"], later["GShard"], later[HASH]) == ("always", "train", "no")
    for arm in (MIXTRAL, OLMOE, HASH):
        assert float(rows[arm]["minus dense"]) == pytest.approx(GAPS[arm], abs=0.005)


def test_what_parameters_are_worth_is_told_beside_any_choice_of_arms(whole):
    for setting in (FAIR, LONG):
        gap = whole["settings"][setting]["arms"][router_arms.DENSE_ALL]["minus_dense"]
        words = f"The loss of a dense model with all the parameters is {lies_of(gap)} than the"
        assert words in standings(whole, setting, FIVE).summary


def test_the_multipliers_stand_side_by_side(whole):
    """A gap of -0.2 is half a doubling of the dense twin's steps at equal FLOPs, -0.4 a whole one;
    a step of a router takes 1.25 times as long."""
    row = twin(standings(whole))[HASH]
    gap = float(row["minus dense"])
    compute = 2 ** (-gap / (base_loss(300) - base_loss(600)))
    assert float(row["compute multiplier"]) == pytest.approx(compute, abs=0.01)
    assert float(row["wall-clock multiplier"]) == pytest.approx(compute / 1.25, abs=0.01)
    low, high = map(float, row["its 95 % interval"].split(" to "))
    assert low < compute < high


def test_verdicts_are_those_of_the_whole_table_and_told_by_shape_and_word(whole):
    few = standings(whole, only=FIVE)
    assert {row[0] for row in few.rows} == set(FIVE)
    every, rows = twin(standings(whole)), twin(few)
    assert all(rows[arm] == every[arm] for arm in FIVE)
    recorded = whole["settings"][FAIR]["arms"]
    assert rows[HASH]["verdict"] == recorded[HASH]["minus_dense"]["verdict"] == "lower"
    shown = texts(few)
    assert shown.count("lower") == 2 + 1 and shown.count("higher") == 1 + 1, "and the legend's"
    assert len(marks(few, "circle", "fill:#0072b2")) == 2 + 1
    assert sum(r.get("width") == "9" for r in marks(few, "rect", "#d55e00")) == 1
    assert "Holm's correction for 32 comparisons" in " ".join(shown)


def test_an_interval_and_a_tick_for_each_seed(whole):
    picture = standings(whole, only=[DENSE, HASH])
    lines = marks(picture, "line", "#0072b2")
    across = [m for m in lines if m.get("y1") == m.get("y2")]
    assert len(across) == 1 and len(lines) - 1 == 5
    gap = whole["settings"][FAIR]["arms"][HASH]["minus_dense"]
    ticks = sorted(values([m for m in lines if m not in across], "x1"))
    (zero,) = {float(m.get("x1")) for m in marks(picture, "line", "stroke-width:1.5")}
    (mean,) = {float(m.get("cx")) for m in marks(picture, "circle", "#0072b2")
               if float(m.get("cx")) > 100}  # fmt: skip
    pixels = (mean - zero) / gap["mean"]  # of one nat
    ends = [float(across[0].get(x)) for x in ("x1", "x2")]
    np.testing.assert_allclose(
        (np.array(ends) - zero) / pixels, [gap["low"], gap["high"]], atol=1e-3
    )
    own, twins = (whole["settings"][FAIR]["arms"][n]["loss"]["values"] for n in (HASH, DENSE))
    gaps = sorted(np.subtract(own, twins))
    np.testing.assert_allclose((np.array(ticks) - zero) / pixels, gaps, atol=1e-3)


def test_the_few_far_ones_are_arrows_with_their_numbers_and_the_many_are_to_be_read():
    """Of 32 gaps around zero, of up to 0.08, three lie at 0.3 and beyond."""
    near = {arm: 0.02 * (i % 9 - 4) for i, arm in enumerate(ROUTERS)}
    far = {"Soft MoE": 0.5, "Mixture of Depths": 0.3, HASH: -0.4}
    picture = standings(routers(near | far))
    assert [t for t in texts(picture) if re.fullmatch(r"[+-]\d\.\d{3}", t)] == [
        "-0.400", "+0.300", "+0.500",
    ]  # fmt: skip
    tips = [corners(p)[0, 0] for p in marks(picture, "polygon")]
    assert tips == [PLOT[0], PLOT[1], PLOT[1]]
    assert "arrow: beyond the axis, its mean beside it" in texts(picture)
    ticks = [float(t) for t in texts(picture) if re.fullmatch(r"-?0(\.\d+)?", t)]
    assert max(ticks) < 0.2, "the axis is that of the many"
    assert not marks(standings(routers(near)), "polygon")


def test_the_words_count_verdicts_and_name_no_router_that_looks_ahead(whole):
    """Soft MoE has the lowest loss, and sees later tokens."""
    setting, counted, best, _ = sentences(standings(whole))
    found = [whole["settings"][FAIR]["arms"][a]["minus_dense"]["verdict"] for a in ROUTERS]
    assert setting == "Fair scale, 300 steps, 5 seeds."
    assert f"shown for {found.count('lower')} of {len(ROUTERS)} routers" in counted
    assert f"a higher one for {found.count('higher')}, and the rest is open" in counted
    assert best.startswith("Of those that never see later tokens, hash, random has the lowest mean")
    assert " nats per token lower than the dense twin's (95 % interval -0.2" in best
    assert sentences(standings(whole, LONG, [DENSE, HASH]))[1] == (
        "A lower loss than the dense twin's is shown for none of 1 routers, a higher one for 1, "
        "and none is left open."
    )


def test_what_is_not_recorded_yet_is_told():
    first = routers(GAPS, settings=(FAIR,), timed=False, diverged=("Switch",), seeds=1)
    words = standings(first).summary
    assert "1 seed." in words and "one seed, so no interval" in words and "Switch" in words
    assert "not timed yet" in words and "Switch" not in twin(standings(first))
    row = twin(standings(first))[HASH]
    assert row["verdict"] == "open" and row["wall-clock multiplier"] == row["95 % interval"] == ""
    assert "The longer training is not recorded yet." in published(first).summary
    for draw in (fair_and_written, order, lambda recorded: standings(recorded, LONG)):
        with pytest.raises(ValueError, match="is not recorded: there is 'fair 300'. 'python -m"):
            draw(first)


def test_an_arm_is_one_thing_in_both_parts_with_its_difference(whole):
    main, costs = parse(standings(whole))
    for part in (main, costs):
        rows = [t for t in part.iter() if t.get("data-kin", "").startswith("hash,_random ")]
        assert [t.get("data-kin").split()[1] for t in rows] == ["lower"]
    (tip,) = [t.text for t in main.iter(SVG + "title") if t.text.startswith("hash, random: ")]
    gap = whole["settings"][FAIR]["arms"][HASH]["minus_dense"]
    assert f"{gap['mean']:+.3f} nats per token" in tip and tip.endswith("), lower")
    (legend,) = [t for t in main.iter() if t.get("data-kin") == "lower"]
    assert "".join(legend.itertext()) == "lower"


# Lengths.


def test_a_router_has_a_point_at_each_length_with_its_difference_there(whole):
    """Hash: 0.2 below the dense twin, 0.4 above in the long training, 0.3 above in the longest."""
    longer = routers_longer(GAPS | {HASH: 0.3})
    picture = lengths(whole, longer)
    rows = [dict(zip(picture.columns, row, strict=True)) for row in picture.rows]
    of_hash = {row["steps"]: row for row in rows if row["arm"] == HASH}
    assert list(of_hash) == ["300", "1,200", "2,400"]
    assert [float(row["minus dense"]) for row in of_hash.values()] == pytest.approx(
        [-0.2, 0.4, 0.3], abs=0.005
    )
    assert [row["verdict"] for row in of_hash.values()] == ["lower", "higher", "higher"]
    tables = {table["steps"]: table["arms"] for table in tables_of(whole, longer)}
    for row in rows:  # one difference has one verdict, whatever else is drawn beside it
        of_arm = tables[int(row["steps"].replace(",", ""))][row["arm"]]
        assert row["verdict"] == of_arm["minus_dense"]["verdict"]
    assert {row["arm"] for row in rows} == {*router_arms.LONGER_ARMS}
    moved = changes(whole, longer)
    assert moved[HASH].gap.mean == pytest.approx(0.5, abs=0.005)
    assert moved[HASH].verdict == "higher" and moved[MIXTRAL].verdict == "open"
    assert "5 routers were trained for 2,400 steps with 3 seeds." in picture.summary
    assert f"is that of {HASH}: the difference is 0.5" in picture.summary


def test_a_router_that_diverged_at_one_length_is_left_out(whole):
    longer = routers_longer(GAPS)
    del longer["arms"][MIXTRAL]
    assert MIXTRAL not in {row[0] for row in lengths(whole, longer).rows}


# Fair against as written.


def test_every_router_is_joined_to_itself_and_sorted_by_its_change(whole):
    picture = fair_and_written(whole)
    rows = twin(picture)
    assert set(rows) == set(ROUTERS)
    changes = [float(row["fair minus as written"]) for row in rows.values()]
    assert changes == sorted(changes) and next(iter(rows)) == MIXTRAL
    recorded = whole["changes"]
    for arm, row in rows.items():
        assert float(row["fair minus as written"]) == pytest.approx(recorded[arm]["mean"], abs=6e-4)
    joined = marks(picture, "line", "#0072b2")
    assert len(joined) == len(ROUTERS) == len(marks(picture, "circle", "fill:#0072b2")) - 1
    ways = [row["verdict"] for row in rows.values()]
    assert ways == [recorded[arm]["verdict"] for arm in rows]
    count = ways.count("lower")
    assert f"lower loss than as written is shown for {count} of 31 routers" in picture.summary
    assert 0 < count < 31 and ways.count("open") == sum("open" == word for word in texts(picture))
    most = f"The scale changes {MIXTRAL} most: at the fair scale its loss is 0.400"
    assert most in picture.summary
    one = f"{lies_of(recorded[HASH])} than as written (95 % interval"
    assert told_change(whole, HASH).startswith(f"Hash, random: the loss at the fair scale is {one}")


def test_a_family_whose_rate_differs_is_named_and_its_routers_are_marked(whole):
    """0.008 is an end of the grid as written; the other family has one rate at both scales."""
    chosen = {"grid": [0.008, 0.016, 0.032], "losses": [3.7, 3.6, 3.8], "chosen": 0.016,
              "at_edge": False}  # fmt: skip
    quiet = chosen | {"chosen": 0.008, "at_edge": True}
    rates = {"fair": {"soft": chosen, "fixed": chosen},
             "as written": {"soft": quiet, "fixed": chosen}}  # fmt: skip
    picture = fair_and_written(whole | {"rates": rates})
    assert picture.summary.endswith(
        "In the family “soft” more than the scale differs: the rate is 0.008, the lowest that was "
        "tried, as written and 0.016 at the fair scale."
    )
    starred = [word.removesuffix(STAR) for word in texts(picture) if word.endswith(STAR)]
    assert {*starred} == {arm for arm, one in router_arms.arms().items() if one.family == "soft"}
    assert OTHER_RATE in texts(picture)
    same = fair_and_written(whole)
    assert STAR not in "".join(texts(same)) and "more than the scale" not in same.summary


def test_a_difference_has_one_last_digit_in_all_words():
    """Seeds are rounded, so a difference that is computed from them again may end in another digit
    than the recorded one: pictures show the recorded one."""
    recorded = read_figures("routers")
    for name, table in recorded["settings"].items():
        rows = twin(standings(recorded, name))
        for arm, figures in table["arms"].items():
            gap = figures.get("minus_dense")
            if gap:
                assert rows[arm]["minus dense"] == f"{gap['mean']:+z.3f}"
                told = minus_dense(table, arm).gap
                assert (told.mean, told.low, told.high) == (gap["mean"], gap["low"], gap["high"])
    for arm, row in twin(fair_and_written(recorded)).items():
        gap = recorded["changes"][arm]
        assert row["fair minus as written"] == f"{gap['mean']:+z.3f}"
        assert row["95 % interval"] == f"{gap['low']:+z.3f} to {gap['high']:+z.3f}"


# Orders.


def test_ranks_and_their_correlation(whole):
    picture = order(whole)
    tables = [whole["settings"][name]["arms"] for name in (FAIR, LONG)]
    arms = [arm for arm in ARMS if arm != router_arms.DENSE_ALL]
    ranks = [scipy.stats.rankdata([t[a]["loss"]["mean"] for a in arms]) for t in tables]
    rows = twin(picture)
    assert set(rows) == set(arms)
    shown = [[rows[arm][c] for arm in arms] for c in ("rank, short", "rank, long")]
    np.testing.assert_array_equal(shown[0][arms.index(HASH)], ranks[0][arms.index(HASH)])
    assert all(sorted(r) == list(range(1, len(arms) + 1)) for r in shown)
    assert rows[HASH]["rank, short"] == 2 and rows[HASH]["rank, long"] == len(arms)
    assert f"from place 2 to place {len(arms)}" in picture.summary
    rho = whole["order"]["all"]
    words = f"is {rho['rho']:.2f} (95 % interval {rho['low']:.2f} to {rho['high']:.2f})."
    assert words in picture.summary
    assert len(marks(picture, "polyline")) == len(arms)


# Pools.


def test_pools_are_of_the_routers_that_compare_tokens_outside_training(whole):
    picture = pools(whole)
    rows = twin(picture)
    arms = router_arms.arms()
    built = {a: arms[a].experts.build_router(4) for a in ROUTERS}
    assert set(rows) == {a for a, r in built.items() if not r.causal and not r.substitute}
    for row in rows.values():
        assert float(row["domain minus mixed"]) == pytest.approx(SECOND_LOOK, abs=1e-3)
        assert row["domain's verdict"] == "higher" and row["sequence's verdict"] == "open"
    for pool, moved in (("domain", len(rows)), ("sequence", "none")):
        words = (
            f"With one {pool} at a time, another loss than in mixed batches is shown for {moved}"
        )
        assert f"{words} of {len(rows)} routers." in picture.summary


# Published orders.

CLAIM = next(c for c in CLAIMS if c.better == "sign bias, no loss")  # its arms stand once
TESTED = [claim for claim in CLAIMS if claim.tested]


def with_losses(better, worse):
    """Recorded routers with these losses by seed in one claim's arms, 3.0 in all others."""
    losses = dict.fromkeys(ARMS, [3.0] * len(better)) | {CLAIM.better: better, CLAIM.worse: worse}
    arms = {name: {"loss": {"values": values}} for name, values in losses.items()}
    seeds = list(range(len(better)))
    table = {"steps": 300, "scale": "fair", "seeds": seeds, "arms": arms}
    return {"provenance": {}, "settings": {FAIR: table}}


def seen(better, worse=None):
    recorded = with_losses(better, worse or [3.0] * len(better))
    return judged_orders(recorded)[CLAIM].verdict


def test_no_claim_is_judged_that_ours_does_not_test(whole):
    """A router that is helped by later tokens, and pairs of unequal cost there."""
    judged = judged_orders(whole)
    assert set(judged) == set(TESTED) and len(TESTED) < len(CLAIMS)
    arms = router_arms.arms()
    for claim in TESTED:
        for name in (claim.better, claim.worse):
            if arms[name].experts:
                router = arms[name].experts.build_router(4)
                assert router.causal or router.substitute, name
    for claim in CLAIMS:
        assert claim.source and claim.differs and claim.better != claim.worse
        assert claim.tested != claim.differs.startswith("not tested: ")
    switch = next(c for c in TESTED if c.better == "Switch")
    sizes = [arms[name].experts for name in (switch.better, switch.worse)]
    assert len({(s.num_experts, s.top_k, s.d_expert) for s in sizes}) == 1, "matched"


@pytest.mark.parametrize("count", [2, 3, 5, 10, 11])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_claim_is_judged_as_one_of_all_tested_claims(count, sign):
    """A mean just within and just beyond as many standard errors from zero as Student's t asks of
    the smallest of so many p-values (Bonferroni: all others are 1)."""
    spread = [(-1.0) ** i for i in range(count - count % 2)] + [0.0] * (count % 2)
    quantile = 1 - 0.025 / len(TESTED)
    error = scipy.stats.sem(spread) * scipy.stats.t.ppf(quantile, count - 1)
    for margin, verdict in ((0.99, "open"), (1.01, "higher" if sign > 0 else "lower")):
        assert seen([3.0 + value + sign * margin * error for value in spread]) == verdict


def test_a_verdict_needs_seeds_in_pairs_and_a_difference():
    assert seen([1.0]) == seen([3.0, 3.0, 3.0]) == "open"
    worse = [3.0, 3.5, 2.5, 3.2, 2.9]
    better = [v - 0.01 - 1e-4 * i for i, v in enumerate(worse)]
    assert seen(better, worse) == "lower", "both vary by 0.5, their difference by nothing"


def test_the_picture_and_its_table_say_the_same():
    picture = published(with_losses([2.9, 2.91, 2.9], [3.0, 3.0, 3.0]))
    assert "ours agree with 1 of the tested orders, disagree with 0 and leave 6" in picture.summary
    row = picture.rows[CLAIMS.index(CLAIM)]
    assert row[:6] == (CLAIM.better, CLAIM.worse, CLAIM.source, CLAIM.differs, FAIR, "-0.097")
    assert row[-1] == "agrees"
    shown = texts(picture)
    assert shown.count("agrees") == 2 and shown.count("not tested") == len(CLAIMS) - len(TESTED)


def test_both_lengths_are_judged_each_as_a_table(whole):
    picture = published(whole)
    assert [row[4] for row in picture.rows] == [FAIR, LONG] * len(CLAIMS)
    assert "Fair scale, 1,200 steps, 5 seeds: ours agree" in picture.summary


# The output scale.


def test_the_loss_stands_over_the_scale_and_as_written_where_it_starts():
    recorded = scale(0.05)
    picture = output_scale(recorded)
    arm = recorded["arms"]["token choice, raw"]
    lines = marks(picture, "polyline")
    assert [m.get("style").count("dasharray") for m in lines] == [0, 1, 1]
    (ring,) = [m for m in marks(picture, "circle", "stroke:#d55e00") if m.get("r") == "9"]
    squares = [m for m in marks(picture, "rect", "#d55e00") if float(m.get("y")) > 110]
    x = np.array([float(m.get("x")) + 4 for m in squares])
    octave = np.diff(x)
    np.testing.assert_allclose(octave, octave[0], atol=0.05)  # equal steps: a logarithmic axis
    at = x[0] + octave[0] * np.log2(arm["as_written"]["scale"] * 16)
    assert float(ring.get("cx")) == pytest.approx(at, abs=0.1)
    assert len(picture.rows) == 3 * (len(recorded["scales"]) + 1)


def test_the_words_of_the_output_scale():
    recorded = scale(0.05)
    words = output_scale(recorded).summary
    arm = recorded["arms"]["token choice, raw"]
    points = [arm["as_written"], *(p for p in arm["points"] if p["scale"] == 1)]
    written, fair = (point["loss"]["mean"] for point in points)
    assert (
        f"As written, token choice, raw starts at {points[0]['scale']:.2g} times the fair scale."
        in words
    )
    assert (
        f"Its loss is then {written - fair:.3f} nats per token higher than at the fair scale"
        in words
    )
    assert "As written, dense" not in words, "its own scale is the fair one"
    assert "1 for token choice, raw" in words.split("The lowest mean loss lies at scale ")[1]
