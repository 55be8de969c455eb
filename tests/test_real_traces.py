"""Figures of public traces: of a small one made here, and of the real ones where they lie."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.numerics import assert_figures, distinct_choices
from moeviz.experiments import real_traces
from moeviz.experiments.public_traces import (
    DEEPSEEK,
    NUM_EXPERTS,
    OLMOE,
    SOURCES,
    plain,
    read_tasks,
    traces_folder,
)
from moeviz.experiments.real_traces import Tasks, of_counts
from moeviz.experiments.recorded import recorded_figures
from moeviz.records.imports import read_moelens

LENGTHS = {"law": [9, 70, 60], "summary": [40, 50, 80, 30]}
L, K, START = 2, 3, 4


def made(folder):
    """Two tasks of three and four sequences: a task likes a half of the experts, and its sequences
    begin with the same four tokens."""
    rng, arrays = np.random.default_rng(0), {}
    for half, (task, lengths) in enumerate(LENGTHS.items()):
        ids = np.stack([distinct_choices(rng, sum(lengths), 40, K) for _ in range(L)], axis=1)
        ids = (ids + 24 * half).astype(np.uint8)
        for begin in np.cumsum([0, *lengths[:-1]])[1:]:
            ids[begin : begin + START] = ids[:START]
        weight = rng.random(ids.shape).astype(np.float16) / 4
        arrays |= {f"{task}_ids": ids, f"{task}_w": weight, f"{task}_len": np.array(lengths)}
    np.savez(folder / DEEPSEEK, **arrays)
    count = {d: np.bincount(arrays[f"{d}_ids"][:, 0].ravel(), minlength=64) for d in LENGTHS}
    study = {
        "domains": list(LENGTHS), "num_layers": 1, "num_experts": 64, "top_k_experts": K,
        "token_counts": {d: sum(lengths) for d, lengths in LENGTHS.items()},
        "expert_token_count": {d: [of.tolist()] for d, of in count.items()},
    }  # fmt: skip
    (folder / OLMOE).write_text(json.dumps(study))
    return arrays


def test_the_figures_of_a_small_trace(tmp_path, monkeypatch):
    arrays = made(tmp_path)
    monkeypatch.setenv("MOEVIZ_TRACES", str(tmp_path))
    steps = []
    told = real_traces.run(tmp_path, {"command": "made"}, 1, lambda *step: steps.append(step))
    assert steps == [(1, L), (2, L)]
    figures = json.loads((tmp_path / "runs" / "real_traces.json").read_text())
    assert figures["sources"] == SOURCES and figures["provenance"] == {"command": "made"}
    deepseek = figures["deepseek_v2_lite"]
    assert told["deepseek_v2_lite"] == deepseek["mean"]
    for task, lengths in LENGTHS.items():
        want = {"tokens": sum(lengths), "sequences": len(lengths), "shared_start": START}
        assert deepseek["tasks"][task] == want
    for place, layer in enumerate(deepseek["layers"]):
        assert layer["layer"] == place + 1  # block 0 is dense
        for task in LENGTHS:
            ids = arrays[f"{task}_ids"][:, place]
            weight = arrays[f"{task}_w"][:, place].astype(float)
            load = np.bincount(ids.ravel(), minlength=NUM_EXPERTS)
            assert layer["load"][task] == load.tolist()
            want = {
                "top_share": load.max() / load.sum(),
                "max_violation": load.max() / load.mean() - 1,
                "weight_sum": weight.sum(1).mean(),
                "first_share": (weight.max(1) / weight.sum(1)).mean(),
            }
            for name, value in want.items():
                assert layer[name][task] == pytest.approx(value, abs=2e-6), name
        both = sum(np.array(layer["load"][task]) for task in LENGTHS)
        assert layer["load"]["pooled"] == both.tolist()
        information = layer["information"]
        assert information["value"] > 2 * information["null"] > 0
        # Of two tasks one has 50 % of any expert; 192 tokens are more than one of them has.
        assert layer["specialists"]["value"][:2] == [1, None]
        batch = layer["batch"]
        for task in LENGTHS:
            assert batch["consecutive"][task][0] == batch["shuffled"][task][0] == K
            assert batch["shuffled"][task][-1] < batch["mixed"][-1]
        assert batch["mixed"][0] == K
        # Choices are drawn alone, but for the four tokens that all sequences begin with: only
        # against an even meeting of all 64 experts, which 24 never join, do pairs seem to like
        # each other.
        together = layer["together"]["law"]
        assert together["of"] == 64 * 63 // 2 and together["popular"] > 200 > together["often"]
    np.testing.assert_allclose(
        deepseek["mean"]["repeat_rate"]["law"],
        np.mean([layer["repeat_rate"]["law"] for layer in deepseek["layers"]]),
        atol=1e-6,
    )
    olmoe = figures["olmoe"]
    assert olmoe["domains"] == {task: sum(lengths) for task, lengths in LENGTHS.items()}
    busiest, law = (
        olmoe["busiest"],
        np.array(olmoe["layers"][0]["load"][olmoe["busiest"]["domain"]]),
    )
    share = law.max() / olmoe["domains"][busiest["domain"]]
    assert busiest["of_tokens"] == pytest.approx(share, abs=1e-6)
    assert busiest["expert"] == law.argmax()


def edited(**changes):
    def write(path):
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})

    return write


@pytest.mark.parametrize(
    "edit,message",
    [
        (lambda path: path.write_bytes(b"PK"), "is not a .npz file"),
        (lambda path: np.savez(path, a=np.zeros(3)), "has no array TASK_ids"),
        (edited(law_w=None), "is not whole: of law it lacks an array"),
        (edited(law_len=np.array([9])), "lengths of law disagree"),
        (edited(law_w=np.full((139, L, K), np.nan)), "the weight of token 0 in layer 1 is nan"),
        (edited(law_ids=np.full((139, L, K), 64)), "chooses expert 64 in layer 1, but there are"),
    ],
)
def test_a_trace_that_is_none_is_refused(edit, message, tmp_path):
    made(tmp_path)
    edit(tmp_path / DEEPSEEK)
    with pytest.raises(ValueError, match=message):
        read_tasks(tmp_path / DEEPSEEK)


def test_without_the_traces_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEVIZ_TRACES", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"There is no {DEEPSEEK} in .* MOEVIZ_TRACES"):
        real_traces.run(tmp_path, {}, 1, lambda *_: None)
    assert not (tmp_path / "runs").exists()


# The real ones


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return traces_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_the_recorded_figures_are_those_of_the_real_traces(folder):
    """Two of the layers again, and all of OLMoE."""
    recorded = recorded_figures("real_traces")
    tasks = Tasks(read_tasks(folder / DEEPSEEK))
    deepseek = recorded["deepseek_v2_lite"]
    assert deepseek["tasks"] == tasks.facts()
    for place in (0, len(tasks.layers) - 1):
        assert_figures(plain(tasks.layer(place)), deepseek["layers"][place])
    assert_figures(plain(of_counts(read_moelens(folder / OLMOE))), recorded["olmoe"])


def test_the_sources_are_those_that_the_traces_name(folder):
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert recorded_figures("real_traces")["sources"] == SOURCES
    for source in SOURCES.values():
        repository = source["from"].split(",")[0]
        (line,) = (line for line in readme.splitlines() if f"`{source['file']}`" in line)
        assert repository in line and source["commit"] in line and source["licence"] in line
