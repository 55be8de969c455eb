"""What is said of a model: figures with their source and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from moeviz.costs.cost.parameters import Convention, active_parameters, parameters
from moeviz.costs.known.devices import Confidence
from moeviz.costs.shape.architecture import Architecture

CONFIG = "config.json of the released checkpoint"
Kind = Literal["dense", "moe", "undisclosed"]


@dataclass(frozen=True)
class Figure:
    """A published number. confidence: "official" as its makers say it, "estimate" by others or from
    memory, "rumour", or "unverifiable" where no source can be found."""

    value: float
    source: str
    confidence: Confidence = "official"
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Computed beside published; errors are shares of the published figure, None without one."""

    total: float
    total_error: float | None
    active: float
    active_error: float | None


@dataclass(frozen=True)
class Model:
    """A model as published, with its architecture where the sizes are public.

    convention: how its makers count active parameters. reason: why a computed figure lies outside
    the tolerance. sizes, sizes_confidence: where the architecture comes from.
    """

    name: str
    year: int
    maker: str
    kind: Kind
    architecture: Architecture | None = None
    sizes: str = ""
    sizes_confidence: Confidence = "official"
    convention: Convention = "all"
    total_parameters: Figure | None = None
    active_parameters: Figure | None = None
    tokens: Figure | None = None
    device_hours: Figure | None = None
    device: str = ""
    usd: Figure | None = None
    context_tokens: Figure | None = None
    reason: str = ""
    note: str = ""

    @property
    def shape(self) -> Architecture:
        """The architecture; ValueError where the sizes are not public."""
        if self.architecture is None:
            raise ValueError(f"The sizes of {self.name} are not public: nothing can be computed.")
        return self.architecture

    @property
    def confidence(self) -> Confidence:
        """The weakest confidence of what is said of it."""
        confidences = [
            value.confidence for value in vars(self).values() if isinstance(value, Figure)
        ]
        if self.architecture is not None:
            confidences.append(self.sizes_confidence)
        return max(confidences, key=get_args(Confidence).index, default="unverifiable")

    def compare(self) -> Comparison:
        """Computed against published; ValueError where the sizes are not public."""
        total = parameters(self.shape).total
        active = active_parameters(self.shape, self.convention).total
        return Comparison(
            total,
            _error(total, self.total_parameters),
            active,
            _error(active, self.active_parameters),
        )


def _error(computed: float, published: Figure | None) -> float | None:
    return None if published is None else computed / published.value - 1


def entry(
    name: str, year: int, maker: str, config: Mapping[str, Any], total: float, active: float,
    source: str, *, sizes: str = CONFIG, **more: Any,
) -> Model:  # fmt: skip
    """A model of a released config.json, whose two counts come from one source; its context is
    what the config allows, where `more` says nothing else."""
    shape = Architecture.from_hf(config, name)
    figures = dict(
        total_parameters=Figure(total, source),
        active_parameters=Figure(active, source),
        context_tokens=shape.context_tokens and Figure(shape.context_tokens, CONFIG),
    )
    kind: Kind = "moe" if shape.is_moe else "dense"
    return Model(name, year, maker, kind, shape, sizes, **{**figures, **more})
