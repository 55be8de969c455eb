"""What is read off the file of `experiment frontier`: places on axes, dense widths, a power."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moeviz.pictures.svg import si
from moeviz.pictures.training.arms import losses
from moeviz.records.compare import Gap, verdicts
from moeviz.records.frontier import DenseRow, Reading, exponent

Recorded = dict[str, Any]
LEARNED, HASH, DENSE = "learned", "hash", "dense"
ACTIVE_WIDTH = 256
TOKENS_A_STEP = 16 * 64
TWIN = f"dense, width {ACTIVE_WIDTH}"
READ_BITS = 16  # of a weight, where it is read for a token


@dataclass(frozen=True)
class Axis:
    """What models are set against each other by. of: an arm's value (None: not recorded); same:
    how a dense model of an equal value is named, and `noun` the value itself; neither is there
    where a value is nothing that is spent."""

    title: str
    of: Callable[[Recorded, Recorded], float | None]
    form: Callable[[float], str]
    same: str = ""
    noun: str = ""


def share_met(_: Recorded, arm: Recorded) -> float:
    return float(arm["active_parameters"] / arm["parameters"])


def _seconds(recorded: Recorded, arm: Recorded) -> float | None:
    each = arm["seconds_per_step"]
    return None if each is None else float(each * recorded["steps"])


def _count(value: float) -> str:
    return si(value, "").strip()


AXES = {
    "share": Axis(
        "share of all parameters that a token meets", share_met, lambda v: f"{100 * v:.3g} %"
    ),
    "parameters": Axis(
        "all parameters, which must lie in memory",
        lambda _, arm: float(arm["parameters"]), _count, "with as many parameters", "parameters",
    ),
    "bytes": Axis(
        f"bytes of the weights that a token meets, at {READ_BITS} bits each",
        lambda _, arm: arm["active_parameters"] * READ_BITS / 8, lambda v: si(v, "B"),
        "of which a token meets as many bytes", "bytes for a token",
    ),
    "flops": Axis(
        "FLOPs of the training",
        lambda recorded, arm: arm["gigaflops_per_step"] * 1e9 * recorded["steps"],
        _count, "trained with as many FLOPs", "FLOPs",
    ),
    "seconds": Axis(
        "seconds of training, on one core", _seconds, lambda v: f"{v:.3g}",
        "whose training takes as long", "training time",
    ),
}  # fmt: skip


def of_kind(recorded: Recorded, kind: str) -> dict[str, Recorded]:
    """The arms of a kind that are recorded whole, from few experts to many, or narrow to wide."""
    found = {name: arm for name, arm in recorded["arms"].items() if arm["kind"] == kind}
    return dict(sorted(found.items(), key=lambda item: int(item[1][size_of(kind)])))


def dense_row(recorded: Recorded, place: Callable[[Recorded], float | None]) -> DenseRow | None:
    """The dense arms along what `place` gives; None where one of them has no place."""
    arms = of_kind(recorded, DENSE)
    places = [at for arm in arms.values() if (at := place(arm)) is not None]
    if len(places) < len(arms):
        return None
    return DenseRow(places, [losses(recorded, name) for name in arms])


def is_flat(recorded: Recorded) -> bool:
    """Whether no dense width is told apart from the twin's, and no fall over all of them is shown:
    then none can be read off."""
    widths = [name for name in of_kind(recorded, DENSE) if name != TWIN]
    alike = (recorded["gaps"][f"{name} minus {TWIN}"]["verdict"] == "open" for name in widths)
    return all(alike) and trends(recorded)[DENSE][1] == "open"


def dense_width(recorded: Recorded, arm: str) -> Reading | None:
    """Which dense width is as good as an arm; None where no widths are told apart."""
    if is_flat(recorded):
        return None
    row = dense_row(recorded, lambda dense: dense["width"])
    assert row is not None
    return row.of_equal_loss(losses(recorded, arm))


def width_words(recorded: Recorded, arm: str) -> str:
    """That width, or that there is none to be read off."""
    found = dense_width(recorded, arm)
    return "widths are not told apart" if found is None else found.words()


def size_of(kind: str) -> str:
    """What grows within a kind."""
    return "width" if kind == DENSE else "experts"


def fitted(recorded: Recorded, kind: str) -> Gap:
    """The exponent b of loss = a size^-b, over the seeds of a kind."""
    arms = of_kind(recorded, kind)
    counts = [arm[size_of(kind)] for arm in arms.values()]
    return exponent(counts, [losses(recorded, name) for name in arms])


def trends(recorded: Recorded) -> dict[str, tuple[Gap, str]]:
    """By kind that exponent, and whether the loss is shown to go with the size at all: three fits,
    judged as one table ("lower": the loss falls as the size grows)."""
    gaps = {kind: fitted(recorded, kind) for kind in (DENSE, LEARNED, HASH)}
    turned = {"higher": "lower", "lower": "higher", "open": "open"}
    return {kind: (gaps[kind], turned[told]) for kind, told in verdicts(gaps).items()}


def settled(recorded: Recorded, short: Recorded) -> Recorded:
    """The long recording with the grids of rates that were widened for the short one, wherever the
    rate that the long one was trained at is still the best."""
    rates = {
        name: short["rates"][name] if short["rates"][name]["chosen"] == rate["chosen"] else rate
        for name, rate in recorded["rates"].items()
    }
    return recorded | {"rates": rates}
