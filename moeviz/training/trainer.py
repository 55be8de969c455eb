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
import torch.nn.functional as F
from torch import Tensor

from moeviz.backend import resolve_backend
from moeviz.model.transformer import ModelConfig, ModelOut
from moeviz.records.runs import Point, Snapshot
from moeviz.routing import NonFiniteLogitsError
from moeviz.text.corpus import Batch, Corpus
from moeviz.training.checkpoint import TrainState
from moeviz.training.config import TrainConfig, learning_rate_at

# How often the last good state is copied: a rewind loses at most this many steps.
GOOD_STATE_EVERY = 25
# Of validation's fixed windows, unless asked for others.
WINDOWS_PER_DOMAIN = 8


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


@dataclass(frozen=True)
class Evaluation:
    """Validation. loss: mean over domains, nats per token; domain_loss: float64 [domains]; load:
    assignments per MoE layer, domain and expert, int64 [L, domains, E]."""

    loss: float
    domain_loss: np.ndarray
    load: np.ndarray


class Trainer(TrainState):
    """A model, its optimiser and its data. `for result in trainer:` runs it to config.steps."""

    def __init__(self, model: ModelConfig, config: TrainConfig, corpus: Corpus) -> None:
        if model.vocab_size < corpus.tokenizer.vocab_size:
            raise ValueError(
                f"The model's vocab_size {model.vocab_size} is smaller than the tokenizer's "
                f"{corpus.tokenizer.vocab_size}; give at least that."
            )
        # A text too short for the sequences is refused here, not at the first validation.
        corpus.batch(seed=config.seed, step=0, batch_size=1, seq_len=config.seq_len)
        corpus.windows("validation", seq_len=config.seq_len, windows_per_domain=1)
        super().__init__(model, config, corpus)
        self._forward = self._compiled() if config.compile else self.model
        self.flops_per_step = (
            3 * model.flops_per_token(config.seq_len) * config.batch_size * config.seq_len
        )

    @property
    def expert_backend(self) -> str | None:
        """The backend that the experts run on here, None for a dense model."""
        if not self.moe_layers:
            return None
        ffn = self.model.blocks[self.moe_layers[0]].ffn
        x_TD = ffn.w2_EDF.new_empty(1, self.model_config.d_model, dtype=self.precision)
        return resolve_backend(ffn.backend, x_TD, ffn.w13_E2FD, ffn.w2_EDF)

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
        every = self.config.validate_every
        due = every and (self.step % every == 0 or self.step == self.config.steps)
        self.history.add(
            Point(
                step=self.step,
                seconds=self.seconds,
                flops=self.step * self.flops_per_step,
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
            out, loss = self._loss(self._forward, batch, generator)
        except NonFiniteLogitsError:
            self._diverged("loss")
        losses = _router_losses(out)
        total = loss + sum(config.weight_of(name) * value for name, value in losses.items())
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
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
        self, forward: Any, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[ModelOut, Tensor]:
        tokens_BS = torch.from_numpy(batch.tokens).to(self.device)
        with self._autocast():
            out = forward(tokens_BS[:, :-1], generator=generator)
        logits_TV = out.logits.float().flatten(0, 1)
        return out, F.cross_entropy(logits_TV, tokens_BS[:, 1:].flatten())

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    @torch.no_grad()
    def evaluate(self, windows_per_domain: int = WINDOWS_PER_DOMAIN) -> Evaluation:
        """Loss and load on fixed validation windows, equal per domain."""
        batch = self.corpus.windows(
            "validation", seq_len=self.config.seq_len, windows_per_domain=windows_per_domain
        )
        self.model.eval()
        losses, loads = [], []
        for domain in range(len(self.corpus.domains)):
            rows = batch.domain == domain
            out, loss = self._loss(self.model, Batch(batch.tokens[rows], batch.domain[rows]))
            losses.append(loss.item())
            loads.append([r.stats.load.cpu().numpy() for r in out.routes if r is not None])
        load = np.array(loads, dtype=np.int64)
        if not self.moe_layers:
            load = load.reshape(len(losses), 0, 0)
        return Evaluation(float(np.mean(losses)), np.array(losses), load.swapaxes(0, 1))

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


def _router_losses(out: ModelOut) -> dict[str, Tensor]:
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
