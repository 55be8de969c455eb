"""Training as an iterator of steps: the same for a notebook, the command line and the tests."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moeviz.backend import resolve_backend
from moeviz.model.transformer import LanguageModel, ModelConfig, ModelOut
from moeviz.records.routes import Trace
from moeviz.records.runs import History, Point, Snapshot
from moeviz.records.store import fitting, load_arrays, save_arrays
from moeviz.routing import NonFiniteLogitsError
from moeviz.text.corpus import Batch, Corpus
from moeviz.training.config import (
    TrainConfig,
    learning_rate_at,
    resolve_device,
    resolve_precision,
)
from moeviz.watch.text import trace_text

# How often the last good state is copied: a rewind loses at most this many steps.
GOOD_STATE_EVERY = 25
# Of validation's fixed windows, unless asked for others.
WINDOWS_PER_DOMAIN = 8


class NonFiniteLossError(RuntimeError):
    """Training diverged. The trainer stands at its last good state."""


@dataclass(frozen=True)
class StepResult:
    """One step. loss: nats per token, without the routers' losses (balance, z: means over layers,
    unweighted, 0 where there are none); load: assignments per MoE layer and expert, int64 [L, E];
    entropy: of the gate, float [L]; dropped: share of assignments, float [L]; seconds: of this
    step."""

    step: int
    loss: float
    balance: float
    z: float
    grad_norm: float
    learning_rate: float
    load: np.ndarray
    entropy: np.ndarray
    dropped: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Validation. loss: mean over domains, nats per token; domain_loss: float64 [domains]; load:
    assignments per MoE layer, domain and expert, int64 [L, domains, E]."""

    loss: float
    domain_loss: np.ndarray
    load: np.ndarray


