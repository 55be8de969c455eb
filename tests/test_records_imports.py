"""Others' traces: each layout is written here, read back whole, and refused where it is bad."""

import base64
import copy
import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from helpers.numerics import distinct_choices
from moeviz.records.imports import (
    joined,
    read_esft,
    read_flame,
    read_llama_cpp,
    read_moelens,
    read_sglang,
    read_vllm,
)
from moeviz.records.routes import DomainCounts, Trace

T, L, K, E = 9, 2, 3, 12
RNG = np.random.default_rng(0)
EXPERT = np.stack([distinct_choices(RNG, T, E, K) for _ in range(L)], axis=1)  # [T, L, K]
# Descending, and exact in float16 and in the decimals of a text.
WEIGHT = np.sort(RNG.integers(1, 64, (T, L, K)) / 128)[..., ::-1]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def vllm(folder, expert=EXPERT, dtype=np.int16, **options):
    (folder / "routed.npy").write_bytes(npy(expert.astype(dtype)))
    return read_vllm(folder / "routed.npy", num_experts=E, **options)


def vllm_text(folder, expert=EXPERT, dtype=np.uint8, **options):
    text = base64.b64encode(npy(expert.astype(dtype))).decode()
    return read_vllm(text, num_experts=E, **options)


def sglang(folder, expert=EXPERT, num_layers=L, top_k=K, **options):
    text = base64.b64encode(expert.astype("<i4").tobytes()).decode()
    return read_sglang(text, num_layers=num_layers, top_k=top_k, num_experts=E, **options)


def llama_bare(folder, expert=EXPERT, split=4, **options):
    """Two batches: of each, one layer after the other."""
    rows = [
        f"{layer},{e}"
        for batch in (expert[:split], expert[split:])
        for layer in range(L)
        for e in batch[:, layer].ravel()
    ]
    return llama(folder, rows, **options)


def llama_named(folder, expert=EXPERT, **options):
    rows = ["phase,token,layer,rank,expert"] + [
        f"decode,{t},{layer},{k},{expert[t, layer, k]}"
        for t in range(len(expert))
        for layer in range(L)
        for k in range(K)
    ]
    return llama(folder, rows, **options)


def llama(folder, rows, top_k=K, **options):
    (folder / "moe_trace.csv").write_text("".join(f"{row}\n" for row in rows))
    return read_llama_cpp(folder / "moe_trace.csv", top_k=top_k, num_experts=E, **options)


ENGINES = [vllm, vllm_text, sglang, llama_bare, llama_named]


@pytest.mark.parametrize("read", ENGINES)
def test_an_engine_tells_ids_alone_and_the_record_says_so(read, tmp_path):
    tokens = [f"t{n}" for n in range(T + 1)]  # an engine does not route the last one
    trace = read(tmp_path, tokens=tokens)
    np.testing.assert_array_equal(trace.expert, EXPERT)
    assert (trace.expert.dtype, trace.weight.dtype) == (np.int16, np.float32)
    assert (trace.num_experts, trace.top_k, trace.layers) == (E, K, (0, 1))
    assert (trace.tokens, trace.meta["tokens"]) == (tuple(tokens[:T]), "given")
    assert not trace.has_weights and not trace.has_scores and np.isnan(trace.weight).all()
    np.testing.assert_array_equal(trace.load(), [np.bincount(e.ravel(), minlength=E) for e in
                                                 EXPERT.swapaxes(0, 1)])  # fmt: skip
    nameless = read(tmp_path)
    assert nameless.meta["tokens"] == "positions" and len(nameless.tokens) == T
    trace.save(tmp_path / "trace.safetensors")
    again = Trace.load_file(tmp_path / "trace.safetensors")
    np.testing.assert_array_equal(again.expert, EXPERT)
    assert again.meta == trace.meta and not again.has_scores


def esft(folder, lengths=(5, 4), expert=EXPERT, weight=WEIGHT, edit=lambda name, text: text):
    """Blocks 1 and 10, choices shuffled: the text does not order them."""
    task = folder / "law"
    task.mkdir(exist_ok=True)
    shuffle = np.random.default_rng(1).permuted(np.tile(np.arange(K), (T, L, 1)), axis=2)
    expert, weight = (np.take_along_axis(a, shuffle, 2) for a in (expert, weight))
    for layer, block in enumerate((1, 10)):
        lines, start = [], 0
        for length in lengths:
            rows = slice(start, start + length)
            ids, weights = (
                "\t".join(map(str, a[rows, layer].ravel().tolist())) for a in (expert, weight)
            )
            lines.append(f"{ids}\t\t{weights}")
            start += length
        text = "".join(f"{line}\n" for line in lines)
        (task / f"expert_weights_{block}.txt").write_text(edit(block, text))
    return read_esft(task, top_k=K, num_experts=E)


