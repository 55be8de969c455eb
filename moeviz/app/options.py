"""The options of `python -m moeviz train`, and what was given of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.routing import Capacity
from moeviz.text.packages import MOST as MOST_OF_PACKAGES
from moeviz.text.sources import MOST
from moeviz.training.config import TrainConfig

SAVE_EVERY = 200  # steps
HELP = {
    "top_k": "experts of a token; with 1, renormalised weights are all 1 and the gate learns from "
    "its balancing losses alone: add --option weighting=raw",
    "router": "one of moeviz.routing.ROUTERS",
    "num_shared": "experts that all tokens visit",
    "accumulate": "parts of a batch that are worked on one after the other, for memory; the result "
    "is the whole batch's",
    "backend": "auto, or one of moeviz.backend",
    "steps": "with --resume, the checkpoint's where it is not given",
}


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
    several = parser.add_argument_group("several processes, started by torchrun")
    says = "processes that share a layer's experts; tokens travel between them"
    several.add_argument("--expert-parallel", type=int, metavar="N", help=says)
    says = "how often the model is there, each time for another part of the batch"
    several.add_argument("--data-parallel", type=int, metavar="N", help=says)
    says = "each keeps a part of what all would have (FSDP), for models that memory is small for"
    several.add_argument("--shard", action="store_true", help=says)
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
        group.add_argument(option_of(field.name), help=says, **typed)


def option_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def given_of(kind: type, args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given and that bear the names of its fields."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in vars(args).items() if name in names}


def router_options(args: argparse.Namespace) -> dict[str, Any]:
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


def capacity_of(args: argparse.Namespace) -> Capacity | None:
    return Capacity(args.capacity_factor) if hasattr(args, "capacity_factor") else None
