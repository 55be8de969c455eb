"""What ships in data/ is what this code makes, and says what README and the notebooks say of it."""

import json
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from safetensors import safe_open

from helpers.numerics import assert_figures
from moeviz.experiments import collapse, loud_and_quiet, output_scale, race
from moeviz.experiments.cures import ARMS, cures_of
from moeviz.experiments.cures import SETTINGS as COLLAPSE_SETTINGS
from moeviz.experiments.recorded import recorded_figures
from moeviz.experiments.router_arms import DENSE, DENSE_ALL, FAIR, LONG, SETTINGS, WRITTEN, arms
from moeviz.experiments.start_here import LAYER, LAYER_TEXT, MODEL, TEXT
from moeviz.host import data_path
from moeviz.panels.training.collapse import collapsed as judged_by_the_panel
from moeviz.pictures.training.cures_told import (
    balance_verdicts,
    failing,
    told_versus,
    worst_layer,
)
from moeviz.pictures.training.standings import DOMAINS
from moeviz.records.metrics import gap
from moeviz.records.routes import Anatomy, Trace
from moeviz.records.runs import load_snapshots
from moeviz.records.store import HEADER_KEY, load_header
from moeviz.text.corpus import load_corpus
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch.text import dissect, load_model, trace_text

ROOT = Path(__file__).resolve().parent.parent
MODEL_FILE = data_path("models", "start_here.safetensors")
TRACE = Trace.load_file(data_path("traces", "start_here.safetensors"))
# Of a figure of four digits, the last may be rounded the other way on another machine.
DIGIT = 1.1e-4
TRAINED = (
    "capacity", "collapse", "compression", "race", "race_settings", "routers", "routers_longer",
    "scale",
)  # fmt: skip
RECORDINGS = sorted(
    path
    for room in ("models", "runs", "traces")
    for path in data_path(room).iterdir()
    if path.suffix in (".json", ".safetensors")
)


def figures(name):
    """What stands in a recorded summary."""
    return json.loads(data_path("runs", f"{name}.json").read_text(encoding="utf-8"))


def snapshots(name):
    return load_snapshots(data_path("runs", f"{name}.safetensors"))[0]


def provenance(path):
    """What a recording says of where it comes from."""
    if path.suffix == ".json":
        return dict(json.loads(path.read_text(encoding="utf-8"))["provenance"])
    with safe_open(path, "numpy") as file:
        return dict(json.loads(file.metadata()[HEADER_KEY])["meta"])


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_every_recording_says_where_it_comes_from(path):
    meta = provenance(path)
    for name in ("command", "commit", "date", "device", "versions"):
        assert meta[name], name
    if path.stem in TRAINED and path.suffix == ".json":
        assert meta["text"] == load_corpus().manifest.fingerprint
    assert meta["command"].startswith(("python -m moeviz experiment ", "python -m moeviz bench "))


def git(*words):
    """The exit status of a git command in this tree, and what it prints."""
    ran = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return ran.returncode, ran.stdout.strip()


def test_the_code_of_every_recording_is_in_the_history():
    """A commit that can be checked out again, without changes that nobody can see any more."""
    if shutil.which("git") is None or git("rev-parse", "--show-toplevel")[1] != str(ROOT):
        pytest.skip("this folder is no clone of the repository")
    if git("rev-parse", "--is-shallow-repository")[1] == "true":
        pytest.skip("a shallow clone does not hold the history")
    named = {path.name: provenance(path)["commit"] for path in RECORDINGS}
    lost = {c for c in named.values() if git("merge-base", "--is-ancestor", c, "HEAD")[0] != 0}
    assert {name: commit for name, commit in named.items() if commit in lost} == {}


def test_a_summary_is_that_of_the_recorded_curves():
    told = figures("race")
    del told["provenance"]
    assert_figures(as_json(race.summary(snapshots("race"), snapshots("race_control"))), told, DIGIT)
    told = figures("collapse")
    del told["provenance"], told["busy_experts"]
    assert_figures(as_json(collapse.summary(snapshots("collapse"))), told, DIGIT)


def as_json(values):
    return json.loads(json.dumps(values))


