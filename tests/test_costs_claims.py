"""Money, and the ledger of claims: every verdict follows from a sum that a reader can change."""

import re

import numpy as np
import pytest

from helpers.models_as_experts import made_loads, made_models
from helpers.recorded_frontier import made_frontier
from moeviz.costs import CLAIMS, SOURCES, VERDICTS, bill, evaluate
from moeviz.costs.claims import measured
from moeviz.pictures.costs.claims import claims
from moeviz.records.models_as_experts import MIXED

# claim -> its verdict and, where there is one, the computed value, to a share of 1e-3.
LEDGER = {
    "arxiv_number": ("contradicted", 12),
    "dense_baseline": ("unverifiable", 2.0222e6),
    "hundredfold": ("inaccurate", 17.869),
    "unprecedented": ("contradicted", 0.0011),
    "inferrix_cost": ("unverifiable", 7.0e12),
    "frontier_tenfold": ("holds", 14.686),
    "gpt4_gemini_dense": ("contradicted", None),
    "nine_figures": ("inaccurate", 5.576e6),
    "flops_are_energy": ("inaccurate", 0.3543),
    "since_1991": ("holds", 1.0),
    "gpt3_sizes": ("holds", 174.604e9),
    "gpt3_multiply_adds": ("inaccurate", 174.604e9),
    "ffn_share": ("holds", 0.8125),
    "tens_of_megawatts": ("holds", 11.2e6),
    "capacity_formula": ("inaccurate", 160),
    "overprovisioning": ("unverifiable", None),
    "unselected_not_loaded": ("inaccurate", 163.314),
    "few_percent_active": ("holds", 0.03165),
    "dense_compute_bound": ("contradicted", 295.22),
    "all_in_vram": ("inaccurate", 24.797),
    "many_devices_141b": ("holds", 4),
    "fine_grained_is_free": ("holds", 0.002834),
    "gpt4_sizes": ("unverifiable", 1.831e12),
    "gpt4_flops": ("inaccurate", 554e9),
    "mixtral_8x22b": ("holds", 140.621e9),
    "v3_sizes": ("holds", 671.026e9),
    "v3_structure": ("holds", 0.05596),
    "mla_57": ("holds", 56.889),
    "v3_cost": ("holds", 5.576e6),
    "qwen25_max_sizes": ("unverifiable", 57.409e9),
    "qwen25_max_cost": ("unverifiable", None),
    "qwen25_max_tokens": ("holds", None),
    "llama_sizes": ("holds", 405.853e9),
    "llama_cost": ("holds", 92.52e6),
    "cost_per_trillion": ("holds", 15.742),
    "order_of_magnitude": ("holds", 11.062),
    "v3_context": ("holds", 163840),
    "dsmoe_half": ("contradicted", None),
    "gpt3_pass_cost": ("contradicted", 0.0032270),
    "switch_tenth": ("contradicted", 0.0011),
    "tenth_for_nine_tenths": ("unverifiable", None),
    "activation_beacon": ("contradicted", None),
    "routing_bottleneck": ("contradicted", 0.005026),
    "on_a_phone": ("holds", 49.898),
    "gemini15": ("holds", None),
    "m6t_google": ("contradicted", None),
    "v3_mla_fp8": ("holds", None),
    "ling_granularity": ("contradicted", 3184.15),
}


# Claims tested by a recorded run, whose figures are not repeated here.
JUDGED = (
    "dropping_degrades", "expert_choice_balance", "strict_balance", "shared_knowledge",
    "near_full_performance", "sparse_from_the_beginning", "int4_shrinks", "prune_underused",
    "low_rank_experts", "experts_for_an_input", "models_as_experts", "tiny_expert_loaded",
)  # fmt: skip
MEASURED = (*JUDGED, "token_dropping")


def test_the_ledger_is_whole():
    assert set(CLAIMS) == {*LEDGER, *MEASURED}
    assert {claim.source for claim in CLAIMS.values()} == set(SOURCES)


