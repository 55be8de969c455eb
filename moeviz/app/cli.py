"""The command line: a thin way into what the notebooks use."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import json
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz import __version__

if TYPE_CHECKING:
    from moeviz.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
HELP = {
    "top_k": "experts of a token; with 1, renormalised weights are all 1 and the gate learns from "
    "its balancing losses alone: add --option weighting=raw",
    "router": "one of moeviz.routing.ROUTERS",
    "num_shared": "experts that all tokens visit",
    "backend": "auto, or one of moeviz.backend",
}


def main(argv: list[str]) -> int:
    """Run one command; 0 when it went well, 2 when it was refused (one sentence on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m moeviz", description=__doc__)
    parser.add_argument("--version", action="version", version=f"moeviz {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands, wanted="train" in argv)
    experiment = commands.add_parser("experiment", help="re-create what ships in data/")
    experiment.add_argument("name", nargs="?", help="which one; without a name, they are listed")
    experiment.add_argument("--out", type=Path, default=ROOT / "data", help="folder to write to")
    experiment.add_argument("--seeds", type=int, default=5, help="for those that repeat over seeds")
    experiment.add_argument("--seconds", type=float, help="of a GPU, for those that name it")
    commands.add_parser("doctor", help="what this machine can run, and what to do about the rest")
    for name, says in (("lab", "start JupyterLab on the notebooks"), ("bench", "run a benchmark")):
        commands.add_parser(name, help=says, add_help=False)
    args, rest = parser.parse_known_args(argv)
    if rest and args.command not in ("lab", "bench"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(_COMMANDS[args.command](args, rest) or 0)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"moeviz: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmoeviz: stopped.", file=sys.stderr)
        return 130


def _add_train(commands: Any, *, wanted: bool) -> None:
    train = commands.add_parser(
        "train",
        help="train a model, and go on after an interruption",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    if not wanted:  # its options come from TrainConfig, and importing torch takes seconds
        return
    from moeviz.model.layer import MoEConfig
    from moeviz.model.transformer import ModelConfig
    from moeviz.training.trainer import TrainConfig

    train.add_argument("--out", type=Path, default=Path("runs/default"), help="folder of the run")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    train.add_argument(
        "--corpus", default="embedded", help="embedded, packages, a Hub name or a path"
    )
    train.add_argument("--save-every", type=int, default=200, help="steps between checkpoints")
    model = train.add_argument_group("model")
    _add_fields(model, ModelConfig, but=("vocab_size", "rope_base"))
    _add_fields(model, MoEConfig, but=("shared_gate",))
    model.add_argument("--dense", action="store_true", help="no experts: one FFN of width d-ff")
    model.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the router, any number of times: --option weighting=raw",
    )
    model.add_argument(
        "--capacity-factor",
        type=float,
        help="limit every expert to this many times its even share of tokens, first come first "
        "served; not given: no limit but the router's own",
    )
    steps = f"(default: {TrainConfig.steps}; with --resume, the checkpoint's)"
    training = train.add_argument_group("training")
    # Not given is not the default: a resumed run keeps its own.
    training.add_argument("--steps", type=int, default=argparse.SUPPRESS, help=steps)
    _add_fields(training, TrainConfig, but=("steps",))


def _add_fields(group: Any, kind: type, but: tuple[str, ...]) -> None:
    """An option for each plain field of a dataclass, with the same default."""
    for field in dataclasses.fields(kind):
        default = field.default
        if field.name in but or not isinstance(default, int | float | str):
            continue
        typed: dict[str, Any] = {"type": type(default), "default": default}
        if isinstance(default, bool):
            typed = {"action": "store_true"}
        says = HELP.get(field.name, "(default: %(default)s)")
        group.add_argument(f"--{field.name.replace('_', '-')}", help=says, **typed)


def _from_options(kind: type, args: argparse.Namespace, **more: Any) -> Any:
    """A dataclass of the options that bear the names of its fields."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in vars(args).items() if name in names}, **more)


def _router_option(given: str) -> tuple[str, Any]:
    """NAME=VALUE, the value read as JSON where it is JSON and as text elsewhere."""
    name, equals, value = given.partition("=")
    if not (name and equals):
        raise ValueError(f"--option takes NAME=VALUE, as in weighting=raw, got {given!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _train(args: argparse.Namespace, _: list[str]) -> int:
    from moeviz.training.trainer import NonFiniteLossError

    if args.save_every < 1:
        raise ValueError(f"--save-every must be at least 1, got {args.save_every}.")
    checkpoint = args.out / "checkpoint.safetensors"
    if checkpoint.exists() and not args.resume:
        raise ValueError(
            f"{checkpoint} exists; add --resume to go on from it, or give another --out."
        )
    with _warnings_as_sentences():
        trainer = _trainer(args, checkpoint)
    parameters, active = trainer.model.num_parameters(), trainer.model.num_active_parameters()
    print(
        f"{parameters:,} parameters, {active:,} active per token, on {trainer.device} in "
        f"{str(trainer.precision).removeprefix('torch.')}; corpus "
        f"{trainer.corpus.manifest.fingerprint}; {trainer.expert_backend or 'no'} expert backend."
    )
    try:
        finished = _run(trainer, checkpoint, args.save_every)
    except NonFiniteLossError:
        trainer.save(checkpoint)
        raise
    trainer.save(checkpoint)
    if not finished:
        print(f"Stopped at step {trainer.step}; --resume goes on from {checkpoint}.")
        return 130
    trainer.export(args.out / "model.safetensors", {})
    evaluation = trainer.evaluate()
    per_domain = ", ".join(
        f"{name} {loss:.3f}"
        for name, loss in zip(trainer.corpus.domains, evaluation.domain_loss, strict=True)
    )
    print(f"Validation loss {evaluation.loss:.3f} nats per token ({per_domain}).")
    print(f"Wrote {checkpoint} and {args.out / 'model.safetensors'}.")
    return 0


def _trainer(args: argparse.Namespace, checkpoint: Path) -> Trainer:
    """The trainer that the options describe, or that of the checkpoint to go on from."""
    from moeviz.model.layer import MoEConfig
    from moeviz.model.transformer import ModelConfig
    from moeviz.routing import Capacity
    from moeviz.text.corpus import load_corpus
    from moeviz.training.trainer import TrainConfig, Trainer

    train = _from_options(TrainConfig, args)
    capacity = None if args.capacity_factor is None else Capacity(args.capacity_factor)
    options = dict(_router_option(given) for given in args.option)
    moe = _from_options(MoEConfig, args, options=options, capacity=capacity)
    print("Preparing the text…", flush=True)
    corpus = load_corpus(args.corpus)
    size = corpus.tokenizer.vocab_size
    model = _from_options(ModelConfig, args, vocab_size=size, moe=None if args.dense else moe)
    if args.resume:
        changes = {"steps": args.steps} if hasattr(args, "steps") else {}
        trainer = Trainer.resume(checkpoint, corpus, **changes)
        print(f"Resumed at step {trainer.step} of {trainer.config.steps}: model and options are "
              "those of the checkpoint.")  # fmt: skip
        return trainer
    trainer = Trainer(model, train, corpus)
    try:  # now, and not at the first checkpoint
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {args.out} cannot be a folder ({error.strerror}).") from None
    return trainer


def _run(trainer: Trainer, checkpoint: Path, save_every: int) -> bool:
    """Train to the last step under a progress bar; False where Ctrl-C ended it before."""
    from tqdm import tqdm

    bar = tqdm(initial=trainer.step, total=trainer.config.steps, unit="step", dynamic_ncols=True)
    with bar, _interrupt_noted() as interrupted:
        for result in trainer:
            bar.update()
            bar.set_postfix(loss=f"{result.loss:.3f}", refresh=False)
            if result.step % save_every == 0:
                trainer.save(checkpoint)
            if interrupted.is_set():
                break
    return not interrupted.is_set()


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
def _interrupt_noted() -> Iterator[threading.Event]:
    """The event is set by Ctrl-C: a step that is cut in two could not be resumed bit for bit.
    Pressed again, it interrupts at once."""
    noted = threading.Event()

    def note(*_: Any) -> None:
        if noted.is_set():
            raise KeyboardInterrupt
        noted.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _experiment(args: argparse.Namespace, _: list[str]) -> int:
    from moeviz.experiments import EXPERIMENTS, help_of, run_of
    from moeviz.host import provenance

    if args.name is None:
        for name in EXPERIMENTS:
            print(f"{name:12} {help_of(name)}")
        return 0
    if args.name not in EXPERIMENTS:
        raise ValueError(
            f"There is no experiment '{args.name}'; there is {', '.join(EXPERIMENTS)}."
        )
    if args.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {args.seeds}.")
    run = run_of(args.name)
    options = {} if args.seconds is None else {"seconds": args.seconds}
    if options and not options.keys() <= inspect.signature(run).parameters.keys():
        raise ValueError(f"Experiment '{args.name}' takes no --seconds; leave it out.")
    import torch  # noqa: F401  (so that the provenance can name the device)
    from tqdm import tqdm

    command = f"python -m moeviz experiment {args.name} --seeds {args.seeds}"
    command += f" --seconds {args.seconds:g}" if options else ""
    with tqdm(dynamic_ncols=True) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        figures = run(args.out, provenance(command), args.seeds, on_step, **options)
    print(json.dumps(figures, indent=1))
    return 0


def _app(args: argparse.Namespace, rest: list[str]) -> int:
    """The doctor and the lab, which stand beside this file."""
    return importlib.import_module(f"moeviz.app.{args.command}").main(rest)


def _bench(args: argparse.Namespace, rest: list[str]) -> int:
    """Benchmarks are files of the checkout, not of the installed package."""
    folder = ROOT / "benchmarks"
    names = sorted(p.stem for p in folder.glob("*.py") if "def main(" in p.read_text("utf-8"))
    if not names:
        raise ValueError(
            "Benchmarks need a checkout of the repository; clone it and run them there."
        )
    if not rest or rest[0] not in names:
        asked = f"There is no benchmark '{rest[0]}'. " if rest else ""
        raise ValueError(f"{asked}Give one of: {', '.join(names)}.")
    sys.path.insert(0, str(folder))
    return importlib.import_module(rest[0]).main(rest[1:])


_COMMANDS = {
    "train": _train, "experiment": _experiment, "doctor": _app, "lab": _app, "bench": _bench,
}  # fmt: skip
