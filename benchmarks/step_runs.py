"""What a training step costs the host, and what it would with fewer launches: the models of the
race at a GPU's size, as `gpu_race` trains them.

    eager      the trainer's steps
    pass       forward and backward alone, of one batch: its time, the host's to queue it, and as a
               CUDA graph
    compiled   the trainer's steps with TrainConfig(compile=True), of which the first compiles

Each is an item of its own and the quickest come first: torch.compile may take the rest of the time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import report
import train_runs
from moeviz.experiments.at_scale import GPU_SIZE, TOY_SIZE, Arm, Setting, build, forget
from moeviz.experiments.gpu_race import arms
from moeviz.training.trainer import Trainer
from moeviz.watch.chip import Chip
from moeviz.watch.timing import Step, on_gpu, single, spread
from profiling import captured, host_times
from visit import Phase

WARM_STEPS, TIMED_STEPS = 4, 30
PASS_S = 0.5  # of timed passes


def run(phase: Phase, rehearse: bool) -> None:
    """All items, each a fresh model. Speed alone is asked for, so a small text will do."""
    setting = Setting(TOY_SIZE if rehearse else GPU_SIZE, train_runs.toy_text())
    of_race = arms(setting.size)
    phase.facts |= {"size": dataclasses.asdict(setting.size), "timed_steps": TIMED_STEPS}
    with Chip() as chip:
        measures = {"eager": partial(steps, compiled=False), "pass": one_pass}
        for what, measure in (measures | {"compiled": partial(steps, compiled=True)}).items():
            for name, arm in reversed(of_race.items()):  # the MoE first
                key = f"{name} {what}"
                result = phase.item(key, partial(measured, measure, arm, setting, chip))
                print(f"step: {key}: {result}, {phase.left():.0f} s are left", flush=True)


def measured(measure: Any, arm: Arm, setting: Setting, chip: Chip) -> dict[str, Any]:
    """A measure's figures, and the chip's meanwhile."""
    forget()
    began = time.monotonic()
    figures: dict[str, Any] = measure(arm, setting)
    return figures | {"chip": chip.medians([(began, time.monotonic())])}


def steps(arm: Arm, setting: Setting, *, compiled: bool) -> dict[str, Any]:
    """The trainer's steps, the first one by itself, and the loss of the last: eager and compiled it
    is the same but for rounding."""
    training = dict(arm.training, compile=compiled)
    trainer = build(
        dataclasses.replace(arm, training=training), 0, WARM_STEPS + TIMED_STEPS, setting
    )
    seconds, losses = [], []
    for result in trainer:
        seconds.append(trainer.seconds)
        losses.append(result.loss)
    step = (seconds[-1] - seconds[WARM_STEPS - 1]) / TIMED_STEPS
    return {
        "first_step_s": seconds[0],
        "step_ms": 1e3 * step,
        "tokens_per_second": setting.size.tokens_per_step / step,
        "loss": losses[-1],
    }


def one_pass(arm: Arm, setting: Setting) -> dict[str, Any]:
    """Of one forward and backward pass on a GPU."""
    trainer = build(arm, 0, 1, setting)
    if trainer.device.type != "cuda":
        raise ValueError("a pass is timed by a GPU's events, and there is no GPU here.")
    return pass_times(*parts_of_a_pass(trainer, setting))


def parts_of_a_pass(
    trainer: Trainer, setting: Setting
) -> tuple[Callable[[], Tensor], Callable[[Tensor], list[Tensor]]]:
    """The loss of a batch that stays on the device, and the gradients of a loss."""
    size, model, device = setting.size, trainer.model, trainer.device
    batch = setting.corpus.batch(seed=0, step=0, batch_size=size.batch_size, seq_len=size.seq_len)
    tokens_BS = torch.from_numpy(batch.tokens).to(device)
    weights = list(model.parameters())

    def output() -> Tensor:
        with torch.autocast(
            device.type, dtype=trainer.precision, enabled=trainer.precision != torch.float32
        ):
            loss: Tensor = model(tokens_BS[:, :-1], targets_BS=tokens_BS[:, 1:]).loss.mean()
        return loss

    def gradients(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [gradient for gradient in found if gradient is not None]

    return output, gradients


def pass_times(
    output: Callable[[], Tensor], gradients: Callable[[Tensor], list[Tensor]]
) -> dict[str, Any]:
    """Milliseconds of both by events, of the host, and as a CUDA graph, with how far the loss of
    its replay is from that of the calls; where it cannot be captured, why."""

    def both() -> list[Tensor]:
        loss = output()
        return [loss.detach(), *gradients(loss)]

    def both_ms(step: Step) -> dict[str, float]:
        return spread([sum(parts) for parts in on_gpu(step, PASS_S)])

    figures: dict[str, Any] = {"both_ms": both_ms(single(both)), "graph_ms": None}
    figures["host_ms"] = host_times(output, gradients)
    try:
        replay, (loss, *_) = captured(both)
        figures["graph_ms"] = both_ms(replay)
        figures["graph_loss_apart"] = float((loss - both()[0]).abs())
    except RuntimeError as error:
        figures["graph"] = report.reason(error)
    return figures
