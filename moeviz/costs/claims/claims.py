"""The ledger: what four articles claim, each claim with the sum that tests it."""

from __future__ import annotations

from moeviz.checks import check_choice
from moeviz.costs.claims.frontier import FRONTIER
from moeviz.costs.claims.ledger import Claim, Evaluation, evaluate_claim
from moeviz.costs.claims.revolution import REVOLUTION
from moeviz.costs.claims.short import SHORT
from moeviz.costs.claims.survey import SURVEY

CLAIMS: dict[str, Claim] = {claim.id: claim for claim in (*REVOLUTION, *SURVEY, *FRONTIER, *SHORT)}


def evaluate(claim: Claim | str, **assumptions: float) -> Evaluation:
    """The computed value and the verdict of a claim, or of the one of CLAIMS with that id, under
    its own assumptions save those given: evaluate("v3_cost", usd_per_hour=3). ValueError on an
    unknown claim or assumption, and on one outside its range."""
    if not isinstance(claim, Claim):
        claim = CLAIMS[check_choice("claim", claim, CLAIMS)]
    return evaluate_claim(claim, assumptions)
