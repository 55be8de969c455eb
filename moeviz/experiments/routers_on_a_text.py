"""What every router decides for one text in the small model: what 03 and 03b open on."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.experiments import Progress
from moeviz.host import data_path
from moeviz.records.routes import Decision
from moeviz.records.store import load_records, save_records

if TYPE_CHECKING:
    from moeviz.watch.routers import Rule, Tokens

TEXT = "The cat sat on the mat. The dog sat on the log. def f(x): return x + 12 * 7"
LAYER = 1
NUM_EXPERTS = 8
OWN = "own"
RECORDED = (1, 2)  # values of K: what 03b and 03 open on


@dataclass(frozen=True)
class Named:
    """How a router is called on a button, its rule in half a line, and its family."""

    title: str
    rule: str
    family: str


OWN_NAMED = Named("Yours", "your rule", "your own")


def every_name() -> dict[str, Named]:
    """Of all routers there are: those that are recorded, for which no torch is needed; once it is
    loaded, all of routing.ROUTERS, a reader's own included."""
    routing = sys.modules.get("moeviz.routing")
    if routing is not None and hasattr(routing, "ROUTERS"):
        return {
            name: Named(routing.title_of(name), routing.rule_of(name), router.family)
            for name, router in routing.ROUTERS.items()
        }
    return {n: Named(**named) for n, named in recorded()[1]["names"].items()}


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
    from moeviz.routing import title_of
    from moeviz.watch.routers import PROBE_CUTS, decide, router_for

    assert (name == OWN) == (rule is not None)
    title = OWN_NAMED.title if name == OWN else title_of(name)
    try:
        router = router_for(
            tokens, rule or name, top_k=settings.top_k, **_options(tokens, name, settings)
        )
        return decide(
            router,
            tokens,
            label=title,
            training=settings.training,
            seed=settings.seed,
            cuts=PROBE_CUTS if prove or name == OWN or not router.causal else 0,
        )
    except ValueError as error:
        raise ValueError(f"{title}: {error}") from None


def every_decision(tokens: Tokens) -> list[Decision]:
    """The decisions of all routers with K = 2, where all of them differ."""
    return [decision(tokens, name, Settings(top_k=2)) for name in every_name()]


def gated(name: str) -> bool:
    """Whether temperature and noise reach a router."""
    from moeviz.routing import ROUTERS

    return name == OWN or ROUTERS[name].default_gate is not None


def _options(tokens: Tokens, name: str, settings: Settings) -> dict[str, Any]:
    """Options that let every expert do as much work as with top-K, and a limit of slots where the
    router has its own word for it."""
    from moeviz.routing import ROUTERS, BaseRouter, Capacity

    options: dict[str, Any] = {}
    if gated(name):
        options |= {"temperature": settings.temperature, "noise": settings.noise}
    router = BaseRouter if name == OWN else ROUTERS[name]
    share = settings.top_k * len(tokens.pieces) / len(tokens.gate_ED)
    options |= router.limit(settings.capacity, top_k=settings.top_k, share=share)
    if "capacity" in options:
        options["capacity"] = Capacity(options["capacity"])
    return options


def first_tokens(count: int, *, after: int = 0, layer: int = LAYER) -> Tokens:
    """So many tokens of TEXT behind the first `after`, as that layer of the shipped model gets
    them, with its trained gate."""
    from moeviz.experiments.recording import recorded_model
    from moeviz.watch.routers import text_tokens

    tokens = text_tokens(*recorded_model(), TEXT, layer=layer)
    return tokens.part(after, after + count)


# The recording.


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> dict[str, Any]:
    """What every router decides for TEXT in the shipped model's layer LAYER, under the default
    Settings and with K = 2; written to traces/routing under `out`. Returns the figures worth
    telling, at K = 1."""
    from moeviz.experiments.recording import recorded_model
    from moeviz.watch.routers import text_tokens
    from moeviz.watch.text import moe_layers

    model, tokenizer = recorded_model()
    tokens = text_tokens(model, tokenizer, TEXT, layer=LAYER)
    names = every_name()
    every = {
        f"{name}, K = {top_k}": decision(tokens, name, Settings(top_k=top_k))
        for top_k in RECORDED
        for name in names
    }
    meta = {**meta, "text": TEXT, "layer": LAYER, "layers": moe_layers(model)}
    meta["names"] = {name: dataclasses.asdict(named) for name, named in names.items()}
    save_records(out / "traces" / "routing.safetensors", every, meta)
    decisions = {name: every[f"{name}, K = 1"] for name in names}
    return {
        "tokens": len(tokens.pieces),
        "look_ahead": [d.label for d in decisions.values() if d.leaks.any()],
        "drop": [d.label for d in decisions.values() if d.dropped.any()],
        "leave_tokens_unserved": [d.label for d in decisions.values() if not d.visits.any(1).all()],
    }


def recorded(top_k: int = 1) -> tuple[dict[str, Decision], dict[str, Any]]:
    """What `run` wrote of one K, by the routers' names, without torch."""
    every, meta = load_records(data_path("traces", "routing.safetensors"), Decision)
    ending = f", K = {top_k}"
    return {n.removesuffix(ending): d for n, d in every.items() if n.endswith(ending)}, meta
