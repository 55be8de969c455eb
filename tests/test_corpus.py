"""The corpus: domains, a split that does not leak, stateless batches, and bad input."""

import json
import operator
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeviz.text import embedded as domains
from moeviz.text import sources
from moeviz.text.corpus import LEAK_WINDOW, Corpus, Manifest, load_corpus
from moeviz.text.embedded import Domain, Source, cut_documents
from moeviz.text.tokenizer import Tokenizer

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")
RepositoryNotFoundError = huggingface_hub.errors.RepositoryNotFoundError
TOKENIZER = Tokenizer.default()


def prose(count, seed=0):
    """Lines that hardly repeat one another."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    return ["".join(random.choice(letters, 90)) for _ in range(count)]


def tiny(**domains):
    made = tuple(Domain(name, tuple(documents), "test") for name, documents in domains.items())
    return Corpus(Source("tiny", made), TOKENIZER)


@pytest.fixture(scope="module")
def embedded():
    return load_corpus()


def text_of(corpus, domain, part):
    return corpus.tokenizer.decode(corpus.tokens(domain, part))


# --- the embedded corpus ---


def test_the_embedded_domains_are_there_and_of_use(embedded):
    assert {"arithmetic", "hex", "brackets"} <= set(embedded.domains)
    for row in embedded.manifest.domains:
        assert 45_000 < row.characters < 620_000, row
        share = row.validation_tokens / (row.train_tokens + row.validation_tokens)
        assert 0.03 < share < 0.13, row
        assert row.train_tokens == embedded.tokens(row.name).size
        assert row.validation_tokens == embedded.tokens(row.name, "validation").size
    assert load_corpus() is embedded


def test_no_run_of_validation_characters_stands_in_any_training_text(embedded):
    held_out = set()
    for domain in embedded.domains:
        text = text_of(embedded, domain, "validation")
        held_out.update(text[i : i + LEAK_WINDOW] for i in range(len(text) - LEAK_WINDOW + 1))
    for domain in embedded.domains:
        text = text_of(embedded, domain, "train")
        for i in range(len(text) - LEAK_WINDOW + 1):
            assert text[i : i + LEAK_WINDOW] not in held_out, (domain, text[i : i + LEAK_WINDOW])


def test_no_problem_and_not_its_mirror_image_stands_on_both_sides(embedded):
    apply = {"+": operator.add, "-": operator.sub, "*": operator.mul}
    pairs = []
    for part in ("train", "validation"):
        lines = text_of(embedded, "arithmetic", part).split()
        problems = [re.fullmatch(r"(\d+)([-+*])(\d+)=(\d+)", line).groups() for line in lines]
        assert all(apply[sign](int(a), int(b)) == int(c) for a, sign, b, c in problems)
        pairs.append({frozenset((a, b)) for a, _, b, _ in problems})
    assert not pairs[0] & pairs[1]
    assert len(pairs[1]) > 500


@pytest.mark.parametrize("domain", ["hex", "brackets"])
def test_generated_lines_stand_on_one_side(embedded, domain):
    train, validation = (
        set(text_of(embedded, domain, part).split("\n")) - {""} for part in ("train", "validation")
    )
    assert not train & validation


def test_brackets_balance(embedded):
    for line in text_of(embedded, "brackets", "train").split():
        while line != (shorter := re.sub(r"\(\)|\[\]|\{\}", "", line)):
            line = shorter
        assert line == ""


def test_generated_text_is_the_same_on_every_machine():
    made = (domains._arithmetic(), domains._hex_dumps(), domains._brackets())
    digests = [domains._digest("\n".join(domain.documents))[:16] for domain in made]
    assert digests == PINNED


PINNED = ["804436ad470d44ec", "b55e47da6ce21b9e", "6d18d06bf26038ac"]


def without_manual(monkeypatch, **paths):
    """The domains of a Python without its manual, and with these folders."""
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    real = domains.sysconfig.get_paths()
    monkeypatch.setattr(domains.sysconfig, "get_paths", lambda: real | paths)
    return domains.embedded_source.__wrapped__()


def test_a_python_without_manual_or_headers_falls_back(tmp_path, monkeypatch):
    source = without_manual(monkeypatch, include=str(tmp_path))
    origins = {domain.name: domain.origin for domain in source.domains}
    assert origins["english"].startswith("docstrings")
    assert origins["c"].startswith("C headers of numpy")
    assert source.left_out == ()


def test_a_domain_without_text_is_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(domains.np, "__file__", str(tmp_path / "__init__.py"))
    source = without_manual(monkeypatch, stdlib=str(tmp_path), include=str(tmp_path))
    assert [domain.name for domain in source.domains] == ["arithmetic", "hex", "brackets"]
    assert [text.split('"')[1] for text in source.left_out] == ["python", "english", "c"]
    assert Corpus(source, TOKENIZER).manifest.left_out == source.left_out


# --- batches ---


def test_a_batch_is_a_pure_function_of_seed_and_step(embedded):
    sizes = {"batch_size": 8, "seq_len": 32}
    first = embedded.batch(seed=3, step=7, **sizes)
    embedded.batch(seed=3, step=8, **sizes)
    again = Corpus(domains.embedded_source(), TOKENIZER).batch(seed=3, step=7, **sizes)
    assert np.array_equal(first.tokens, again.tokens)
    assert np.array_equal(first.domain, again.domain)
    assert first.tokens.shape == (8, 33)
    assert first.tokens.dtype == first.domain.dtype == np.int64
    for other in ({"seed": 4, "step": 7}, {"seed": 3, "step": 8}, {"seed": 7, "step": 3}):
        assert not np.array_equal(first.tokens, embedded.batch(**other, **sizes).tokens)


def test_each_sequence_is_a_run_of_its_own_domain(embedded):
    batch = embedded.batch(seed=0, step=0, batch_size=12, seq_len=16)
    for row, domain in zip(batch.tokens, batch.domain, strict=True):
        stream = embedded.tokens(embedded.domains[domain])
        runs = np.lib.stride_tricks.sliding_window_view(stream, 17)
        assert (runs == row).all(axis=1).any()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 16])
def test_domains_share_equally_whatever_the_batch_size(embedded, batch_size):
    count = len(embedded.domains)
    seen = np.zeros(count, dtype=int)
    for step in range(count):
        batch = embedded.batch(seed=0, step=step, batch_size=batch_size, seq_len=4)
        here = np.bincount(batch.domain, minlength=count)
        assert here.max() - here.min() <= 1
        seen += here
    assert (seen == batch_size).all()


def test_validation_windows_are_fixed_evenly_spaced_and_reach_both_ends(embedded):
    batch = embedded.validation(seq_len=64, windows_per_domain=5)
    assert batch.tokens.shape == (5 * len(embedded.domains), 65)
    assert batch.tokens.dtype == np.int64
    assert (np.bincount(batch.domain) == 5).all()
    stream = embedded.tokens(embedded.domains[0], "validation")
    assert np.array_equal(batch.tokens[0], stream[:65])
    assert np.array_equal(batch.tokens[4], stream[-65:])
    assert embedded.validation(seq_len=8, windows_per_domain=1).tokens.shape[1] == 9


def test_every_position_of_a_short_stream_can_be_drawn():
    corpus = tiny(a=prose(20))
    size = corpus.tokens("a").size
    batch = corpus.batch(seed=0, step=0, batch_size=3, seq_len=size - 1)
    assert np.array_equal(batch.tokens[2], corpus.tokens("a"))
    seen = corpus.batch(seed=0, step=0, batch_size=200, seq_len=size - 3).tokens[:, 0]
    assert set(seen) == set(corpus.tokens("a")[:3].tolist())


def test_streams_are_read_only(embedded):
    with pytest.raises(ValueError, match="read-only"):
        embedded.tokens("hex")[0] = 1


@pytest.mark.parametrize(
    "sizes",
    [
        {"seed": -1},
        {"step": -1},
        {"seed": 1 << 64},
        {"batch_size": 0},
        {"seq_len": 0},
        {"seq_len": 10**9},
    ],
)
def test_impossible_batches_are_refused(embedded, sizes):
    with pytest.raises(ValueError, match=f"{next(iter(sizes))}={next(iter(sizes.values()))}"):
        embedded.batch(**{"seed": 0, "step": 0, "batch_size": 1, "seq_len": 8, **sizes})


def test_impossible_validation_is_refused(embedded):
    with pytest.raises(ValueError, match="windows_per_domain must be .*, got 0"):
        embedded.validation(seq_len=8, windows_per_domain=0)
    with pytest.raises(ValueError, match='seq_len=1000000.*".*" has .* tokens; choose a shorter'):
        embedded.validation(seq_len=1_000_000, windows_per_domain=1)


def test_an_unknown_domain_or_part_is_refused(embedded):
    for wrong in (("latin", "train"), ("hex", "test")):
        with pytest.raises(ValueError, match="choose"):
            embedded.tokens(*wrong)


# --- splitting ---


def test_documents_are_split_whole_and_repeated_ones_dropped():
    documents = prose(60)
    corpus = tiny(a=documents + documents)
    assert corpus.manifest.domains[0].documents == 60
    train, validation = (text_of(corpus, "a", part) for part in ("train", "validation"))
    assert all((document in train) != (document in validation) for document in documents)
    assert validation.count("\n\n") == 6


def test_the_split_does_not_depend_on_the_order_of_documents():
    documents = prose(60)
    one, two = tiny(a=documents), tiny(a=documents[::-1])
    kept = [sorted(text_of(corpus, "a", "validation").split("\n")) for corpus in (one, two)]
    assert kept[0] == kept[1]


def test_a_copied_paragraph_leaves_validation_whichever_domain_trained_on_it():
    licence = "\n".join(prose(2, seed=9))
    ones = [f"{licence}\n\n{line}" for line in prose(40, seed=1)]
    twos = [f"{line}\n\n{licence}" for line in prose(40, seed=2)]
    corpus = tiny(a=ones, b=prose(40, seed=3), c=twos)
    for domain in "ac":
        assert licence in text_of(corpus, domain, "train")
        assert licence.split("\n")[0] not in text_of(corpus, domain, "validation")
    assert [row.leaked_characters > 0 for row in corpus.manifest.domains] == [True, False, True]


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match='"a" has 1 document.*give more text'):
        tiny(a=["one"])
    with pytest.raises(ValueError, match='"a" has 0 document'):
        tiny(a=[])
    block = "x" * 300
    with pytest.raises(ValueError, match="repeats itself"):
        tiny(a=[f"{block}{i}" for i in range(30)])


@given(st.text(alphabet="ab \n", max_size=400), st.integers(1, 50))
def test_cutting_loses_no_word_and_keeps_to_the_size(text, size):
    documents = cut_documents(text, size)
    assert "".join("".join(documents).split()) == "".join(text.split())
    assert all(document.strip() and len(document) <= 2 * size + 2 for document in documents)


# --- the manifest ---


def test_a_manifest_comes_back_from_json_and_notices_changes(embedded):
    manifest = embedded.manifest
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert Manifest.from_json(text).fingerprint == manifest.fingerprint
    assert str(Path.home()) not in text and sys.prefix not in text
    edited = json.loads(text)
    edited["domains"][0]["documents"] += 1
    with pytest.raises(ValueError, match="was changed"):
        Manifest.from_json(json.dumps(edited))
    for damaged in ("", "{}", "[]", "null", text[:-9], '{"fingerprint": 1, "domains": 2}'):
        with pytest.raises(ValueError, match="no corpus manifest"):
            Manifest.from_json(damaged)


def test_the_fingerprint_follows_the_text_and_the_tokenizer():
    documents = prose(30)
    base = tiny(a=documents).manifest.fingerprint
    assert tiny(a=documents).manifest.fingerprint == base
    assert tiny(a=documents[:-1]).manifest.fingerprint != base
    other = Tokenizer.train(documents, 300)
    source = Source("tiny", (Domain("a", tuple(documents), "test"),))
    assert Corpus(source, other).manifest.fingerprint != base


# --- local files ---


def write(path, texts):
    if path.suffix == ".txt":
        path.write_text("\n\n".join(texts), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts))
    else:
        datasets.Dataset.from_dict({"text": texts, "n": [1] * len(texts)}).to_parquet(str(path))


@pytest.mark.parametrize("name", ["notes.txt", "notes.jsonl", "notes.parquet"])
def test_a_local_file_is_one_domain(tmp_path, name):
    write(tmp_path / name, prose(60))
    corpus = load_corpus(tmp_path / name)
    assert (corpus.name, corpus.domains) == ("local:notes", ("notes",))
    assert corpus.manifest.domains[0].characters >= 60 * 90
    assert str(tmp_path) not in corpus.manifest.to_json()
    assert load_corpus(str(tmp_path / name)).manifest == corpus.manifest


def test_a_folder_has_a_domain_for_each_file(tmp_path):
    for name in ("one.txt", "two.jsonl", "three.parquet", "one.jsonl"):
        write(tmp_path / name, prose(40, seed=len(name)))
    (tmp_path / "README.md").write_text("not text for training")
    assert load_corpus(tmp_path).domains == ("one.jsonl", "one.txt", "three", "two")


def test_only_the_first_characters_are_taken(tmp_path):
    for name in ("a.txt", "a.jsonl"):
        write(tmp_path / name, prose(500))
        source = sources.open_source(str(tmp_path / name), None, "train", 9_000)
        assert 8_500 < sum(map(len, source.domains[0].documents)) <= 9_000


def test_unicode_marks_and_windows_line_ends(tmp_path):
    text = "\r\n\r\n".join(f"Größe {line} ☃" for line in prose(30))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    corpus = load_corpus(tmp_path / "a.txt")
    joined = text_of(corpus, "a", "train")
    assert "Größe" in joined and "\r" not in joined and "\ufeff" not in joined


def test_a_cut_inside_a_character_is_no_error(tmp_path):
    (tmp_path / "a.txt").write_text("𝄞" * 50 + "é" * 50, encoding="utf-8")
    assert sources._read_utf8(tmp_path / "a.txt", 50) == "𝄞" * 50
    (tmp_path / "b.txt").write_text("é" * 99 + "𝄞" * 50, encoding="utf-8")
    assert sources._read_utf8(tmp_path / "b.txt", 50) == "é" * 50


def refusal(source, **options):
    with pytest.raises(ValueError) as caught:
        load_corpus(source, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    return message


def test_bad_local_input_is_one_sentence_each(tmp_path):
    def file(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    latin = "Stra\xdfe".encode("latin-1")
    assert "bad.txt" in refusal(file("bad.txt", latin))
    assert "byte 0xdf at position 4" in refusal(file("bad.txt", latin))
    rows = b'{"text": "good"}\n{"text": "' + latin + b'"}\n'
    assert "byte 0xdf at position 31" in refusal(file("bad.jsonl", rows))
    for name in ("empty.txt", "empty.jsonl"):
        assert name in refusal(file(name, b""))
    assert "holds no text" in refusal(file("blank.txt", b" \n\n \n"))
    assert "could not be read" in refusal(file("broken.jsonl", b'{"text": \n'))
    assert "could not be read" in refusal(file("broken.parquet", b"PAR1 not"))
    assert ".txt, .jsonl, .parquet" in refusal(file("table.csv", b"a,b\n"))
    assert "give more text" in refusal(file("short.txt", b"one line"))
    assert "does not exist" in refusal(tmp_path / "absent.txt")
    assert "does not exist" in refusal("absent.txt")
    assert "does not exist" in refusal("./absent")
    (tmp_path / "hollow").mkdir()
    assert "holds no .txt" in refusal(tmp_path / "hollow")
    assert '"shakespeare" is no corpus' in refusal("shakespeare")
    assert "max_characters must be" in refusal(tmp_path / "short.txt", max_characters=0)


def test_a_missing_column_names_those_there_are(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"title": "x", "body": "y", "n": 1}\n' * 3)
    assert "choose one of title, body, n" in refusal(file)
    assert '"story"' in refusal(file, text_column="story")
    lines = [json.dumps({"body": line, "n": 1}) for line in prose(30)]
    file.write_text("\n".join(lines))
    assert load_corpus(file).domains == ("a",)  # the only column that holds text
    assert load_corpus(file, text_column="body").domains == ("a",)


# --- the Hub ---


def serve(monkeypatch, rows, asked=None):
    """A Hub that answers, and a real streaming dataset behind it."""

    def load_dataset(path, name=None, *, split, streaming):
        if asked is not None:
            asked.append((path, name, split, streaming))
        return datasets.Dataset.from_dict(rows).to_iterable_dataset()

    monkeypatch.setattr(sources, "_why_unreachable", lambda repo: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_a_hub_set_is_streamed(monkeypatch):
    asked: list[tuple] = []
    serve(monkeypatch, {"text": prose(300), "n": list(range(300))}, asked)
    corpus = load_corpus("tinystories", split="validation", max_characters=9_000)
    assert asked == [("roneneldan/TinyStories", None, "validation", True)]
    assert (corpus.name, corpus.domains) == ("hub:roneneldan/TinyStories", ("tinystories",))
    assert corpus.manifest.domains[0].documents == 100
    load_corpus("owner/name:config")
    assert asked[-1] == ("owner/name", "config", "train", True)


def test_wikitext_lines_become_articles(monkeypatch):
    rows = [
        line
        for i, text in enumerate(prose(40))
        for line in ("", f" = Title {i} = \n", f" {text} \n", f" = = Part {i} = = \n", " end \n")
    ]
    serve(monkeypatch, {"text": rows})
    assert load_corpus("wikitext").manifest.domains[0].documents == 40


def test_a_hub_set_without_the_column_or_broken_on_the_way(monkeypatch):
    serve(monkeypatch, {"question": prose(9), "answer": prose(9)})
    assert "choose one of question, answer" in refusal("owner/name")

    def broken(*args, **options):
        yield {"text": "one"}
        raise OSError("connection reset\nby peer")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    assert '"owner/name" could not be read (connection reset by peer)' in refusal("owner/name")

    def wrong(*args, **options):
        raise ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", wrong)
    assert "pick one among: ['a', 'b']" in refusal("owner/name")


@pytest.fixture
def hub(monkeypatch):
    """Sets what the Hub does when it is asked for a dataset."""
    return lambda answer: monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, repo, **options: answer()
    )


@pytest.fixture
def offline(monkeypatch, tmp_path, hub):
    """No network, and an empty cache."""

    def unknown():
        raise OSError("[Errno -2] Name or service not known")

    hub(unknown)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # whatever CI has set
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["tinystories", "wikitext", "owner/name", "owner/name:config"])
def test_offline_a_hub_name_fails_fast_and_offers_the_embedded_corpus(offline, name):
    start = time.monotonic()
    message = refusal(name)
    assert time.monotonic() - start < 10  # the import of `datasets` included
    assert "could not be reached" in message and 'load_corpus("embedded")' in message
    assert datasets.config.HF_HUB_OFFLINE is False


def test_offline_the_local_cache_is_used(offline, tmp_path):
    write(tmp_path / "a.jsonl", prose(40))
    made = tmp_path / "made"
    datasets.load_dataset("json", data_files=str(tmp_path / "a.jsonl"), cache_dir=str(made))
    (info,) = made.glob("json/*/*/*/dataset_info.json")
    there = offline / "owner___name" / "default" / "0.0.0" / info.parent.name
    shutil.copytree(info.parent, there)
    for file in there.glob("json-*"):
        file.rename(file.with_name(file.name.replace("json-", "name-", 1)))
    assert load_corpus("owner/name").manifest.domains[0].documents == 40


def test_a_hub_that_never_answers_is_given_up(monkeypatch, offline, hub):
    monkeypatch.setattr(sources, "_HUB_TIMEOUT", 0.2)
    hub(lambda: time.sleep(3))
    assert "no answer" in refusal("owner/name")


def test_offline_mode_is_respected_and_an_unknown_name_is_said_so(monkeypatch, offline, hub):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert "offline mode is set" in refusal("owner/name")
    assert datasets.config.HF_HUB_OFFLINE is True
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)

    def not_found():
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    hub(not_found)
    assert 'has no dataset "owner/name"' in refusal("owner/name")
