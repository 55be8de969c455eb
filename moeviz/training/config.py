"""How to train: the options, the learning rate they give, the device and precision they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from moeviz.backend import native_bfloat16
from moeviz.checks import brief, check_choice, check_flag, check_number, check_whole
from moeviz.host import cores, memory_bytes
from moeviz.model.config import ModelConfig

SCHEDULES = ("cosine", "constant", "restarts")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; ValueError on impossible values.

    learning_rate is the peak, reached after `warmup` steps; then schedule "cosine" lets it fall to
    a tenth at `steps`, "constant" keeps it, so that a run may be read at any step, and "restarts"
    lets it fall to a tenth in `restart_every` steps, again and again (warm restarts, Loshchilov and
    Hutter 2017).
    balance_weight, z_weight and cv_weight multiply the routers' losses (see `weight_of`).
    accumulate: so many parts of a batch are worked on one after the other, which saves memory;
    losses, gradients and biases are those of the whole batch (see model.division.Division).
    Validation is measured every `validate_every` steps (0: never).
    """

    steps: int = 600
    batch_size: int = 16
    seq_len: int = 64
    learning_rate: float = 4e-3
    warmup: int = 50
    schedule: str = "cosine"
    restart_every: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulate: int = 1
    balance_weight: float = 0.01
    z_weight: float = 1e-3
    cv_weight: float = 0.1
    validate_every: int = 50
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "seq_len", "restart_every"):
            check_whole(name, getattr(self, name))
        for name in ("warmup", "validate_every"):
            check_whole(name, getattr(self, name), 0)
        check_whole("accumulate", self.accumulate, high=self.batch_size)
        check_whole("seed", self.seed, 0, 2**32 - 1)  # a generator's 64 bits hold the step too
        for name in ("weight_decay", "balance_weight", "z_weight", "cv_weight"):
            check_number(name, getattr(self, name))
        for name in ("learning_rate", "clip"):
            check_number(name, getattr(self, name), open_low=True)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        check_flag("compile", self.compile)

    def weight_of(self, loss: str) -> float:
        """What multiplies a router's loss: cv_weight those of Shazeer et al. (2017), "importance"
        and "load"; 1 what its router weighs itself."""
        weights = {
            "balance": self.balance_weight,
            "z": self.z_weight,
            "importance": self.cv_weight,
            "load": self.cv_weight,
        }
        return weights.get(loss, 1.0)


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then the peak, or a cosine from it to a tenth of it at config.steps, or one
    every config.restart_every steps."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    done, period = step - config.warmup, max(config.steps - config.warmup, 1)
    if config.schedule == "restarts":
        done, period = done % config.restart_every, config.restart_every
    cosine = 0.5 * (1 + math.cos(math.pi * min(done / period, 1.0)))
    return config.learning_rate * (0.1 + 0.9 * cosine)


def resolve_device(device: str) -> torch.device:
    """The device by name, CUDA or else the CPU for "auto"; ValueError where it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
        torch.Generator(resolved)  # "meta" has tensors, but draws no numbers
    except (RuntimeError, AssertionError, TypeError):
        raise ValueError(
            f"Device {brief(device)} is not available here; use 'cpu' or 'auto'."
        ) from None
    return resolved


def check_fits(model: ModelConfig, config: TrainConfig, device: torch.device) -> None:
    """ValueError where training needs more memory than there is, before a machine dies of it: for
    every weight also its gradient and two moments, and all logits with their gradient."""
    logits = config.batch_size * config.seq_len * model.vocab_size / config.accumulate
    needed = 16 * model.num_weights() + 8.0 * logits
    available = memory_bytes()
    if device.type == "cuda":
        available = torch.cuda.get_device_properties(device).total_memory
    if needed > available:
        raise ValueError(
            f"Training would need at least {needed / 1e9:,.0f} GB of memory, and there are "
            f"{available / 1e9:,.0f}; give a smaller model, batch_size or seq_len."
        )


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on a GPU that has it, float16 on an older one, float32 on a CPU."""
    if precision != "auto":
        if precision == "float16" and device.type == "cpu":
            raise ValueError("float16 training needs a GPU; use precision='float32' on a CPU.")
        return getattr(torch, precision)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if native_bfloat16() else torch.float16


def leave_a_core_free() -> None:
    """Let torch use all cores of this process but one, at most four, from the calling thread on:
    the kernel's answers and the browser need one, and models of this size gain no more."""
    torch.set_num_threads(max(1, min(4, cores() - 1)))
