"""Every router on the same tokens: what 03_routing compares, and the recording it opens on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.host import data_path
from moeviz.records.routes import Decision
from moeviz.records.store import load_records, save_records

if TYPE_CHECKING:
    from moeviz.watch.routers import Rule, Tokens

TEXT = "The cat sat on the mat. The dog sat on the log. def f(x): return x + 12 * 7"
LAYER = 1
NUM_EXPERTS = 8
OWN, OWN_LABEL = "own", "Yours"

# Every name of routing.ROUTERS: how it is called, and its rule in half a line.
LABELS: dict[str, tuple[str, str]] = {
    "token_choice": ("Top-K", "each token takes its K best experts"),
    "noisy_topk": ("Noisy top-K", "the K best after noise on the scores"),
    "switch": ("Switch", "K best, first come first served; full: dropped"),
    "gshard": ("GShard", "second choices by coin, placed after all first ones"),
    "st_moe": ("ST-MoE", "K best, placed after all first choices"),
    "expert_prototyping": ("Prototypes", "the best expert of each of K groups"),
    "hierarchical": ("Hierarchical", "the best groups first, then experts in them"),
    "deepseek_v2": ("DeepSeek-V2", "the K best of the better half of the groups"),
    "deepseek_v3": ("DeepSeek-V3", "as V2 on sigmoid scores, with a balancing bias"),
    "quantile_balanced": ("Quantile bias", "K best sigmoid scores, with a balancing bias"),
    "expert_choice": ("Expert choice", "each expert takes its best tokens"),
    "expert_threshold": ("Threshold", "an expert takes what scores above its threshold"),
    "base": ("BASE", "the best assignment with an even load"),
    "sinkhorn": ("Sinkhorn", "K best after the scores are evened out"),
    "soft_moe": ("Soft MoE", "experts read mixtures of all tokens"),
    "mixture_of_tokens": ("Mix of tokens", "experts read mixtures of small groups"),
    "hash": ("Hash", "a fixed table of token ids"),
    "remoe": ("ReMoE", "every expert with a positive score"),
    "null_experts": ("Null experts", "the K best, some of which do nothing"),
    "mixture_of_depths": ("Depths", "half of the tokens, each with its K best"),
    "dense_mixture": ("Dense", "every token visits every expert"),
    "sequence_level": ("One set", "the whole text shares K experts"),
}
# What has no gate that temperature and noise could act on, and what no limit of places fits.
UNGATED = ("hash", "soft_moe", "mixture_of_tokens")
UNLIMITED = ("mixture_of_tokens",)


def label_of(name: str) -> str:
    return OWN_LABEL if name == OWN else LABELS[name][0]


@dataclass(frozen=True)
class Settings:
    """What all routers have in common. capacity: how often its even share an expert takes at most,
    None for what each router does by itself. noise: on the logits, in training."""

    top_k: int = 1
    temperature: float = 1.0
    noise: float = 0.0
    capacity: float | None = None
    training: bool = True
    seed: int = 0


def decision(
    tokens: Tokens,
    name: str,
    settings: Settings,
    *,
    rule: Rule | None = None,
    prove: bool = True,
) -> Decision:
    """What one router decides under these settings; name OWN for a rule of one's own. ValueError
    where the router cannot have such settings, in a sentence that names it.

    prove: try to catch every router looking ahead. Without, those that declare themselves causal
    are believed, which is what the time for a slider allows (tests prove it of each); one's own
    never is."""
    from moeviz.watch.routers import PROBE_CUTS, decide, router_for

    assert (name == OWN) == (rule is not None)
    try:
        router = router_for(
            tokens, rule or name, top_k=settings.top_k, **_options(tokens, name, settings)
        )
        return decide(
            router,
            tokens,
            label=label_of(name),
            training=settings.training,
            seed=settings.seed,
            cuts=PROBE_CUTS if prove or name == OWN or not router.causal else 0,
        )
    except ValueError as error:
        raise ValueError(f"{label_of(name)}: {error}") from None


def every_decision(tokens: Tokens, settings: Settings | None = None) -> list[Decision]:
    """The decisions of all routers; K = 2 by default, where all of them differ."""
    return [decision(tokens, name, settings or Settings(top_k=2)) for name in LABELS]


def _options(tokens: Tokens, name: str, settings: Settings) -> dict[str, Any]:
    """Options that let every expert do as much work as with top-K, and a limit of places where the
    router has its own word for it."""
    from moeviz.routing import Capacity

    options: dict[str, Any] = {}
    if name not in UNGATED:
        options |= {"temperature": settings.temperature, "noise": settings.noise}
    if name == "switch":
        options["jitter"] = 0.01  # the paper's
    factor, top_k = settings.capacity, settings.top_k
    if name == "soft_moe":
        share = top_k * len(tokens.pieces) / len(tokens.gate_ED)
        options["slots"] = max(1, math.ceil((factor or 1) * share))
    elif factor is None or name in UNLIMITED:
        pass
    elif name in ("switch", "gshard", "st_moe"):
        options["capacity_factor"] = factor
    elif name in ("expert_choice", "expert_threshold"):
        options["capacity_factor"] = factor * top_k
    else:
        options["capacity"] = Capacity(factor)
    return options


# The recording.


def record(out: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """What every router decides for TEXT in the shipped model's layer LAYER, under the default
    Settings; written to traces/routing under `out`. Returns the figures worth telling."""
    from moeviz.text.tokenizer import Tokenizer
    from moeviz.watch.routers import text_tokens
    from moeviz.watch.text import load_model, moe_layers

    tokenizer = Tokenizer.default()
    model = load_model(data_path("models", "start_here.safetensors"), tokenizer)
    tokens = text_tokens(model, tokenizer, TEXT, layer=LAYER)
    decisions = {name: decision(tokens, name, Settings()) for name in LABELS}
    meta = {**meta, "text": TEXT, "layer": LAYER, "layers": moe_layers(model)}
    save_records(out / "traces" / "routing.safetensors", decisions, meta)
    return {
        "tokens": len(tokens.pieces),
        "look_ahead": [label_of(n) for n, d in decisions.items() if d.leaks.any()],
        "drop": [label_of(n) for n, d in decisions.items() if d.dropped.any()],
        "leave_tokens_unserved": [
            label_of(n) for n, d in decisions.items() if not d.visits.any(1).all()
        ],
    }


def recorded() -> tuple[dict[str, Decision], dict[str, Any]]:
    """What `record` wrote, without torch."""
    return load_records(data_path("traces", "routing.safetensors"), Decision)


def first(tokens: Tokens, count: int) -> Tokens:
    """The first tokens of a text. The model is causal: their hidden states know nothing of the
    rest, and are those of the shorter text."""
    import torch

    if len(tokens.pieces) <= count:
        return tokens
    keep_T = torch.arange(len(tokens.pieces)) < count
    return dataclasses.replace(
        tokens,
        pieces=tokens.pieces[:count],
        x_TD=tokens.x_TD[:count],
        context=tokens.context.select(keep_T),
    )
