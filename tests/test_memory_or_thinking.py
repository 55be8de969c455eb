"""Phone books and products: answers against plain arithmetic, no leaks, training, the summary."""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.answers import made_answers, made_learners
from helpers.pictures import presses
from moeviz.experiments import memory_or_thinking as experiment
from moeviz.experiments import rates, recording
from moeviz.host import data_path, read_figures
from moeviz.pictures.training.memory_or_thinking import (
    learning,
    memory_or_thinking,
    points_of,
    told,
    told_sizes,
    verdict_sentences,
)
from moeviz.predictions import efficiency_frontier as predictions
from moeviz.records.answers import DENSE, DENSE_ALL, MOE, brought, brought_more
from moeviz.records.runs import load_snapshots
from moeviz.text.tasks import (
    BOOK,
    LETTERS,
    PRODUCTS,
    SIZES,
    Multiplication,
    PhoneBook,
    byte_tokenizer,
    task_name,
)
from moeviz.training.answers import AnswerTrainer

PRODUCTS_3 = "multiplication of 3 digits"
PARTS = ("train", "validation", "reserve")
META = {"code": "", "versions": {}}


def lines_of(task, part):
    text = byte_tokenizer().decode(task.tokens(task.name, part))
    width = task.seq_len + 1
    return [text[i : i + width] for i in range(0, len(text), width)]


@settings(max_examples=20, deadline=None)
@given(entries=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_a_book_has_so_many_names_each_once(entries, seed):
    lines = lines_of(PhoneBook(entries, seed), "train")
    assert len(lines) == len({line[:3] for line in lines}) == entries
    assert all(re.fullmatch("[A-Z][a-z]{2}[0-9]{4}", line) for line in lines)
    assert lines == lines_of(PhoneBook(entries, seed), "reserve"), "what was read is asked"


def test_a_book_is_drawn_anew_for_each_seed_and_evenly():
    first, second = (lines_of(PhoneBook(2000, seed), "train") for seed in (0, 1))
    assert len({*first} & {*second}) < 3
    for place, size in ((0, 26), (6, 10)):
        kinds = [line[place] for line in first]
        counts = np.array([kinds.count(kind) for kind in {*kinds}])
        expected = len(first) / size
        # Chi-squared of size - 1 degrees: its mean, and six times its spread.
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert len(counts) == size and statistic < size + 6 * math.sqrt(2 * size)


@pytest.mark.parametrize("digits", [1, 3])
def test_products_are_right_and_no_pair_stands_in_two_parts(digits):
    task = Multiplication(digits, seed=3)
    pairs = {part: set() for part in PARTS}
    for part in PARTS:
        for line in lines_of(task, part):
            assert re.fullmatch(f"[0-9]{{{digits}}}[*][2-9]=[0-9]{{{digits + 1}}}", line)
            number, factor, product = (int(n[::-1]) for n in re.split("[*=]", line))
            assert number * factor == product
            pairs[part].add((number, factor))
    every = set.union(*pairs.values())
    assert len(every) == sum(map(len, pairs.values())) == 8 * 10**digits
    for part in PARTS:
        assert {(b, a) for a, b in pairs[part] if 2 <= a <= 9} <= pairs[part], "the mirror too"
    if digits == 3:
        for part in ("validation", "reserve"):
            assert 0.08 < len(pairs[part]) / len(every) < 0.12
        assert lines_of(task, "reserve") != lines_of(Multiplication(digits, seed=4), "reserve")


def test_a_batch_is_drawn_from_training_alone_and_by_seed_and_step():
    task = Multiplication(2)
    known, width = {*lines_of(task, "train")}, task.seq_len + 1

    def drawn(seed, step):
        rows = task.batch(seed=seed, step=step, batch_size=200, seq_len=task.seq_len).tokens
        assert rows.shape == (200, width)
        return [task.tokenizer.decode(row) for row in rows]

    assert {*drawn(0, 0)} <= known and drawn(0, 0) == drawn(0, 0)
    assert drawn(0, 0) != drawn(0, 1) and drawn(0, 0) != drawn(1, 0)
    asked = task.windows("reserve", seq_len=task.seq_len, windows_per_domain=50).tokens
    assert len(np.unique(asked, axis=0)) == 50
    assert not known & {task.tokenizer.decode(row) for row in asked}


def test_what_cannot_be_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="entries"):
        PhoneBook(len(LETTERS) ** 3 + 1)
    with pytest.raises(ValueError, match="digits"):
        Multiplication(6)
    task = PhoneBook(5)
    with pytest.raises(ValueError, match="seq_len=6"):
        task.batch(seed=0, step=0, batch_size=1, seq_len=7)
    with pytest.raises(ValueError, match="no part"):
        task.windows("test", seq_len=6, windows_per_domain=1)
    with pytest.raises(ValueError, match="one domain"):
        task.tokens("text")


