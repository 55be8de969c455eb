"""Generating tokens: which experts a batch touches, what one step moves and computes, its bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from moeviz.checks import check_number, check_whole
from moeviz.costs.cost.compute import decode_flops_per_token
from moeviz.costs.cost.memory import CACHE_BITS, fit
from moeviz.costs.cost.quantisation import QuantPlan, plan_of
from moeviz.costs.known.devices import Compute, Device
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.terms import Term, Total, single


def distinct_experts(num_experts: int, top_k: int, batch: float) -> Total:
    """Experts that `batch` tokens touch, on average, when each picks top_k of them evenly and
    independently: E (1 - (1 - K/E)^B). Skewed routing touches fewer."""
    check_whole("num_experts", num_experts)
    check_whole("top_k", top_k)
    check_number("batch", batch)
    if top_k > num_experts:
        raise ValueError(f"top_k must be at most num_experts = {num_experts}, got {top_k}.")
    words = f"{num_experts} × (1 - (1 - {top_k}/{num_experts})^{batch:g})"
    touched = num_experts * (1 - (1 - top_k / num_experts) ** batch)
    return single("experts", "distinct experts", touched, words)


@dataclass(frozen=True)
class DecodeStep:
    """One step that adds a token to each of `batch` sequences. bound: "memory" or "compute", what
    takes longer; tokens_per_s: of all sequences; distinct: experts touched in each MoE layer."""

    bytes: Total
    flops: Total
    memory_seconds: float
    compute_seconds: float
    distinct: float
    batch: int

    @property
    def seconds(self) -> float:
        return max(self.memory_seconds, self.compute_seconds)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The two times of which the longer is the step's."""
        times = {"memory": (self.bytes, self.memory_seconds),
                 "compute": (self.flops, self.compute_seconds)}  # fmt: skip
        return tuple(
            Term(f"{label} seconds", seconds, f"{moved.total:.4g} {moved.unit} / "
                 f"{moved.total / seconds:.4g} {moved.unit} a second")
            for label, (moved, seconds) in times.items()
        )  # fmt: skip

    @property
    def bound(self) -> str:
        return "memory" if self.memory_seconds >= self.compute_seconds else "compute"

    @property
    def tokens_per_s(self) -> float:
        return self.batch / self.seconds

    @property
    def tokens_per_s_per_sequence(self) -> float:
        return 1 / self.seconds


def decode_step(
    architecture: Architecture, device: Device, *, batch: int, context_tokens: int,
    plan: QuantPlan | str = "bf16", devices: int = 1, compute: Compute = "bf16",
) -> DecodeStep:  # fmt: skip
    """The roofline of one step on `devices` devices taken together, communication left out.

    1. bytes: weights but for the input table, of the routed experts those that even routing
       touches, and what is read of every sequence's cache, which is kept in 16 bits
    2. flops: batch times decode_flops_per_token
    3. seconds: the longer of bytes / bandwidth and flops / peak, a bound: 80 % of the bandwidth is
       what good kernels reach
    ValueError where weights and cache do not fit the memory: see memory.fit.
    """
    room = fit(architecture, device, context_tokens=context_tokens, batch=batch, plan=plan,
               devices=devices)  # fmt: skip
    if not room.fits:
        raise ValueError(
            f"batch {batch} of {context_tokens:,} tokens does not fit {devices} × {device.name}: "
            f"weights take {room.weights.total / 1e9:,.1f} GB and the cache "
            f"{room.cache.total / 1e9:,.1f} GB of {room.capacity_bytes / 1e9:,.1f} GB; the largest "
            f"batch is {room.max_batch}."
        )
    distinct = 0.0
    if architecture.is_moe:
        moe = architecture.moe
        distinct = distinct_experts(moe.num_experts, moe.top_k, batch).total
    moved = _step_bytes(architecture, plan_of(plan), batch, context_tokens, distinct)
    flops = decode_flops_per_token(architecture, context_tokens).scaled(batch, f"{batch} tokens")
    bandwidth = devices * device.bytes_per_s
    peak = devices * device.flops_per_s(compute)
    return DecodeStep(moved, flops, moved.total / bandwidth, flops.total / peak, distinct, batch)


def _step_bytes(
    architecture: Architecture, plan: QuantPlan, batch: int, context_tokens: int, distinct: float
) -> Total:
    elements: Counter[tuple[str, bool]] = Counter()
    for times, item in architecture.weights():
        if item.component != "embedding" or architecture.tied:
            elements[item.component, item.copies > 1] += times * item.count
    terms = []
    for (component, routed), count in elements.items():
        bits = plan.format(component).bits
        label, share, words = component, 1.0, f"{count:,} parameters"
        if routed:
            experts = architecture.moe.num_experts
            share = distinct / experts
            label = f"{component} touched"
            words += f" × {distinct:.1f}/{experts}"
        words += f" × {bits:.4g} bits / 8"
        terms.append(Term(label, count * share * bits / 8, words, component))
    for times, mixer in architecture.mixers():
        read = sum(part.elements_read(context_tokens) for part in mixer.caches())
        value = batch * times * read * CACHE_BITS / 8
        words = f"{batch} sequences × {times} layers × {read:,.0f} elements × {CACHE_BITS} / 8"
        terms.append(Term(f"cache, {mixer.kind}", value, words))
    return Total("bytes", tuple(terms))


def critical_batch(
    device: Device, architecture: Architecture | None = None, *, weight_bits: float = 16,
    compute: Compute = "bf16",
) -> Total:  # fmt: skip
    """Tokens per step from which matrices are bound by compute: peak / bandwidth × bytes / 2 for a
    dense model, E/K times that for routed experts, which see only their share of the tokens."""
    check_number("weight_bits", weight_bits, open_low=True)
    batch = device.ridge(compute) * weight_bits / 16
    words = f"{device.ridge(compute):.1f} FLOPs a byte × {weight_bits / 8:g} bytes / 2"
    if architecture is not None and architecture.is_moe:
        moe = architecture.moe
        batch *= moe.num_experts / moe.top_k
        words += f" × {moe.num_experts} experts / {moe.top_k}"
    return single("tokens", "critical batch", batch, words)
