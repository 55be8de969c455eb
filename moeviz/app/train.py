"""python -m moeviz train: a run in a folder, which goes on where it stopped, however it stopped."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.app.options import SAVE_EVERY, capacity_of, given_of, option_of, router_options
from moeviz.app.ranks import STOPS, joined
from moeviz.checks import check_whole
from moeviz.model.config import ModelConfig
from moeviz.model.division import Division
from moeviz.model.layer import MoEConfig
from moeviz.records.lock import held
from moeviz.records.store import fitting, load_header
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.training.trainer import NonFiniteLossError, TrainConfig, Trainer

if TYPE_CHECKING:
    from moeviz.systems.ranks import Ranks

FIRST_SAVE = 20.0  # seconds after which a checkpoint is due, if none was before
TAKES_NO = {"embedded": ("max_characters", "text_column"), "packages": ("text_column",)}


def train(args: argparse.Namespace) -> int:
    """Train as the options say; the exit status. ValueError on what cannot be."""
    if args.save_every is not None and args.save_every < 1:
        raise ValueError(f"--save-every must be at least 1, got {args.save_every}.")
    with joined(args) as ranks:
        checkpoint, source = _checkpoint(args, ranks)
        alone = ranks is None or ranks.leads
        with held(args.out) if alone else contextlib.nullcontext():  # now, not at the first save
            with _warnings_as_sentences():
                trainer = _resumed(args, source, ranks) if args.resume else _new(args, ranks)
            return _trained(trainer, checkpoint, ranks)


def _checkpoint(args: argparse.Namespace, ranks: Ranks | None) -> tuple[Path, Path]:
    """Where it is written, a folder for several processes, and what is gone on from: that, or the
    other kind's where it is further. ValueError where one is there that should not be, and where
    there is none to go on from."""
    one, many = args.out / "checkpoint.safetensors", args.out / "checkpoint"
    checkpoint, other = (one, many) if ranks is None else (many, one)
    if not args.resume:
        for there in (one, many):
            if there.exists():
                raise ValueError(
                    f"{there} exists; add --resume to go on from it, or give another --out."
                )
        return checkpoint, checkpoint
    there = [path for path in (checkpoint, other) if path.exists()]
    if not there:
        raise ValueError(
            f"There is no file {checkpoint} to go on from; leave --resume out to begin a run."
        )
    return checkpoint, max(there, key=_steps_of) if len(there) > 1 else there[0]


def _steps_of(checkpoint: Path) -> int:
    """How many steps a checkpoint has done; -1 for a folder without any."""
    if checkpoint.is_dir():
        return max(
            (int(at.name.removeprefix("step-")) for at in checkpoint.glob("step-*")), default=-1
        )
    header = load_header(checkpoint, kind="checkpoint")
    with fitting(checkpoint):
        return int(header["step"])


def _kind(ranks: Ranks | None, sharded: bool) -> tuple[type[Trainer], Division | None]:
    """The trainer, and how it divides its work."""
    if ranks is None:
        if sharded:
            from moeviz.systems.ranks import launcher

            raise ValueError(f"--shard is for several processes; start them with {launcher()}.")
        return Trainer, None
    from moeviz.systems.shared import SharedDivision
    from moeviz.training.shared import SharedTrainer

    return SharedTrainer, SharedDivision(ranks, sharded=sharded)


def _new(args: argparse.Namespace, ranks: Ranks | None) -> Trainer:
    config = TrainConfig(**given_of(TrainConfig, args))
    moe = MoEConfig(
        **given_of(MoEConfig, args), options=router_options(args), capacity=capacity_of(args)
    )
    corpus = _corpus(args)
    model = ModelConfig(
        **given_of(ModelConfig, args),
        vocab_size=corpus.tokenizer.vocab_size,
        moe=None if hasattr(args, "dense") else moe,
    )
    kind, division = _kind(ranks, args.shard)
    trainer = kind(model, config, corpus, division)
    trainer.notes["save_every"] = args.save_every or SAVE_EVERY
    return trainer


def _resumed(args: argparse.Namespace, source: Path, ranks: Ranks | None) -> Trainer:
    changes = {"steps": args.steps} if hasattr(args, "steps") else {}
    kind, division = _kind(ranks, args.shard)
    corpus = _corpus(args)
    if ranks is None and source.is_dir():
        from moeviz.training.shared import from_folder

        trainer: Trainer = from_folder(Trainer, source, corpus, **changes)
    else:
        trainer = kind.resume(source, corpus, division, **changes)
    before = check_whole("its save_every", trainer.notes.get("save_every", SAVE_EVERY))
    trainer.notes["save_every"] = args.save_every or before
    print(f"Resumed at step {trainer.step} of {trainer.config.steps}, as the checkpoint says.")
    if dropped := _dropped(args, trainer):
        print(
            f"moeviz: --resume does not take {', '.join(dropped)}: model and training stay those "
            "of the checkpoint.",
            file=sys.stderr,
        )
    return trainer


def _dropped(args: argparse.Namespace, trainer: Trainer) -> list[str]:
    """The options that were given and that the checkpoint says otherwise."""
    model, moe = trainer.model_config, trainer.model_config.moe
    has: dict[str, Any] = dataclasses.asdict(trainer.config) | vars(model)
    given = given_of(TrainConfig, args) | given_of(ModelConfig, args)
    if moe is not None:
        has |= vars(moe)
    given |= given_of(MoEConfig, args)
    names = [option_of(name) for name, value in given.items() if has.get(name) != value]
    if hasattr(args, "dense") and moe is not None:
        names.append("--dense")
    options = {} if moe is None else moe.options
    for name, value in router_options(args).items():
        if name not in options or options[name] != value:
            names.append(f"--option {name}")
    if (capacity := capacity_of(args)) and (moe is None or moe.capacity != capacity):
        names.append("--capacity-factor")
    return names


def _corpus(args: argparse.Namespace) -> Corpus:
    for name in TAKES_NO.get(args.corpus, ()):
        if getattr(args, name) is not None:
            raise ValueError(
                f"The corpus {args.corpus} takes no {option_of(name)}; leave it out, or give "
                "another --corpus."
            )
    print("Preparing the text…", flush=True)
    corpus = load_corpus(
        args.corpus, text_column=args.text_column, max_characters=args.max_characters
    )
    for domain in corpus.manifest.domains:
        if domain.origin.startswith("the first"):
            print(f"Of {domain.name} {domain.origin} are taken; --max-characters allows more.")
    for sentence in corpus.manifest.left_out:
        print(f"{sentence[0].upper()}{sentence[1:]}")
    return corpus


def _trained(trainer: Trainer, checkpoint: Path, ranks: Ranks | None) -> int:
    parameters, active = trainer.model.num_parameters(), trainer.model.num_active_parameters()
    print(
        f"{parameters:,} parameters, {active:,} active per token, on {trainer.device} in "
        f"{str(trainer.precision).removeprefix('torch.')}; corpus "
        f"{trainer.corpus.manifest.fingerprint}; {trainer.expert_backend or 'no'} expert backend."
    )
    if ranks is not None:
        print(
            f"{ranks.size} processes: {ranks.data} times the model, its experts spread over "
            f"{ranks.expert}."
        )
    if stop := _run(trainer, checkpoint, ranks):
        print(f"Stopped at step {trainer.step}; --resume goes on from {checkpoint}.")
        return 128 + stop
    exported = checkpoint.with_name("model.safetensors")
    trainer.export(exported, {})
    evaluation = trainer.evaluate()
    per_domain = ", ".join(
        f"{name} {loss:.3f}"
        for name, loss in zip(trainer.corpus.domains, evaluation.domain_loss, strict=True)
    )
    print(f"Validation loss {evaluation.loss:.3f} nats per token ({per_domain}).")
    print(f"Wrote {checkpoint} and {exported}.")
    return 0


def _run(trainer: Trainer, checkpoint: Path, ranks: Ranks | None) -> int:
    """Train to the last step under a progress bar, and save; the number of the signal that ended it
    before, 0 for none. A first checkpoint shows at once whether there can be one. Several processes
    stop and save where any of them is asked to."""
    from tqdm import tqdm

    if trainer.step == 0:
        trainer.save(checkpoint)
    first = time.monotonic() + FIRST_SAVE
    bar = tqdm(
        initial=trainer.step, total=trainer.config.steps, unit="step", dynamic_ncols=True,
        disable=ranks is not None and not ranks.leads,
    )  # fmt: skip
    # torchrun hands on what the terminal has sent already, and itself ends who does not stop.
    with bar, _stops_noted(patient=ranks is not None) as stops:
        try:
            for result in trainer:
                stop, late = bool(stops), time.monotonic() > first
                if ranks is not None:
                    stop, late = ranks.any(stop, late)
                if stop:
                    break
                bar.update()
                bar.set_postfix(loss=f"{result.loss:.3f}", refresh=False)
                if result.step % trainer.notes["save_every"] == 0 or late:
                    trainer.save(checkpoint)
                    first = float("inf")
        except NonFiniteLossError:
            trainer.save(checkpoint)
            raise
        asked = stops.copy()
        stops.clear()  # a second Ctrl-C does not end the save, a third does
        trainer.save(checkpoint)
    number = next(iter(asked + stops), 0)
    if ranks is not None and ranks.any(number > 0)[0]:
        number = number or signal.SIGTERM  # another process was asked
    return number


@contextlib.contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """What the library warns of while a model is built, each sentence once on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    sentences = (str(w.message) for w in caught if issubclass(w.category, UserWarning))
    for sentence in dict.fromkeys(sentences):
        print(f"moeviz: {sentence}", file=sys.stderr)


@contextlib.contextmanager
def _stops_noted(*, patient: bool) -> Iterator[list[int]]:
    """The signals that asked to stop: a step that is cut in two could not be resumed bit for bit.
    Asked again, it ends at once, or, patient, goes on to the end of its step, and where that fails
    until it has said why. What is ignored, as the hang-up under nohup, stays so."""
    noted: list[int] = []

    def note(number: int, _: Any) -> None:
        if noted and not patient:
            raise KeyboardInterrupt
        noted.append(number)

    before = {number: signal.getsignal(number) for number in STOPS}
    heard = [number for number in STOPS if before[number] != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, note)
    try:
        yield noted
    except BaseException:
        if patient:
            heard.clear()
        raise
    finally:
        for number in heard:
            signal.signal(number, before[number])