def test_esft_is_a_trace_for_each_sequence_in_the_order_of_weights(tmp_path):
    traces = esft(tmp_path)
    assert [(len(t.tokens), t.layers, t.meta["domain"]) for t in traces] == [
        (5, (1, 10), "law"),
        (4, (1, 10), "law"),
    ]
    expert, weight, sequence = joined(traces)
    np.testing.assert_array_equal(weight, WEIGHT)
    tied = (np.diff(WEIGHT, axis=2) == 0).any(2)
    np.testing.assert_array_equal(expert[~tied], EXPERT[~tied])
    np.testing.assert_array_equal(np.sort(expert), np.sort(EXPERT))
    np.testing.assert_array_equal(sequence, [0] * 5 + [1] * 4)
    assert all(trace.has_weights and not trace.has_scores for trace in traces)
    with pytest.raises(ValueError, match="of one model, got 2 different"):
        joined([*traces, vllm(tmp_path)])


def flame(folder, num_tokens=T, expert=EXPERT, weight=WEIGHT, samples=True):
    """Choices with the smallest weight first."""
    expert, weight = expert[..., ::-1], weight[..., ::-1]
    for layer, block in enumerate((2, 3)):
        scores = pa.array(list(weight[:, layer].astype(np.float16)), pa.list_(pa.float16()))
        indices = pa.array(expert[:, layer].tolist(), pa.list_(pa.int16()))
        table = pa.table({"scores": scores, "indices": indices})
        parquet.write_table(table, folder / f"layer_{block:02d}.parquet", row_group_size=4)
    ids = pa.table({"token_id": pa.array(range(100, 100 + T), pa.int32())})
    parquet.write_table(ids, folder / "000.parquet")
    return read_flame(
        folder,
        num_tokens=num_tokens,
        samples=folder / "000.parquet" if samples else None,
        num_experts=E,
    )


@pytest.mark.parametrize("num_tokens", [1, 6, T, 100])  # 6: within the second group of rows
def test_flame_is_read_as_far_as_asked(num_tokens, tmp_path):
    trace = flame(tmp_path, num_tokens)
    rows = min(num_tokens, T)
    np.testing.assert_array_equal(trace.weight, WEIGHT[:rows])
    differ = (np.diff(WEIGHT[:rows], axis=2) != 0).all(2)
    np.testing.assert_array_equal(trace.expert[differ], EXPERT[:rows][differ])
    assert trace.layers == (2, 3) and trace.has_weights and not trace.has_scores
    assert trace.tokens[0] == "100" and trace.meta["tokens"] == "ids"
    assert flame(tmp_path, num_tokens, samples=False).meta["tokens"] == "positions"


def moelens(folder, **changes):
    """Two domains; layer 1 of three is dense."""
    count = np.zeros((2, 3, E), int)
    for domain, rows in enumerate((slice(0, 5), slice(5, T))):
        for place, layer in enumerate((0, 2)):
            count[domain, layer] = np.bincount(EXPERT[rows, place].ravel(), minlength=E)
    study = {
        "domains": ["code", "law"], "num_layers": 3, "num_experts": E, "top_k_experts": K,
        "token_counts": {"code": 5, "law": T - 5}, "dense_layers": [1],
        "expert_token_count": {"code": count[0].tolist(), "law": count[1].tolist()},
    }  # fmt: skip
    (folder / "domains.json").write_text(json.dumps(study | changes))
    return read_moelens(folder / "domains.json")


def test_moelens_has_counts_by_domain_and_no_tokens(tmp_path):
    counts = moelens(tmp_path)
    assert (counts.domains, counts.layers, counts.top_k) == (("code", "law"), (0, 2), K)
    np.testing.assert_array_equal(counts.tokens, [5, T - 5])
    load = [np.bincount(EXPERT[:, layer].ravel(), minlength=E) for layer in range(L)]
    np.testing.assert_array_equal(counts.count.sum(0), load)
    counts.save(tmp_path / "counts.safetensors")
    again = DomainCounts.load_file(tmp_path / "counts.safetensors")
    assert again.domains == counts.domains and (again.count == counts.count).all()


