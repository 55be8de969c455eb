"""What a scaling law is asked about, what it answers, and where its data ended.

Laws speak of a token's loss in nats, on their own text and tokenizer: losses of two laws do not
compare. What does compare is the dense model that a law holds to be as good, trained on as many
tokens. A law knows nothing beyond the runs that it was fitted on: `beyond` says how far a question
leaves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from moeviz.checks import check_number
from moeviz.words import RAISED

FEWEST, MOST = 1.0, 1e16  # parameters between which a dense model of equal loss is looked for
HALVINGS = 40  # of that range, on a logarithmic scale: to ten figures


@dataclass(frozen=True)
class Model:
    """A model as a law sees it, and its training.

    total: all parameters; share: the part of them that a token meets, 1 for a dense model; tokens:
    of the training; granularity: into how many pieces an expert is cut, of which a token meets as
    many. Papers count the last from different widths: each law takes it as its own paper counts.
    """

    total: float
    share: float
    tokens: float
    granularity: float = 1.0

    def __post_init__(self) -> None:
        check_number("total", self.total, open_low=True)
        check_number("share", self.share, 0, 1, open_low=True)
        check_number("tokens", self.tokens, open_low=True)
        check_number("granularity", self.granularity, 1)

    @property
    def active(self) -> float:
        """The parameters that a token meets."""
        return self.total * self.share

    @property
    def flops(self) -> float:
        """6 FLOPs a token and active parameter."""
        return 6 * self.active * self.tokens

    def experts(self, routed: float = 1.0) -> float:
        """How many experts a layer has of which a token meets one, where this part of the layers
        is routed. Papers count blocks of 12 d^2 parameters, 8 of them in the FFN: with E experts
        these are (8 E + 4) d^2 (2402.07871, section 6.1)."""
        each = (12 / self.share - 4) / 8
        return (each - (1 - routed)) / routed

    def dense(self, total: float) -> Model:
        """A dense model of this size, trained on the same tokens."""
        return Model(total, 1.0, self.tokens, self.granularity)


@dataclass(frozen=True)
class Range:
    """What of a model a law's runs varied, and from where to where."""

    name: str
    of: Callable[[Model], float]
    low: float
    high: float

    def beyond(self, model: Model) -> str:
        """How far a model lies outside, in words; nothing where it does not."""
        value = self.of(model)
        # As exact as the papers print their ends.
        if 0.99 * self.low <= value <= 1.01 * self.high:
            return ""
        ends = " to ".join(dict.fromkeys((size(self.low), size(self.high))))
        return f"{self.name} {size(value)}, fitted on {ends}"


@dataclass(frozen=True, kw_only=True)
class Law:
    """A published law. short: how a legend names it; formula: as its paper writes it; note: what
    else one should know before believing it."""

    short: str
    paper: str
    formula: str
    ranges: tuple[Range, ...]
    note: str = ""

    def dense_of_equal_loss(self, model: Model) -> float:
        """The parameters of the dense model that is as good after as many tokens."""
        raise NotImplementedError

    def beyond(self, model: Model) -> str:
        """A sentence on how far a question leaves the runs of this law; nothing where it does
        not."""
        ways = [words for each in self.ranges if (words := each.beyond(model))]
        return f"Beyond its runs: {'; '.join(ways)}." if ways else ""


@dataclass(frozen=True, kw_only=True)
class LossLaw(Law):
    """A law that gives the loss of a model, nats a token."""

    loss: Callable[[Model], float]

    def dense_of_equal_loss(self, model: Model) -> float:
        """Found by halving: a larger dense model is always better. inf where none is as good."""
        wanted, low, high = self.loss(model), FEWEST, MOST
        if self.loss(model.dense(high)) > wanted:
            return math.inf
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.loss(model.dense(middle)) > wanted else (low, middle)
        return low


def saturating(value: float, start: float, largest: float) -> float:
    """1 / (1 / (value + (1/start - 1/largest)^-1) + 1/largest): a number that counts from `start`
    on, and hardly any more near `largest` (Clark et al. 2022, equation 4)."""
    moved = value + 1 / (1 / start - 1 / largest)
    return 1 / (1 / moved + 1 / largest)


def size(value: float) -> str:
    """1.6e12 -> "1.6T": three figures."""
    if value == math.inf:
        return "no size"
    if value and (value < 0.01 or value >= 1e15):
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{float(digits):g}\u00a0×\u00a010{str(int(power)).translate(RAISED)}"
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
