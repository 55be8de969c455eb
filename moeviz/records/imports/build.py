"""A Trace from arrays that another program wrote, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.checks import brief, check_whole, one_line
from moeviz.records.routes import DomainTrace, Trace

LARGEST_EXPERTS = 2**15 - 1  # what int16 holds


@contextmanager
def reading(source: str | Path, what: str) -> Iterator[None]:
    """Around the parsing of a file: what another library raises is told in one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {source}.") from None
    except Exception as error:  # a damaged file makes libraries raise anything
        raise ValueError(f"{source} is not {what} ({one_line(error)}).") from None


def whole_numbers(source: str | Path, values: np.ndarray, what: str) -> np.ndarray:
    """The values as int64 [T, L, K]; ValueError for another shape or type, and where none are."""
    if values.ndim != 3 or values.dtype.kind not in "iu":
        raise ValueError(
            f"{source} must hold whole numbers [tokens, layers, choices], got {values.dtype} of "
            f"the shape {values.shape}; give {what}."
        )
    if not values.size:
        raise ValueError(f"{source} is empty: its shape is {values.shape}.")
    return values.astype(np.int64)


def build_trace(
    source: str | Path,
    expert_TLK: np.ndarray,
    *,
    num_experts: int,
    weight_TLK: np.ndarray | None = None,
    tokens: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    meta: dict[str, Any],
) -> Trace:
    """The Trace of one sequence.

    expert_TLK: int64, -1 where a choice was not served; weight_TLK: None where the format has
    none; tokens: readable pieces, None for positions; layers: block numbers, 0 to L - 1 where None.
    ValueError for sizes that disagree, ids beyond the experts, an expert chosen twice by one token,
    and weights that are no finite numbers.
    """
    check_whole("num_experts", num_experts, high=LARGEST_EXPERTS)
    T, L, _ = expert_TLK.shape
    layers = tuple(range(L)) if layers is None else tuple(layers)
    if len(layers) != L:
        raise ValueError(
            f"{source} holds {L} layers, but {len(layers)} were named; name each one that it holds."
        )
    for layer in layers:
        check_whole("a layer", layer, low=0)
    if len(set(layers)) < L:
        raise ValueError(f"layers must name different blocks, got {brief(layers)}.")
    _check_experts(source, expert_TLK, num_experts, layers)
    if weight_TLK is None:
        weight_TLK = np.full(expert_TLK.shape, np.nan, np.float32)
    else:
        _check_weights(source, weight_TLK, layers)
    return Trace(
        tokens=_pieces(source, tokens, T),
        expert=expert_TLK.astype(np.int16),
        weight=weight_TLK.astype(np.float32),
        # One number seen everywhere: a real array of them would be larger than all the rest.
        score=np.broadcast_to(np.float32(np.nan), (T, L, num_experts)),
        layers=layers,
        meta={"source": Path(source).name, "tokens": "given" if tokens else "positions"} | meta,
    )


def _check_experts(
    source: str | Path, expert_TLK: np.ndarray, num_experts: int, layers: tuple[int, ...]
) -> None:
    bad = np.argwhere((expert_TLK < -1) | (expert_TLK >= num_experts))
    if len(bad):
        t, layer, k = bad[0]
        raise ValueError(
            f"{source}: token {t} chooses expert {expert_TLK[t, layer, k]} in layer "
            f"{layers[layer]}, but there are experts 0 to {num_experts - 1}; give the number of "
            "experts that the router chooses from."
        )
    in_order = np.sort(expert_TLK, axis=2)
    twice = np.argwhere((np.diff(in_order, axis=2) == 0) & (in_order[..., 1:] >= 0))
    if len(twice):
        t, layer, k = twice[0]
        raise ValueError(
            f"{source}: token {t} chooses expert {in_order[t, layer, k]} twice in layer "
            f"{layers[layer]}; programs write such rows where they recorded nothing, as in a layer "
            "without experts: leave them out, or record again."
        )


def _check_weights(source: str | Path, weight_TLK: np.ndarray, layers: tuple[int, ...]) -> None:
    bad = np.argwhere(~np.isfinite(weight_TLK))
    if len(bad):
        t, layer, k = bad[0]
        raise ValueError(
            f"{source}: the weight of token {t} in layer {layers[layer]} is "
            f"{weight_TLK[t, layer, k]}, not a finite number; record again."
        )


def _pieces(source: str | Path, tokens: Sequence[str] | None, T: int) -> tuple[str, ...]:
    """The T pieces. An engine routes no token after the last one, so one piece may be left over."""
    if tokens is None:
        return tuple(str(t) for t in range(T))
    if len(tokens) not in (T, T + 1):
        raise ValueError(
            f"{source} routes {T} tokens, but {len(tokens)} were given; give those {T}, or one "
            "more (an engine does not route the last token that it writes)."
        )
    return tuple(tokens[:T])


def by_weight(expert_TLK: np.ndarray, weight_TLK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The choices and weights of each token with its largest weight first, for a format that keeps
    them in no order."""
    order = np.argsort(-weight_TLK, axis=2, kind="stable")
    return np.take_along_axis(expert_TLK, order, 2), np.take_along_axis(weight_TLK, order, 2)


def joined(traces: Sequence[Trace]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Traces of one model end to end: expert int16 [T, L, K], weight float32 [T, L, K], and each
    token's sequence, its trace's number, int64 [T]. ValueError where their sizes differ."""
    sizes = {(trace.layers, trace.top_k, trace.num_experts) for trace in traces}
    if len(sizes) != 1:
        raise ValueError(
            f"Traces to be joined must be of one model, got {len(sizes)} different sets of layers, "
            "choices and experts."
        )
    lengths = [len(trace.expert) for trace in traces]
    return (
        np.concatenate([trace.expert for trace in traces]),
        np.concatenate([trace.weight for trace in traces]),
        np.repeat(np.arange(len(traces)), lengths),
    )


def of_domains(traces: Mapping[str, Sequence[Trace]]) -> DomainTrace:
    """The traces of each domain as one record, by the domains' names; each trace is a sequence.
    Tokens are told apart by their pieces. ValueError where a domain has none, or sizes differ."""
    if empty := [name for name, of_domain in traces.items() if not of_domain]:
        raise ValueError(f"Each domain must have a trace at least, {empty[0]} has none.")
    if not traces:
        raise ValueError("There is no domain; give the traces of each by its name.")
    every = [trace for of_domain in traces.values() for trace in of_domain]
    expert, _, _ = joined(every)
    pieces = [piece for trace in every for piece in trace.tokens]
    if any(trace.meta.get("tokens") == "positions" for trace in every):
        token = np.full(len(expert), -1, np.int32)
    else:
        token = np.unique(pieces, return_inverse=True)[1].astype(np.int32)
    counts = [len(of_domain) for of_domain in traces.values()]
    return DomainTrace(
        domains=tuple(traces),
        expert=expert,
        token=token,
        domain=np.repeat(np.arange(len(traces)), counts).astype(np.int32),
        length=np.array([len(trace.expert) for trace in every], np.int32),
        num_experts=every[0].num_experts,
        layers=every[0].layers,
        meta=every[0].meta,
    )
