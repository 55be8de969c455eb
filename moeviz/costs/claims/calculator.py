"""The claim of a public calculator, by the law that it computes."""

from __future__ import annotations

from moeviz.costs.claims.ledger import Article, Assumption, Outcome
from moeviz.costs.laws.published import LING_START, ling_best_granularity, ling_leverage
from moeviz.costs.shape.terms import Term

CALCULATOR = Article("calculator")
EXAMPLE = 0.031, 12, 1e22  # the part of the experts, the granularity and the FLOPs of the paper's


@CALCULATOR.claim(
    "calculate_model_sizes",
    "It gives Ling's joint law: EL = Â^(α + γ (log10 G)² + β log10 G)",
    "the granularity of the largest leverage: base^(-β / 2γ)",
    "Ling's scaling laws, 2507.17702, equation 13 and table 2",
    Assumption("base", 10, "", "base of the logarithm of G", 2, 10),
    unit="granularity")  # fmt: skip
def ling_granularity(base: float) -> Outcome:
    best, leverage = ling_best_granularity(base), ling_leverage(*EXAMPLE, base)
    met, granularity, flops = EXAMPLE
    printed = ling_leverage(met - LING_START, granularity, flops, base)
    terms = (
        Term("granularity of the largest leverage", best, f"{base:g}^(0.117 / 0.0334)"),
        Term("leverage of the paper's example", leverage, "3.1 % of the experts, G 12, 1e22 FLOPs"),
        Term("the same where Â is not moved by 0.0163", printed, "as the calculator has it"),
    )
    why = (
        f"to base {base:g} the largest leverage is at a granularity of {best:,.0f}, and the paper's"
        f" example has {leverage:.1f}; the paper has 8 to 12, and above 7"
    )
    right = 8 <= best <= 12 and leverage > 7
    return Outcome("holds" if right else "contradicted", why, best, terms)