def test_of_one_choice_the_zeros_that_engines_leave_are_refused():
    """Of more choices they would be an expert chosen twice."""
    first = EXPERT[..., :1] % (E - 1) + 1
    for at, where in (((slice(None), 1), "layer 1"), ((4,), "token 4")):
        gaps = first.copy()
        gaps[at] = 0
        text = base64.b64encode(npy(gaps)).decode()
        with pytest.raises(ValueError, match=f"all choices of {where} are expert 0"):
            read_vllm(text, num_experts=E)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(weight=np.zeros((T, L, K + 1))),
            r"weight of a trace .* \(9, 2, 3\), got \(9, 2, 4\)",
        ),
        (dict(layers=(0,)), r"expert of a trace must have the size \(9, 1, 3\)"),
        (dict(tokens=("a",)), r"expert of a trace must have the size \(1, 2, 3\)"),
        (dict(expert=EXPERT.astype(np.int16) + 1), r"must lie in -1\.\.11, got 1\.\.12"),
        (
            dict(weight=np.where(WEIGHT == WEIGHT.max(), np.nan, WEIGHT)),
            "some are NaN",
        ),
    ],
)
def test_a_record_that_cannot_be_is_not_loaded(change, message, tmp_path):
    assert EXPERT.max() == E - 1
    whole = vllm(tmp_path)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(whole, **change)
    bent = copy.copy(whole)
    vars(bent).update(change)
    bent.save(tmp_path / "trace.safetensors")
    with pytest.raises(ValueError, match=f"trace.safetensors cannot be used: .*{message}"):
        Trace.load_file(tmp_path / "trace.safetensors")


# Refusals


def changed(value, at=(2, 1, 0)):
    expert = EXPERT.copy()
    expert[at] = value
    return expert


