"""Traces that were published with studies: ESFT, FLAME-MoE, and MoELens, which has counts alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.checks import check_whole
from moeviz.records.imports.build import build_trace, by_weight, reading
from moeviz.records.routes import DomainCounts, Trace


def read_esft(folder: Path | str, *, top_k: int = 6, num_experts: int = 64) -> list[Trace]:
    """One task of deepseek-ai/ESFT, results/expert_scores/TASK: a trace for each sequence.

    Its file expert_weights_N.txt is of block N. A line is a sequence: top_k T ids, two tabs, as
    many weights. A token's choices are put in the order of their weights, which the file lacks.
    """
    check_whole("top_k", top_k)
    files = _numbered(folder, "expert_weights_*.txt")
    by_layer = [_esft_lines(path, top_k) for path in files.values()]
    counts = {len(lines) for lines in by_layer}
    if len(counts) > 1:
        raise ValueError(
            f"{folder}: its layers hold {min(counts)} to {max(counts)} sequences; all must hold as "
            "many, so fetch the files again."
        )
    traces = []
    for number, lines in enumerate(zip(*by_layer, strict=True)):
        source = f"{folder}, sequence {number}"
        if len({ids.shape for ids, _ in lines}) > 1:
            raise ValueError(
                f"{source} has another length in another layer; fetch the files again."
            )
        ids, weights = (np.stack(arrays, axis=1) for arrays in zip(*lines, strict=True))
        expert_TLK, weight_TLK = by_weight(ids, weights)
        traces.append(
            build_trace(
                source,
                expert_TLK,
                num_experts=num_experts,
                weight_TLK=weight_TLK,
                layers=list(files),
                meta={"format": "ESFT", "domain": Path(folder).name, "sequence": number},
            )
        )
    return traces


def _esft_lines(path: Path, top_k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each line the ids int64 [T, K] and the weights float64 [T, K]."""
    with reading(path, "a text file"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty: it has no sequence.")
    sequences = []
    for number, line in enumerate(lines, 1):
        with reading(f"{path}, line {number},", "ids, two tabs and weights"):
            ids, weights = (part.split("\t") for part in line.split("\t\t"))
            expert_N, weight_N = np.array(ids, dtype=np.int64), np.array(weights, dtype=np.float64)
        if len(expert_N) != len(weight_N) or len(expert_N) % top_k:
            raise ValueError(
                f"{path}, line {number}, holds {len(expert_N)} ids and {len(weight_N)} weights; "
                f"there must be as many of both, {top_k} a token."
            )
        sequences.append((expert_N.reshape(-1, top_k), weight_N.reshape(-1, top_k)))
    return sequences


def _numbered(folder: Path | str, pattern: str) -> dict[int, Path]:
    """The files of a folder by the number that their name ends in, in its order."""
    files = {}
    for path in Path(folder).glob(pattern):
        if number := re.search(r"(\d+)$", path.stem):
            files[int(number[1])] = path
    if not files:
        raise ValueError(f"{folder} holds no file {pattern}; name the folder that holds them.")
    return dict(sorted(files.items()))


def read_flame(
    folder: Path | str, *, num_tokens: int, samples: Path | str | None = None, num_experts: int = 64
) -> Trace:
    """The first num_tokens tokens of one checkpoint of CMU-FLAME/FLAME-MoE-Traces.

    folder: actives/iter_N, whose file layer_N.parquet is of block N, with scores float16 [6] (the
    probabilities of the chosen experts alone: they become the weights) and indices int16 [6];
    samples: the file samples/000.parquet with each row's token_id. It is the training stream of
    53 million tokens, one sequence here, for the files do not say where its texts end.
    """
    check_whole("num_tokens", num_tokens)
    files = _numbered(folder, "layer_*.parquet")
    columns = [_columns(path, ("indices", "scores"), num_tokens) for path in files.values()]
    ids = None
    if samples is not None:
        (ids,) = _columns(Path(samples), ("token_id",), num_tokens)
        columns.append((ids, ids))
    lengths = {len(column) for pair in columns for column in pair}
    if len(lengths) > 1:
        raise ValueError(
            f"{folder}: its files hold {min(lengths)} to {max(lengths)} of the first {num_tokens} "
            "tokens; all must hold as many, so ask for fewer, or fetch the files again."
        )
    layers = columns[: len(files)]
    shapes = {column.shape for pair in layers for column in pair}
    if len(shapes) > 1 or layers[0][0].ndim != 2:
        raise ValueError(f"{folder}: its rows must hold as many scores as indices, in all layers.")
    chosen, weights = (np.stack(arrays, axis=1) for arrays in zip(*layers, strict=True))
    expert_TLK, weight_TLK = by_weight(chosen.astype(np.int64), weights)
    return build_trace(
        folder,
        expert_TLK,
        num_experts=num_experts,
        weight_TLK=weight_TLK,
        tokens=None if ids is None else [str(token) for token in ids.tolist()],
        layers=list(files),
        meta={"format": "FLAME-MoE"} | ({} if ids is None else {"tokens": "ids"}),
    )


def _columns(path: Path, names: Sequence[str], num_rows: int) -> tuple[np.ndarray, ...]:
    """The first rows of some columns of a parquet file; lists of one length become [rows, length].
    No more than these rows is read."""
    with reading(path, "a readable parquet file"):
        import pyarrow.parquet as parquet

        file = parquet.ParquetFile(path)
    missing = [name for name in names if name not in file.schema_arrow.names]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]}, but {', '.join(file.schema_arrow.names[:5])}; it "
            "is not a file of FLAME-MoE-Traces."
        )
    with reading(path, "a file of FLAME-MoE-Traces, with lists of one length"), file:
        rows: dict[str, list[Any]] = {name: [] for name in names}
        for batch in file.iter_batches(batch_size=num_rows, columns=list(names)):
            for name in names:
                rows[name] += batch[name].to_pylist()
            if len(rows[names[0]]) >= num_rows:
                break
        columns = tuple(np.array(rows[name][:num_rows]) for name in names)
        if not len(columns[0]):
            raise ValueError("it has no row")
        for name, column in zip(names, columns, strict=True):
            if column.dtype.kind not in ("iuf" if name == "scores" else "iu"):
                raise ValueError(f"the column {name} holds {column.dtype}")
    return columns


