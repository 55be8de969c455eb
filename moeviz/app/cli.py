"""The command line: a thin way into what the notebooks use."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from pathlib import Path

from moeviz import __version__

ROOT = Path(__file__).resolve().parents[2]
TRACE = (
    "Record where a real MoE model sends the first 512 tokens of a text. Needs pip install "
    '"moeviz[models]". Before any weight is loaded, it says how much memory the weights take, and '
    "refuses a model that does not fit. Nothing is written unless each layer's output comes out "
    "again from the record."
)


def main(argv: list[str]) -> int:
    """Run one command; 0 when it went well, 2 when it was refused (one sentence on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m moeviz", description=__doc__)
    parser.add_argument("--version", action="version", version=f"moeviz {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a model, and go on after an interruption")
    if "train" in argv:  # its options come from TrainConfig, and importing torch takes seconds
        importlib.import_module("moeviz.app.options").add_options(train)
    export = commands.add_parser(
        "export", help="write a trained model for Hugging Face transformers"
    )
    export.add_argument("--format", required=True, help="mixtral, olmoe, qwen3_moe or deepseek_v3")
    export.add_argument("run", type=Path, help="folder of a run, or a model.safetensors")
    export.add_argument("out", type=Path, help="folder to write, which is not there yet")
    experiment = commands.add_parser("experiment", help="re-create what ships in data/")
    experiment.add_argument("name", nargs="?", help="which one; without a name, they are listed")
    experiment.add_argument("--out", type=Path, default=_data_folder(), help="folder to write to")
    experiment.add_argument("--seeds", type=int, default=5, help="for those that repeat over seeds")
    experiment.add_argument("--seconds", type=float, help="of a GPU, for those that name it")
    words = "record where a real model sends a text's tokens"
    trace = commands.add_parser("trace", help=words, description=TRACE)
    trace.add_argument("--model", required=True, help="a name on the Hugging Face Hub, or a folder")
    trace.add_argument("--text", type=Path, required=True, help="file of the text, in UTF-8")
    trace.add_argument(
        "--out", type=Path, default=Path("trace.safetensors"), help="file to write; %(default)s"
    )
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


def _data_folder() -> Path:
    """Where what ships is re-created: in a checkout its own folder, elsewhere one that is here."""
    return ROOT / "data" if (ROOT / "data").is_dir() else Path("data")


def _train(args: argparse.Namespace, _: list[str]) -> int:
    from moeviz.app.train import train

    return train(args)


def _export(args: argparse.Namespace, _: list[str]) -> int:
    from moeviz.app.export import export

    return export(args)


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


def _trace(args: argparse.Namespace, _: list[str]) -> int:
    from moeviz.watch import pretrained

    try:
        text = args.text.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{args.text} is not text in UTF-8; save it so, and run again.") from None
    except OSError as error:
        raise ValueError(
            f"{args.text} cannot be read ({error.strerror}); give a file of text."
        ) from None
    if not text:
        raise ValueError(f"{args.text} is empty; write a few words into it.")
    model = pretrained.load(args.model, say=print)
    traced = pretrained.trace(model, text)
    traced.save(args.out)
    print(pretrained.describe(traced))
    print(f"Written to {args.out}. In a notebook:")
    print("  from moeviz import panels\n  from moeviz.records.routes import Trace")
    print(f"  panels.RouteText(Trace.load_file({str(args.out)!r}))")
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
    "train": _train, "export": _export, "trace": _trace, "experiment": _experiment,
    "doctor": _app, "lab": _app, "bench": _bench,
}  # fmt: skip
