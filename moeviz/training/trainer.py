"""Training as an iterator of steps: the same for a notebook, the command line and the tests."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from moeviz.backend import resolve_backend
from moeviz.model.config import ModelConfig
from moeviz.model.division import Division
from moeviz.model.transformer import LossOut
from moeviz.records.runs import Point, Snapshot
from moeviz.routing import NonFiniteLogitsError
from moeviz.text.corpus import Batch, Corpus
from moeviz.text.split import Part
from moeviz.training.checkpoint import TrainState
from moeviz.training.config import TrainConfig, learning_rate_at
from moeviz.training.evaluation import WINDOWS_PER_DOMAIN, Evaluation, Pool, batches, domain_load

# How often the last good state is copied: a rewind loses at most this many steps.
GOOD_STATE_EVERY = 25


class NonFiniteLossError(RuntimeError):
    """Training diverged. The trainer stands at its last good state."""


@dataclass(frozen=True)
class StepResult:
    """One step. loss: nats per token, without the routers' losses; router_losses: those by name,
    means over layers, unweighted; load: assignments per MoE layer and expert, int64 [L, E];
    entropy: of the gate, float [L]; dropped: share of assignments, float [L]."""

    step: int
    loss: float
    router_losses: dict[str, float]
    grad_norm: float
    load: np.ndarray
    entropy: np.ndarray
    dropped: np.ndarray


class Trainer(TrainState):
    """A model, its optimiser and its data. `for result in trainer:` runs it to config.steps."""

    def __init__(
        self,
        model: ModelConfig,
        config: TrainConfig,
        corpus: Corpus,
        division: Division | None = None,
    ) -> None:
        if model.vocab_size < corpus.tokenizer.vocab_size:
            raise ValueError(
                f"The model's vocab_size {model.vocab_size} is smaller than the tokenizer's "
                f"{corpus.tokenizer.vocab_size}; give at least that."
            )
        # A text too short for the sequences is refused here, not at the first validation.
        corpus.batch(seed=config.seed, step=0, batch_size=1, seq_len=config.seq_len)
        corpus.windows("validation", seq_len=config.seq_len, windows_per_domain=1)
        super().__init__(model, config, corpus, division)
        self._forward = self._compiled() if config.compile else self.division.replicated(self.model)
        self.tokens_per_step = config.batch_size * config.seq_len
        self._declared_flops = model.flops_per_token(config.seq_len)
        self.flops_per_step = 3 * self._declared_flops * self.tokens_per_step

    @property
    def expert_backend(self) -> str | None:
        """The backend that the experts run on here, None for a dense model."""
        if not self.moe_layers:
            return None
        ffn = self.model.blocks[self.moe_layers[0]].ffn
        x_TD = ffn.w2_EDF.new_empty(1, self.model_config.d_model, dtype=self.precision)
        return resolve_backend(ffn.backend, x_TD, ffn.w13_E2FD, ffn.w2_EDF)

    def flops_per_token(self, active_experts_L: np.ndarray) -> float:
        """Forward FLOPs of one token that visits so many experts in each MoE layer, shared ones not
        counted: with a measured average this is the honest cost of a router that only declares one.
        """
        if self.model_config.moe is None:
            return self._declared_flops
        declared = [r.active_experts(self.config.seq_len) for r in self.model.routers().values()]
        per_expert = 6 * self.model_config.d_model * self.model_config.moe.d_expert
        return self._declared_flops + per_expert * float(np.sum(active_experts_L - declared))

    def __iter__(self) -> Iterator[StepResult]:
        return self

    def __next__(self) -> StepResult:
        """One optimiser step. Raises NonFiniteLossError where training diverged: the trainer then
        stands at its last good state."""
        if self.step >= self.config.steps:
            raise StopIteration
        start = time.perf_counter()
        result = self._one_step()
        self.seconds += time.perf_counter() - start
        self.step += 1
        flops_per_token = self.flops_per_token(result.load.sum(-1) / self.tokens_per_step)
        every = self.config.validate_every
        due = every and (self.step % every == 0 or self.step == self.config.steps)
        self.history.add(
            Point(
                step=self.step,
                seconds=self.seconds,
                flops=self.history.flops + 3 * flops_per_token * self.tokens_per_step,
                loss=result.loss,
                load=result.load / np.maximum(result.load.sum(-1, keepdims=True), 1),
                entropy=result.entropy,
                dropped=result.dropped,
                validation=self.evaluate().loss if due else float("nan"),
            )
        )
        return result

    def _one_step(self) -> StepResult:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config)
        batch = self.corpus.batch(
            seed=config.seed, step=self.step, batch_size=config.batch_size, seq_len=config.seq_len
        )
        self.model.train()
        # Noise depends on the seed and the step alone, so that a resumed run draws the same.
        generator = torch.Generator(self.device).manual_seed((config.seed << 32) + self.step)
        try:
            out = self._loss(self._forward, batch, generator)
        except NonFiniteLogitsError:
            self._diverged("loss")
        loss, losses = out.loss.mean(), _router_losses(out)
        total = loss + sum(config.weight_of(name) * value for name, value in losses.items())
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = self.division.clip_gradients(self.model, config.clip)
        loss, total = self.division.mean(torch.stack((loss, total)))
        stats = [route.stats for route in out.routes if route is not None]
        # The step's only look at its numbers, before the optimiser's work is queued.
        host = _on_host(
            {
                "losses": [loss, total, norm, *losses.values()],
                "load": [s.load for s in stats],
                "entropy": [s.entropy for s in stats],
                "dropped": [1 - s.load.sum() / s.demand.sum().clamp(min=1) for s in stats],
            }
        )
        loss_value, total_value, norm_value, *router_values = host["losses"].tolist()
        # float16 skips a step whose gradients overflow and lowers its scale; elsewhere an
        # overflow means that training has diverged.
        if not math.isfinite(total_value):
            self.scaler.update()  # or it would refuse to unscale the step after the rewind
            self._diverged("loss")
        if not math.isfinite(norm_value) and self.precision != torch.float16:
            self._diverged("gradient")
        # Copied here, where its loss is known to be finite: a state is not good by its number.
        self.keep_good_state(GOOD_STATE_EVERY)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for layer, layer_stats in zip(self.moe_layers, stats, strict=True):
            self.model.routers()[layer].post_step(layer_stats)
        if self.device.type == "cuda":
            # The optimiser's time is this step's, not that of whoever takes the next turn.
            torch.cuda.synchronize(self.device)
        return StepResult(
            step=self.step + 1,
            loss=loss_value,
            router_losses=dict(zip(losses, router_values, strict=True)),
            grad_norm=norm_value,
            load=host["load"].astype(np.int64).reshape(len(stats), -1 if stats else 0),
            entropy=host["entropy"],
            dropped=host["dropped"],
        )

    def _compiled(self) -> Any:
        """The model under torch.compile; without its MoE layers where Triton does not run them:
        sizes that depend on the data break its graphs, and its rule for grouped_mm refuses all but
        bfloat16 (torch 2.13)."""
        for layer in self.moe_layers if self.expert_backend != "triton" else ():
            ffn = self.model.blocks[layer].ffn
            ffn.forward = torch.compiler.disable(ffn.forward)
        return torch.compile(self.model)

    def _loss(
        self,
        forward: Any,
        batch: Batch,
        generator: torch.Generator | None = None,
        padding: int = 0,
    ) -> LossOut:
        tokens_BS = torch.from_numpy(batch.tokens).to(self.device)
        inputs_BS, targets_BS = tokens_BS[:, :-1], tokens_BS[:, 1:]
        with self._autocast():
            out: LossOut = forward(
                inputs_BS, generator=generator, targets_BS=targets_BS, padding=padding
            )
        return out

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    @torch.no_grad()
    def evaluate(
        self,
        windows_per_domain: int = WINDOWS_PER_DOMAIN,
        *,
        part: Part = "validation",
        pool: Pool = "mixed",
    ) -> Evaluation:
        """Loss and load on fixed windows of held-out text, as many of each domain.

        part: choices are made on "validation", the final figure comes from "reserve". pool: which
        windows meet in a batch; see `batches`. It matters to every router whose tokens are compared
        with each other, and to every capacity.
        """
        seq_len, num_domains = self.config.seq_len, len(self.corpus.domains)
        windows = self.corpus.windows(part, seq_len=seq_len, windows_per_domain=windows_per_domain)
        self.model.eval()
        loss_W = np.empty(len(windows.domain))
        load = np.zeros((len(self.moe_layers), num_domains, self.num_experts))
        for rows in batches(windows.domain, pool, self.config.batch_size):
            # As many rows for each process.
            padding = -len(rows) % self.division.size
            filled = np.concatenate((rows, np.repeat(rows[-1:], padding)))
            batch = Batch(windows.tokens[filled], windows.domain[filled])
            out = self._loss(self.model, batch, padding=padding)
            domain_T = torch.from_numpy(batch.domain).to(self.device).repeat_interleave(seq_len)
            plans = [route.plan for route in out.routes if route is not None]
            loads = [domain_load(plan, domain_T, num_domains) for plan in plans]
            losses = self.division.all_rows(out.loss.mean(1))[: len(rows)]
            host = _on_host({"losses": [*losses], "load": loads})
            loss_W[rows] = host["losses"]
            load += host["load"].reshape(load.shape)
        domain_loss = np.bincount(windows.domain, loss_W) / windows_per_domain
        return Evaluation(domain_loss, load, loss_W.size * seq_len)

    def snapshot(self, label: str) -> Snapshot:
        """The run so far, as numpy."""
        tokens = self.step * self.config.batch_size * self.config.seq_len
        return Snapshot(
            label=label,
            step=self.step,
            total_steps=self.config.steps,
            seconds=self.seconds,
            tokens_per_second=tokens / self.seconds if self.seconds else 0.0,
            parameters=self.model.num_parameters(),
            active_parameters=self.model.num_active_parameters(),
            curve=self.history.curve(),
            meta={
                "model": self.model_config.to_dict(),
                "train": dataclasses.asdict(self.config),
                "corpus": self.corpus.manifest.fingerprint,
            },
        )

    def _diverged(self, what: str) -> NoReturn:
        failed, learning_rate = self.step + 1, learning_rate_at(self.step, self.config)
        self.rewind()
        otherwise = {
            "loss": "",
            "gradient": "; if that does not help, a term of the loss has no finite slope there: "
            "give the router other options",
        }
        raise NonFiniteLossError(
            f"The {what} stopped being a finite number at step {failed} (learning rate "
            f"{learning_rate:.2g}); the model is back at step {self.step}, its last good state. "
            f"Lower the learning rate or the clip and start again{otherwise[what]}."
        )


def _router_losses(out: LossOut) -> dict[str, Tensor]:
    """Each of the routers' losses as its mean over the MoE layers."""
    routes = [route for route in out.routes if route is not None]
    names = dict.fromkeys(name for route in routes for name in route.losses)
    return {name: torch.stack([r.losses[name] for r in routes]).mean() for name in names}


def _on_host(columns: dict[str, list[Tensor]]) -> dict[str, np.ndarray]:
    """Each column's tensors, all of one shape, stacked as float64: [tensors, ...]. A GPU is waited
    for once, whatever their number."""
    flat = [value.detach().flatten() for values in columns.values() for value in values]
    if flat[0].device.type == "mps":  # which has no float64
        flat = [value.cpu() for value in flat]
    packed = torch.cat([value.double() for value in flat]).cpu().numpy()
    arrays, start = {}, 0
    for name, values in columns.items():
        shape = (len(values), *(values[0].shape if values else ()))
        end = start + math.prod(shape)
        arrays[name] = packed[start:end].reshape(shape)
        start = end
    return arrays
