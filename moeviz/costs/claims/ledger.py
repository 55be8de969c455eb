"""A claim, what it assumes, the sum that tests it, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from moeviz.costs.cost.money import cost_usd
from moeviz.costs.known.models import published
from moeviz.costs.shape.terms import Term, Total

# "holds"; "inaccurate": wrong in a figure, a unit or a condition that was left out; "contradicted"
# by the sum or by the source itself; "unverifiable": nothing to test it against.
Verdict = Literal["holds", "inaccurate", "contradicted", "unverifiable"]
VERDICTS = get_args(Verdict)

# Four public articles on sparse models and a calculator, by what they call themselves or how they
# begin.
SOURCES = {
    "revolution": '"The 1% FLOPs Revolution", 2026',
    "survey": '"Sparse mixture-of-experts models and efficiency", 2026',
    "beacon": 'an article that begins "In the race to build ever-larger AI models"',
    "market": '"The Sparse Revolution: Mixture-of-Experts Architectures Propel LLMs into a New Era '
    'of Efficiency and Scale"',
    "calculator": 'a public "MoE Compute & Size Calculator (Ling Scaling Laws)"',
}


@dataclass(frozen=True)
class Assumption:
    """A number that the test rests on and that a reader may change, within low..high."""

    name: str
    value: float
    unit: str
    meaning: str
    low: float
    high: float


class Outcome(NamedTuple):
    """What a test found: the computed value (None where there is nothing to compute)."""

    verdict: Verdict
    why: str
    value: float | None = None
    terms: tuple[Term, ...] = ()


# From the claim's assumptions, by name.
Test = Callable[..., Outcome]


@dataclass(frozen=True)
class Claim:
    """id: its name here; source: a key of SOURCES, and `where` in it; text: what is claimed;
    formula: the test in words; stated: the claimed figure in `unit`, where it has one; evidence:
    where the other side comes from."""

    id: str
    source: str
    where: str
    text: str
    formula: str
    evidence: str
    assumptions: tuple[Assumption, ...]
    test: Test
    stated: float | None = None
    unit: str = ""


class Article:
    """The claims of one of SOURCES, in their order."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.claims: list[Claim] = []

    def claim(
        self, where: str, text: str, formula: str, evidence: str, *assumptions: Assumption,
        stated: float | None = None, unit: str = "",
    ) -> Callable[[Test], Test]:  # fmt: skip
        """Makes a test the claim of its name."""

        def add(test: Test) -> Test:
            facts = (test.__name__, self.source, where, text, formula, evidence)
            self.claims.append(Claim(*facts, assumptions, test, stated, unit))
            return test

        return add

    def fact(self, name: str, where: str, text: str, formula: str, evidence: str,
             verdict: Verdict, why: str) -> None:  # fmt: skip
        """A claim that no sum decides."""
        facts = (name, self.source, where, text, formula, evidence)
        self.claims.append(Claim(*facts, (), lambda: Outcome(verdict, why)))


def holds_if(condition: bool) -> Verdict:
    """ "holds", or else "inaccurate"."""
    return "holds" if condition else "inaccurate"


def within(value: float, stated: float, tolerance: float) -> bool:
    """Whether a value lies within a share `tolerance` of what was stated."""
    return abs(value / stated - 1) <= tolerance


def price(
    value: float, meaning: str = "price of a device hour", name: str = "usd_per_hour",
    high: float = 50,
) -> Assumption:  # fmt: skip
    return Assumption(name, value, "USD/h", meaning, 0.1, high)


def run_usd(name: str, usd_per_hour: float) -> Total:
    """The published device hours of a model at a price."""
    return cost_usd(published(name, "device_hours"), usd_per_hour)