def read_moelens(path: Path | str) -> DomainCounts:
    """A domain_specialization.json of MoELens: how often each domain chose each expert, in the
    layers that have any."""
    with reading(path, "a JSON file"):
        study: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    with reading(path, "a domain_specialization.json of MoELens"):
        domains = tuple(str(domain) for domain in study["domains"])
        size = len(domains), int(study["num_layers"]), int(study["num_experts"])
        layers = [n for n in range(size[1]) if n not in study.get("dense_layers", [])]
        top_k = int(study["top_k_experts"])
        count_DLE = np.array([study["expert_token_count"][domain] for domain in domains])
        tokens_D = np.array([study["token_counts"][domain] for domain in domains])
    if len(set(domains)) < len(domains) or not layers or tokens_D.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must name each domain once, with a whole number of tokens, and a layer at "
            "least that is not in its dense_layers."
        )
    if count_DLE.shape != size or not count_DLE.size or count_DLE.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must hold whole numbers [domains, layers, experts] = {size}, got "
            f"{count_DLE.dtype} of the shape {count_DLE.shape}."
        )
    count_DLE = count_DLE[:, layers]
    if (count_DLE < 0).any() or (count_DLE > tokens_D[:, None, None]).any():
        raise ValueError(f"{path} counts an expert less than never, or for more tokens than were.")
    if (count_DLE.sum(2) != top_k * tokens_D[:, None]).any():
        raise ValueError(
            f"{path} counts other than {top_k} choices of each token; name a layer without "
            "experts in its dense_layers."
        )
    return DomainCounts(
        domains=domains,
        count=count_DLE.astype(np.int64),
        tokens=tokens_D.astype(np.int64),
        top_k=top_k,
        layers=tuple(layers),
        meta={"source": Path(path).name, "format": "MoELens"},
    )
