"""Trainings at a larger size, each within a number of seconds of one GPU.

What would make a comparison unfair, and how it is closed:

1. How loud the FFN is at the start. Every FFN's output, the dense twin's too, starts with the same
   variance: the fair scale, ModelConfig(ffn_scale=1.0). What each arm then starts with is measured
   and recorded.
2. Other data. All arms of one seed see the same batches in the same order, and the same held-out
   windows, in bfloat16 with the same kernels.
3. Other luck at the start. What arms have in common (embedding, attention, norms, head) starts from
   the same numbers (`shared_start`).
4. Other lengths. A probe times the first steps of every arm; from them one number of steps is
   chosen for all, and the learning rate's schedule ends there. A run that would not end in time is
   not begun, and is named.
5. Other FLOPs. Active parameters of the FFNs are equal; the router's own FLOPs are on top, counted.
6. Seeds. Differences are taken seed by seed; they have a 95 % interval of Student's t where there
   are several seeds, and one that holds 0 is told as not shown.

Not closed, and so said beside the figures: one learning rate for all arms, and few seeds.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from moeviz.experiments.recording import compact
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.records.metrics import collapsed, dead_experts, effective_experts, max_violation
from moeviz.records.runs import Snapshot
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.training.config import TrainConfig, resolve_device
from moeviz.training.trainer import Trainer
from moeviz.watch.chip import Chip
from moeviz.watch.timing import matmul_tflops

DENSE = "dense"
VALIDATIONS = 12  # of a run, evenly spaced, the last one at its end
WARM_STEPS, TIMED_STEPS = 4, 16  # of a probe; the first ones compile kernels

Cost = dict[str, float]  # seconds to build an arm, for a step, and for a validation


@dataclass(frozen=True)
class Size:
    """What all arms of an experiment share. windows: of validation, in all."""

    d_model: int = 512
    num_layers: int = 8
    num_heads: int = 8
    num_experts: int = 64
    top_k: int = 4
    d_expert: int = 512
    sweep: tuple[int, ...] = (8, 16, 32, 64, 128)
    batch_size: int = 64
    seq_len: int = 512
    learning_rate: float = 1e-3
    warmup: int = 50
    most_steps: int = 700  # times 32,768 tokens: once through the text of the packages
    windows: int = 256

    @property
    def width(self) -> int:
        """K F, the active width of every FFN."""
        return self.top_k * self.d_expert

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len


GPU_SIZE = Size()
# For a rehearsal on a CPU, in seconds.
TOY_SIZE = Size(32, 2, 2, 8, 2, 16, (4, 8, 16), 4, 16, warmup=1, most_steps=4, windows=12)


@dataclass(frozen=True)
class Arm:
    """One contestant: its experts, None for the dense twin, and how its losses are weighed."""

    experts: MoEConfig | None
    training: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """Where experiments run. peak_tflops: of a large matrix product, measured; None: not. costs:
    probes that were made, for arms of the same experts cost the same."""

    size: Size
    corpus: Corpus
    peak_tflops: float | None = None
    costs: dict[str, Cost] = field(default_factory=dict)

    @property
    def windows_per_domain(self) -> int:
        return max(1, self.size.windows // len(self.corpus.domains))


def gpu_setting(corpus: Corpus | None = None) -> Setting:
    """This GPU and a text, by default that of the installed packages; ValueError where there is no
    GPU."""
    if not torch.cuda.is_available():
        raise ValueError("A training of this size needs an NVIDIA GPU, and there is none here.")
    peak = matmul_tflops(torch.device("cuda"), torch.bfloat16)
    return Setting(GPU_SIZE, corpus or load_corpus("packages"), peak)


# The same start for all.


def shared_start(model: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """The parameters of a dense model as the seed gives them on a CPU: the same on any machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(model).state_dict()


def build(arm: Arm, seed: int, steps: int, setting: Setting) -> Trainer:
    """An arm ready to train. Experts are drawn where they will live: for hundreds of millions of
    numbers a CPU takes seconds."""
    size, corpus = setting.size, setting.corpus
    dense = ModelConfig(
        vocab_size=corpus.tokenizer.vocab_size,
        d_model=size.d_model,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        d_ff=size.width,
        ffn_scale=1.0,
    )
    train = TrainConfig(
        steps=steps,
        batch_size=size.batch_size,
        seq_len=size.seq_len,
        learning_rate=size.learning_rate,
        warmup=size.warmup,
        validate_every=0,
        seed=seed,
        **arm.training,  # type: ignore[arg-type]
    )
    with torch.device(resolve_device("auto")):
        trainer = Trainer(dataclasses.replace(dense, moe=arm.experts), train, corpus)
    trainer.model.load_state_dict(shared_start(dense, seed), strict=False)
    return trainer


