"""The corpus: domains, a split that does not leak, stateless batches, and bad input."""

import hashlib
import json
import logging
import re
import shutil
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.patience import PATIENCE
from moeviz.experiments.router_arms import LONG, SETTINGS
from moeviz.text import embedded as domains
from moeviz.text import leaks, sources
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.text.embedded import Domain, Source, cut_documents
from moeviz.text.leaks import LEAK_WINDOW
from moeviz.text.tokenizer import Tokenizer
from moeviz.training.config import TrainConfig

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")
RepositoryNotFoundError = huggingface_hub.errors.RepositoryNotFoundError
TOKENIZER = Tokenizer.default()
PARTS = ("train", "validation", "reserve")


def prose(count, seed=0):
    """Lines that hardly repeat one another."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    return ["".join(random.choice(letters, 90)) for _ in range(count)]


def tiny(tokenizer=TOKENIZER, **domains):
    made = tuple(Domain(name, tuple(documents), "test") for name, documents in domains.items())
    return Corpus(Source("tiny", made), tokenizer)


@pytest.fixture(scope="module")
def embedded():
    return load_corpus()


@pytest.fixture(scope="module")
def three():
    """Domains of 14, 600 and 1,700 tokens or so of training text."""
    return tiny(short=["one two"] * 2 + ["so it goes on"], a=prose(20), b=prose(60, seed=1))


def text_of(corpus, domain, part):
    return corpus.tokenizer.decode(corpus.tokens(domain, part))


def both_parts(corpus, domain):
    return [text_of(corpus, domain, part) for part in ("train", "validation")]


def runs_of(text):
    return {text[i : i + LEAK_WINDOW] for i in range(len(text) - LEAK_WINDOW + 1)}


# --- the embedded corpus ---


def test_the_embedded_domains_are_there_and_of_use(embedded):
    assert {"arithmetic", "hex", "brackets"} <= set(embedded.domains)
    for row in embedded.manifest.domains:
        assert 45_000 < row.characters < 620_000, row
        texts = [text_of(embedded, row.name, part) for part in PARTS]
        assert row.characters == sum(map(len, texts))
        for part, text in zip(PARTS, texts, strict=True):
            assert getattr(row, f"{part}_tokens") == embedded.tokens(row.name, part).size
            assert part == "train" or 0.06 < len(text) / row.characters < 0.13, row
    assert load_corpus() is embedded


def test_no_run_of_characters_stands_in_two_parts(embedded):
    train, validation, reserve = (
        set().union(*(runs_of(text_of(embedded, domain, part)) for domain in embedded.domains))
        for part in PARTS
    )
    assert not train & validation and not (train | validation) & reserve


PINNED = {
    "arithmetic": "804436ad470d44ec",
    "hex": "b55e47da6ce21b9e",
    "brackets": "6d18d06bf26038ac",
}


def test_each_part_has_text_for_512_windows_that_do_not_overlap(embedded):
    assert not embedded.manifest.left_out and len(embedded.domains) == 6
    for row in embedded.manifest.domains:
        assert min(row.validation_tokens, row.reserve_tokens) > -(-512 // 6) * 65, row


@pytest.mark.parametrize("name", PINNED)
def test_generated_text_is_the_same_everywhere_and_each_problem_on_one_side(embedded, name):
    [domain] = (one for one in domains.embedded_source().domains if one.name == name)
    text = "\n".join(domain.documents)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == PINNED[name]
    # A line, or the two operands of a sum in any order.
    train, validation, reserve = (
        {
            frozenset(re.split("[-+*=]", line)[:2])
            for line in text_of(embedded, name, part).split("\n")
            if line
        }
        for part in PARTS
    )
    assert len(validation) > 300 and not train & validation
    assert len(reserve) > 300 and not (train | validation) & reserve


# --- batches ---

COUNTS = st.integers(0, 2**64 - 1)


@settings(max_examples=60)
@given(seed=COUNTS, step=COUNTS, batch_size=st.integers(1, 9), seq_len=st.integers(1, 3))
def test_a_batch_is_a_pure_function_and_domains_take_turns(three, seed, step, batch_size, seq_len):
    sizes = dict(batch_size=batch_size, seq_len=seq_len)
    batch = three.batch(seed=seed, step=step, **sizes)
    assert batch.tokens.shape == (batch_size, seq_len + 1)
    assert batch.tokens.dtype == batch.domain.dtype == np.int64
    for row, domain in zip(batch.tokens, batch.domain, strict=True):
        stream = three.tokens(three.domains[domain])
        runs = np.lib.stride_tricks.sliding_window_view(stream, seq_len + 1)
        assert (runs == row).all(axis=1).any()
    seen = np.zeros(3, dtype=int)
    for other in range(min(step, 2**64 - 3), min(step, 2**64 - 3) + 3):
        turns = np.bincount(three.batch(seed=0, step=other, **sizes).domain, minlength=3)
        assert turns.max() - turns.min() <= 1
        seen += turns
    assert (seen == batch_size).all()
    again = three.batch(seed=seed, step=step, **sizes)
    assert np.array_equal(again.tokens, batch.tokens) and (again.domain == batch.domain).all()


def test_seed_and_step_decide_the_batch(embedded):
    batches = [
        embedded.batch(seed=seed, step=step, batch_size=8, seq_len=32).tokens.tobytes()
        for seed, step in ((3, 7), (4, 7), (3, 8), (7, 3))
    ]
    assert len(set(batches)) == 4


def test_the_longer_comparison_of_routers_draws_more_tokens_than_the_text_has(embedded):
    """03c and 06 say so, and the heads of their experiments how many times."""
    train = TrainConfig(steps=SETTINGS[LONG].steps)
    held = sum(len(embedded.tokens(domain, "train")) for domain in embedded.domains)
    assert 1.25 < train.steps * train.batch_size * train.seq_len / held < 1.35


@pytest.mark.parametrize("part", PARTS)
def test_windows_of_a_part_are_fixed_evenly_spaced_and_reach_both_ends(embedded, part):
    batch = embedded.windows(part, seq_len=64, windows_per_domain=5)
    assert batch.tokens.shape == (5 * len(embedded.domains), 65)
    assert batch.tokens.dtype == np.int64
    assert (np.bincount(batch.domain) == 5).all()
    stream = embedded.tokens(embedded.domains[0], part)
    middle = (stream.size - 65) // 2
    for window, start in ((0, 0), (2, middle), (4, stream.size - 65)):
        assert np.array_equal(batch.tokens[window], stream[start : start + 65])
    assert embedded.windows(part, seq_len=8, windows_per_domain=1).tokens.shape[1] == 9


def test_every_position_of_a_short_stream_can_be_drawn():
    corpus = tiny(a=prose(20))
    stream = corpus.tokens("a")
    batch = corpus.batch(seed=0, step=0, batch_size=3, seq_len=stream.size - 1)
    assert np.array_equal(batch.tokens[2], stream)
    seen = corpus.batch(seed=0, step=0, batch_size=200, seq_len=stream.size - 3).tokens[:, 0]
    assert set(seen) == set(stream[:3].tolist())
    with pytest.raises(ValueError, match="read-only"):
        stream[0] = 1


WRONG = {"seed": (-1, 1 << 64), "step": (-1, 1 << 64), "batch_size": (0,), "seq_len": (0, 10**6)}


@pytest.mark.parametrize("name,value", [(name, v) for name, some in WRONG.items() for v in some])
def test_impossible_batches_are_refused(three, name, value):
    usual = dict(seed=0, step=0, batch_size=1, seq_len=4)
    with pytest.raises(ValueError, match=f"{name}={value}"):
        three.batch(**usual | {name: value})


def test_impossible_windows_and_unknown_texts_are_refused(three):
    with pytest.raises(ValueError, match="windows_per_domain must be .*, got 0"):
        three.windows("validation", seq_len=4, windows_per_domain=0)
    with pytest.raises(ValueError, match='seq_len=99.* the validation text of "short" has .* tok'):
        three.windows("validation", seq_len=99, windows_per_domain=1)
    with pytest.raises(ValueError, match='no domain "latin"; choose one of short, a, b'):
        three.tokens("latin", "train")
    for part in ("test", "reserve"):
        message = f'"tiny" has no part "{part}"; choose one of train, validation'
        with pytest.raises(ValueError, match=message):
            three.tokens("a", part)
        with pytest.raises(ValueError, match=message):
            three.windows(part, seq_len=4, windows_per_domain=1)


# --- splitting ---


def test_documents_are_split_whole_by_themselves_and_repeated_ones_dropped():
    documents = prose(60)
    corpus = tiny(a=documents + documents)
    assert corpus.manifest.domains[0].documents == 60
    train, validation = both_parts(corpus, "a")
    assert all((document in train) != (document in validation) for document in documents)
    assert validation.count("\n\n") == 6
    # Whatever their order.
    turned = text_of(tiny(a=documents[::-1]), "a", "validation")
    assert sorted(turned.split("\n")) == sorted(validation.split("\n"))


@pytest.mark.parametrize("count", [3, 40, 200])
def test_a_reserve_is_another_tenth_and_leaves_validation_as_it_is(count):
    documents = prose(count)
    domain = Domain("a", tuple(documents), "test")
    without, with_one = (
        Corpus(Source("tiny", (domain,), reserve=reserve), TOKENIZER) for reserve in (False, True)
    )
    validation = text_of(without, "a", "validation")
    assert text_of(with_one, "a", "validation") == validation
    assert text_of(with_one, "a", "reserve").count("\n\n") == max(count // 10, 1)
    texts = [text_of(with_one, "a", part) for part in PARTS]
    assert all(sum(document in text for text in texts) == 1 for document in documents)


def test_a_part_loses_what_any_part_before_it_holds():
    lines = prose(4)
    [a], [b], [c] = leaks.without_leaks(
        [
            ["\n".join(lines[:2])],
            ["\n".join([lines[1], lines[2]])],
            ["\n".join([lines[0], lines[2], lines[3]])],
        ]
    )
    assert (a, b, c) == ("\n".join(lines[:2]), lines[2], lines[3])


def test_a_copied_paragraph_leaves_validation_whichever_domain_trained_on_it():
    licence = "\n".join(prose(2, seed=9))
    ones = [f"{licence}\n\n{line}" for line in prose(40, seed=1)]
    twos = [f"{line}\n\n{licence}" for line in prose(40, seed=2)]
    corpus = tiny(a=ones, b=prose(40, seed=3), c=twos)
    for domain in "ac":
        train, validation = both_parts(corpus, domain)
        assert licence in train and licence.split("\n")[0] not in validation
    assert [row.leaked_characters > 0 for row in corpus.manifest.domains] == [True, False, True]


@pytest.mark.parametrize("size", [0, 79, 80, 81, 250, 360])
def test_runs_hash_alike_where_they_are_the_same_and_wherever_they_stand(monkeypatch, size):
    """In one piece or in many."""
    text = ("é𝄞" + "".join(prose(2)) + "".join(prose(2)))[:size]
    runs = [text[i : i + LEAK_WINDOW] for i in range(size - LEAK_WINDOW + 1)]
    monkeypatch.setattr(leaks, "_HASHED_AT_ONCE", 7)
    hashes = leaks._window_hashes(text).tolist()
    assert len(hashes) == len(runs)
    assert len(dict(zip(hashes, runs, strict=True))) == len(set(runs)) == len(set(hashes))
    assert len(set(zip(hashes, runs, strict=True))) == len(set(runs))
    monkeypatch.undo()
    assert leaks._window_hashes(text).tolist() == hashes


@pytest.mark.parametrize(
    "documents,message",
    [
        (["one"], '"a" has 1 document.*give more text'),
        ([], '"a" has 0 document'),
        (["x" * 300 + str(i) for i in range(30)], "repeats itself"),
    ],
)
def test_what_cannot_be_split_is_refused(documents, message):
    with pytest.raises(ValueError, match=message):
        tiny(a=documents)


@given(st.text(alphabet="ab \n", max_size=400), st.integers(1, 50))
def test_cutting_loses_no_word_and_keeps_to_the_size(text, size):
    documents = cut_documents(text, size)
    assert "".join("".join(documents).split()) == "".join(text.split())
    assert all(document.strip() and len(document) <= 2 * size + 2 for document in documents)


def test_the_fingerprint_follows_the_text_and_the_tokenizer_and_holds_no_path(embedded):
    documents = prose(30)
    other = Tokenizer.train(documents, 300)
    made = [tiny(a=documents), tiny(a=documents), tiny(a=documents[1:]), tiny(other, a=documents)]
    same, again, less, other = (corpus.manifest.fingerprint for corpus in made)
    assert same == again and len({same, less, other}) == 3 and len(same) == 12
    manifest = replace(made[0].manifest, python="3.99.0", left_out=("a sentence",))
    assert manifest.fingerprint == same
    told = json.dumps(asdict(embedded.manifest))
    assert str(Path.home()) not in told and sys.prefix not in told


# --- local files ---


def write(path, texts):
    if path.suffix == ".txt":
        path.write_text("\n\n".join(texts), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts))
    else:
        datasets.Dataset.from_dict({"text": texts, "n": [1] * len(texts)}).to_parquet(str(path))


def test_files_and_folders_of_them_are_domains(tmp_path):
    for name in ("one.txt", "two.jsonl", "three.parquet", "one.jsonl"):
        write(tmp_path / name, prose(60, seed=len(name)))
    (tmp_path / "README.md").write_text("not text for training")
    folder = load_corpus(tmp_path)
    assert folder.domains == ("one.jsonl", "one.txt", "three", "two")
    assert str(tmp_path) not in json.dumps(asdict(folder.manifest))
    for row in folder.manifest.domains:
        path = tmp_path / row.origin.removeprefix("local file ")
        alone = load_corpus(str(path))
        assert (alone.name, alone.domains) == (f"local:{path.stem}", (path.stem,))
        assert alone.manifest.domains[0].characters == row.characters >= 60 * 90
        source = sources.open_source(path, None, "train", 4_000)
        assert 3_500 < sum(map(len, source.domains[0].documents)) <= 4_000


def test_unicode_marks_and_windows_line_ends(tmp_path):
    text = "\r\n\r\n".join(f"Größe {line} ☃" for line in prose(30))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    corpus = load_corpus(tmp_path / "a.txt")
    joined = text_of(corpus, "a", "train")
    assert "Größe" in joined and "\r" not in joined and "\ufeff" not in joined


@pytest.mark.parametrize("text", ["𝄞" * 50 + "é" * 50, "é" * 99 + "𝄞" * 50])
def test_a_cut_inside_a_character_is_no_error(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    [domain] = sources.open_source(tmp_path / "a.txt", None, "train", 50).domains
    assert domain.documents == (text[:50],)


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
    for source in ("", None, 5, b"embedded"):
        assert "must be a name or a path" in refusal(source)
    assert "max_characters must be" in refusal(tmp_path / "short.txt", max_characters=0)


def test_a_file_that_is_cut_says_so_and_its_name_commands_no_terminal(tmp_path):
    (tmp_path / "a\x1b[2Jb.txt").write_text("\n".join(prose(30)))
    whole = load_corpus(tmp_path).manifest.domains[0]
    assert (whole.name, whole.origin) == ("a?[2Jb", "local file a?[2Jb.txt")
    cut = load_corpus(tmp_path, max_characters=2_000).manifest.domains[0]
    assert cut.origin == "the first 2,000 characters of local file a?[2Jb.txt"


def test_what_cannot_be_read_is_said_by_us_alone(tmp_path, monkeypatch):
    (tmp_path / "broken.jsonl").write_text('{"text": \n')
    records = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setattr(logging.getLogger("datasets"), "handlers", [handler])
    assert "could not be read" in refusal(tmp_path / "broken.jsonl")
    assert [record.getMessage() for record in records] == []


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


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Sets what the Hub does when it is asked for a dataset; the cache is empty."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # whatever CI has set
    monkeypatch.setattr(sources, "_HUB_TIMEOUT", PATIENCE)
    return lambda answer: monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, repo, **options: answer()
    )


@pytest.fixture
def serve(monkeypatch, hub):
    """A Hub that answers, with a real streaming dataset of these rows; what it was asked for."""

    def served(**rows):
        asked = []

        def load_dataset(path, name=None, *, split, streaming):
            asked.append((path, name, split, streaming))
            return datasets.Dataset.from_dict(rows).to_iterable_dataset()

        hub(lambda: None)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return served


def test_a_hub_set_is_streamed(serve):
    asked = serve(text=prose(300), n=list(range(300)))
    corpus = load_corpus("tinystories", split="validation", max_characters=9_000)
    assert asked == [("roneneldan/TinyStories", None, "validation", True)]
    assert (corpus.name, corpus.domains) == ("hub:roneneldan/TinyStories", ("tinystories",))
    assert corpus.manifest.domains[0].documents == 100
    load_corpus("owner/name:config")
    assert asked[-1] == ("owner/name", "config", "train", True)


def test_wikitext_lines_become_articles(serve):
    article = "\n| = Title {0} = \n| {1} \n| = = Part {0} = = \n| end \n"
    lines = [article.format(i, text).split("|") for i, text in enumerate(prose(40))]
    serve(text=[line for article in lines for line in article])
    assert load_corpus("wikitext").manifest.domains[0].documents == 40


def test_a_hub_set_without_the_column_or_broken_on_the_way(monkeypatch, serve):
    serve(question=prose(9), answer=prose(9))
    assert "choose one of question, answer" in refusal("owner/name")

    def broken(*args, **options):
        yield {"text": "one"}
        raise OSError("connection reset\nby peer")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    assert '"owner/name" could not be read (connection reset by peer)' in refusal("owner/name")


def fails(error):
    def answer():
        raise error

    return answer


NO_NETWORK = fails(OSError("[Errno -2] Name or service not known"))
NOT_FOUND = fails(RepositoryNotFoundError.__new__(RepositoryNotFoundError))


@pytest.mark.parametrize("name", ["tinystories", "wikitext", "owner/name", "owner/name:config"])
@pytest.mark.parametrize(
    "answer,offline,sentence",
    [
        (NO_NETWORK, False, 'reached .*Name or service not known.* load_corpus."embedded"'),
        (NO_NETWORK, True, "offline mode is set"),
        (None, False, "no answer in"),
        (NOT_FOUND, False, 'has no dataset "[^:]*"'),
    ],
)
def test_without_an_answer_a_hub_name_fails_fast(monkeypatch, hub, name, answer, offline, sentence):
    end, load, online = threading.Event(), datasets.load_dataset, []

    def load_dataset(*given, **options):
        online.append(not datasets.config.HF_HUB_OFFLINE)
        return load(*given, **options)

    hub(answer or end.wait)
    if answer is None:
        monkeypatch.setattr(sources, "_HUB_TIMEOUT", 0.2)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    assert re.search(sentence, refusal(name))
    assert not any(online), "datasets would try again and again"
    assert datasets.config.HF_HUB_OFFLINE is offline
    end.set()


def test_offline_the_local_cache_is_used(hub, tmp_path):
    hub(NO_NETWORK)
    write(tmp_path / "a.jsonl", prose(40))
    made = tmp_path / "made"
    datasets.load_dataset("json", data_files=str(tmp_path / "a.jsonl"), cache_dir=str(made))
    (info,) = made.glob("json/*/*/*/dataset_info.json")
    there = tmp_path / "cache" / "owner___name" / "default" / "0.0.0" / info.parent.name
    shutil.copytree(info.parent, there)
    for file in there.glob("json-*"):
        file.rename(file.with_name(file.name.replace("json-", "name-", 1)))
    assert load_corpus("owner/name").manifest.domains[0].documents == 40


def test_some_domains_alone_are_the_same_text(embedded):
    some = embedded.only("hex", "python")
    assert some.domains == ("hex", "python") and embedded.domains[0] == "python"
    for part in PARTS:
        for domain in some.domains:
            assert some.tokens(domain, part) is embedded.tokens(domain, part)
    batch = some.batch(seed=0, step=0, batch_size=6, seq_len=16)
    assert batch.domain.tolist() == [0, 1] * 3
    rows = some.windows("validation", seq_len=16, windows_per_domain=2).tokens
    whole = embedded.windows("validation", seq_len=16, windows_per_domain=2)
    named = np.array(embedded.domains)[whole.domain]
    np.testing.assert_array_equal(
        rows, np.concatenate([whole.tokens[named == domain] for domain in some.domains])
    )
    assert [row.name for row in some.manifest.domains] == ["hex", "python"]
    assert some.manifest.fingerprint != embedded.manifest.fingerprint


@pytest.mark.parametrize("domains", [(), ("poems",), ("hex", "hex")])
def test_domains_that_are_not_there_are_told_in_a_sentence(embedded, domains):
    with pytest.raises(ValueError, match="each once, got"):
        embedded.only(*domains)
