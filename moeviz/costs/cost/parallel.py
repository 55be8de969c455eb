"""What expert parallelism and offloading cost: idle seats, idle devices, and byte bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moeviz.checks import check_number, check_whole
from moeviz.costs.cost.quantisation import QuantPlan, plan_of
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.terms import Term, Total, single


@dataclass(frozen=True)
class CapacityUse:
    """Seats that experts reserve for a batch, and what becomes of them."""

    seats_per_expert: int
    seats: int
    used: int
    dropped: int

    @property
    def empty(self) -> int:
        return self.seats - self.used

    @property
    def waste(self) -> float:
        """Share of the seats, memory and compute alike, that nobody takes."""
        return self.empty / self.seats

    @property
    def terms(self) -> tuple[Term, ...]:
        """Seats taken and empty, which make them all, and assignments that found none."""
        return (
            Term("taken", self.used, f"sum of min(load, {self.seats_per_expert})"),
            Term("empty", self.empty, f"{self.seats:,} seats - {self.used:,} taken"),
            Term("dropped", self.dropped, f"sum of load above {self.seats_per_expert}"),
        )


def capacity_use(load_E: Sequence[int], capacity_factor: float) -> CapacityUse:
    """Seats of C = ceil(factor x assignments / E) for each expert against its load: assignments
    beyond them are dropped (GShard, Fedus et al. 2021). load_E: assignments that want each."""
    check_number("capacity_factor", capacity_factor, open_low=True)
    loads = [check_whole("load_E", load, 0) for load in load_E]
    if not loads or not sum(loads):
        raise ValueError("load_E must hold at least one assignment, got none.")
    seats = math.ceil(capacity_factor * sum(loads) / len(loads))
    used = sum(min(load, seats) for load in loads)
    return CapacityUse(seats, seats * len(loads), used, sum(loads) - used)


def balance_efficiency(load_E: Sequence[float], devices: int) -> Total:
    """Mean over largest load of a device, experts lying in order: all wait for the fullest."""
    check_whole("devices", devices)
    loads = [check_number("load_E", load) for load in load_E]
    if not loads or len(loads) % devices:
        raise ValueError(f"devices must divide the {len(loads)} experts of load_E, got {devices}.")
    here = len(loads) // devices
    each = [sum(loads[i * here : (i + 1) * here]) for i in range(devices)]
    if not max(each):
        raise ValueError("load_E must not be all 0.")
    mean = sum(each) / devices
    words = f"mean load {mean:,.4g} / largest load {max(each):,.4g} of {devices} devices"
    return single("share", "efficiency", mean / max(each), words)


@dataclass(frozen=True)
class ExchangeBound:
    """The time of a decoding step that is nothing but its exchanges."""

    terms: tuple[Term, ...]

    @property
    def seconds(self) -> float:
        return sum(term.value for term in self.terms)

    @property
    def tokens_per_s(self) -> float:
        """Of one sequence."""
        return 1 / self.seconds


def exchange_bound(
    *,
    d_model: int,
    layers: int,
    copies_per_token: float,
    tokens_per_device: int,
    bytes_per_s: float,
    dispatch_bytes: float = 1,
    combine_bytes: float = 2,
    micro_batches: int = 2,
) -> ExchangeBound:
    """Decoding bound by the network alone (DeepSeek, "Insights into DeepSeek-V3", 2505.09343,
    section 2.3.2): of two micro-batches one computes while the other communicates, so a step takes
    micro_batches × (dispatch + combine) bytes × tokens × copies × d_model / bandwidth a layer.
    """
    check_number("copies_per_token", copies_per_token, open_low=True)
    for name, value in (
        ("d_model", d_model),
        ("layers", layers),
        ("tokens_per_device", tokens_per_device),
        ("micro_batches", micro_batches),
    ):
        check_whole(name, value)
    check_number("bytes_per_s", bytes_per_s, open_low=True)
    check_number("dispatch_bytes", dispatch_bytes, open_low=True)
    check_number("combine_bytes", combine_bytes, open_low=True)
    elements = micro_batches * layers * tokens_per_device * copies_per_token * d_model
    words = (
        f"{micro_batches} micro-batches × {layers} layers × {tokens_per_device} tokens × "
        f"{copies_per_token:g} copies × d_model {d_model:,} / {bytes_per_s:.3g} B/s"
    )
    terms = tuple(
        Term(label, elements * size / bytes_per_s, f"{size:g} bytes × {words}")
        for label, size in (("dispatch", dispatch_bytes), ("combine", combine_bytes))
    )
    return ExchangeBound(terms)


@dataclass(frozen=True)
class OffloadBound:
    """bytes: what crosses the link for one token; tokens_per_s: at most. Measured systems reach 20
    to 40 % of it."""

    bytes: Total
    link_bytes_per_s: float

    @property
    def tokens_per_s(self) -> float:
        return self.link_bytes_per_s / self.bytes.total if self.bytes.total else math.inf


def offload_bound(
    architecture: Architecture,
    link_bytes_per_s: float,
    *,
    plan: QuantPlan | str = "bf16",
    hit_rate: float = 0.0,
) -> OffloadBound:
    """Decoding one sequence while experts lie behind a link: each token's experts must come over
    it, save the share that is cached already. For experts computed on the host's processor the
    link is the host's memory, and there is no hit rate (KTransformers, Fiddler 2402.07033)."""
    check_number("link_bytes_per_s", link_bytes_per_s, open_low=True)
    check_number("hit_rate", hit_rate, 0, 1)
    moe, plan = architecture.moe, plan_of(plan)
    expert = moe.expert_parameters(architecture.d_model)
    bits = plan.format("routed_experts").bits
    layers = len(architecture.moe_layers)
    value = layers * moe.top_k * expert * bits / 8 * (1 - hit_rate)
    words = (
        f"{layers} MoE layers × {moe.top_k} experts × {expert:,} parameters × {bits:.4g} bits / 8 "
        f"× (1 - {hit_rate:g})"
    )
    terms = (Term("experts that must come", value, words, "routed_experts"),)
    return OffloadBound(Total("bytes", terms), link_bytes_per_s)
