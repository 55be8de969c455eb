"""What training carries from step to step, copied in memory and to files: nothing is unpickled."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from moeviz.checks import check_number, check_whole
from moeviz.model.adamw import AdamW
from moeviz.model.config import ModelConfig
from moeviz.model.division import Division
from moeviz.model.transformer import LanguageModel
from moeviz.records.runs import History
from moeviz.records.store import fitting, load_arrays, save_arrays
from moeviz.text.corpus import Corpus
from moeviz.training.config import TrainConfig, check_fits, resolve_device, resolve_precision

MOMENTS = ("exp_avg", "exp_avg_sq")


def adamw(groups: list[dict[str, Any]], learning_rate: float, device: torch.device) -> AdamW:
    """The optimiser; on a GPU a few kernels update all parameters, and skip an overflow unasked."""
    fused = True if device.type == "cuda" else None
    return AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=fused)


class TrainState:
    """A model, its optimiser, its history and its counters, on one corpus. division: how the work
    of a batch is divided, among the pieces that the config asks for and no processes by default."""

    def __init__(
        self,
        model: ModelConfig,
        config: TrainConfig,
        corpus: Corpus,
        division: Division | None = None,
    ) -> None:
        self.model_config, self.config, self.corpus = model, config, corpus
        self.division = Division() if division is None else division
        self.division.pieces = config.accumulate
        self.device = self.division.device or resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        self.division.check(model, config.batch_size, self.precision, compiled=config.compile)
        check_fits(model, config, self.device)
        # A model's start depends on its seed alone, not on what ran before in this process.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = LanguageModel(model).to(self.device)
        self.division.divide(self.model)
        self.moe_layers = model.moe_layers
        # Norms (one dimension) are not decayed. The optimiser numbers its parameters in this order.
        # Parts of parameters, which are tensors of another kind, have groups of their own.
        spread = {name for name, _ in self.division.spread(self.model)}
        groups: dict[tuple[bool, bool], list[str]] = {}
        for name, parameter in self.model.named_parameters():
            groups.setdefault((parameter.ndim == 1, name in spread), []).append(name)
        ordered = sorted(groups.items())
        self._optimized = [name for _, names in ordered for name in names]
        decays = [
            {
                "params": [self.model.get_parameter(name) for name in names],
                "weight_decay": 0.0 if plain else config.weight_decay,
            }
            for (plain, _), names in ordered
        ]
        self.optimizer = adamw(decays, config.learning_rate, self.device)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == torch.float16
        )
        self.step = 0
        self.seconds = 0.0
        self.killed: list[tuple[int, int]] = []
        self.notes: dict[str, Any] = {}  # JSON values that a checkpoint keeps for who trains
        self.num_experts = model.moe.num_experts if model.moe else 0
        self.history = History(len(self.moe_layers), self.num_experts)
        self._good: tuple[int, dict[str, Any]] | None = None

    def kill(self, layer: int, expert: int) -> None:
        """Let an expert of a block get no token from now on, here and after a resume. ValueError
        where the block has no such expert or the router cannot do without it."""
        if layer not in self.moe_layers:
            raise ValueError(f"Layer {layer} has no experts; layers {self.moe_layers} have.")
        self.model.routers()[layer].kill(expert)
        self.killed.append((layer, expert))

    # A good state, kept in memory.

    def keep_good_state(self, every: int) -> None:
        """Copy all numbers of this step, if `every` steps have passed or there is no copy."""
        if self._good is None or self.step % every == 0:
            self._good = (self.step, self._copy_state())

    def _copy_state(self) -> dict[str, Any]:
        parameters = {name: p.detach().clone() for name, p in self.model.state_dict().items()}
        moments = {
            index: {key: value.clone() for key, value in moment.items()}
            for index, moment in self.optimizer.state_dict()["state"].items()
        }
        return {"parameters": parameters, "moments": moments, "history": self.history.state()}

    def rewind(self) -> None:
        """Go back to the last good state; where there is none, nothing has changed yet."""
        if self._good is None:
            return
        self.step, state = self._good
        self.model.load_state_dict(state["parameters"])
        self._set_moments(state["moments"])
        self.history.restore(*state["history"])
        # The optimiser now works in the copy itself; the next step makes a new one.
        self._good = None

    def _set_moments(self, moments: dict[int, dict[str, Tensor]]) -> None:
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    # Files.

    def _model_arrays(self) -> dict[str, np.ndarray]:
        state = self.model.state_dict()
        return {f"model.{name}": value.detach().cpu().numpy() for name, value in state.items()}

    def _header(self) -> dict[str, Any]:
        return {
            "model": self.model_config.to_dict(),
            "train": dataclasses.asdict(self.config),
            "step": self.step,
            "tokenizer": self.corpus.tokenizer.sha256,
        }

    def _carried(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The history, and the header of a checkpoint: all that goes on beside the tensors."""
        curve, counts = self.history.state()
        header = {
            **self._header(),
            "seconds": self.seconds,
            "history": counts,
            "scaler": self.scaler.state_dict(),
            "killed": self.killed,
            "notes": self.notes,
            "corpus": str(self.corpus.manifest),
            "fingerprint": self.corpus.manifest.fingerprint,
        }
        return {f"history.{name}": column for name, column in curve.items()}, header

    def save(self, path: str | Path) -> None:
        """Write everything that going on needs, atomically; OSError (one sentence) where that
        fails. A run resumed from it on a CPU, with as many threads, is the same bit for bit."""
        arrays = self._model_arrays()
        for index, moment in self.optimizer.state_dict()["state"].items():
            for key, value in moment.items():
                arrays[f"optimizer.{key}.{self._optimized[index]}"] = value.cpu().numpy()
        history, header = self._carried()
        self._write(path, arrays | history, header, "checkpoint")

    def export(self, path: str | Path, meta: dict[str, Any]) -> None:
        """Write the model alone, parameters in float16, for `moeviz.watch.text.load_model`."""
        arrays = self._model_arrays()
        for name, _ in self.model.named_parameters():
            arrays[f"model.{name}"] = arrays[f"model.{name}"].astype(np.float16)
        header = {**self._header(), "killed": self.killed, "meta": meta}
        self._write(path, arrays, header, "model")

    def _write(
        self, path: str | Path, arrays: dict[str, np.ndarray], header: dict[str, Any], kind: str
    ) -> None:
        save_arrays(path, arrays, header, kind=kind)

    @classmethod
    def resume(
        cls, path: str | Path, corpus: Corpus, division: Division | None = None, **changes: Any
    ) -> Self:
        """What `save` wrote, ready for its next step; `changes` replace fields of its TrainConfig
        (more steps, another device). What several processes saved: training.shared.from_folder.

        Raises ValueError on a damaged or foreign file, and where the corpus is another one.
        """
        arrays, header = load_arrays(path, kind="checkpoint")
        resumed = cls._from_header(path, header, corpus, division, changes)
        resumed.model.load_arrays(arrays, path)
        with fitting(path):
            resumed._take_counters(arrays, header)
            resumed._take_moments(arrays)
        resumed._check_steps(path)
        return resumed

    @classmethod
    def _from_header(
        cls,
        path: str | Path,
        header: dict[str, Any],
        corpus: Corpus,
        division: Division | None,
        changes: dict[str, Any],
    ) -> Self:
        """A new run of the checkpoint's model and training; ValueError on another corpus."""
        with fitting(path):
            began, fingerprint = str(header["corpus"])[:200], header["fingerprint"]
            train = TrainConfig(**header["train"])
            model = ModelConfig.from_dict(header["model"])
        if fingerprint != corpus.manifest.fingerprint:
            raise ValueError(
                f"{path} was trained on {began}, and this is {corpus.manifest}; resume it on the "
                f"text that it began with, or train a new model on this one."
            )
        return cls(model, dataclasses.replace(train, **changes), corpus, division)

    def _check_steps(self, path: str | Path) -> None:
        if self.step > self.config.steps:
            raise ValueError(
                f"{path} has done {self.step} steps already; steps must be at least that, got "
                f"{self.config.steps}."
            )

    def _take_moments(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the optimiser's moments that `save` wrote, and check the model's types. Nothing is
        believed that the next step would trip over."""
        for name, value in self._model_arrays().items():
            if arrays[name].dtype != value.dtype:
                raise ValueError(f"{name} is of type {arrays[name].dtype}, not {value.dtype}.")
        index_of = {name: index for index, name in enumerate(self._optimized)}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in arrays.items():
            if key.startswith("optimizer."):
                _, moment, name = key.split(".", 2)
                moments.setdefault(index_of[name], {})[moment] = torch.from_numpy(value.copy())
        for index, state in moments.items():
            self._check_moments(self._optimized[index], state)
        self._set_moments(moments)

    def _take_counters(self, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
        """Take the history and the counters that `save` wrote."""
        self.step = check_whole("its step", header["step"], 0)
        self.seconds = check_number("its seconds", header["seconds"])
        self.notes = dict(header["notes"])
        scaler = self.scaler.state_dict()
        if header["scaler"]:  # empty where it was not trained in float16
            for name in scaler:
                check_number(f"its scaler's {name}", header["scaler"][name])
            self.scaler.load_state_dict(header["scaler"])
        curve = {k.removeprefix("history."): v for k, v in arrays.items() if k[:8] == "history."}
        self.history.restore(curve, header["history"])
        for layer, expert in header["killed"]:
            self.kill(layer, expert)

    def _make_moments(self, steps: dict[str, float]) -> None:
        """The optimiser's moments, which the tensors of a checkpoint are then read into."""
        moments = {}
        for index, name in enumerate(self._optimized):
            if name in steps:
                parameter = self.model.get_parameter(name)
                state = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
                moments[index] = {"step": torch.tensor(steps[name]), **state}
                self._check_moments(name, moments[index])
        self._set_moments(moments)

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors that training carries from step to step, as those of the whole model."""
        tensors = {f"model.{name}": v.detach() for name, v in self.model.state_dict().items()}
        for index, moment in self.optimizer.state_dict()["state"].items():
            for key in MOMENTS:
                tensors[f"optimizer.{key}.{self._optimized[index]}"] = moment[key]
        return self.division.as_parts(tensors, self.model)

    def _check_moments(self, name: str, state: dict[str, Tensor]) -> None:
        """ValueError for moments that are not AdamW's of this parameter after at most self.step
        steps, of which float16 may have skipped all."""
        shape = self.model.get_parameter(name).shape
        wanted = {"step": torch.Size([]), "exp_avg": shape, "exp_avg_sq": shape}
        shapes = {moment: value.shape for moment, value in state.items()}
        types = {value.dtype for value in state.values()}
        if shapes != wanted or types != {torch.float32} or not 0 <= state["step"] <= self.step:
            raise ValueError(f"its moments of {name} do not fit that parameter.")
