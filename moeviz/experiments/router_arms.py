"""Every router as it is compared: experts, losses, family, settings; and the dense controls.

Arms cost a token as much as the dense twin, within 2 % of its FLOPs before any assignment is
dropped: K F = 256 and E F = 2048, unless the router must have it otherwise. Soft MoE and Mixture of
Tokens pay for their mixtures with narrower experts; the width of ReMoE's and of null experts' is
what their measured average of active experts leaves. Losses are weighted as each paper has them,
and what a paper does not have is off: a z-loss is OLMoE's and ST-MoE's alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moeviz.experiments.recording import small_model
from moeviz.model.layer import MoEConfig
from moeviz.routing import ROUTERS, title_of
from moeviz.routing.dense import INFORMATION_WEIGHT
from moeviz.routing.depth import PREDICTOR_WEIGHT
from moeviz.text.corpus import Corpus
from moeviz.training.config import TrainConfig
from moeviz.training.trainer import Trainer

ACTIVE_WIDTH, TOTAL_WIDTH = 256, 2048
CURVE_POINTS = 12
DENSE, DENSE_ALL = "dense", "dense, all parameters"
MIXTRAL = "token choice, renormalised (Mixtral)"
# Family -> the arm that chooses its learning rate.
FAMILIES = {
    "dense": DENSE,
    "token choice": MIXTRAL,
    "fixed": "hash, random",
    "expert choice": "expert choice",
    "soft": "Soft MoE",
    "assignment": "Sinkhorn",
    "variable number": "null experts (MoE++)",
}
# The arms that are trained longest, beside the dense twin.
LONGER_ARMS = (
    MIXTRAL,
    "token choice, raw (OLMoE)",
    "hash, random",
    "expert choice",
    "shared and fine-grained (DeepSeekMoE)",
)
# Losses that a router weighs itself; ReMoE's weight is moved in training.
OWN_WEIGHTS = {"information": INFORMATION_WEIGHT, "predictor": PREDICTOR_WEIGHT, "l1": None}


@dataclass(frozen=True)
class Setting:
    """How all arms of a table are trained. scale: "fair", or "as written"."""

    steps: int
    scale: str = "fair"

    @property
    def ffn_scale(self) -> float | None:
        return 1.0 if self.scale == "fair" else None

    @property
    def curve_steps(self) -> list[int]:
        """Where validation is measured on the way, the last one at the end."""
        ends = (round(self.steps * (i + 1) / CURVE_POINTS) for i in range(CURVE_POINTS))
        return sorted({max(1, end) for end in ends})


FAIR, WRITTEN, LONG = "fair 300", "as written 300", "fair 1200"
SETTINGS = {FAIR: Setting(300), WRITTEN: Setting(300, "as written"), LONG: Setting(1200)}
LONGER = Setting(2400)


@dataclass(frozen=True)
class Arm:
    """One contestant: its experts (None: a dense FFN of this width) and its losses' weights."""

    family: str
    experts: MoEConfig | None
    losses: dict[str, float] = field(default_factory=dict)
    width: int = ACTIVE_WIDTH

    def trainer(self, corpus: Corpus, setting: Setting, rate: float, seed: int) -> Trainer:
        """Ready to be trained and compared with others of the setting."""
        off: dict[str, Any] = {"balance_weight": 0.0, "z_weight": 0.0, "cv_weight": 0.0}
        train = TrainConfig(
            steps=setting.steps,
            seed=seed,
            learning_rate=rate,
            validate_every=0,
            **(off | self.losses),
        )
        model = small_model(self.experts, ffn_scale=setting.ffn_scale, d_ff=self.width)
        return Trainer(model, train, corpus)


def _arm(
    family: str, router: str, e: int = 16, k: int = 2, f: int = 128, *, num_shared: int = 0,
    shared_gate: str = "one", balance: float = 0.0, z: float = 0.0, cv: float = 0.0,
    **options: Any,
) -> Arm:  # fmt: skip
    """E experts of width F, K a token; weights of the losses; the router's options."""
    shared: dict[str, Any] = {"num_shared": num_shared, "shared_gate": shared_gate}
    experts = MoEConfig(e, k, f, router=router, options=options, **shared)
    return Arm(family, experts, {"balance_weight": balance, "z_weight": z, "cv_weight": cv})


