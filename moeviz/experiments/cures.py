"""What may be switched on against expert collapse, and the settings that are recorded.

Nothing here needs torch: a panel knows its switches before it trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from moeviz.host import read_figures

Chooser = Literal["token_choice", "expert_choice", "sinkhorn", "hash"]
Learning = Literal["learned", "frozen", "rerandomised"]


@dataclass(frozen=True)
class Cures:
    """What is switched on against collapse; all off is top-1 routing by raw softmax weight.

    aux, z: weights of the load-balancing loss and the z-loss; scope: of the former. noise: standard
    deviation on the logits in training. bias: rule of the selection bias ("sign" with a rate of
    0.01). router: who chooses. shared: one expert of half the width for all tokens, and half the
    width for the chosen ones, so that the FLOPs stay. learning: see routing.Gate. ValueError where
    two of them exclude each other.
    """

    aux: float = 0.0
    scope: Literal["batch", "sequence"] = "batch"
    z: float = 0.0
    noise: float = 0.0
    bias: Literal["none", "sign", "quantile"] = "none"
    router: Chooser = "token_choice"
    shared: bool = False
    learning: Learning = "learned"
    num_experts: int = 16
    top_k: int = 1

    def __post_init__(self) -> None:
        if self.router != "token_choice" and (self.aux or self.bias != "none"):
            raise ValueError(
                f"The {self.router.replace('_', ' ')} router balances in its own way: it takes no "
                "balancing loss and no bias; switch them off or choose token choice."
            )
        if self.router == "hash" and (self.z or self.noise or self.learning != "learned"):
            raise ValueError("A hash has no scores: switch z-loss, noise and learning off.")


# What is recorded, by the name under which it is shown.
ARMS = {
    "nothing": Cures(),
    "balancing loss 0.01": Cures(aux=0.01),
    "balancing loss 0.1": Cures(aux=0.1),
    "balancing loss 0.1 per sequence": Cures(aux=0.1, scope="sequence"),
    "z-loss 0.001": Cures(z=1e-3),
    "noise 1": Cures(noise=1.0),
    "sign bias": Cures(bias="sign"),
    "quantile bias": Cures(bias="quantile"),
    "expert choice": Cures(router="expert_choice"),
    "Sinkhorn": Cures(router="sinkhorn"),
    "shared expert": Cures(shared=True),
    "hash": Cures(router="hash"),
    "frozen router": Cures(learning="frozen"),
    "re-randomised router": Cures(learning="rerandomised"),
}


DENSE, BASE = "dense", "nothing"
FAIR = 1.0  # ModelConfig.ffn_scale: every FFN starts as loud as a dense one


@dataclass(frozen=True)
class Setting:
    """One recorded setting. cures: None for the dense twin; ffn_scale: of the model, None as the
    router's paper writes it; schedule: of the learning rate."""

    cures: Cures | None = Cures()
    ffn_scale: float | None = FAIR
    schedule: str = "constant"


# Every recorded setting: the dense twin, the cures, and what the comparison itself depends on.
# "As written" top-1 routing starts with a weight near 1/16, a hash with a weight of 1.
SETTINGS = {
    DENSE: Setting(None),
    **{name: Setting(cures) for name, cures in ARMS.items()},
    "nothing, as written": Setting(ffn_scale=None),
    "frozen router, as written": Setting(Cures(learning="frozen"), None),
    "hash, as written": Setting(Cures(router="hash"), None),
    "hash, at one sixteenth": Setting(Cures(router="hash"), 1 / 16),
    "nothing, warm restarts": Setting(schedule="restarts"),
}


def name_of(cures: Cures) -> str:
    """The name of a combination, as ARMS have theirs: its parts, or "nothing"."""
    per_sequence = " per sequence" if cures.scope == "sequence" else ""
    routers = {"expert_choice": "expert choice", "sinkhorn": "Sinkhorn", "hash": "hash"}
    learnings = {"frozen": "frozen router", "rerandomised": "re-randomised router"}
    parts = [
        routers.get(cures.router, ""),
        f"balancing loss {cures.aux:g}{per_sequence}" if cures.aux else "",
        f"z-loss {cures.z:g}" if cures.z else "",
        f"noise {cures.noise:g}" if cures.noise else "",
        f"{cures.bias} bias" if cures.bias != "none" else "",
        "shared expert" if cures.shared else "",
        learnings.get(cures.learning, ""),
    ]
    return " + ".join(filter(None, parts)) or "nothing"


def cures_of(model: dict[str, Any], train: dict[str, Any]) -> Cures:
    """The cures that a snapshot's or a checkpoint's configuration was made with. Raises KeyError,
    TypeError or ValueError on any that was not."""
    experts = model["moe"]
    options = experts["options"]
    return Cures(
        aux=train["balance_weight"],
        scope=options.get("scope", "batch"),
        z=train["z_weight"],
        noise=options.get("noise", 0.0),
        bias=options.get("bias", "none"),
        router=experts["router"],
        shared=bool(experts["num_shared"]),
        learning=options.get("learning", "learned"),
        num_experts=experts["num_experts"],
        top_k=experts["top_k"],
    )


@cache
def recorded() -> dict[str, Any]:
    """The summary of the recorded runs: every arm's figures over seeds, and their provenance."""
    return read_figures("collapse")
