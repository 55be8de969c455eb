"""The laws, by the name that a reader asks for, each with its paper's own constants.

Traps that copies of these laws fell into, and that the tests hold against:
- Krajewski's N is every parameter of the MoE model, not the active ones.
- The joint law's signs: table 3 of the paper has delta and zeta below 0, gamma and omega above.
  With these four turned, as a public copy prints it, no MoE ever gains.
- Ling's logarithm of G is that to base 2, of C to base 10. The paper writes `log` for both, and no
  other pair gives its own optimum (8 to 12) and its own leverage (above 7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from moeviz.costs.laws.law import (
    Law,
    LossLaw,
    Model,
    Range,
    saturating,
)

EVERY_OTHER = 0.5  # of the layers are routed in Clark et al.


def active(low: float, high: float) -> Range:
    return Range("active parameters", lambda model: model.active, low, high)


def tokens(low: float, high: float) -> Range:
    return Range("tokens", lambda model: model.tokens, low, high)


def experts(low: float, high: float, routed: float = 1.0) -> Range:
    return Range("experts", lambda model: model.experts(routed), low, high)


def granularity(low: float, high: float) -> Range:
    return Range("granularity", lambda model: model.granularity, low, high)


def flops(low: float, high: float) -> Range:
    return Range("FLOPs", lambda model: model.flops, low, high)


def _clark(model: Model) -> float:
    log_n = math.log10(model.active)
    log_e = math.log10(saturating(model.experts(EVERY_OTHER) - 1, 1.847, 314.478))
    return 10.0 ** (-0.082 * log_n - 0.108 * log_e + 0.009 * log_n * log_e + 1.104)


CLARK = LossLaw(
    short="Clark 2022",
    paper="Unified scaling laws for routed language models, 2202.01169, table 3, S-BASE",
    formula="log L = a log N + b log Ê + c log N log Ê + d",
    ranges=(active(15e6, 1.3e9), experts(1, 512, EVERY_OTHER), tokens(130e9, 130e9)),
    note="All its models saw 130B tokens: it has no place for more or fewer.",
    loss=_clark,
)


def _krajewski(model: Model) -> float:
    if model.share == 1:
        return 0.47 + 16.3 / model.total**0.126 + 26.7 / model.tokens**0.127
    pieces = 2.1 / model.granularity**0.58
    return 0.47 + (pieces + 18.1) / model.total**0.115 + 30.8 / model.tokens**0.147


KRAJEWSKI = LossLaw(
    short="Krajewski 2024",
    paper="Scaling laws for fine-grained mixture of experts, 2402.07871, table 1",
    formula="L = c + (g / G^γ + a) / N^α + b / D^β, N all parameters",
    ranges=(
        Range("parameters", lambda model: model.total, 129e6, 3.7e9),
        experts(64, 64), tokens(16e9, 130e9), granularity(1, 16),
    ),
    note="One law for dense models and one for MoE models of 64 experts: it knows no other share.",
    loss=_krajewski,
)  # fmt: skip


def _abnar(model: Model) -> float:
    met = 1 / model.experts()
    return (
        16612.50 / model.total**0.5962
        + 5455.67 / model.tokens**0.3954
        + 0.4598 * met**0.1666
        + 17.26 / (met**0.1603 * model.total**0.1595)
        + 0.94
    )


ABNAR = LossLaw(
    short="Abnar 2025",
    paper="Parameters vs FLOPs, 2501.12370, table 3",
    formula="L = a / N^α + b / D^β + c / (1-S)^λ + d / ((1-S)^δ N^γ) + e, S the idle experts",
    ranges=(experts(1, 20), flops(3e19, 1e21)),
    note="It explains 99 % of the runs that it was fitted on, and 68 % of those with 98 % of the "
    "experts idle, which it was not.",
    loss=_abnar,
)


def joint_terms(model: Model) -> tuple[float, float, float, float]:
    """(m, μ, n, ν): at one number of experts the joint law is Chinchilla's, m N^μ + n D^ν + c, as
    table 4 of the paper lists it."""
    log_e = math.log(saturating(model.experts() - 1, 2.0732, 290.4521))
    return (
        35.91 * math.exp(-0.2285 * log_e), -0.1889 + 0.0098 * log_e,
        35.98 * math.exp(0.5529 * log_e), -0.1775 - 0.0259 * log_e,
    )  # fmt: skip


def _joint(model: Model) -> float:
    m, mu, n, nu = joint_terms(model)
    return m * model.active**mu + n * model.tokens**nu + 1.3637


JOINT = LossLaw(
    short="Ludziejewski 2025",
    paper="Joint MoE scaling laws, 2502.05172, table 3",
    formula="L = a Ê^δ N^(α + γ ln Ê) + b Ê^ω D^(β + ζ ln Ê) + c, N the active parameters",
    ranges=(active(79e6, 2.7e9), experts(1, 32), tokens(0.5e9, 80e9)),
    loss=_joint,
)

# The exponent's terms in G, and the smallest part of the experts that counts.
LING_GAMMA, LING_BETA, LING_START = 0.0167, -0.117, 0.0163


def ling_leverage(met: float, granularity: float, flops: float, base: float = 2.0) -> float:
    """How many times the FLOPs of an MoE its dense equal takes: Â^(α + γ (log G)^2 + β log G), with
    Â = met + 0.0163 and α = 1.23 - 0.0761 log10 C.

    met: the part of the experts that a token meets; flops: C, of the training; base: of log G.
    """
    log_g = math.log(granularity, base)
    alpha = 1.23 - 0.0761 * math.log10(flops)
    return (met + LING_START) ** (alpha + LING_GAMMA * log_g**2 + LING_BETA * log_g)


def ling_best_granularity(base: float = 2.0) -> float:
    """The granularity of the largest leverage, whatever the rest: where the exponent is lowest."""
    return base ** (-LING_BETA / (2 * LING_GAMMA))


@dataclass(frozen=True, kw_only=True)
class LeverageLaw(Law):
    """Ling's law has no loss: it gives the ratio of FLOPs itself."""

    def dense_of_equal_loss(self, model: Model) -> float:
        """As many tokens at so many times the FLOPs are so many times the active parameters: so the
        paper sets 0.85B active ones beside a dense 6.1B."""
        if model.share == 1:
            return model.total
        return model.active * ling_leverage(1 / model.experts(), model.granularity, model.flops)


LING = LeverageLaw(
    short="Ling 2025",
    paper="Towards greater leverage, 2507.17702, table 2",
    formula="EL = Â^(α + γ (log2 G)² + β log2 G), α = a + d log10 C",
    ranges=(experts(1, 128), granularity(2, 16), flops(1e18, 6e20)),
    note="Tested beyond its runs by one pair of models, near 1e22 FLOPs.",
)

LAWS: dict[str, Law] = {law.short: law for law in (CLARK, KRAJEWSKI, ABNAR, JOINT, LING)}
