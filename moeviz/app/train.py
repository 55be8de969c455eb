"""python -m moeviz train: a run in a folder, which goes on where it stopped, however it stopped."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moeviz.checks import check_whole
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import ModelConfig
from moeviz.records.lock import held
from moeviz.routing import Capacity
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.text.packages import MOST as MOST_OF_PACKAGES
from moeviz.text.sources import MOST
from moeviz.training.trainer import NonFiniteLossError, TrainConfig, Trainer

SAVE_EVERY = 200  # steps
FIRST_SAVE = 20.0  # seconds after which a checkpoint is due, if none was before
STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C; docker stop and SLURM; a terminal that closes
TAKES_NO = {"embedded": ("max_characters", "text_column"), "packages": ("text_column",)}
HELP = {
    "top_k": "experts of a token; with 1, renormalised weights are all 1 and the gate learns from "
    "its balancing losses alone: add --option weighting=raw",
    "router": "one of moeviz.routing.ROUTERS",
    "num_shared": "experts that all tokens visit",
    "accumulate": "parts of a batch that are worked on one after the other, in the memory of one; "
    "the result is the whole batch's",
    "backend": "auto, or one of moeviz.backend",
    "steps": "with --resume, the checkpoint's where it is not given",
}


# --- options --------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give it the options of `train`. Those of the model and of training are left out where they
    are not given, so that a resumed run can tell."""
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--out", type=Path, default=Path("runs/default"), help=f"folder of the run {default}")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add("--corpus", default="embedded", help=f"embedded, packages, a Hub name or a path {default}")
    add("--text-column", help="column of a corpus in tables, where it is not called text")
    says = f"of a file or a Hub set (default: {MOST:,}), or of packages ({MOST_OF_PACKAGES:,})"
    add("--max-characters", type=int, help=says)
    says = f"steps between checkpoints (default: {SAVE_EVERY}; with --resume, as before)"
    add("--save-every", type=int, help=says)
    model = parser.add_argument_group("model", argument_default=argparse.SUPPRESS)
    _add_fields(model, ModelConfig, but=("vocab_size", "rope_base"))
    _add_fields(model, MoEConfig, but=("shared_gate",))
    says = "how loud every FFN starts, in units of a plain dense FFN; 1 is the fair scale "
    says += "(default: as the router's paper writes it)"
    model.add_argument("--ffn-scale", type=float, help=says)
    model.add_argument("--dense", action="store_true", help="no experts: one FFN of width d-ff")
    says = "of the router, any number of times: --option weighting=raw"
    model.add_argument("--option", action="append", metavar="NAME=VALUE", help=says)
    says = "limit every expert to this many times its even share of tokens, first come first served"
    model.add_argument("--capacity-factor", type=float, help=says)
    training = parser.add_argument_group("training", argument_default=argparse.SUPPRESS)
    _add_fields(training, TrainConfig)


