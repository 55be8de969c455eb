"""What papers report of pairs of routers, and whether a recorded comparison says the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Order:
    """`better` has the lower loss than `worse` (names of the arms of `experiment routers`), as
    `source` reports with its figures."""

    better: str
    worse: str
    source: str


MIXTRAL, OLMOE = "token choice, renormalised (Mixtral)", "token choice, raw (OLMoE)"
DEEPSEEK = "shared and fine-grained (DeepSeekMoE)"
DEEPSEEK_TABLE = "DeepSeekMoE (2401.06066) table 1, Pile loss"
REMOE_TABLE = "ReMoE (2412.14711) table 2, mean accuracy"
CLAIMS = (
    Order("hash, random", "dense", f"{DEEPSEEK_TABLE}: 1.932 against 2.060"),
    Order("Switch", "hash, random", f"{DEEPSEEK_TABLE}: 1.881 against 1.932"),
    Order("GShard", "Switch", f"{DEEPSEEK_TABLE}: 1.867 against 1.881"),
    Order(DEEPSEEK, "GShard", f"{DEEPSEEK_TABLE}: 1.808 against 1.867"),
    Order(MIXTRAL, DEEPSEEK, "OLMoE (2409.02060): a shared expert makes it slightly worse"),
    Order("expert choice", "dense", f"{REMOE_TABLE}: 38.53 against 38.20"),
    Order(MIXTRAL, "expert choice", f"{REMOE_TABLE}, dropless: 39.67 against 38.53"),
    Order("ReMoE", MIXTRAL, f"{REMOE_TABLE}: 40.03 against 39.67"),
    Order(
        "sign bias, no loss",
        "token choice, sigmoid",
        "loss-free balancing (2408.15664) table 2, perplexity: 9.50 against 9.56",
    ),
    Order("hash, random", OLMOE, "Hash layers (2106.04426): on par with or better than learned"),
)


@dataclass(frozen=True)
class Verdict:
    """A claim beside our figures: difference = better's minus worse's validation loss (nats per
    token, negative where the claim holds), mean and standard deviation over paired seeds."""

    claim: Order
    mean: float
    sd: float
    seen: str


def verdicts(recorded: dict[str, Any]) -> list[Verdict]:
    """Every claim against a recorded `experiment routers`: "agrees" or "disagrees" where the 95 %
    interval of the paired difference (Student's t) lies on one side of zero, else "open"."""
    from scipy.special import stdtrit  # here: no other picture waits for it

    arms = recorded["arms"]
    found = []
    for claim in CLAIMS:
        better, worse = (
            np.array(arms[name]["validation_loss"]["values"])
            for name in (claim.better, claim.worse)
        )
        gap = better - worse
        mean, sd = float(gap.mean()), float(gap.std(ddof=1)) if len(gap) > 1 else float("nan")
        reach = stdtrit(len(gap) - 1, 0.975) * sd / len(gap) ** 0.5
        seen = "agrees" if mean + reach < 0 else "disagrees" if mean - reach > 0 else "open"
        found.append(Verdict(claim, mean, sd, seen))
    return found