@pytest.mark.parametrize("name", LEDGER)
def test_a_claim_comes_to_its_verdict_and_every_assumption_can_be_moved_to_its_ends(name):
    claim, (verdict, value) = CLAIMS[name], LEDGER[name]
    found = evaluate(name)
    assert found.verdict == verdict
    assert found.value == (value if value is None else pytest.approx(value, rel=1e-3))
    assert found.why and claim.where and claim.formula and claim.evidence
    assert all(term.label and term.formula for term in found.terms)
    for item in claim.assumptions:
        assert item.low <= item.value <= item.high and item.meaning
        for end in (item.low, item.high):
            moved = evaluate(claim, **{item.name: end})
            assert moved.verdict in VERDICTS
            assert dict(moved.assumptions)[item.name] == end


@pytest.mark.parametrize(
    ("name", "assumptions", "verdict"),
    [
        ("v3_cost", dict(usd_per_hour=4), "inaccurate"),
        ("mla_57", dict(baseline_groups=8), "inaccurate"),
        ("hundredfold", dict(factor=1), "holds"),
        ("hundredfold", dict(factor=1000), "inaccurate"),
        ("unprecedented", dict(active_share=0.0005), "holds"),
        ("inferrix_cost", dict(usd_per_hour=20, tflops_per_s=50), "inaccurate"),
        ("frontier_tenfold", dict(usd_per_hour=1), "inaccurate"),
        ("nine_figures", dict(usd_per_hour=19), "inaccurate"),
        ("nine_figures", dict(usd_per_hour=40), "holds"),
        ("gpt3_pass_cost", dict(tokens=1.6e12), "holds"),
        ("arxiv_number", dict(upload_year=2025), "unverifiable"),
        ("tens_of_megawatts", dict(devices=4000), "inaccurate"),
        ("capacity_formula", dict(top_k=1), "holds"),
        ("unselected_not_loaded", dict(batch=1), "holds"),
        ("dense_compute_bound", dict(batch=600), "holds"),
        ("dense_compute_bound", dict(batch=5000), "contradicted"),
        ("all_in_vram", dict(host_gb_per_s=10), "holds"),
        ("many_devices_141b", dict(bits=4.25), "inaccurate"),
        ("fine_grained_is_free", dict(coarse_width=1000), "inaccurate"),
        ("llama_cost", dict(usd_per_hour_low=2), "inaccurate"),
        ("cost_per_trillion", dict(llama_usd_per_hour=2), "inaccurate"),
        ("llama_sizes", dict(devices=1000), "inaccurate"),
        ("routing_bottleneck", dict(bottleneck_share=0.001), "holds"),
        ("since_1991", dict(since=2020), "holds"),
        ("on_a_phone", dict(share=0.3), "inaccurate"),
        ("on_a_phone", dict(wanted=60), "inaccurate"),
        ("ling_granularity", dict(base=2), "holds"),
        ("ling_granularity", dict(base=2.5), "contradicted"),
    ],
)
def test_a_verdict_follows_its_assumptions(name, assumptions, verdict):
    assert evaluate(name, **assumptions).verdict == verdict


def test_figures_move_with_assumptions():
    base, dear = evaluate("v3_cost"), evaluate("v3_cost", usd_per_hour=4)
    assert dear.value == 2 * base.value
    assert base.ratio == pytest.approx(5.576 / 5.6)
    equal = evaluate("cost_per_trillion", llama_usd_per_hour=2)
    assert equal.value == pytest.approx(10.49, abs=0.005)
    assert "at one price" in equal.why
    assert evaluate("dense_baseline", tokens=32e12).value == pytest.approx(216e6, rel=0.002)
    assert evaluate("activation_beacon").ratio is None


def test_a_bill_shows_its_sums():
    run = bill(3.6e21, peak_flops_per_s=1e15, utilisation=0.5, usd_per_hour=2, watts=500, pue=1.2,
               kg_per_kwh=0.4)  # fmt: skip
    assert [t.value for t in run.terms] == pytest.approx([2000, 4000, 1200, 480])
    assert [run.device_hours, run.usd, run.kwh, run.carbon_kg] == [t.value for t in run.terms]


def test_a_hundredfold_saving_is_one_models_ratio():
    words = evaluate("hundredfold").why
    assert "only Switch-C 1.6T reaches 100 times" in words and "V3 has 17.9" in words
    assert "none reaches 1,000 times" in evaluate("hundredfold", factor=1000).why


