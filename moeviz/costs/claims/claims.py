"""The ledger: what four articles and a calculator claim, each claim with the sum that tests it."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.checks import check_choice, check_number
from moeviz.costs.claims import measured, mixed, smaller  # noqa: F401  (they add to articles)
from moeviz.costs.claims.calculator import CALCULATOR
from moeviz.costs.claims.frontier import FRONTIER
from moeviz.costs.claims.ledger import Claim, Verdict
from moeviz.costs.claims.revolution import REVOLUTION
from moeviz.costs.claims.short import BEACON, MARKET
from moeviz.costs.claims.survey import SURVEY
from moeviz.costs.shape.terms import Term

CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for article in (REVOLUTION, SURVEY, FRONTIER, BEACON, MARKET, CALCULATOR)
    for claim in article.claims
}


@dataclass(frozen=True)
class Evaluation:
    """A claim tested under certain assumptions."""

    claim: Claim
    assumptions: tuple[tuple[str, float], ...]
    verdict: Verdict
    why: str
    value: float | None
    terms: tuple[Term, ...]

    @property
    def ratio(self) -> float | None:
        """Computed over claimed, None where either is missing."""
        if self.value is None or not self.claim.stated:
            return None
        return self.value / self.claim.stated


def evaluate(claim: Claim | str, **assumptions: float) -> Evaluation:
    """The computed value and the verdict of a claim, or of the one of CLAIMS with that id, under
    its own assumptions save those given: evaluate("v3_cost", usd_per_hour=3). ValueError on an
    unknown claim or assumption, and on one outside its range."""
    if not isinstance(claim, Claim):
        claim = CLAIMS[check_choice("claim", claim, CLAIMS)]
    known = {item.name: item for item in claim.assumptions}
    for name, value in assumptions.items():
        if name not in known:
            listed = ", ".join(known) or "nothing"
            raise ValueError(f"{claim.id} assumes {listed}; it has no assumption {name!r}.")
        check_number(name, value, known[name].low, known[name].high)
    used = {name: assumptions.get(name, item.value) for name, item in known.items()}
    return Evaluation(claim, tuple(used.items()), *claim.test(**used))
