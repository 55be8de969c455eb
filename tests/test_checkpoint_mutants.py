"""A checkpoint that is not as it was saved is refused in one sentence, or exactly right."""

import random
from collections import Counter

import numpy as np
import pytest

from helpers.mutants import bounded, mutated, searches, spoilt
from helpers.training import MODELS, check_same, make, run, state_of, tiny_corpus
from moeviz.records.store import load_arrays, save_arrays
from moeviz.training import Trainer
from moeviz.training.trainer import NonFiniteLossError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def saved(corpus, tmp_path_factory):
    """Checkpoints of the dense model and of the MoE, and what two more steps make of each."""
    folder, files = tmp_path_factory.mktemp("saved"), []
    for name, model in MODELS.items():
        trainer = make(corpus, model, validate_every=0)
        run(trainer, 3)
        trainer.save(folder / name)
        run(trainer, 2)
        files.append((folder / name, state_of(trainer)))
    return files


def outcome(path, corpus, state=None):
    """ "refused" in one sentence, or "resumed", and then two steps lead to this state."""
    with bounded(seconds=20, gigabytes=2):
        try:
            trainer = Trainer.resume(path, corpus)
        except ValueError as refusal:
            sentence = str(refusal)
            assert "\n" not in sentence and sentence.endswith("."), sentence
            assert len(sentence.replace(str(path), "")) < 600, sentence
            return "refused"
        try:
            run(trainer, min(2, trainer.config.steps - trainer.step))
        except NonFiniteLossError:  # of settings that can be had, and do not train
            assert state is None
    if state is not None:
        check_same(state, state_of(trainer))
    return "resumed"


@searches(100, 500)  # a hundred a second
def test_a_spoilt_file_is_refused_or_exactly_right(count, saved, corpus, tmp_path):
    rng, outcomes = random.Random(count), Counter()
    for _ in range(count):
        path, state = rng.choice(saved)
        (tmp_path / "run").write_bytes(spoilt(path.read_bytes(), rng))
        outcomes[outcome(tmp_path / "run", corpus, state)] += 1
    print(dict(outcomes))
    assert outcomes["refused"] > 0.9 * count, outcomes


def change_array(arrays, rng):
    """Another shape or type of one array, or its name lost or taken by another."""
    name, other = rng.sample(sorted(arrays), 2)
    array = arrays[name]
    arrays[name] = rng.choice(
        (array[None], array[..., None], array.ravel()[:1], array.ravel(), array.T, array[:0]
         if array.ndim else array, array.astype("f8"), array.astype("i4"), array.astype("f2"),
         arrays[other])
    )  # fmt: skip
    if rng.random() < 0.3:
        arrays[rng.choice((other, "model.x", "optimizer.x.y", "history.x"))] = arrays.pop(name)


@searches(100, 500)
@pytest.mark.filterwarnings("ignore:.*encountered in cast")
def test_a_checkpoint_of_other_shapes_types_or_settings_never_trips_a_step(
    count, saved, corpus, tmp_path
):
    """Its checksum is right, as when a program wrote it that means something else."""
    rng, outcomes = random.Random(count), Counter()
    for _ in range(count):
        arrays, header = load_arrays(rng.choice(saved)[0], kind="checkpoint")
        if rng.random() < 0.5:
            change_array(arrays, rng)
        else:
            header = mutated(header, sorted(header), rng)
        save_arrays(tmp_path / "run", arrays, {**header, "kind": "checkpoint"}, kind="checkpoint")
        outcomes[outcome(tmp_path / "run", corpus)] += 1
    print(dict(outcomes))
    assert outcomes["refused"] > count / 2, outcomes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a, h: h.update(step="7"), "its step must be a whole number"),
        (lambda a, h: h.update(step=7.5), "its step must be a whole number"),
        (lambda a, h: h.update(step=10**6), "has done 1000000 steps already; steps must be at"),
        (lambda a, h: h.update(seconds="x"), "its seconds must be a finite number"),
        (lambda a, h: h["train"].update(compile="auto"), "compile must be True or False"),
        (lambda a, h: h["history"].update(stride=0), "the stride of its history must be a whole"),
        (lambda a, h: a.update({"history.step": np.zeros(0)}), "its history does not fit"),
        (lambda a, h: a.update({"optimizer.step.norm.weight": np.float32(-1)}), "its moments of"),
        (lambda a, h: a.pop("optimizer.exp_avg.norm.weight"), "its moments of norm.weight do not"),
        (
            lambda a, h: a.update({"optimizer.exp_avg.norm.weight": np.zeros(3, "f4")}),
            "its moments of norm.weight do not fit",
        ),
        (
            lambda a, h: a.update(
                {k: a[k].astype("f8") for k in a if k[-12:] == ".norm.weight" and k[:3] == "opt"}
            ),
            "its moments of norm.weight do not fit",
        ),
        (
            lambda a, h: a.update({"model.norm.weight": a["model.norm.weight"].astype("f8")}),
            "model.norm.weight is of type float64, not float32",
        ),
    ],
)
def test_what_the_next_step_would_trip_over_is_named(change, sentence, saved, corpus, tmp_path):
    arrays, header = load_arrays(saved[0][0], kind="checkpoint")
    change(arrays, header)
    save_arrays(tmp_path / "run", arrays, header, kind="checkpoint")
    with pytest.raises(ValueError, match=sentence):
        Trainer.resume(tmp_path / "run", corpus)


def test_a_run_that_has_not_begun_is_resumed_too(corpus, tmp_path):
    make(corpus, MODELS["moe"], validate_every=0).save(tmp_path / "run")
    assert Trainer.resume(tmp_path / "run", corpus).step == 0