@pytest.mark.parametrize(
    ("name", "assumptions", "says", "not_any_more"),
    [
        ("gpt4_flops", dict(expert_parameters=1e9), "4,900 times less", "1,000 times"),
        ("tens_of_megawatts", dict(devices=1e6, pue=2), "1,400 MW for 1,000,000", "Llama"),
        ("flops_are_energy", dict(gpt3_mwh=100), "4.56 times the energy", "saved"),
        ("mla_57", dict(baseline_groups=8), "3.6 times against 8 key heads", "published"),
        ("many_devices_141b", dict(bits=1), "18 GB fit one device and leave 62 GB", "no room"),
        ("gpt3_pass_cost", dict(tokens=1e14), "costs $157,", "millions are"),
        ("hundredfold", dict(factor=30), " 4 reach 30 times", "only"),
    ],
)  # fmt: skip
def test_a_reason_moves_with_what_a_reader_drags(name, assumptions, says, not_any_more):
    why = evaluate(name, **assumptions).why
    assert says in why and not_any_more not in why


@pytest.mark.parametrize("name", MEASURED)
def test_a_measured_claim_names_its_run_and_tells_its_figures(name):
    claim, found = CLAIMS[name], evaluate(name)
    assert re.search(r"data/runs/\w+\.json", claim.evidence)
    assert found.verdict in VERDICTS and "nan" not in found.why
    assert "not recorded" not in found.why
    assert name == "token_dropping" or re.search(r"\d", found.why)


OLDER = ({}, {"arms": {}, "limits": {}}, {"arms": {"nothing": {"max_violation": 5.0}}}, [])


@pytest.mark.parametrize("figures", OLDER, ids=str)
def test_a_recording_without_what_a_claim_reads_is_none(figures, monkeypatch):
    monkeypatch.setattr(measured, "recorded", lambda name: figures)
    for name in JUDGED:
        found = evaluate(name)
        assert found.verdict == "unverifiable" and found.value is None
        assert re.search(
            "not recorded here: 'python -m moeviz experiment [a-z_]+' does$", found.why
        )


def test_the_other_claims_are_shown_where_a_run_is_missing(monkeypatch):
    def missing(name):
        raise FileNotFoundError(name)

    monkeypatch.setattr(measured, "recorded", missing)
    picture = claims("mla_57", {})
    rows = {row[0]: dict(zip(picture.columns, row, strict=True)) for row in picture.rows}
    assert {*rows} == {*CLAIMS} and rows["mla_57"]["verdict"] == "holds"
    assert {rows[name]["verdict"] for name in JUDGED} == {"unverifiable"}


def seeds(*values):
    return {"values": values, "mean": float(np.mean(values))}


@pytest.mark.parametrize(
    ("costs", "verdict"),
    [
        ((0.02, 0.03, 0.025), "inaccurate"),
        ((0.4, 0.5, 0.45), "holds"),
        ((-0.1, 0.4, 0.1), "unverifiable"),
    ],
)
def test_dropping_is_judged_by_the_interval(costs, verdict, monkeypatch):
    limits = {
        "no limit": {"loss": seeds(3.0, 3.2, 3.1)},
        "factor 1.25": {
            "loss_mixed": seeds(*np.add((3.0, 3.2, 3.1), costs)), "dropped_mixed": seeds(0.1)
        },
    }  # fmt: skip
    monkeypatch.setattr(measured, "recorded", lambda name: {"limits": limits})
    found = evaluate("dropping_degrades")
    assert found.verdict == verdict and found.value == pytest.approx(np.mean(costs))


@pytest.mark.parametrize(("biased", "verdict"), [(0.02, "holds"), (0.4, "inaccurate")])
def test_strict_balance_is_judged_in_the_least_even_layer(biased, verdict, monkeypatch):
    layers = {"sign bias": (0.0, biased), "nothing": (1.0, 7.0), "expert choice": (0.0, 0.0)}
    arms = {
        arm: {"training": {"max_violation": [seeds(value) for value in values]}}
        for arm, values in layers.items()
    }
    monkeypatch.setattr(measured, "recorded", lambda name: {"arms": arms})
    assert evaluate("strict_balance").verdict == verdict
    assert "MaxVio is 7.00 without it" in evaluate("strict_balance").why
    assert evaluate("expert_choice_balance").verdict == "inaccurate"


