"""A claim, what it assumes, the sum that tests it, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from moeviz.checks import check_choice, check_number
from moeviz.costs.shape.terms import Term

# "holds"; "off": wrong in a figure, a unit or a condition that was left out; "contradicted" by the
# sum or by the source itself; "unverifiable": nothing to test it against.
Verdict = Literal["holds", "off", "contradicted", "unverifiable"]
VERDICTS = get_args(Verdict)

# Four public articles on sparse models, by what they call themselves or how they begin.
SOURCES = {
    "revolution": '"The 1% FLOPs Revolution", 2026',
    "survey": '"Sparse mixture-of-experts models and efficiency", 2026',
    "beacon": 'an article that begins "In the race to build ever-larger AI models"',
    "market": '"The Sparse Revolution: Mixture-of-Experts Architectures Propel LLMs into a New Era '
    'of Efficiency and Scale"',
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

    def __post_init__(self) -> None:
        check_number(self.name, self.value, self.low, self.high)


@dataclass(frozen=True)
class Outcome:
    """What a test found: the computed value (None where there is nothing to compute)."""

    verdict: Verdict
    why: str
    value: float | None = None
    terms: tuple[Term, ...] = ()


Test = Callable[[Mapping[str, float]], Outcome]


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
    test: Test
    evidence: str
    stated: float | None = None
    unit: str = ""
    assumptions: tuple[Assumption, ...] = ()

    def __post_init__(self) -> None:
        check_choice("source", self.source, SOURCES)


@dataclass(frozen=True)
class Evaluation:
    """A claim tested under certain assumptions."""

    claim: Claim
    assumptions: tuple[tuple[str, float], ...]
    value: float | None
    verdict: Verdict
    why: str
    terms: tuple[Term, ...]

    @property
    def ratio(self) -> float | None:
        """Computed over claimed, None where either is missing."""
        if self.value is None or not self.claim.stated:
            return None
        return self.value / self.claim.stated


def evaluate_claim(claim: Claim, assumptions: Mapping[str, float]) -> Evaluation:
    """The claim under its own assumptions, save those that are given. ValueError, naming it, on an
    assumption that the claim does not have or that lies outside its range."""
    known = {item.name: item for item in claim.assumptions}
    for name, value in assumptions.items():
        if name not in known:
            listed = ", ".join(known) or "nothing"
            raise ValueError(f"{claim.id} assumes {listed}; it has no assumption {name!r}.")
        check_number(name, value, known[name].low, known[name].high)
    used = {name: assumptions.get(name, item.value) for name, item in known.items()}
    found = claim.test(used)
    return Evaluation(
        claim, tuple(used.items()), found.value, found.verdict, found.why, found.terms
    )


def known(verdict: Verdict, why: str) -> Test:
    """A test of a statement that no sum decides."""
    return lambda _: Outcome(verdict, why)


def holds_if(condition: bool) -> Verdict:
    """ "holds", or else "off"."""
    return "holds" if condition else "off"


def within(value: float, stated: float, tolerance: float) -> bool:
    """Whether a value lies within a share `tolerance` of what was stated."""
    return abs(value / stated - 1) <= tolerance


def price(value: float, meaning: str = "price of a device hour") -> Assumption:
    return Assumption("usd_per_hour", value, "USD/h", meaning, 0.1, 50)