# Training.


@pytest.fixture
def small(monkeypatch):
    """Few steps, sizes and questions, in this process."""
    monkeypatch.setattr(recording, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(rates, "FURTHER", 0)
    for name, value in {
        "STEPS": 4, "MEASURE_EVERY": 2, "QUESTIONS": 20, "ROWS": 8, "GRID": (4e-3,),
        "SIZES": {experiment.BOOK: (5, 10), experiment.PRODUCTS: (1,)},
        "OF_RATES": {experiment.BOOK: 5, experiment.PRODUCTS: 1},
    }.items():  # fmt: skip
        monkeypatch.setattr(experiment, name, value)


def test_the_loss_and_the_share_are_those_of_the_answers_alone(small):
    """The oracle: cross-entropy and greedy choice, token by token."""
    learner = experiment.trainer(experiment.MOE, experiment.BOOK, 10, 4e-3, 0)
    task = learner.corpus
    tokens_BS = torch.from_numpy(task.rows(np.arange(10)))
    with torch.no_grad():
        logits_BSV = learner.model.eval()(tokens_BS[:, :-1]).logits
    nats, right = [], []
    for row, line in enumerate(tokens_BS):
        whole = True
        for place in range(3, 7):
            logits_V = logits_BSV[row, place - 1]
            nats.append(float(-logits_V.log_softmax(-1)[line[place]]))
            whole &= bool(logits_V.argmax() == line[place])
        right.append(whole)
    found = learner.answered("reserve", 10)
    assert found.loss == pytest.approx(np.mean(nats), rel=1e-5)
    assert found.right == np.mean(right)
    assert learner.evaluate(10).loss == pytest.approx(np.mean(nats), rel=1e-5)


def test_questions_get_no_gradient(small):
    """The gradient is that of plain cross-entropy over the answers' tokens."""
    learner = experiment.trainer(experiment.DENSE, experiment.BOOK, 10, 4e-3, 0)
    batch = learner.corpus.batch(seed=0, step=0, batch_size=8, seq_len=6)
    learner._loss(learner.model, batch).loss.mean().backward()
    plain = torch.nn.functional.cross_entropy(
        learner.model(torch.from_numpy(batch.tokens[:, :-1])).logits[:, -4:].flatten(0, 1),
        torch.from_numpy(batch.tokens[:, -4:]).flatten(),
    )
    learned = {name: p.grad.clone() for name, p in learner.model.named_parameters()}
    learner.model.zero_grad()
    plain.backward()
    for name, parameter in learner.model.named_parameters():
        torch.testing.assert_close(learned[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_small_book_is_learned_by_heart(small, monkeypatch):
    monkeypatch.setattr(experiment, "STEPS", 60)
    learner = experiment.trainer(experiment.DENSE, experiment.BOOK, 5, 16e-3, 0)
    assert experiment.learned(learner)
    assert learner.answered("reserve", 5).right == 1.0
    shares = learner.snapshot("dense").meta["notes"]["right"]
    assert [step for step, _ in shares] == list(range(2, 61, 2)) and shares[-1][1] == 1.0


def test_a_run_goes_on_from_its_file(small, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "recorded_figures", lambda name: None)
    monkeypatch.setattr(experiment, "GRID", (4e-3, 8e-3, 16e-3))
    name = "phone book of 5 entries"
    assert not experiment.resume(tmp_path, name, 0)
    for model, learner in experiment.build(name, 0).items():
        assert learner.config.learning_rate == 8e-3
        next(learner), next(learner)
        learner.save(tmp_path / f"{model}.safetensors")
    again = experiment.resume(tmp_path, name, 0)
    assert [*again] == [*experiment.MODELS]
    for learner in again.values():
        assert isinstance(learner, AnswerTrainer) and learner.step == 2
        assert [*learner][-1].step == 4 and len(learner.notes["right"]) == 2
    assert not experiment.resume(tmp_path, "phone book of 10 entries", 0), "another book"
    assert not experiment.resume(tmp_path, name, 1)
    of_model = {"MoE": 16e-3, "dense": 8e-3, "dense, all parameters": 8e-3}
    chosen = {model: {"chosen": rate} for model, rate in of_model.items()}
    monkeypatch.setattr(
        experiment, "recorded_figures", lambda name: {"rates": {experiment.BOOK: chosen}}
    )
    assert experiment.build(name, 0)["MoE"].config.learning_rate == 16e-3
    assert not experiment.resume(tmp_path, name, 0), "at another rate"


def test_the_models_hold_what_they_are_compared_by():
    dense, moe, whole = (experiment.models()[name] for name in experiment.MODELS)
    assert moe.dense_twin() == dense
    assert whole.d_ff == moe.moe.num_experts * moe.moe.d_expert and whole.moe is None
    assert {m.ffn_scale for m in (dense, moe, whole)} == {1.0}


# The recording.


def made_runs(shares):
    """Results of `train`, by share of right answers: name_of -> one of each seed."""
    rest = {"tokens": 0.5, "loss": 1.0, "curve": [0.0, 0.5], "parameters": 1,
            "active_parameters": 1, "gigaflops_per_step": 1.0}  # fmt: skip
    return {name: [rest | {"right": right} for right in seeds] for name, seeds in shares.items()}


def test_the_summary_tells_differences_as_one_table(monkeypatch):
    monkeypatch.setattr(experiment, "SIZES", {experiment.BOOK: (5,), experiment.PRODUCTS: (1,)})
    noise = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
    level = {
        (experiment.BOOK, 5): {"dense": 0.2, "MoE": 0.6, "dense, all parameters": 0.6},
        (experiment.PRODUCTS, 1): {"dense": 0.2, "MoE": 0.2, "dense, all parameters": 0.9},
    }
    shares = {
        experiment.name_of(model, *setting): (share + np.roll(noise, place)).tolist()
        for setting, models in level.items()
        for place, (model, share) in enumerate(models.items())
    }
    tasks = experiment.summary(made_runs(shares))
    verdicts = {
        task: {name: gap["verdict"] for name, gap in sizes[size]["gaps"].items()}
        for task, size, sizes in (
            (experiment.BOOK, "5", tasks[experiment.BOOK]),
            (experiment.PRODUCTS, "1", tasks[experiment.PRODUCTS]),
        )
    }
    assert verdicts[experiment.BOOK] == {
        "MoE minus dense": "higher",
        "MoE minus dense, all parameters": "open",
        "dense, all parameters minus dense": "higher",
    }
    assert verdicts[experiment.PRODUCTS] == {
        "MoE minus dense": "open",
        "MoE minus dense, all parameters": "lower",
        "dense, all parameters minus dense": "higher",
    }
    moe = tasks[experiment.BOOK]["5"]["models"]["MoE"]
    assert moe["right"]["mean"] == pytest.approx(0.6) and moe["curve"] == [0.0, 0.5]


def test_a_recording_of_few_steps(small, tmp_path):
    experiment.run(tmp_path, META, 2, lambda *at: None)
    told = json.loads((tmp_path / "runs" / "memory_or_thinking.json").read_text())
    assert told["seeds"] == [0, 1] and told["curve_steps"] == [2, 4]
    assert [*told["tasks"]] == [experiment.BOOK, experiment.PRODUCTS]
    for task, sizes in told["tasks"].items():
        assert told["rates"][task]["MoE"]["chosen"] == 4e-3
        for of_size in sizes.values():
            assert len(of_size["gaps"]) == len(experiment.PAIRS)
            for figures in of_size["models"].values():
                assert len(figures["right"]["values"]) == len(figures["curve"]) == 2
    snapshots, _ = load_snapshots(tmp_path / "runs" / "memory_or_thinking.safetensors")
    labels = [snapshot.label for snapshot in snapshots]
    assert labels == [*experiment.MODELS] * 3
    assert snapshots[3].meta["notes"]["task"] == "phone book of 10 entries"
    assert all([step for step, _ in s.meta["notes"]["right"]] == [2, 4] for s in snapshots)


# What is told.


def test_the_share_that_experts_bring_is_of_what_a_wide_model_gains():
    sizes = made_answers({BOOK: (0.2, 0.5, 0.8), PRODUCTS: (0.1, 0.1, 0.5)}, spread=0.0)["tasks"]
    assert brought(sizes[BOOK]).mean == pytest.approx(0.5)
    assert brought(sizes[PRODUCTS]).mean == pytest.approx(0.0)
    assert brought_more(sizes[BOOK], sizes[PRODUCTS]).mean == pytest.approx(0.5)


@settings(max_examples=25, deadline=None)
@given(
    dense=st.floats(0, 0.4), gain=st.floats(0.05, 0.5), share=st.floats(-0.5, 1.5),
    seeds=st.integers(1, 4),
)  # fmt: skip
def test_the_share_is_found_again_whatever_the_models_reach(dense, gain, share, seeds):
    right = {DENSE: dense, DENSE_ALL: dense + gain, MOE: dense + share * gain}
    models = {model: {"right": {"values": [value] * seeds}} for model, value in right.items()}
    assert brought({"5": {"models": models}}).mean == pytest.approx(share, abs=1e-9)


def test_where_width_brings_nothing_nothing_is_shared_out():
    flat = made_answers({BOOK: (0.2, 0.5, 0.8), PRODUCTS: (0.0, 0.0, 0.01)}, spread=0.0)
    sizes = flat["tasks"]
    assert brought(sizes[PRODUCTS]) is None and brought_more(sizes[BOOK], sizes[PRODUCTS]) is None
    assert told(flat) == (
        "Of what a wide FFN gains over a narrow one, experts bring 50 % on the phone book. "
        "On products a wide dense model gains too little to share out."
    )


@pytest.mark.parametrize(
    ("book", "products", "words"),
    [
        (0.6, 0.25, "They bring more to memory, as the paper says (95 % interval +"),
        (0.3, 0.8, "They bring less to memory (95 % interval -"),
        (0.6, 0.76, "Whether these differ is open ("),
    ],
)
def test_the_finding_follows_the_figures(book, products, words):
    level = {BOOK: (0.2, book, 0.7), PRODUCTS: (0.2, products, 0.9)}
    figures = made_answers(level, spread=0.04)
    assert words in told(figures)
    picture = memory_or_thinking(figures, PRODUCTS_3, made_learners())
    assert words in picture.summary
    assert len(picture.rows) == 3 + 15 and len(picture.columns) == len(picture.rows[0])
    assert {"learn": "phone book of 2,000 entries", "seed": "0"} in [
        sets for _, sets in presses(picture)
    ]


def test_a_share_that_may_be_none_is_told_so():
    figures = made_answers({BOOK: (0.2, 0.6, 0.7), PRODUCTS: (0.2, 0.21, 0.9)}, spread=0.04)
    assert "80 % on the phone book and 1 % on products (it may be none)." in told(figures)


def test_the_share_is_told_size_by_size_where_there_is_one():
    figures = made_answers({BOOK: (0.2, 0.5, 0.8), PRODUCTS: (0.1, 0.1, 0.11)}, spread=0.0)
    models = figures["tasks"][BOOK]["3000"]["models"]
    models[MOE]["right"]["mean"] = 0.35
    assert told_sizes(figures) == [
        "Of the wide model's gain on the phone book experts bring 50 % at 1,500 entries, 50 % at "
        "2,000 entries and 25 % at 3,000 entries."
    ]


def test_the_verdicts_are_told_size_by_size():
    figures = made_answers()
    figures["tasks"][BOOK]["2000"]["gaps"]["MoE minus dense"]["verdict"] = "open"
    first, *_ = verdict_sentences(figures)
    assert first == (
        "Phone book (entries): beside the dense model of equal active parameters the MoE is above "
        "it at 1,500 and 3,000, not told apart from it at 2,000."
    )


def test_a_learner_is_told_as_far_as_it_has_come():
    half = made_learners(300)
    assert points_of(half[0])[-1] == (300.0, 0.1)
    words = (
        "Multiplication of 3 digits. Right answers: dense 10 %, MoE 15 % and dense with all "
        "parameters"
    )
    assert learning(half, PRODUCTS_3).endswith(f"{words} 45 %.")
    assert (
        learning(made_learners(0), PRODUCTS_3)
        == f"The {PRODUCTS_3}: no answers have been counted yet."
    )


def test_the_prediction_follows_the_figures(monkeypatch):
    for (book, products), option in {
        (0.6, 0.25): "remembering phone numbers",
        (0.3, 0.8): "multiplying numbers",
        (0.6, 0.76): predictions.OPEN,
    }.items():
        figures = made_answers(
            {BOOK: (0.2, book, 0.7), PRODUCTS: (0.2, products, 0.9)}, spread=0.04
        )
        monkeypatch.setattr(predictions, "recorded_run", lambda name, figures=figures: figures)
        assert predictions.memory().option == option
    flat = made_answers({BOOK: (0.2, 0.5, 0.8), PRODUCTS: (0.0, 0.0, 0.01)}, spread=0.0)
    monkeypatch.setattr(predictions, "recorded_run", lambda name: flat)
    assert predictions.memory().option == predictions.OPEN


def test_the_recording_is_of_the_experiment_as_it_stands():
    recorded = read_figures("memory_or_thinking")
    assert recorded["seeds"] == [0, 1, 2, 3, 4] and recorded["steps"] == experiment.STEPS
    assert {task: [*map(int, sizes)] for task, sizes in recorded["tasks"].items()} == {
        task: [*sizes] for task, sizes in SIZES.items()
    }
    snapshots, _ = load_snapshots(data_path("runs", "memory_or_thinking.safetensors"))
    assert len(snapshots) == 3 * len(experiment.settings())
    for place, (task, size) in enumerate(experiment.settings()):
        for snapshot, model in zip(snapshots[3 * place :], experiment.MODELS, strict=False):
            assert (snapshot.label, snapshot.step) == (model, experiment.STEPS)
            assert snapshot.meta["notes"]["task"] == task_name(task, size)