def compressed(int4, pruned, low_rank):
    """A recording of compression with these costs."""
    recipes = {
        "bits": {"int4": {"loss": seeds(*int4)}},
        "prune by load": {"4": {"loss": seeds(*pruned)}},
        "low rank": {"half": {"loss": seeds(2.0, 2.0, 2.0)}},
        "low rank, calibrated": {"half": {"loss": seeds(*low_rank)}},
    }
    return {
        "shares": {"bits": {"int4": 0.2578}},
        "regimes": {"batch": {"recipes": recipes}},
        "judged": {"chance": {"prune by load": {"4": {"verdict": "open"}}}},
    }


@pytest.mark.parametrize(
    ("int4", "other", "shrinks", "smaller"),
    [
        ((0.01, 0.02, 0.01), (1.2, 1.1, 1.3), "holds", "inaccurate"),
        ((0.51, 0.52, 0.51), (0.1, 0.2, 0.1), "inaccurate", "holds"),
        ((0.00, 0.08, 0.04), (0.0, 0.3, -0.2), "unverifiable", "unverifiable"),
    ],
)
def test_what_shrinks_a_model_is_judged_by_the_interval(int4, other, shrinks, smaller, monkeypatch):
    figures = compressed(int4, other, other)
    monkeypatch.setattr(measured, "recorded", lambda name: figures)
    assert evaluate("int4_shrinks").verdict == shrinks
    assert "26 % of their bytes" in evaluate("int4_shrinks").why
    for name in ("prune_underused", "low_rank_experts"):
        found = evaluate(name)
        assert found.verdict == smaller
        assert found.value == pytest.approx(np.mean(other) - np.mean(int4))
    assert "is not shown to beat chance" in evaluate("prune_underused").why


@pytest.mark.parametrize(
    ("fall", "full", "sparse"),
    [(0.03, "inaccurate", "holds"), (0.5, "holds", "holds"), (-0.5, "inaccurate", "inaccurate")],
)
def test_claims_on_the_frontier_follow_its_run(fall, full, sparse, monkeypatch):
    """Of 256 experts: a little better than the twin, better than the widest model, far worse."""
    monkeypatch.setattr(measured, "recorded", lambda name: made_frontier(fall=fall))
    found = evaluate("near_full_performance")
    assert found.verdict == full and "four ways give" in found.why
    assert evaluate("near_full_performance", claimed=0.5).verdict in ("holds", full)
    found = evaluate("sparse_from_the_beginning")
    assert found.verdict == sparse and found.value == pytest.approx(-4 * fall, abs=0.01)


@pytest.mark.parametrize(
    ("gain", "mixed", "one_set", "meta"),
    [(0.02, -0.1, "holds", "holds"), (-0.05, 0.1, "inaccurate", "inaccurate")],
)
def test_models_as_experts_are_judged_by_the_interval(gain, mixed, one_set, meta, monkeypatch):
    figures = made_models(above={MIXED: mixed}, one_set_gain=gain)
    monkeypatch.setattr(measured, "recorded", lambda name: figures)
    assert evaluate("experts_for_an_input").verdict == one_set
    assert evaluate("experts_for_an_input").value == pytest.approx(-gain, abs=0.005)
    found = evaluate("models_as_experts")
    assert found.verdict == meta and found.value == pytest.approx(mixed, abs=0.005)
    assert "for 3 times the FLOPs" in found.why


def test_one_seed_of_models_as_experts_decides_nothing(monkeypatch):
    figures = made_models(1, above={MIXED: -1.0}, one_set_gain=1.0)
    monkeypatch.setattr(measured, "recorded", lambda name: figures)
    for name in ("experts_for_an_input", "models_as_experts"):
        assert evaluate(name).verdict == "unverifiable"


def test_a_loaded_expert_is_as_tiny_as_its_bytes(monkeypatch):
    monkeypatch.setattr(measured, "recorded", lambda name: made_loads())
    found = evaluate("tiny_expert_loaded")
    assert found.verdict == "holds" and found.value == pytest.approx(2 * 196_608 / 1_574_144)
    assert "loaded 1 times in 12 texts of one topic, 12 times where it changes" in found.why
    assert evaluate("tiny_expert_loaded", tiny=0.1).verdict == "inaccurate"
