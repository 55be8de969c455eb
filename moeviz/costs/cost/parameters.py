"""How many parameters a model has, and how many one token meets, by anyone's way of counting."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

from moeviz.checks import check_choice
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.terms import Total, gathered, single

Convention = Literal["all", "ex_input_embedding", "ex_embeddings"]


@lru_cache(maxsize=256)
def parameters(architecture: Architecture) -> Total:
    """Every parameter, by component: embedding, attention, router, routed_experts, shared_experts,
    dense_ffn, residual, norms, biases, head."""
    return Total("parameters", gathered(architecture.weights(), active=False))


@lru_cache(maxsize=256)
def active_parameters(architecture: Architecture, convention: Convention = "all") -> Total:
    """Parameters that one token meets: all but the routed experts that it does not visit.

    convention: what vendors then leave out. "all": nothing (Mixtral, Qwen, OLMoE).
    "ex_input_embedding": the input table, of which a token reads one row (DeepSeek, gpt-oss);
    a table that is also the head stays. "ex_embeddings": input table and head (MiniMax, GLM-4.5).
    """
    check_choice("convention", convention, get_args(Convention))
    terms = gathered(architecture.weights(), active=True)
    if convention == "ex_embeddings":
        terms = tuple(t for t in terms if t.component not in ("embedding", "head"))
    elif convention == "ex_input_embedding" and not architecture.tied:
        terms = tuple(t for t in terms if t.component != "embedding")
    return Total("parameters", terms)


def active_share(architecture: Architecture, convention: Convention = "all") -> Total:
    """Active parameters over all parameters, a share in 0..1."""
    active = active_parameters(architecture, convention).total
    whole = parameters(architecture).total
    return single("share", "active share", active / whole, f"{active:,} active / {whole:,}")
