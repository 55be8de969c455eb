"""The pictures of 09_frontier_models: pure, readable, with a twin of the same content, and with the
numbers that they claim."""

import pytest

from helpers.picture_cases import BILL, COUNTED, V3
from moeviz.costs import (
    CLAIMS,
    MODELS,
    active_parameters,
    evaluate,
    kv_cache_bytes,
    parameters,
)
from moeviz.pictures.costs.cache_ladder import SHOWN, cache_ladder, rungs
from moeviz.pictures.costs.claims import amount, claims, ladder
from moeviz.pictures.costs.model_anatomy import model_anatomy, sheet
from moeviz.pictures.costs.model_map import RANGES, model_map, points
from moeviz.pictures.costs.model_parts import PARTS, by_part, count, money, size
from moeviz.pictures.costs.training_cost import bill_of, training_cost

# Parts and numbers.


def test_every_component_has_one_part():
    from moeviz.costs.shape.terms import COMPONENTS

    listed = [c for _, components in PARTS.values() for c in components]
    assert sorted(listed) == sorted((*COMPONENTS, ""))
    for model in COUNTED:
        total = parameters(model.architecture)
        assert sum(by_part(total).values()) == pytest.approx(total.total)


def test_numbers_read_as_models_are_named():
    assert [count(v) for v in (671.026e9, 999.7e9, 1.571e12, 39.16e9, 12, 0)] == [
        "671B", "1T", "1.57T", "39.2B", "12", "0",
    ]  # fmt: skip
    assert (size(70272), size(1.342e12)) == ("70.3 kB", "1.34 TB")
    assert (money(5.576e6), money(0.0032)) == ("$5.58M", "$0.0032")


# Anatomy.


def test_the_anatomy_says_what_was_counted():
    picture = model_anatomy([V3])
    text = picture.svg
    for said in ("37.6B everything", "36.6B without the input table", "35.7B without both", "671B",
                 "70.3 kB more for each token", "bf16 1.34 TB", "counted −1.0 %"):  # fmt: skip
        assert said in text, said
    rows = {row[2]: row for row in picture.rows}
    assert rows["routed experts"][5].startswith("58 layers × 256 experts × matrices 3")
    found = [r for r in picture.rows if r[1] != "sheet" and r[2]]
    whole = parameters(V3.architecture).total
    assert sum(float(r[3].replace(",", "")) for r in found) == whole
    met = active_parameters(V3.architecture).total
    assert sum(float(r[4].replace(",", "")) for r in found) == met


def test_an_encoder_has_no_cache_and_says_so():
    assert "not counted" in sheet(MODELS["Switch-C 1.6T"].architecture).no_cache
    assert sheet(MODELS["GPT-3 175B"].architecture).context_tokens == 2048, "no longer than it read"


def test_a_model_without_sizes_is_refused():
    with pytest.raises(ValueError, match=r"^The sizes of GPT-4 \(rumour\) are not public"):
        model_anatomy([MODELS["GPT-4 (rumour)"]])


# The map.


def test_a_model_is_on_the_map_from_its_year_on():
    for until in (2023, 2024):
        picture = model_map(chosen=V3.name, until=until)
        assert ("is not there" in picture.summary) == (until < V3.year)


def test_a_pasted_architecture_has_nothing_published():
    assert "nothing is known of it here" in model_anatomy([V3.architecture]).svg


def test_every_point_can_be_chosen_and_is_then_named():
    for point in points():
        picture = model_map(chosen=point.model.name)
        assert f">{point.model.name}</text>" in picture.svg
        assert point.confidence in picture.summary


def test_confidence_is_what_is_said_of_the_sizes():
    by_name = {p.model.name: p.confidence for p in points()}
    assert by_name["GPT-4 (rumour)"] == "rumour"
    assert by_name["Qwen2.5-Max"] == by_name["Inferrix-72B (article)"] == "unverifiable"
    assert by_name["DeepSeek-V3 / R1"] == by_name["Switch-C 1.6T"] == "official"
    assert "Gemini 1.5 Pro" not in by_name and "M6-T 1T" not in by_name
    for name, (totals, actives) in RANGES.items():
        point = next(p for p in points() if p.model.name == name)
        assert totals[0] <= point.total <= totals[1] and actives[0] <= point.active <= actives[1]
    rumour = evaluate("gpt4_sizes")
    assert RANGES["GPT-4 (rumour)"][0][1] == rumour.value


# The ledger.


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_judged_at_both_ends_of_what_it_assumes(name):
    claim = CLAIMS[name]
    for assumption in claim.assumptions:
        steps = ladder(assumption)
        assert assumption.value in steps and sorted(set(steps)) == list(steps)
        assert (steps[0], steps[-1]) == (assumption.low, assumption.high)
        shown = [amount(v, assumption.unit) for v in steps]
        assert max(map(len, shown)) < 24
        for value in (steps[0], steps[-1]):
            picture = claims(name, {assumption.name: value})
            verdict = evaluate(name, **{assumption.name: value}).verdict
            assert f": {verdict}; " in picture.summary


def test_the_ledgers_table_has_every_claim():
    rows = claims("mla_57", {}).rows
    assert [row[0] for row in rows] == [*CLAIMS]
    assert {row[0]: row[6] for row in rows} == {n: evaluate(n).verdict for n in CLAIMS}


def test_an_assumption_out_of_range_is_refused():
    with pytest.raises(ValueError, match="^baseline_groups must be"):
        claims("mla_57", {"baseline_groups": 0})


# The ladder of caches.


def test_the_ladder_by_hand():
    found = {label: (value, each, ratio) for label, value, each, ratio, _ in rungs(1000, 16)}
    assert found["MLA, as built"] == pytest.approx((61 * 576 * 2 * 1000, 1152, 1))
    assert found["GQA, 8 groups"][0] == pytest.approx(61 * 2 * 8 * 128 * 2 * 1000)
    assert found["MHA, 128 heads, keys and values of 128"][2] == pytest.approx(56.89, abs=0.01)
    rows = {row[0]: row for row in cache_ladder(context=1000, bits=8, batch=4).rows}
    llama = MODELS["Llama 3.1 405B"].architecture
    want = 4 * kv_cache_bytes(llama, 1000, bits=8).total
    assert rows["Llama 3.1 405B"][1] == f"{want:,.0f}"
    assert set(SHOWN) < set(rows)


def test_what_is_said_of_v2s_abstract():
    said = cache_ladder(context=1024).svg
    assert "counted −93.3 % of a 67B model" in said and "−82.2 % at 16 bits each" in said


# Training.


def _bill(name, **changes):
    return bill_of(name, **{k: v for k, v in {**BILL, **changes}.items() if k != "chosen"})


def test_v3s_bill_gives_back_its_published_hours():
    assert _bill(V3.name).device_hours == pytest.approx(2.664e6, rel=0.01)
    said = training_cost(**BILL)
    assert "2.67M hours" in said.summary and "$5.34M" in said.summary
    assert "2.79M hours of H800 SXM (official)" in said.svg
    llama = _bill("Llama 3.1 405B", tokens=15.6e12, mfu=0.35)
    assert llama.device_hours == pytest.approx(30.84e6, rel=0.01), "as the notebook says"
