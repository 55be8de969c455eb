"""Floating-point operations, 2 per multiply-add, of every matrix that a token meets.

Left out, as in the papers: norms, softmax, rotary positions, activation functions, and the lookup
of the input embedding. Attention is causal: a token at position i sees i keys, itself among them.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from moeviz.checks import check_number, check_whole
from moeviz.costs.shape.architecture import Architecture
from moeviz.costs.shape.positions import Positions
from moeviz.costs.shape.terms import Term, Total, single


@lru_cache(maxsize=1024)
def _flops(architecture: Architecture, positions: Positions, absorbed: bool) -> Total:
    architecture.decoder_only()
    elements: Counter[tuple[str, str]] = Counter()
    for times, item in architecture.weights():
        if item.matmul and item.active:
            elements[item.label, item.component] += times * item.active
    terms = [
        Term(label, 2 * count, f"2 × {count:,} elements", component)
        for (label, component), count in elements.items()
    ]
    return Total("FLOPs", (*terms, *_products(architecture, positions, absorbed)))


def _products(architecture: Architecture, positions: Positions, absorbed: bool) -> tuple[Term, ...]:
    """What a token multiplies with keys, values and states of the past."""
    terms = []
    for times, mixer in architecture.mixers():
        each = mixer.score_flops(positions, absorbed)
        state = any(part.state for part in mixer.caches())
        what = "updates of the state" if state else "products with keys and values"
        words = f"{times} layers × {each:,.0f}"
        terms.append(Term(f"{mixer.kind}: {what}", times * each, words, "attention"))
    return tuple(terms)


def forward_flops_per_token(architecture: Architecture, sequence_tokens: int) -> Total:
    """One token of a causal sequence, the mean over its positions, which see (S + 1) / 2 keys."""
    check_whole("sequence_tokens", sequence_tokens)
    return _flops(architecture, Positions(1, sequence_tokens), False)


def decode_flops_per_token(
    architecture: Architecture, context_tokens: int, *, absorbed: bool = True
) -> Total:
    """One generated token that sees context_tokens keys, itself among them.

    absorbed: latent attention multiplies by the cached vectors themselves, H (2 r_kv + rope) per
    key instead of H (d_qk + d_v) (DeepSeek-V2, 2405.04434): more FLOPs, far fewer bytes.
    """
    check_whole("context_tokens", context_tokens)
    return _flops(architecture, Positions(context_tokens, context_tokens), absorbed)


def training_flops_per_token(architecture: Architecture, sequence_tokens: int) -> Total:
    """Forward once and backward twice over: 3 times forward_flops_per_token."""
    return forward_flops_per_token(architecture, sequence_tokens).scaled(3, "3 (forward, backward)")


def six_n_d_flops(active_parameters: float, tokens: float) -> Total:
    """The short form 6 N D of training FLOPs (Kaplan et al. 2020, 2001.08361): attention's products
    left out. For a sparse model N is what one token meets."""
    check_number("active_parameters", active_parameters, open_low=True)
    check_number("tokens", tokens, open_low=True)
    words = f"6 × {active_parameters:.4g} parameters × {tokens:.4g} tokens"
    return single("FLOPs", "training", 6 * active_parameters * tokens, words)