# Two constants are meant for runs a thousand times longer. The sign rule's 0.001 is 0.01 here;
# ReMoE's first weight of its loss, 1e-8, is 0.01, or it would be dense for half of the run.
_NAMED: dict[str, Arm] = {
    DENSE: Arm("dense", None),
    DENSE_ALL: Arm("dense", None, width=TOTAL_WIDTH),
    MIXTRAL: _arm("token choice", "token_choice"),
    "token choice, raw (OLMoE)": _arm(
        "token choice", "token_choice", weighting="raw", balance=0.01, z=1e-3
    ),
    # The baseline of loss-free balancing.
    "token choice, sigmoid": _arm("token choice", "token_choice", score="sigmoid", balance=1e-3),
    "noisy top-K (Shazeer)": _arm("token choice", "noisy_topk", cv=0.1),
    "GShard": _arm("token choice", "gshard", balance=0.01),
    "Switch": _arm("token choice", "switch", 8, 1, 256, balance=0.01),
    "ST-MoE": _arm("token choice", "st_moe", balance=0.01, z=1e-3),
    "expert prototyping (M6-T)": _arm("token choice", "expert_prototyping", balance=0.01),
    "hierarchical": _arm("token choice", "hierarchical", cv=0.1),
    "fine-grained": _arm("token choice", "token_choice", 32, 4, 64, weighting="raw", balance=0.01),
    "shared and fine-grained (DeepSeekMoE)": _arm(
        "token choice", "token_choice", 31, 3, 64, weighting="raw", num_shared=1, balance=0.01
    ),
    "dense residual (PR-MoE)": _arm(
        "token choice", "token_choice", 15, 1, 128, weighting="raw", num_shared=1,
        shared_gate="softmax", balance=0.01,
    ),
    "group-limited (DeepSeek-V2)": _arm(
        "token choice", "deepseek_v2", num_groups=4, top_groups=1, balance=0.003
    ),
    "group-limited, sign bias (DeepSeek-V3)": _arm(
        "token choice", "deepseek_v3", bias_rate=0.01, balance=1e-4
    ),
    "sign bias, no loss": _arm(
        "token choice", "token_choice", score="sigmoid", bias="sign", bias_rate=0.01, scope="none"
    ),
    "quantile bias": _arm("token choice", "quantile_balanced"),
    "one set a sequence": _arm("token choice", "sequence_level"),
    "expert choice": _arm("expert choice", "expert_choice"),
    "expert choice, at most 3 a token": _arm("expert choice", "expert_choice", max_experts=3),
    "expert threshold": _arm("expert choice", "expert_threshold"),
    "Soft MoE": _arm("soft", "soft_moe", f=144, slots=5),
    "Mixture of Tokens": _arm("soft", "mixture_of_tokens", f=120),
    "dense mixture": _arm("soft", "dense_mixture", f=ACTIVE_WIDTH // 16),
    "BASE": _arm("assignment", "base", 8, 1, 256),
    "Sinkhorn": _arm("assignment", "sinkhorn"),
    "hash, random": _arm("fixed", "hash"),
    "hash, random, one expert": _arm("fixed", "hash", 8, 1, 256),
    "hash, bigram": _arm("fixed", "hash", variant="bigram"),
    "ReMoE": _arm("variable number", "remoe", f=110, start=0.01),
    "null experts (MoE++)": _arm("variable number", "null_experts", f=144, balance=0.01),
    "Mixture of Depths": _arm("variable number", "mixture_of_depths", k=4),
}  # fmt: skip


def arms() -> dict[str, Arm]:
    """Every router by at least one arm, and the dense controls: a router that has none of its own
    trains as it is, at the rate of token choice."""
    compared = {arm.experts.router for arm in _NAMED.values() if arm.experts}
    own = {title_of(name): _arm("token choice", name) for name in ROUTERS if name not in compared}
    return _NAMED | own


def losses_of(trainer: Trainer) -> list[tuple[str, float | None]]:
    """Which losses are on, beside that of the text, and by which weight (None: its router moves
    it), as one step of training has them."""
    names = next(trainer).router_losses
    weights = ((n, OWN_WEIGHTS.get(n, trainer.config.weight_of(n))) for n in names)
    return [(name, weight) for name, weight in weights if weight != 0]


def declared(name: str, corpus: Corpus) -> dict[str, Any]:
    """What an arm is before any training: its family, sizes, losses, FLOPs of a step as declared,
    and when its router sees later tokens."""
    return facts_of(arms()[name], corpus)


def facts_of(arm: Arm, corpus: Corpus) -> dict[str, Any]:
    """The same of an arm that has no name here."""
    trainer = arm.trainer(corpus, Setting(1), 4e-3, 0)
    facts = {
        "family": arm.family,
        "parameters": trainer.model.num_parameters(),
        "gigaflops_per_step": round(trainer.flops_per_step / 1e9, 4),
        "losses": losses_of(trainer),
    }
    if arm.experts is None:
        return facts | {"width": arm.width}
    router = trainer.model.routers()[0]
    return facts | {
        "router": arm.experts.router,
        "experts": arm.experts.num_experts,
        "top_k": arm.experts.top_k,
        "width": arm.experts.d_expert,
        "shared": arm.experts.num_shared,
        "causal": router.causal,
        "substitute": router.substitute,
    }
