"""Traces of inference engines, which keep the ids of the chosen experts alone.

A token's choices stay in the engine's order. It is that of the scores, but for routers that choose
among groups or by corrected scores: there an engine may keep them in none.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moeviz.checks import brief, check_whole
from moeviz.records.imports.build import build_trace, reading, whole_numbers
from moeviz.records.routes import Trace

TOKEN_COLUMNS = ("token", "layer", "expert")  # of the moe-trace that names the token


def read_vllm(
    source: Path | str,
    *,
    num_experts: int,
    tokens: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> Trace:
    """What vLLM returns as `routed_experts` (--enable-return-routed-experts).

    source: a .npy file, or the base64 text of one, whole numbers [tokens - 1, layers, choices]. A
    version that gives the prompt's apart, as prompt_routed_experts, has two such texts.
    """
    if not isinstance(source, str | Path):
        raise ValueError(
            f"source must be a .npy file or a base64 text, got {brief(source)}; for an array use "
            "np.save."
        )
    in_file = isinstance(source, Path) or source.endswith(".npy")  # base64 has no dot
    label = str(source) if in_file else "routed_experts"
    with reading(label, "a .npy file" if in_file else "the base64 text of a .npy file"):
        data = (
            Path(source).read_bytes() if in_file else base64.b64decode(str(source), validate=True)
        )
        routed = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(routed, np.ndarray):
            raise ValueError("it is a .npz file, of many arrays")
    expert_TLK = whole_numbers(label, routed, "the routed_experts of one sequence")
    _refuse_gaps(label, expert_TLK)
    return build_trace(
        label, expert_TLK, num_experts=num_experts, tokens=tokens, layers=layers,
        meta={"format": "vLLM routed_experts"},
    )  # fmt: skip


def read_sglang(
    source: str,
    *,
    num_layers: int,
    top_k: int,
    num_experts: int,
    tokens: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> Trace:
    """What SGLang returns as `routed_experts`: the base64 text of int32 ids without their shape,
    [tokens - 1, layers, choices]."""
    check_whole("num_layers", num_layers)
    check_whole("top_k", top_k)
    label = "routed_experts"
    with reading(label, "the base64 text of int32 numbers"):
        flat = np.frombuffer(_from_base64(source), "<i4")
    if flat.size % (num_layers * top_k):
        raise ValueError(
            f"{label} holds {flat.size} ids, which {num_layers} layers of {top_k} choices do not "
            "divide; give the numbers of the model that was traced."
        )
    ids_TLK = whole_numbers(label, flat.reshape(-1, num_layers, top_k), "that of one sequence")
    _refuse_gaps(label, ids_TLK)
    return build_trace(
        label, ids_TLK, num_experts=num_experts, tokens=tokens, layers=layers,
        meta={"format": "SGLang routed_experts"},
    )  # fmt: skip


def _refuse_gaps(label: str, expert_TLK: np.ndarray) -> None:
    """Both engines leave zeros where they recorded nothing. With more choices than one that is an
    expert chosen twice, which no trace may have; with one choice it is looked for here."""
    silent_L, silent_T = ((expert_TLK == 0).all((axis, 2)) for axis in (0, 1))
    if min(expert_TLK.shape[:2]) > 1 == expert_TLK.shape[2] and (silent_L.any() or silent_T.any()):
        where = f"layer {silent_L.argmax()}" if silent_L.any() else f"token {silent_T.argmax()}"
        raise ValueError(
            f"{label}: all choices of {where} are expert 0; engines write zeros where they "
            "recorded nothing, as in a layer without experts: leave them out, or record again."
        )


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def read_llama_cpp(
    path: Path | str, *, top_k: int, num_experts: int, tokens: Sequence[str] | None = None
) -> Trace:
    """The CSV of llama.cpp's moe-trace, of one prompt and its continuation.

    Two layouts: rows `layer,expert` without a header (pull request 28544), where a token is known
    by the order of its rows; and a header that names at least token, layer and expert.
    """
    check_whole("top_k", top_k)
    with reading(path, "a CSV of moe-trace"):
        text = Path(path).read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(text.splitlines()) if row]
    if not rows:
        raise ValueError(f"{path} is empty: it has no row.")
    named = not rows[0][0].strip().lstrip("-").isdigit()
    by_layer = (_named_rows if named else _bare_rows)(path, rows, top_k)
    if not named:
        _refuse_rankings(path, by_layer, top_k, num_experts)
    lengths = {len(expert_TK): layer for layer, expert_TK in by_layer.items()}
    if len(lengths) > 1:
        few, many = min(lengths), max(lengths)
        raise ValueError(
            f"{path}: layer {lengths[few]} has the choices of {few} tokens and layer "
            f"{lengths[many]} of {many}; llama.cpp computes its last layer only where logits are "
            "wanted, so leave that layer's rows out."
        )
    return build_trace(
        path, np.stack(list(by_layer.values()), axis=1), num_experts=num_experts, tokens=tokens,
        layers=list(by_layer), meta={"format": "llama.cpp moe-trace"},
    )  # fmt: skip


def _bare_rows(path: Path | str, rows: list[list[str]], top_k: int) -> dict[int, np.ndarray]:
    """By layer its choices [T, K]: batch after batch, layer after layer, token after token."""
    with reading(path, "a CSV of moe-trace, rows of a layer and an expert"):
        layer_N, expert_N = np.array(rows, dtype=np.int64).T
    by_layer = {int(layer): expert_N[layer_N == layer] for layer in np.unique(layer_N)}
    for layer, ids in by_layer.items():
        if len(ids) % top_k:
            raise ValueError(
                f"{path} holds {len(ids)} choices of layer {layer}, which {top_k} a token do not "
                "divide; give the top_k of the model that was traced."
            )
    return {layer: ids.reshape(-1, top_k) for layer, ids in by_layer.items()}


def _named_rows(path: Path | str, rows: list[list[str]], top_k: int) -> dict[int, np.ndarray]:
    """By layer its choices [T, K], from rows that name their token."""
    header = [name.strip() for name in rows[0]]
    missing = [name for name in TOKEN_COLUMNS if name not in header]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]}; a moe-trace has {', '.join(TOKEN_COLUMNS)}, or "
            "rows of a layer and an expert without a header."
        )
    columns = [header.index(name) for name in TOKEN_COLUMNS]
    with reading(path, "a CSV of moe-trace, whole numbers below its header"):
        picked = [[row[column] for column in columns] for row in rows[1:]]
        table = np.array(picked, dtype=np.int64).reshape(-1, 3)
    if not len(table):
        raise ValueError(f"{path} is empty: it has no row below its header.")
    token_N, layer_N, _ = table.T
    table = table[np.lexsort((token_N, layer_N))]  # stable: the choices of a token keep their order
    by_layer = {}
    for layer in np.unique(layer_N):
        token, _, ids = table[table[:, 1] == layer].T
        if not np.array_equal(token, np.repeat(np.arange(len(token) // top_k), top_k)):
            raise ValueError(
                f"{path}: layer {layer} has not exactly {top_k} choices of each token from 0 on; "
                "give the top_k of the model, and the trace of one sequence."
            )
        by_layer[int(layer)] = ids.reshape(-1, top_k)
    return by_layer


def _refuse_rankings(
    path: Path | str, by_layer: dict[int, np.ndarray], top_k: int, num_experts: int
) -> None:
    """Early versions read the top-k ids of a batch, a view with gaps, as if it had none, and so
    wrote the ranking of all experts for one token as the choices of several."""
    first = [expert_TK.ravel()[:num_experts] for expert_TK in by_layer.values()]
    every = np.arange(num_experts)
    if num_experts > 2 * top_k and all(np.array_equal(np.sort(ids), every) for ids in first):
        raise ValueError(
            f"{path}: the first {num_experts} choices of every layer name each expert once, which "
            "is the ranking of one token; this version of moe-trace misreads batches: record again "
            "with --ubatch-size 1, or with one that writes a header."
        )
