"""What ships in data/ is what this code makes, and says what the notebooks say of it."""

import json
from collections import defaultdict

import numpy as np
import pytest
from safetensors import safe_open

from moeviz.experiments.race import summary
from moeviz.experiments.start_here import LAYER, LAYER_TEXT, MODEL, TEXT
from moeviz.host import data_path
from moeviz.records.routes import Anatomy, Trace
from moeviz.records.runs import load_snapshots
from moeviz.records.store import HEADER_KEY, load_header
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch.text import dissect, load_model, trace_text

MODEL_FILE = data_path("models", "start_here.safetensors")
RECORDINGS = sorted(
    path
    for room in ("models", "runs", "traces")
    for path in data_path(room).iterdir()
    if path.suffix in (".json", ".safetensors")
)


@pytest.fixture(scope="module")
def model():
    return load_model(MODEL_FILE, Tokenizer.default())


def test_the_recorded_trace_is_what_the_shipped_model_does(model):
    recorded = Trace.load_file(data_path("traces", "start_here.safetensors"))
    now = trace_text(model, Tokenizer.default(), TEXT)
    assert recorded.meta["text"] == TEXT
    assert recorded.tokens == now.tokens and recorded.layers == now.layers
    np.testing.assert_allclose(recorded.score, now.score, atol=1e-5)
    # Another machine may round a near tie the other way; nothing else may differ.
    sorted_score = np.sort(now.score, axis=-1)
    clear = (np.diff(sorted_score, axis=-1)[..., -now.top_k :] > 1e-4).all(-1)
    np.testing.assert_array_equal(recorded.expert[clear], now.expert[clear])
    assert clear.mean() > 0.9


def test_the_recorded_layer_is_what_the_shipped_model_does(model):
    recorded = Anatomy.load_file(data_path("traces", "inside_layer.safetensors"))
    now = dissect(model, Tokenizer.default(), LAYER_TEXT, layer=LAYER, weighting=recorded.weighting)
    for name in ("x", "logits", "score", "y"):
        np.testing.assert_allclose(
            getattr(recorded, name), getattr(now, name), atol=1e-4, err_msg=name
        )


def test_the_shipped_model_is_the_experiments_own():
    assert load_header(MODEL_FILE, kind="model")["model"] == json.loads(json.dumps(MODEL.to_dict()))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_every_recording_says_where_it_comes_from(path):
    if path.suffix == ".json":
        meta = json.loads(path.read_text(encoding="utf-8"))["provenance"]
    else:
        with safe_open(path, "numpy") as file:
            meta = json.loads(file.metadata()[HEADER_KEY])["meta"]
    for name in ("command", "commit", "date", "device", "versions"):
        assert meta[name], name
    assert meta["command"].startswith("python -m moeviz experiment ")


def test_the_race_summary_is_that_of_the_recorded_curves():
    snapshots, _ = load_snapshots(data_path("runs", "race.safetensors"))
    told = json.loads(data_path("runs", "race.json").read_text(encoding="utf-8"))
    told.pop("provenance")
    assert told == json.loads(json.dumps(summary(snapshots)))


def test_what_01_says_of_the_recorded_races():
    told = json.loads(data_path("runs", "race.json").read_text(encoding="utf-8"))
    assert len(told["seeds"]) >= 5
    steps, seconds = told["gap_at_equal_step"], told["gap_at_equal_seconds"]
    # "Per step the MoE model is ahead with every seed": the mean is three deviations from zero.
    assert min(steps["values"]) > 0 and steps["mean"] > 3 * steps["sd"]
    # "On the clock that lead shrinks or turns around, seed by seed."
    pairs = zip(steps["values"], seconds["values"], strict=True)
    assert all(on_the_clock < per_step for per_step, on_the_clock in pairs)
    # Both contestants cost a token the same, but for the router.
    dense, moe = load_snapshots(data_path("runs", "race.safetensors"))[0][:2]
    assert moe.active_parameters - dense.active_parameters == 2 * 16 * 64
    # "by an amount like the one in question"
    losses = told["dense_at_equal_step"]["values"]
    assert max(losses) - min(losses) > 0.5 * steps["mean"]


def test_what_00_says_of_repeated_tokens():
    """In the first layer a repeated token keeps its first expert; further up some change."""
    trace = Trace.load_file(data_path("traces", "start_here.safetensors"))
    always = []
    for layer in range(len(trace.layers)):
        experts = defaultdict(list)
        for token, first in zip(trace.tokens, trace.expert[:, layer, 0], strict=True):
            experts[token].append(int(first))
        repeated = [e for e in experts.values() if len(e) > 1]
        always.append(sum(len(set(e)) == 1 for e in repeated) / len(repeated))
    assert always[0] == 1.0 and max(always[1:]) < 1.0


def spread(figure, decimals):
    return f"{figure['mean']:.{decimals}f} ± {figure['sd']:.{decimals}f}"


def test_the_readme_quotes_the_recorded_routers_and_cures():
    readme = (data_path("README.md").parents[1] / "README.md").read_text(encoding="utf-8")
    routers = json.loads(data_path("runs", "routers.json").read_text(encoding="utf-8"))["arms"]
    for name, arm in routers.items():
        shown = "**dense twin**" if name == "dense" else name
        row = f"| {shown} | {spread(arm['validation_loss'], 3)} |"
        if name != "dense":
            row += f" {spread(arm['max_violation'], 2)} | {spread(arm['dead_experts'], 1)} of"
        assert row in readme, row
    cures = json.loads(data_path("runs", "collapse.json").read_text(encoding="utf-8"))["arms"]
    for name, arm in cures.items():
        row = (
            f"| {name} | {arm['collapsed']} of {arm['runs']} | {spread(arm['max_violation'], 2)} |"
        )
        assert row in readme, row


def test_recorded_routers_are_those_of_the_code_and_of_five_seeds():
    from moeviz.experiments.routers_trained import DENSE, STEPS, arms

    recorded = json.loads(data_path("runs", "routers.json").read_text(encoding="utf-8"))
    assert set(recorded["arms"]) == {DENSE, *arms()} and recorded["steps"] == STEPS
    for name, arm in recorded["arms"].items():
        assert len(arm["validation_loss"]["values"]) == 5, name
    for name, arm in arms().items():
        router = arm.experts.build_router(4)
        shown = recorded["arms"][name]
        assert (shown["causal"], shown["substitute"]) == (router.causal, router.substitute), name


def test_what_is_said_of_the_recorded_routers():
    """README and 03 word these; each holds with every seed, or by a margin of two deviations."""
    arms = json.loads(data_path("runs", "routers.json").read_text(encoding="utf-8"))["arms"]

    def ahead(better, worse):
        pairs = zip(*(arms[n]["validation_loss"]["values"] for n in (better, worse)), strict=True)
        return all(a < b for a, b in pairs)

    assert ahead("hash, random", "dense")
    assert ahead("token choice, renormalised (Mixtral)", "token choice, raw (OLMoE)")
    # Balance is not quality: perfectly even, and behind the dense twin with every seed.
    assert arms["expert choice"]["max_violation"]["mean"] == 0 and ahead("dense", "expert choice")