def ranking():
    """What a misread batch looks like: E / K tokens that share all experts out."""
    expert = EXPERT.copy()
    expert[: E // K] = np.arange(E).reshape(E // K, 1, K)
    return expert


def raw(name, data):
    """Any file under the name of a format."""

    def read(folder):
        path = folder / name
        path.write_bytes(data)
        if name.endswith(".csv"):
            return read_llama_cpp(path, top_k=K, num_experts=E)
        if name.endswith(".json"):
            return read_moelens(path)
        if name.endswith(".parquet"):
            return read_flame(folder, num_tokens=4, num_experts=E)
        return read_vllm(path, num_experts=E) if name.endswith(".npy") else read_esft(folder)

    return read


def archive():
    buffer = io.BytesIO()
    np.savez(buffer, a=EXPERT)
    return buffer.getvalue()


def foreign_parquet(**columns):
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return raw("layer_02.parquet", buffer.getvalue())


def bad_weight(folder):
    weight = WEIGHT.copy()
    weight[3, 0, 0] = np.nan
    return weight


def last_layer_short(folder):
    return llama(folder, [f"0,{e}" for e in EXPERT[:, 0].ravel()] + ["1,0", "1,1", "1,2"])


BAD = {
    "ids beyond the experts": (
        [lambda d, read=read: read(d, expert=changed(E)) for read in (*ENGINES, flame)],
        rf"token 2 chooses expert {E} in layer \d, but there are experts 0 to {E - 1}",
    ),
    "nothing recorded": (
        [lambda d, read=read: read(d, expert=changed(0, 4)) for read in ENGINES],
        r"token 4 chooses expert 0 twice in layer 0",
    ),
    "other tokens": (
        [lambda d, read=read: read(d, tokens=["a"]) for read in ENGINES],
        rf"routes {T} tokens, but 1 were given",
    ),
    "other layers": (
        [lambda d, read=read: read(d, layers=[3]) for read in (vllm, sglang)],
        "holds 2 layers, but 1 were named",
    ),
    "NaN": (
        [lambda d: esft(d, weight=bad_weight(d)), lambda d: flame(d, weight=bad_weight(d))],
        r"the weight of token 3 in layer \d is nan",
    ),
    "layers that cannot be": (
        [lambda d, bad=bad: vllm(d, layers=bad) for bad in ([1, 1], [-1, 0], ["a", "b"])],
        "layers must name different blocks|a layer must be a whole number",
    ),
    "no file at all": ([lambda d: read_vllm(b"", num_experts=E)], "a .npy file or a base64 text"),
    "no whole numbers": ([lambda d: vllm(d, dtype=float)], "must hold whole numbers .* float64"),
    "two axes": ([lambda d: vllm(d, expert=EXPERT[0])], r"of the shape \(2, 3\)"),
    "no token": (
        [lambda d, read=read: read(d, expert=EXPERT[:0]) for read in ENGINES]
        + [lambda d: flame(d, expert=EXPERT[:0], weight=WEIGHT[:0])],
        "empty|no row",
    ),
    "an empty file": (
        [raw(name, b"") for name in ("a.npy", "a.csv", "a.json", "layer_1.parquet",
                                     "expert_weights_1.txt")],
        "empty|is not a",
    ),  # fmt: skip
    "a pickle": ([raw("a.npy", npy(np.array([{}], dtype=object)))], "is not a .npy file"),
    "an archive": ([raw("a.npy", archive()), raw("a.npy", archive()[:60])], "is not a .npy file"),
    "numbers beyond all": (
        [
            raw("a.csv", b"0,9" + b"9" * 30),
            raw("expert_weights_1.txt", b"\t".join([b"9" * 30] * 6 + [b"", *[b"1"] * 6])),
        ],
        "is not a CSV of moe-trace|is not ids, two tabs",
    ),
    "no base64": ([lambda d: read_vllm("not base64!", num_experts=E)], "is not the base64 text"),
    "another shape": ([lambda d: sglang(d, num_layers=7)], "54 ids, which 7 layers of 3 choices"),
    "a foreign CSV": (
        [raw("a.csv", b"name,age\nAnn,3\n"), raw("a.csv", b"1,2,3\n"), raw("a.csv", b"0,x\n")],
        "has no column token|is not a CSV of moe-trace",
    ),
    "another top-k": (
        [lambda d: llama_bare(d, top_k=4), lambda d: llama_named(d, top_k=4)],
        "which 4 a token do not divide|has not exactly 4 choices",
    ),
    "the last layer of llama.cpp": ([last_layer_short], "layer 1 has the choices of 1 tokens"),
    "a misread batch": ([lambda d: llama_bare(d, expert=ranking())], "ranking of one token"),
    "ESFT: as many of both": (
        [lambda d: esft(d, edit=lambda block, text: text.replace("\n", "\t0.5\n", 1))],
        r"line 1, holds 15 ids and 16 weights",
    ),
    "ESFT: lines": (
        [lambda d: esft(d, edit=lambda block, text: text * block)], "2 to 20 sequences"
    ),
    "ESFT: a line": ([raw("expert_weights_1.txt", b"hello\n")], "line 1, is not ids, two tabs"),
    "ESFT: lengths": (
        [
            lambda d: esft(d, edit=lambda block, text: text if block == 1 else
                           "".join(reversed(text.splitlines(True))))
        ],
        "sequence 0 has another length in another layer",
    ),  # fmt: skip
    "no files": ([lambda d: read_esft(d), lambda d: read_flame(d, num_tokens=1)], "holds no file"),
    "a foreign parquet": (
        [
            foreign_parquet(age=[3, 4]),
            foreign_parquet(scores=["a", "b"], indices=[[1], [2]]),
            foreign_parquet(scores=[[0.5], [0.5]], indices=[[1.5], [2.5]]),
            foreign_parquet(scores=[[0.5], [0.5, 0.1]], indices=[[1], [1, 2]]),
            foreign_parquet(scores=[[0.5], [0.5]], indices=[[1, 0], [1, 2]]),
        ],
        "has no column indices, but age|is not a file of FLAME|as many scores as indices",
    ),
    "a foreign JSON": (
        [raw("a.json", b"[1]"), raw("a.json", b'{"domains": ["a"]}')],
        "is not a domain_specialization.json",
    ),
    "counts of another size": ([lambda d: moelens(d, num_experts=9)], r"= \(2, 3, 9\), got"),
    "a study of nothing": (
        [
            lambda d, bad=bad: moelens(d, **bad)
            for bad in (
                dict(dense_layers=[0, 1, 2]),
                dict(domains=["law", "law"]),
                dict(token_counts={"code": None, "law": 4}),
            )
        ],
        "must name each domain once, with a whole number of tokens, and a layer",
    ),
    "counts that miss some": ([lambda d: moelens(d, dense_layers=[])], "other than 3 choices"),
    "counts beyond the tokens": (
        [lambda d: moelens(d, token_counts={"code": 0, "law": 4})], "for more tokens than were"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_refused_in_one_sentence(fault, tmp_path):
    reads, message = BAD[fault]
    for number, read in enumerate(reads):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ValueError, match=message) as refusal:
            read(folder)
        assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


def test_a_file_that_is_not_there_is_named(tmp_path):
    for read in (
        lambda: read_vllm(tmp_path / "a.npy", num_experts=E),
        lambda: read_llama_cpp(tmp_path / "a.csv", top_k=K, num_experts=E),
        lambda: read_moelens(tmp_path / "a.json"),
    ):
        with pytest.raises(FileNotFoundError, match="There is no file .*a\\."):
            read()