def _add_fields(group: Any, kind: type, but: tuple[str, ...] = ()) -> None:
    """An option for each plain field of a dataclass."""
    for field in dataclasses.fields(kind):
        default = field.default
        if field.name in but or not isinstance(default, int | float | str):
            continue
        typed: dict[str, Any] = {"type": type(default)}
        if isinstance(default, bool):
            typed = {"action": "store_true"}
        says = f"{HELP.get(field.name, '')} (default: {default})".strip()
        group.add_argument(_option(field.name), help=says, **typed)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _given(kind: type, args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given and that bear the names of its fields."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in vars(args).items() if name in names}


def _router_options(args: argparse.Namespace) -> dict[str, Any]:
    """Each NAME=VALUE, the value read as JSON where it is JSON and as text elsewhere."""
    options = {}
    for given in getattr(args, "option", ()):
        name, equals, value = given.partition("=")
        if not (name and equals):
            raise ValueError(f"--option takes NAME=VALUE, as in weighting=raw, got {given!r}.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _capacity(args: argparse.Namespace) -> Capacity | None:
    return Capacity(args.capacity_factor) if hasattr(args, "capacity_factor") else None


# --- the run --------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> int:
    """Train as the options say; the exit status. ValueError on what cannot be."""
    if args.save_every is not None and args.save_every < 1:
        raise ValueError(f"--save-every must be at least 1, got {args.save_every}.")
    checkpoint = args.out / "checkpoint.safetensors"
    if checkpoint.exists() and not args.resume:
        raise ValueError(
            f"{checkpoint} exists; add --resume to go on from it, or give another --out."
        )
    if args.resume and not checkpoint.is_file():
        raise ValueError(
            f"There is no file {checkpoint} to go on from; leave --resume out to begin a run."
        )
    with held(args.out):  # now, and not at the first checkpoint
        with _warnings_as_sentences():
            trainer = _resumed(args, checkpoint) if args.resume else _new(args)
        return _trained(trainer, checkpoint)


def _new(args: argparse.Namespace) -> Trainer:
    config = TrainConfig(**_given(TrainConfig, args))
    moe = MoEConfig(
        **_given(MoEConfig, args), options=_router_options(args), capacity=_capacity(args)
    )
    corpus = _corpus(args)
    model = ModelConfig(
        **_given(ModelConfig, args),
        vocab_size=corpus.tokenizer.vocab_size,
        moe=None if hasattr(args, "dense") else moe,
    )
    trainer = Trainer(model, config, corpus)
    trainer.notes["save_every"] = args.save_every or SAVE_EVERY
    return trainer


def _resumed(args: argparse.Namespace, checkpoint: Path) -> Trainer:
    changes = {"steps": args.steps} if hasattr(args, "steps") else {}
    trainer = Trainer.resume(checkpoint, _corpus(args), **changes)
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
    given = _given(TrainConfig, args) | _given(ModelConfig, args)
    if moe is not None:
        has |= vars(moe)
    given |= _given(MoEConfig, args)
    names = [_option(name) for name, value in given.items() if has.get(name) != value]
    if hasattr(args, "dense") and moe is not None:
        names.append("--dense")
    options = {} if moe is None else moe.options
    for name, value in _router_options(args).items():
        if name not in options or options[name] != value:
            names.append(f"--option {name}")
    if (capacity := _capacity(args)) and (moe is None or moe.capacity != capacity):
        names.append("--capacity-factor")
    return names


def _corpus(args: argparse.Namespace) -> Corpus:
    for name in TAKES_NO.get(args.corpus, ()):
        if getattr(args, name) is not None:
            raise ValueError(
                f"The corpus {args.corpus} takes no {_option(name)}; leave it out, or give another "
                "--corpus."
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


def _trained(trainer: Trainer, checkpoint: Path) -> int:
    parameters, active = trainer.model.num_parameters(), trainer.model.num_active_parameters()
    print(
        f"{parameters:,} parameters, {active:,} active per token, on {trainer.device} in "
        f"{str(trainer.precision).removeprefix('torch.')}; corpus "
        f"{trainer.corpus.manifest.fingerprint}; {trainer.expert_backend or 'no'} expert backend."
    )
    if stop := _run(trainer, checkpoint):
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


def _run(trainer: Trainer, checkpoint: Path) -> int:
    """Train to the last step under a progress bar, and save; the number of the signal that ended it
    before, 0 for none. A first checkpoint shows at once whether there can be one."""
    from tqdm import tqdm

    if trainer.step == 0:
        trainer.save(checkpoint)
    first = time.monotonic() + FIRST_SAVE
    bar = tqdm(initial=trainer.step, total=trainer.config.steps, unit="step", dynamic_ncols=True)
    with bar, _stops_noted() as stops:
        try:
            for result in trainer:
                if stops:
                    break
                bar.update()
                bar.set_postfix(loss=f"{result.loss:.3f}", refresh=False)
                if result.step % trainer.notes["save_every"] == 0 or time.monotonic() > first:
                    trainer.save(checkpoint)
                    first = float("inf")
        except NonFiniteLossError:
            trainer.save(checkpoint)
            raise
        asked = stops.copy()
        stops.clear()  # a second Ctrl-C does not end the save, a third does
        trainer.save(checkpoint)
    return next(iter(asked + stops), 0)


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
def _stops_noted() -> Iterator[list[int]]:
    """The signals that asked to stop: a step that is cut in two could not be resumed bit for bit.
    Asked again, it ends at once. What is ignored, as the hang-up under nohup, stays so."""
    noted: list[int] = []

    def note(number: int, _: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    numbers = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    heard = [number for number in numbers if before[number] != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number in heard:
            signal.signal(number, before[number])
