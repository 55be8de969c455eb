"""What the tests of training share: the two smallest models, and one way to train them."""

import dataclasses
import os

import torch

from moeviz.model import ModelConfig, MoEConfig
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


def process_of(seed):
    """Where it runs: the process, its threads, and the seed it was given."""
    return os.getpid(), torch.get_num_threads(), seed