class Trainer:
    """A model, its optimiser and its data. `for result in trainer:` runs it to config.steps."""

    def __init__(self, model: ModelConfig, config: TrainConfig, corpus: Corpus) -> None:
        if model.vocab_size < corpus.tokenizer.vocab_size:
            raise ValueError(
                f"The model's vocab_size {model.vocab_size} is smaller than the tokenizer's "
                f"{corpus.tokenizer.vocab_size}; give at least that."
            )
        # A text too short for the sequences is refused here, not at the first validation.
        corpus.batch(seed=config.seed, step=0, batch_size=1, seq_len=config.seq_len)
        corpus.validation(seq_len=config.seq_len, windows_per_domain=1)
        self.model_config, self.config, self.corpus = model, config, corpus
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        # A model's start depends on its seed alone, not on what ran before in this process.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = LanguageModel(model).to(self.device)
        self.moe_layers = model.moe_layers
        self._forward = self._compiled() if config.compile else self.model
        # Norms (one dimension) are not decayed. The optimiser numbers its parameters in this order.
        named = list(self.model.named_parameters())
        decayed, plain = ([n for n, p in named if (p.ndim > 1) is d] for d in (True, False))
        self._optimized = decayed + plain
        groups = [
            {"params": [p for n, p in named if n in names], "weight_decay": weight_decay}
            for names, weight_decay in ((decayed, config.weight_decay), (plain, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == torch.float16
        )
        self.step = 0
        self.seconds = 0.0
        self.killed: list[tuple[int, int]] = []
        num_experts = model.moe.num_experts if model.moe else 0
        self.history = History(len(self.moe_layers), num_experts)
        self.flops_per_step = (
            3 * model.flops_per_token(config.seq_len) * config.batch_size * config.seq_len
        )
        self._good: tuple[int, dict[str, Any]] | None = None

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
        elapsed = time.perf_counter() - start
        self.step += 1
        self.seconds += elapsed
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
        return dataclasses.replace(result, seconds=elapsed)

    def _one_step(self) -> StepResult:
        config = self.config
        learning_rate = learning_rate_at(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        batch = self.corpus.batch(
            seed=config.seed, step=self.step, batch_size=config.batch_size, seq_len=config.seq_len
        )
        self.model.train()
        # Noise depends on the seed and the step alone, so that a resumed run draws the same.
        generator = torch.Generator(self.device).manual_seed((config.seed << 32) + self.step)
        try:
            out, loss = self._loss(self._forward, batch, generator)
        except NonFiniteLogitsError:
            self._rewind("loss", learning_rate)
        losses = _router_losses(out)
        total = loss + sum(config.weight_of(name) * value for name, value in losses.items())
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()
        self._scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        # float16 skips a step whose gradients overflow and lowers its scale; elsewhere an
        # overflow means that training has diverged.
        if not math.isfinite(total.item()):
            self._rewind("loss", learning_rate)
        if not math.isfinite(norm.item()) and self.precision != torch.float16:
            self._rewind("gradient", learning_rate)
        # Copied here, where its loss is known to be finite: a state is not good by its number.
        if self._good is None or self.step % GOOD_STATE_EVERY == 0:
            self._good = (self.step, self._copy_state())
        self._scaler.step(self.optimizer)
        self._scaler.update()
        routes = [route for route in out.routes if route is not None]
        for layer, route in zip(self.moe_layers, routes, strict=True):
            self.model.routers()[layer].post_step(route.stats)
        load = [route.stats.load.cpu().numpy() for route in routes]
        lost = [1 - r.stats.load.sum() / r.stats.demand.sum().clamp(min=1) for r in routes]
        return StepResult(
            step=self.step + 1,
            loss=loss.item(),
            balance=losses["balance"].item() if "balance" in losses else 0.0,
            z=losses["z"].item() if "z" in losses else 0.0,
            grad_norm=norm.item(),
            learning_rate=learning_rate,
            load=np.stack(load) if load else np.zeros((0, 0), dtype=np.int64),
            entropy=np.array([route.stats.entropy.item() for route in routes]),
            dropped=np.array([share.item() for share in lost]),
            seconds=0.0,
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
        batch = self.corpus.validation(
            seq_len=self.config.seq_len, windows_per_domain=windows_per_domain
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

    def kill(self, layer: int, expert: int) -> None:
        """Let an expert of a block get no token from now on, here and after a resume. ValueError
        where the block has no such expert or the router cannot do without it."""
        if layer not in self.moe_layers:
            raise ValueError(f"Layer {layer} has no experts; layers {self.moe_layers} have.")
        self.model.routers()[layer].kill(expert)
        self.killed.append((layer, expert))

    def trace(self, text: str) -> Trace:
        """The routing of a text by the model as it is now; ValueError where it is empty."""
        return trace_text(self.model, self.corpus.tokenizer, text)

    def _copy_state(self) -> dict[str, Any]:
        parameters = {name: p.detach().clone() for name, p in self.model.state_dict().items()}
        moments = {
            index: {key: value.clone() for key, value in moment.items()}
            for index, moment in self.optimizer.state_dict()["state"].items()
        }
        return {"parameters": parameters, "moments": moments, "history": self.history.state()}

    def _rewind(self, what: str, learning_rate: float) -> NoReturn:
        failed = self.step + 1
        if self._good is not None:  # None: the first step failed, before it changed anything
            self.step, state = self._good
            self.model.load_state_dict(state["parameters"])
            optimizer = self.optimizer.state_dict()
            self.optimizer.load_state_dict({**optimizer, "state": state["moments"]})
            self.history.restore(*state["history"])
            # The optimiser now works in the copy itself; the next step makes a new one.
            self._good = None
        cause = {
            "loss": "Lower the learning rate or the clip and start again.",
            "gradient": "The loss itself is finite: one of its terms has no finite slope there. "
            "Give the router other options, or lower the learning rate, and start again.",
        }
        raise NonFiniteLossError(
            f"The {what} stopped being a finite number at step {failed} (learning rate "
            f"{learning_rate:.2g}); the model is back at step {self.step}, its last good state. "
            f"{cause[what]}"
        )

    def save(self, path: str | Path) -> None:
        """Write everything that going on needs, atomically; OSError (one sentence) where that
        fails. A run resumed from it on a CPU is the same bit for bit."""
        arrays = {
            f"model.{name}": value.detach().cpu().numpy()
            for name, value in self.model.state_dict().items()
        }
        for index, moment in self.optimizer.state_dict()["state"].items():
            for key, value in moment.items():
                arrays[f"optimizer.{key}.{self._optimized[index]}"] = value.cpu().numpy()
        curve, counts = self.history.state()
        arrays |= {f"history.{name}": column for name, column in curve.items()}
        header = {
            "model": self.model_config.to_dict(),
            "train": dataclasses.asdict(self.config),
            "step": self.step,
            "seconds": self.seconds,
            "history": counts,
            "scaler": self._scaler.state_dict(),
            "killed": self.killed,
            "corpus": self.corpus.manifest.fingerprint,
            "tokenizer": self.corpus.tokenizer.sha256,
        }
        save_arrays(path, arrays, header, kind="checkpoint")

    def export(self, path: str | Path, meta: dict[str, Any]) -> None:
        """Write the model alone, parameters in float16, for reading with `tracing.load_model`."""
        arrays = {
            f"model.{name}": value.detach().cpu().numpy()
            for name, value in self.model.state_dict().items()
        }
        for name, _ in self.model.named_parameters():
            arrays[f"model.{name}"] = arrays[f"model.{name}"].astype(np.float16)
        header = {
            "model": self.model_config.to_dict(),
            "train": dataclasses.asdict(self.config),
            "step": self.step,
            "tokenizer": self.corpus.tokenizer.sha256,
            "meta": meta,
        }
        save_arrays(path, arrays, header, kind="model")

    @staticmethod
    def resume(path: str | Path, corpus: Corpus, **changes: Any) -> Trainer:
        """The trainer that `save` wrote, ready for its next step; `changes` replace fields of its
        TrainConfig (more steps, another device).

        Raises ValueError on a damaged or foreign file, and where the corpus is another one.
        """
        arrays, header = load_arrays(path, kind="checkpoint")
        with fitting(path):
            fingerprint = header["corpus"]
            train = TrainConfig(**header["train"])
            model = ModelConfig.from_dict(header["model"])
        if fingerprint != corpus.manifest.fingerprint:
            raise ValueError(
                f"{path} was trained on corpus {fingerprint}, this one is "
                f"{corpus.manifest.fingerprint}; resume on the corpus it began with."
            )
        trainer = Trainer(model, dataclasses.replace(train, **changes), corpus)
        trainer.model.load_arrays(arrays, path)
        with fitting(path):
            trainer._take(arrays, header)
        return trainer

    def _take(self, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
        """Take the optimiser's moments, the history and the counters that `save` wrote."""
        index_of = {name: index for index, name in enumerate(self._optimized)}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in arrays.items():
            if key.startswith("optimizer."):
                _, moment, name = key.split(".", 2)
                moments.setdefault(index_of[name], {})[moment] = torch.from_numpy(value.copy())
        optimizer = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**optimizer, "state": moments})
        self._scaler.load_state_dict(header["scaler"])
        curve = {k.removeprefix("history."): v for k, v in arrays.items() if k[:8] == "history."}
        self.history.restore(curve, header["history"])
        self.step, self.seconds = header["step"], header["seconds"]
        for layer, expert in header["killed"]:
            self.kill(layer, expert)


def _router_losses(out: ModelOut) -> dict[str, Tensor]:
    """Each of the routers' losses as its mean over the MoE layers."""
    routes = [route for route in out.routes if route is not None]
    names = dict.fromkeys(name for route in routes for name in route.losses)
    return {name: torch.stack([r.losses[name] for r in routes]).mean() for name in names}
