"""A trainer that is one of several processes, and their checkpoints by torch.distributed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from moeviz.checks import one_line
from moeviz.model.config import ModelConfig
from moeviz.model.division import Division
from moeviz.records.store import fitting, load_arrays, save_arrays
from moeviz.systems.shared import SharedDivision
from moeviz.text.corpus import Corpus
from moeviz.training.checkpoint import TrainState
from moeviz.training.config import TrainConfig
from moeviz.training.trainer import Trainer

KIND = "checkpoint of several processes"
STATE, TENSORS = "state.safetensors", "tensors"
STEP = "optimizer.step."  # in the names of a single process's file


class SharedTrainer(Trainer):
    """A Trainer of which every process runs one, together; each step is a single process's.

    A checkpoint is a folder: step-N/tensors/ holds each process's part (safetensors, written by
    torch.distributed.checkpoint), step-N/state.safetensors the rest and the parts' checksums. It
    is written beside its place and moved there when it is whole; then earlier ones are removed.
    Any number of processes that divides the experts may go on from it, one among them.
    """

    division: SharedDivision

    def __init__(
        self, model: ModelConfig, config: TrainConfig, corpus: Corpus, division: Division | None
    ) -> None:
        assert isinstance(division, SharedDivision)
        settings = {**model.to_dict(), **dataclasses.asdict(config)}
        settings |= {"text": corpus.manifest.fingerprint, "torch": torch.__version__}
        division.ranks.agree(settings)
        super().__init__(model, config, corpus, division)
        self.ranks = division.ranks

    def save(self, path: str | Path) -> None:
        """Write a checkpoint into the folder, all processes together; OSError, in all, where that
        fails: what stood there before is untouched."""
        place = Path(path) / f"step-{self.step:08d}"
        partial = place.with_name(f".{place.name}.partial")
        if self._on_lead(lambda: place.exists()):
            return
        self._lead(lambda: shutil.rmtree(partial, ignore_errors=True))
        self._lead(lambda: (partial / TENSORS).mkdir(parents=True))
        writer = dcp.HuggingFaceStorageWriter(str(partial / TENSORS), save_distributed=True)
        try:
            dcp.save(self._tensors(), storage_writer=writer)
        except CheckpointException as error:
            raise _lost(error) or OSError(
                f"Could not save {place} ({_why(error)}); what stood there before is "
                "untouched. Free some space or give another path."
            ) from None
        self._lead(lambda: self._complete(partial, place))

    def _complete(self, partial: Path, place: Path) -> None:
        """Write what is not a tensor, and put the checkpoint in its place."""
        history, header = self._carried()
        steps = {
            self._optimized[index]: float(moment["step"])
            for index, moment in self.optimizer.state_dict()["state"].items()
        }
        parts = {part.name: _sha256(part) for part in sorted((partial / TENSORS).iterdir())}
        header |= {"adamw_steps": steps, "parts": parts, "processes": self.ranks.size}
        save_arrays(partial / STATE, history, header, kind=KIND)
        os.replace(partial, place)
        for other in place.parent.glob("*step-*"):
            if other != place:
                shutil.rmtree(other, ignore_errors=True)

    @classmethod
    def resume(
        cls, path: str | Path, corpus: Corpus, division: Division | None = None, **changes: Any
    ) -> Self:
        """What `save` wrote, or the file of a single process."""
        assert isinstance(division, SharedDivision)
        if Path(path).is_dir():
            return from_folder(cls, path, corpus, division, **changes)
        arrays, header = load_arrays(path, kind="checkpoint")  # in each process
        resumed = cls._from_header(path, header, corpus, division, changes)
        with fitting(path):
            steps = {
                name: float(arrays[f"{STEP}{name}"])
                for name in resumed._optimized
                if f"{STEP}{name}" in arrays
            }
            resumed._take_counters(arrays, header)
            resumed._make_moments(steps)
            tensors = resumed._tensors()
            others = {n for n in arrays if not n.startswith((STEP, "history."))} - tensors.keys()
            if others:
                raise ValueError(f"{min(others)} is not of this model")
            for name, tensor in tensors.items():
                _put(name, tensor, torch.from_numpy(arrays[name]))
        resumed._check_steps(path)
        return resumed

    def _model_arrays(self) -> dict[str, np.ndarray]:
        tensors = {f"model.{name}": v.detach() for name, v in self.model.state_dict().items()}
        parts = self.division.as_parts(tensors, self.model)
        whole = {n: v.full_tensor() if isinstance(v, DTensor) else v for n, v in parts.items()}
        return {name: value.cpu().numpy() for name, value in whole.items()}

    def _write(
        self, path: str | Path, arrays: dict[str, np.ndarray], header: dict[str, Any], kind: str
    ) -> None:
        self._lead(lambda: save_arrays(path, arrays, header, kind=kind))

    def _lead(self, work: Any) -> None:
        """Let the process that leads do it while all wait; OSError, in all, where it fails."""
        self.ranks.together(work if self.ranks.leads else lambda: None)

    def _on_lead(self, flag: Any) -> bool:
        return self.ranks.any(self.ranks.leads and flag())[0]


Kind = TypeVar("Kind", bound=TrainState)


def from_folder(
    kind: type[Kind],
    path: str | Path,
    corpus: Corpus,
    division: Division | None = None,
    **changes: Any,
) -> Kind:
    """What several processes saved, for as many as there are now, or for one alone."""
    place = latest(Path(path))
    arrays, header = load_arrays(place / STATE, kind=KIND)
    ranks = division.ranks if isinstance(division, SharedDivision) else None
    first, size = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    with fitting(place):
        parts = sorted(header["parts"].items())[first::size]
        steps = {str(name): float(step) for name, step in header["adamw_steps"].items()}
    if ranks is None:
        _check_parts(place / TENSORS, parts)
    else:
        ranks.together(lambda: _check_parts(place / TENSORS, parts))
    resumed = kind._from_header(place, header, corpus, division, changes)
    with fitting(place):
        resumed._take_counters(arrays, header)
        resumed._make_moments(steps)
    reader = dcp.HuggingFaceStorageReader(str(place / TENSORS))
    try:
        dcp.load(resumed._tensors(), storage_reader=reader, no_dist=ranks is None)
    except CheckpointException as error:
        raise ValueError(f"{place} does not fit its own header ({_why(error)}).") from None
    resumed._check_steps(place)
    return resumed


def _put(name: str, tensor: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor, or this process's part of it."""
    if (tensor.shape, tensor.dtype) != (whole.shape, whole.dtype):
        raise ValueError(
            f"{name} is {list(whole.shape)} of {whole.dtype}, not {list(tensor.shape)} of "
            f"{tensor.dtype}"
        )
    if isinstance(tensor, DTensor):
        mesh, placements = tensor.device_mesh, tensor.placements
        whole = whole.to(mesh.device_type)
        part = distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()
        tensor.to_local().copy_(part)
    else:
        tensor.copy_(whole)


def latest(folder: Path) -> Path:
    """The newest whole checkpoint of a folder; ValueError where there is none."""
    places = sorted(folder.glob("step-*"))
    if not places:
        raise ValueError(f"{folder} holds no whole checkpoint; leave --resume out to begin a run.")
    return places[-1]


def _lost(error: CheckpointException) -> RuntimeError | None:
    """What torch says of a process that does not answer, if that is what failed."""
    causes = (cause for cause, _ in error.failures.values())
    return next((cause for cause in causes if isinstance(cause, RuntimeError)), None)


def _why(error: CheckpointException) -> str:
    """What the first process that failed says."""
    return one_line(error.failures[min(error.failures)][0])


def _check_parts(folder: Path, parts: list[tuple[str, str]]) -> None:
    for name, wanted in parts:
        if not (folder / name).is_file() or _sha256(folder / name) != wanted:
            raise OSError(
                f"{folder / name} is damaged or missing; go on from another checkpoint, or begin "
                "anew."
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