def test_the_recorded_looks_are_what_the_shipped_model_does():
    assert load_header(MODEL_FILE, kind="model")["model"] == json.loads(json.dumps(MODEL.to_dict()))
    tokenizer = Tokenizer.default()
    model = load_model(MODEL_FILE, tokenizer)
    now = trace_text(model, tokenizer, TEXT)
    assert (TRACE.meta["text"], TRACE.tokens, TRACE.layers) == (TEXT, now.tokens, now.layers)
    np.testing.assert_allclose(TRACE.score, now.score, atol=1e-5)
    # Another machine may round a near tie the other way; nothing else may differ.
    sorted_score = np.sort(now.score, axis=-1)
    clear = (np.diff(sorted_score, axis=-1)[..., -now.top_k :] > 1e-4).all(-1)
    np.testing.assert_array_equal(TRACE.expert[clear], now.expert[clear])
    assert clear.mean() > 0.9
    layer = Anatomy.load_file(data_path("traces", "inside_layer.safetensors"))
    again = dissect(model, tokenizer, LAYER_TEXT, layer=LAYER, weighting=layer.weighting)
    for name in ("x", "logits", "score", "y"):
        np.testing.assert_allclose(
            getattr(layer, name), getattr(again, name), atol=1e-4, err_msg=name
        )


def test_recorded_routers_are_those_of_the_code_and_of_several_seeds():
    recorded = figures("routers")
    assert set(recorded["arms"]) == set(arms()) and load_corpus().domains == DOMAINS
    assert len(recorded["settings"][FAIR]["seeds"]) >= 5
    assert len(recorded["settings"][WRITTEN]["seeds"]) >= 5
    assert len(recorded["settings"][LONG]["seeds"]) >= 5
    for name, table in recorded["settings"].items():
        assert (table["steps"], table["scale"]) == (SETTINGS[name].steps, SETTINGS[name].scale)
        assert set(table["arms"]) | set(table["diverged"]) == set(arms())
        seeds = {len(arm["loss"]["values"]) for arm in table["arms"].values()}
        assert seeds == {len(table["seeds"])}
    for name, arm in arms().items():
        if arm.experts is not None:
            router = arm.experts.build_router(4)
            shown = recorded["arms"][name]
            assert (shown["causal"], shown["substitute"]) == (router.causal, router.substitute)


def test_every_collapse_is_of_its_arm_and_whole_and_counted_by_the_panel_as_recorded():
    """The panel's one sentence sets runs of its own beside the recorded ones."""
    fallen = Counter()
    for run in (run for run in snapshots("collapse") if run.label in ARMS):
        assert cures_of(run.meta["model"], run.meta["train"]) == ARMS[run.label]
        assert run.step == collapse.STEPS == run.curve.step[-1] and len(run.curve) == 100
        fallen[run.label] += judged_by_the_panel(run.curve)
    recorded = {arm: (f["collapsed"], f["runs"]) for arm, f in figures("collapse")["arms"].items()}
    assert {arm: (fallen[arm], 5) for arm in ARMS} == {arm: recorded[arm] for arm in ARMS}


# What is said of them.


def test_what_00_says_of_repeated_tokens():
    """In every layer most repeated tokens keep their first expert, and not all do."""
    for first_T in TRACE.expert[..., 0].T:
        experts = defaultdict(list)
        for token, first in zip(TRACE.tokens, first_T, strict=True):
            experts[token].append(int(first))
        repeated = [e for e in experts.values() if len(e) > 1]
        assert 0.5 < sum(len(set(e)) == 1 for e in repeated) / len(repeated) < 1.0


def test_the_shipped_model_was_trained_on_the_embedded_text_of_today():
    meta = load_header(MODEL_FILE, kind="model")["meta"]
    assert meta["corpus"] == load_corpus().manifest.fingerprint


def test_the_recorded_races_are_of_models_that_cost_a_token_the_same():
    """But for the router. All else that 01 says is made from the figures."""
    dense, moe = snapshots("race")[:2]
    assert moe.active_parameters - dense.active_parameters == 2 * 16 * 64


def test_verdicts_and_intervals_of_the_recorded_routers_are_those_of_their_losses():
    """By another implementation of the t-test than the one that recorded them."""
    for table in figures("routers")["settings"].values():
        losses = {arm: figures["loss"]["values"] for arm, figures in table["arms"].items()}
        for arm in losses.keys() - {DENSE}:
            test = scipy.stats.ttest_rel(losses[arm], losses[DENSE])
            gap = table["arms"][arm]["minus_dense"]
            assert gap["mean"] == pytest.approx(
                np.mean(losses[arm]) - np.mean(losses[DENSE]), abs=2e-4
            )
            interval = test.confidence_interval()
            np.testing.assert_allclose([gap["low"], gap["high"]], interval, atol=1e-3)
            if gap["verdict"] != "open":
                assert gap["p"] < 0.05 and (gap["verdict"] == "lower") == (gap["mean"] < 0)


