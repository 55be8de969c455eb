"""Steps of decoding as the batch grows, of a sparse model and of its dense twin; what would hold
them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from moeviz.costs import Architecture, DecodeStep, decode_step, device, fit
from moeviz.costs.cost.quantisation import PLANS, QuantPlan
from moeviz.pictures.costs.memory_fit import COUNTS
from moeviz.pictures.costs.memory_fit import PLANS as PLAN_NAMES
from moeviz.pictures.costs.model_parts import sparse_sizes_of

LAST = 14  # the batch goes to 2^14
BATCHES = tuple(2**i for i in range(LAST + 1))
TWIN = "dense twin"


@dataclass(frozen=True)
class ByBatch:
    """Steps of one model by batch, as far as the memory reaches, and where that ends."""

    name: str
    steps: dict[int, DecodeStep]
    max_batch: int


@lru_cache(maxsize=32)
def curves(
    model_name: str, device_name: str, devices: int, plan: str, context: int
) -> tuple[ByBatch, ByBatch]:
    """The model and its dense twin of equal active parameters."""
    architecture, chip = sparse_sizes_of(model_name), device(device_name)
    setting: dict[str, Any] = dict(
        context_tokens=context, plan=_one_format_for_ffns(PLANS[plan]), devices=devices
    )

    def curve_of(name: str, shape: Architecture) -> ByBatch:
        most = fit(shape, chip, **setting).max_batch
        held = [batch for batch in BATCHES if batch <= most]
        steps = {batch: decode_step(shape, chip, batch=batch, **setting) for batch in held}
        return ByBatch(name, steps, most)

    return curve_of(model_name, architecture), curve_of(TWIN, architecture.dense_twin())


def _one_format_for_ffns(plan: QuantPlan) -> QuantPlan:
    """A plan that stores shared experts and dense FFNs as it does routed experts: otherwise the
    twin, whose FFNs stand for all of them, would be smaller or larger than what it is a twin of."""
    parts = dict(plan.parts)
    if "routed_experts" in parts:
        parts["shared_experts"] = parts["dense_ffn"] = parts["routed_experts"]
    return QuantPlan(plan.name, plan.default, tuple(parts.items()))


@dataclass(frozen=True)
class Remedy:
    """What would hold a model that does not fit: in words, and as values of the panel."""

    words: str
    values: dict[str, object]


@lru_cache(maxsize=32)
def remedies(
    model_name: str, device_name: str, devices: int, plan: str, context: int
) -> tuple[Remedy, ...]:
    """More devices, fewer bits, or both, for one sequence; as little as does."""
    shape, chip = sparse_sizes_of(model_name), device(device_name)

    def holds(count: int, bits: str) -> bool:
        setting: dict[str, Any] = dict(context_tokens=context, plan=PLANS[bits], devices=count)
        return fit(shape, chip, **setting).fits

    more = next((n for n in COUNTS if n > devices and holds(n, plan)), None)
    fewer = next((p for p in PLAN_NAMES if holds(devices, p)), None)
    ways = []
    if more:
        ways.append(Remedy(f"{more} devices", {"devices": more}))
    if fewer:
        ways.append(Remedy(f"{PLAN_NAMES[fewer]} weights", {"plan": fewer}))
    if not ways:
        both = next(((n, p) for n in COUNTS for p in PLAN_NAMES if holds(n, p)), None)
        if both:
            words = f"{both[0]} devices with {PLAN_NAMES[both[1]]} weights"
            ways.append(Remedy(words, {"devices": both[0], "plan": both[1]}))
    return tuple(ways)
