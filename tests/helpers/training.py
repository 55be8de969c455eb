"""What the tests of training share: the two smallest models, and one way to train them."""

import dataclasses
import os
import time
from pathlib import Path

import torch

from helpers.prose import prose
from moeviz.model import ModelConfig, MoEConfig
from moeviz.text.corpus import load_corpus
from moeviz.text.tokenizer import Tokenizer
from moeviz.training import TrainConfig, Trainer

DENSE = ModelConfig(vocab_size=300, d_model=16, num_layers=2, num_heads=2, d_ff=16)
MOE = dataclasses.replace(DENSE, moe=MoEConfig(num_experts=4, top_k=2, d_expert=8))
MODELS = {"dense": DENSE, "moe": MOE}
TRAIN = TrainConfig(
    steps=12, batch_size=4, seq_len=16, learning_rate=1e-2, warmup=3, validate_every=4, seed=3
)


def make(corpus, model=MOE, **changes):
    return Trainer(model, dataclasses.replace(TRAIN, **changes), corpus)


def run(trainer, steps):
    return [next(trainer) for _ in range(steps)]


def tiny_corpus(folder):
    """Two domains of made up prose."""
    for name, seed in (("one", 1), ("two", 2)):
        (folder / f"{name}.txt").write_text(prose(seed, 300))
    return load_corpus(folder, tokenizer=Tokenizer.train([prose(1, 300)], 300))


def state_of(trainer):
    """Every number that the next step depends on, and the curve, by name (no two runs share the
    seconds)."""
    state = {f"model.{k}": v.numpy().copy() for k, v in trainer.model.state_dict().items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        state |= {f"{index}.{name}": value.numpy().copy() for name, value in moments.items()}
    curve = vars(trainer.history.curve())
    return state | {f"curve.{k}": v for k, v in curve.items() if k != "seconds"}


def check_same(a, b):
    """Bit for bit: the same kernels on the same layout, in one process."""
    assert a.keys() == b.keys()
    assert [k for k in a if a[k].dtype != b[k].dtype or a[k].tobytes() != b[k].tobytes()] == []


def process_of(seed):
    """Where it runs: the process, its threads, and the seed it was given."""
    return os.getpid(), torch.get_num_threads(), seed


def linger(seed):
    """A run without end, which leaves the number of its process in the folder LINGER."""
    Path(os.environ["LINGER"], str(os.getpid())).touch()
    while True:
        time.sleep(1)
