"""experiment frontier: its arms, its table, what it knows of frequencies alone."""

import json
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from moeviz.experiments import frontier, frontier_short
from moeviz.experiments.router_arms import Setting
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig


def test_every_sparse_arm_has_the_same_two_experts_at_work():
    arms, corpus = frontier.arms(), load_corpus()
    shapes = {(a.experts.top_k, a.experts.d_expert) for a in arms.values() if a.experts}
    assert shapes == {(2, 128)}
    facts = {name: frontier.declared(name, corpus) for name in arms}
    twin = facts[frontier.TWIN]["gigaflops_per_step"]
    for number in frontier.EXPERTS:
        # Hash has no matrix to choose by; a learned router's grows with the experts.
        assert facts[frontier.hashed(number)]["gigaflops_per_step"] == twin
        router = 3 * 2 * 2 * 64 * number * 16 * 64 / 1e9  # fwd and bwd, 2 layers, tokens of a step
        grown = facts[frontier.learned(number)]["gigaflops_per_step"] - twin
        assert grown == pytest.approx(router, abs=2e-4)
    assert facts[frontier.learned(256)]["ffn_active_share"] < 0.01


def test_every_difference_is_of_two_arms_and_stands_once():
    pairs, arms = frontier.pairs(), frontier.arms()
    assert len(set(pairs.values())) == len(pairs) == 12 + 6 + 4
    assert all(a != b and a in arms and b in arms for a, b in pairs.values())


def test_a_seed_that_diverged_leaves_its_arm_out():
    runs = {name: [{"loss": 3.0 + 0.01 * seed} for seed in range(2)] for name in frontier.arms()}
    runs[frontier.learned(4)] = [{"loss": 2.9}, None]
    table = frontier.summary({name: {} for name in runs}, runs)
    assert frontier.learned(4) not in table["arms"]
    assert not any("learned, 4 experts" in name for name in table["gaps"])
    assert len(table["gaps"]) == 22 - 3


def test_the_unigram_knows_the_frequencies_of_the_text_of_training():
    corpus, length = load_corpus(), 8
    windows = corpus.windows("reserve", seq_len=length, windows_per_domain=frontier.FINAL_WINDOWS)
    longest = max(len(corpus.tokens(domain)) for domain in corpus.domains)
    seen: Counter[int] = Counter()
    for domain in corpus.domains:
        stream = corpus.tokens(domain)
        for token, times in Counter(stream.tolist()).items():
            seen[token] += times * longest / len(stream)
    held_out = [int(token) for window in windows.tokens for token in window[1:]]
    size = max(max(held_out), max(seen)) + 1
    total = sum(seen.values()) + size
    nats = [-math.log((seen[token] + 1) / total) for token in held_out]
    expected = sum(nats) / len(nats)
    assert frontier.unigram(corpus, length) == pytest.approx(expected, rel=1e-9)


def test_the_whole_recording_in_small(tmp_path, monkeypatch):
    few = {name: frontier.arms()[name] for name in (frontier.TWIN, *map(frontier.hashed, (4, 16)))}
    for name, value in {
        "recording.ProcessPoolExecutor": lambda *_, **__: ThreadPoolExecutor(1),
        "router_arms.TrainConfig": partial(TrainConfig, batch_size=2, seq_len=16, warmup=1),
        "frontier.arms": lambda: few,
        "frontier.pairs": lambda: {"a": (frontier.hashed(4), frontier.TWIN)},
        "frontier.SETTING": Setting(2),
        "frontier.SHORT": Setting(1),
        "frontier_short.SHORT": Setting(1),
        "frontier.GRID": (4e-3, 8e-3),
        "rates.FURTHER": 1,
        "frontier.GRID_SEEDS": (1000,),
        "frontier.FINAL_WINDOWS": 1,
        "routers_timed.WARM_STEPS": 1,
        "routers_timed.TIMED_STEPS": 1,
    }.items():
        monkeypatch.setattr(f"moeviz.experiments.{name}", value)
    (tmp_path / "runs").mkdir()
    at, meta = [], {"code": "f", "versions": {}}
    frontier.run(tmp_path, meta, 2, lambda *done: at.append(done))
    assert at[-1] == (12, 12)
    figures = json.loads((tmp_path / "runs" / "frontier.json").read_text())
    assert figures["seeds"] == [0, 1] and set(figures["arms"]) == set(few) == set(figures["rates"])
    for name, arm in figures["arms"].items():
        assert arm["seconds_per_step"] > 0 and len(arm["loss"]["values"]) == 2
        assert 0 <= arm["accuracy"]["mean"] <= 1 and len(arm["curve"]) == 2
        assert ("max_violation" in arm) == name.startswith("hash")
    gap = figures["gaps"]["a"]
    first, twin = (
        figures["arms"][n]["loss"]["values"] for n in (frontier.hashed(4), frontier.TWIN)
    )
    assert gap["values"] == pytest.approx(
        [a - b for a, b in zip(first, twin, strict=True)], abs=2e-4
    )
    # The short one goes on from these rates, which were ends of a grid of two.
    monkeypatch.setattr(frontier_short, "read_figures", lambda name: {"frontier": figures}[name])
    monkeypatch.setattr(frontier_short, "record", lambda *given: given)
    path, _, setting, rates, seeds, _ = frontier_short.run(tmp_path, meta, 2, print)
    assert (path.name, setting, seeds) == ("frontier_short.json", Setting(1), 2)
    for name, rate in rates.items():
        before = figures["rates"][name]
        known = dict(zip(rate["grid"], rate["losses"], strict=True))
        assert [known[tried] for tried in before["grid"]] == before["losses"]
        assert len(known) == len(before["losses"]) + before["at_edge"]