def test_no_arm_of_the_recorded_routers_costs_a_token_more_than_the_dense_twin():
    """Within 3 %, as it was counted over the whole training; what drops tokens costs less."""
    for table in figures("routers")["settings"].values():
        cost = {arm: f["gigaflops_per_step"]["mean"] for arm, f in table["arms"].items()}
        twin = cost.pop(DENSE)
        del cost[DENSE_ALL]
        assert {arm: c / twin for arm, c in cost.items() if c / twin > 1.03} == {}


def test_every_setting_of_a_race_has_the_seeds_that_its_luck_is_told_from():
    """Of seed 0 they are the race that the panel shows; of E = 16, K = 2 those of all races."""
    told = figures("race_settings")
    assert [len(row["validation"]) for row in told["MoE"]] == [len(told["seeds"])] * 9
    rows = {(row["experts"], row["top_k"]): row["validation"] for row in told["MoE"]}
    runs = snapshots("race_settings") + snapshots("race")
    for dense, moe in zip(runs[::2], runs[1::2], strict=True):
        experts, seed = moe.meta["model"]["moe"], moe.meta["train"]["seed"]
        of_moe = rows[experts["num_experts"], experts["top_k"]]
        for run, of_seeds in ((dense, told["dense"]["validation"]), (moe, of_moe)):
            validation = run.curve.validation[~np.isnan(run.curve.validation)]
            assert of_seeds[seed] == pytest.approx(validation, abs=DIGIT)


def test_how_loud_the_models_start_is_what_is_recorded():
    told = figures("loud_and_quiet")
    sizes = {one["scale"]: one["size"] for one in told["MoE"]}
    dense, *moes = snapshots("loud_and_quiet")
    for one, moe in zip(told["MoE"], moes, strict=True):
        first, *others = one["ahead"]["values"]
        assert first == pytest.approx(gap(dense.curve, moe.curve, "step"), abs=DIGIT)
        assert len(others) == 4
    assert [*sizes] == [loud_and_quiet.WRITTEN, *loud_and_quiet.SCALES]
    for scale in loud_and_quiet.SCALES:
        assert sizes[scale] == pytest.approx(scale * sizes[1.0], abs=2e-4)
    _, added_TD = loud_and_quiet.first_ffn("MoE", loud_and_quiet.WRITTEN)
    assert float(added_TD.square().mean().sqrt()) == pytest.approx(sizes[0.0], abs=1e-3)


def test_the_recorded_scale_is_of_its_arms_and_five_seeds():
    recorded = recorded_figures("scale")
    if recorded is None:
        pytest.skip("not recorded yet: python -m moeviz experiment scale")
    assert list(recorded["arms"]) == list(output_scale.ARMS)
    assert recorded["seeds"] == [0, 1, 2, 3, 4] and recorded["steps"] == output_scale.STEPS
    for arm in recorded["arms"].values():
        assert [point["scale"] for point in arm["points"]] == list(output_scale.SCALES)


# 04_collapse.


def test_what_04_says_of_the_recorded_runs():
    """Effects are told by sentences that are made from the figures; this holds the rest."""
    told = figures("collapse")
    every = told["arms"]
    assert set(every) == set(COLLAPSE_SETTINGS) and every["nothing"]["runs"] == 5
    # "z-loss and noise are known as stabilisers. Are they cures?"
    verdicts = balance_verdicts(told)
    assert "lower" not in (verdicts["z-loss 0.001"], verdicts["noise 1"])
    assert failing(told), "exercise 04.2 asks for them"
    assert worst_layer(told) == 1, "the layer on which the panel opens"
    # Expert choice is even by construction, and then no expert can tell of a domain in its pool.
    assert every["expert choice"]["training"]["max_violation"][1]["mean"] == 0
    # A scope of one sequence takes the domains away.
    batch, sequence = "balancing loss 0.1", "balancing loss 0.1 per sequence"
    words = told_versus(told, sequence, batch, "domain_information", "Domain information")
    assert f"lower than that with {batch}" in words