def output_variance(trainer: Trainer, windows_per_domain: int) -> list[float]:
    """Of each block's FFN, over held-out windows: the mean square of what it adds."""
    squares: list[float] = []
    hooks = [
        block.ffn.register_forward_hook(
            lambda _, __, out: squares.append(out[0].float().square().mean().item())
        )
        for block in trainer.model.blocks
    ]
    trainer.evaluate(windows_per_domain)
    for hook in hooks:
        hook.remove()
    of_layers = np.reshape(squares, (-1, len(trainer.model.blocks))).mean(0)
    return [float(f"{v:.4g}") for v in of_layers]


def output_scale(trainer: Trainer) -> list[float]:
    """The factor that each MoE block's chosen experts have."""
    ffns = [trainer.model.blocks[layer].ffn for layer in trainer.moe_layers]
    return [float(f"{ffn.factor_P[0].item():.4g}") for ffn in ffns]


# One run.


def forget() -> None:
    """Give back what the arm before has left on the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def probe(arm: Arm, setting: Setting) -> Cost:
    """What an arm costs, by its first steps."""
    kind = repr(arm.experts)
    if kind in setting.costs:
        return setting.costs[kind]
    forget()
    start = time.perf_counter()
    trainer = build(arm, 0, WARM_STEPS + TIMED_STEPS, setting)
    built = time.perf_counter() - start
    trainer.evaluate(setting.windows_per_domain)
    for _ in range(WARM_STEPS):
        next(trainer)
    before = trainer.seconds
    for _ in trainer:
        pass
    step = (trainer.seconds - before) / TIMED_STEPS
    start = time.perf_counter()
    trainer.evaluate(setting.windows_per_domain)
    evaluated = time.perf_counter() - start
    setting.costs[kind] = {"build": built, "step": step, "evaluate": evaluated}
    return setting.costs[kind]


def train(arm: Arm, seed: int, steps: int, setting: Setting) -> dict[str, Any]:
    """Train one arm to the end: its figures, and its curves by step."""
    forget()
    trainer = build(arm, seed, steps, setting)
    variance = output_variance(trainer, setting.windows_per_domain)
    due = {round(steps * (i + 1) / VALIDATIONS) for i in range(VALIDATIONS)}
    warm, measured = min(WARM_STEPS, steps - 1), []
    warm_seconds, began = 0.0, time.monotonic()
    with Chip() as chip:
        for result in trainer:
            if result.step == warm:
                warm_seconds = trainer.seconds
            if result.step in due:
                evaluation = trainer.evaluate(setting.windows_per_domain)
                measured.append((result.step, round(evaluation.loss, 5)))
        of_chip = chip.medians([(began, time.monotonic())])
    rate = (steps - warm) / (trainer.seconds - warm_seconds)
    snapshot = compact(trainer.snapshot(""))
    figures: dict[str, Any] = {
        "validation_loss": evaluation.loss,
        "seconds": trainer.seconds,
        "tokens_per_second": rate * setting.size.tokens_per_step,
        "parameters": snapshot.parameters,
        "active_parameters": snapshot.active_parameters,
        "gigaflops_per_step": trainer.flops_per_step / 1e9,
        "output_scale": output_scale(trainer),
        "output_variance_at_start": variance,
        "validation_curve": measured,
        "loss_curve": _points(snapshot, snapshot.curve.loss),
    }
    if setting.peak_tflops:
        figures["of_peak"] = rate * trainer.flops_per_step / (1e12 * setting.peak_tflops)
    if torch.cuda.is_available():
        figures["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        figures["chip"] = of_chip or {}
    return figures | _balance(snapshot, evaluation.load.sum(1))


def _balance(snapshot: Snapshot, load_LE: np.ndarray) -> dict[str, Any]:
    """Balance of validation's load at the end by layer, and through training in the least even."""
    if not len(load_LE):
        return {}
    effective_P = [
        min(effective_experts(load_E) for load_E in load_LE) for load_LE in snapshot.curve.load
    ]
    return {
        "max_violation": max(max_violation(load_E) for load_E in load_LE),
        "collapsed": collapsed(snapshot.curve),
        "experts": load_LE.shape[1],
        "effective_by_layer": [round(effective_experts(load_E), 2) for load_E in load_LE],
        "dead_by_layer": [dead_experts(load_E) for load_E in load_LE],
        "effective_curve": _points(snapshot, np.array(effective_P)),
    }


def _points(snapshot: Snapshot, values: np.ndarray) -> list[tuple[int, float]]:
    steps = snapshot.curve.step.tolist()
    return [(int(s), round(float(v), 4)) for s, v in zip(steps, values, strict=True)]
