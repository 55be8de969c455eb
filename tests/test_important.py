"""records.important: ESFT's scores and choice, and its published choice made again."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.experiments import esft_selection as esft
from moeviz.records.important import gate_share, important_experts, token_share
from moeviz.records.routes import Trace

SHARES = st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any)


@given(SHARES, st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_no_fewer_experts_reach_top_p(counts, hundredths):
    share, top_p = np.array(counts) / sum(counts), hundredths / 100
    chosen = important_experts(share, top_p)
    assert share[list(chosen)].sum() >= top_p - 1e-9
    assert list(chosen) == sorted(chosen, key=lambda e: (-share[e], e))
    assert all(
        share[list(fewer)].sum() < top_p + 1e-9
        for fewer in itertools.combinations(range(len(share)), len(chosen) - 1)
    )


def test_the_shares_are_means_over_tokens():
    expert = np.array([[0, 2], [2, -1], [1, 2]])
    weight = np.array([[0.6, 0.1], [0.5, 0.9], [0.2, 0.6]])
    np.testing.assert_allclose(token_share(expert, 4), [1 / 5, 1 / 5, 3 / 5, 0])
    np.testing.assert_allclose(gate_share(expert, weight, 4), [0.3, 0.1, 0.6, 0])


@pytest.mark.parametrize(
    ("call", "refusal"),
    [
        (lambda: important_experts([0.2, 0.15], 0.2), "must sum to 1, got 0.35: divide them"),
        (lambda: important_experts([0.5, 0.5], 0), "top_p must be a finite number above 0"),
        (lambda: important_experts([0.5, 0.5], 1.1), "at most 1"),
        (lambda: important_experts([1.5, -0.5], 0.5), "finite numbers in 0"),
        (lambda: token_share([[-1, -1]], 4), "No token chose an expert"),
        (lambda: token_share([[4]], 4), "finite numbers in -1..3"),
        (lambda: gate_share([[1]], [[0.0]], 4), "No token chose an expert"),
        (lambda: gate_share([[1, 2]], [[0.5]], 4), "must have one shape"),
    ],
)
def test_what_is_no_share_is_refused(call, refusal):
    with pytest.raises(ValueError, match=refusal):
        call()


def made_traces(seed, sequences=4, layers=26):
    """Sequences in which every layer has its liking."""
    rng = np.random.default_rng(seed)
    liking = rng.gamma(0.3, size=(layers, esft.NUM_EXPERTS)) + 1e-3
    traces = []
    for _ in range(sequences):
        noise = rng.gumbel(size=(30, layers, esft.NUM_EXPERTS)) + np.log(liking)
        expert = np.argsort(-noise, axis=2)[:, :, :6].astype(np.int16)
        weight = np.sort(rng.uniform(0.01, 0.2, size=expert.shape))[:, :, ::-1].astype(np.float32)
        traces.append(
            Trace(
                tokens=("",) * 30, expert=expert, weight=weight,
                score=np.zeros((30, layers, esft.NUM_EXPERTS), np.float32),
                layers=tuple(range(layers)), meta={},
            )
        )  # fmt: skip
    return traces


def published_script(traces, rounded=4):
    """The choice as the first script of ESFT's repository makes it, in plain loops."""
    chosen = []
    for layer in range(26):
        score = dict.fromkeys(range(64), 0.0)
        for trace in traces:
            for row in trace.expert[:, layer]:
                for expert in row:
                    score[int(expert)] += 1 / 6
        total = sum(score.values())
        ranked = sorted(score.items(), key=lambda item: round(item[1] / total, rounded),
                        reverse=True)  # fmt: skip
        found, reached = [], 0.0
        for expert, value in ranked:
            if reached >= esft.TOP_P:
                break
            found.append(expert)
            reached += round(value / total, rounded)
        chosen.append(tuple(found))
    return chosen


def test_the_choice_is_that_of_the_published_script():
    traces = made_traces(0)
    again = esft.again(traces)
    assert [{*layer} for layer in again["token, experts"]] == [
        {*layer} for layer in published_script(traces)
    ]
    assert again["token, layers"] != again["token, experts"] != again["gate, experts"]


def test_equal_choices_are_counted_and_others_are_not(monkeypatch):
    tasks = {name: made_traces(seed) for seed, name in enumerate(esft.PUBLISHED)}
    found = esft.figures_of(tasks)
    assert all(of["again"]["token, experts"]["equal"] == 0 for of in found.values())
    paper = {name: esft.again(traces)["token, experts"] for name, traces in tasks.items()}
    told = {
        name: " ".join(f"{len(layer)}:{esft.choice_sum(layer)}" for layer in choice)
        for name, choice in paper.items()
    }
    monkeypatch.setattr(esft, "PUBLISHED", told)
    for of in esft.figures_of(tasks).values():
        assert of["again"]["token, experts"]["equal"] == 26
        assert of["published"]["counts"] == of["again"]["token, experts"]["counts"]
        assert of["halves"] > 0.5 > of["others"] and 0 < of["chance"] < 0.3


def test_the_published_counts_are_those_of_the_notes():
    """4.8, 5.9, 4.9 and 3.2 of 64 experts a layer."""
    wanted = {"intent": 4.8, "law": 5.9, "summary": 4.9, "translation": 3.2}
    for task, entries in esft.PUBLISHED.items():
        counts = [int(entry.split(":")[0]) for entry in entries.split()]
        assert len(counts) == 26 and round(np.mean(counts), 1) == wanted[task]
