"""Bytes: of weights under a quantisation plan, and of the cache."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.checks import check_number, check_whole
from moeviz.costs.cost.parameters import parameters
from moeviz.costs.cost.quantisation import QuantPlan, plan_of
from moeviz.costs.known.devices import Device
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.mixers import LatentAttention
from moeviz.costs.shape.terms import Term, Total

CACHE_BITS = 16  # bf16; DeepSeek-V2 deployed 6


def weight_bytes(architecture: Architecture, plan: QuantPlan | str = "bf16") -> Total:
    """The checkpoint: parameters of each component times the bits of its format."""
    plan = plan_of(plan)
    terms = []
    for component, count in parameters(architecture).components.items():
        form = plan.format(component)
        words = f"{count:,} parameters × {form.bits:.4g} bits / 8, {form.name}"
        terms.append(Term(component, count * form.bits / 8, words, component))
    return Total("bytes", tuple(terms))


def kv_cache_bytes(
    architecture: Architecture, context_tokens: int, batch: int = 1, *, bits: float = CACHE_BITS,
    state_bits: float = 32,
) -> Total:  # fmt: skip
    """What is kept of `batch` sequences of context_tokens each: keys and values by the kind of
    attention, windows at most their length; a recurrent layer's state, constant, in state_bits."""
    check_whole("context_tokens", context_tokens)
    check_whole("batch", batch)
    check_number("bits", bits, open_low=True)
    check_number("state_bits", state_bits, open_low=True)
    terms = []
    for times, mixer in architecture.mixers():
        for part in mixer.caches():
            size, each = state_bits if part.state else bits, part.formula(context_tokens)
            words = f"{batch} sequences × {times} layers × {each} × {size:g} bits / 8"
            value = batch * times * part.width * part.entries(context_tokens) * size / 8
            terms.append(Term(f"{mixer.kind}: {part.label}", value, words, "attention"))
    return Total("bytes", tuple(terms))


def kv_cache_bytes_per_token(
    architecture: Architecture, *, context_tokens: int = 0, bits: float = CACHE_BITS
) -> Total:
    """What the next token adds to the cache when so many are in it: a window that is full and a
    recurrent layer add nothing, a compressed cache its share of an entry."""
    check_whole("context_tokens", context_tokens, 0)
    check_number("bits", bits, open_low=True)
    terms = []
    for times, mixer in architecture.mixers():
        each = sum(part.growth(context_tokens) for part in mixer.caches())
        words = f"{times} layers × {each:g} elements × {bits:g} bits / 8"
        terms.append(Term(mixer.kind, times * each * bits / 8, words, "attention"))
    return Total("bytes", tuple(terms))


@dataclass(frozen=True)
class CacheBaseline:
    """Cached elements per token and layer of another attention, and how often ours go into them."""

    label: str
    elements: int
    ratio: float
    formula: str


def cache_baselines(architecture: Architecture) -> tuple[CacheBaseline, ...]:
    """What latent attention's cache is compared with: the factor is as large as the baseline.

    "57 times smaller" holds for DeepSeek-V3 against multi-head attention with as many heads of the
    value's width, a model that nobody trained. ValueError for an architecture without MLA.
    """
    latent = [m for _, m in architecture.mixers() if isinstance(m, LatentAttention)]
    if not latent:
        raise ValueError(f"{architecture.name} has no latent attention to compare.")
    mla = latent[0]
    own = mla.kv_rank + mla.rope_dim
    heads, value, key = mla.heads, mla.value_dim, mla.nope_dim + mla.rope_dim
    rows = [
        (f"MHA, {heads} heads, keys and values of {value}", 2 * heads * value,
         f"2 × heads {heads} × {value}"),
        (f"MHA with its own keys of {key}", heads * (key + value),
         f"heads {heads} × (key {key} + value {value})"),
        *((f"GQA, {groups} groups", 2 * groups * value, f"2 × groups {groups} × {value}")
          for groups in (8, 4) if groups < heads),
        ("MQA", 2 * value, f"2 × {value}"),
    ]  # fmt: skip
    return tuple(CacheBaseline(a, n, n / own, f"{words} / {own}") for a, n, words in rows)


@dataclass(frozen=True)
class Fit:
    """Whether a model with its cache lies in a machine's memory; free_bytes is negative where it
    does not. max_batch: sequences of that context which fit beside the weights."""

    weights: Total
    cache: Total
    capacity_bytes: float
    free_bytes: float
    max_batch: int

    @property
    def fits(self) -> bool:
        return self.free_bytes >= 0

    @property
    def terms(self) -> tuple[Term, ...]:
        """What a bar of the memory shows: weights, cache, and what is left or missing."""
        words = f"{self.capacity_bytes:.4g} - {self.weights.total:.4g} - {self.cache.total:.4g}"
        return (
            Term("weights", self.weights.total, "sum over components"),
            Term("cache", self.cache.total, "sum over kinds of attention"),
            Term("free", self.free_bytes, words),
        )


def fit(
    architecture: Architecture, device: Device, *, context_tokens: int, batch: int = 1,
    plan: QuantPlan | str = "bf16", devices: int = 1,
) -> Fit:  # fmt: skip
    """Weights and cache against the memory of `devices` devices together."""
    check_whole("devices", devices)
    weights = weight_bytes(architecture, plan)
    one = kv_cache_bytes(architecture, context_tokens, 1).total
    cache = kv_cache_bytes(architecture, context_tokens, batch)
    capacity = devices * device.memory_bytes
    room = capacity - weights.total
    largest = int(room // one) if room > 0 else 0
    return Fit(weights, cache, capacity, room - cache.total, largest)
