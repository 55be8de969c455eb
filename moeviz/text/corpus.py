"""Text as the model meets it: domains, a split that does not leak, and batches of token ids."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from moeviz.checks import check_whole
from moeviz.text.embedded import Domain, Package, Source
from moeviz.text.leaks import without_leaks
from moeviz.text.sources import open_source
from moeviz.text.tokenizer import Tokenizer

VALIDATION_SHARE = 0.1

Part = Literal["train", "validation"]


@dataclass(frozen=True)
class Batch:
    """Token sequences, each from one domain."""

    tokens: np.ndarray  # int64 [B, S+1]: inputs are [:, :-1], targets [:, 1:]
    domain: np.ndarray  # int64 [B]: index into `Corpus.domains`


@dataclass(frozen=True)
class DomainManifest:
    """What one domain holds, after duplicates and leaks are gone."""

    name: str
    documents: int
    characters: int
    train_tokens: int
    validation_tokens: int
    leaked_characters: int  # taken out of validation because training holds them too
    sha256: str  # of the training and the validation text
    origin: str


@dataclass(frozen=True)
class Manifest:
    """Which text a result saw. It holds no path of a machine."""

    corpus: str
    domains: tuple[DomainManifest, ...]
    left_out: tuple[str, ...]  # a sentence for each domain this machine has no text for
    python: str
    tokenizer_sha256: str
    packages: tuple[Package, ...] = ()  # that gave the text, of the corpus "packages"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short hash of all but the packages, whose texts have one: 12 hex digits."""
        values = {name: value for name, value in asdict(self).items() if name != "packages"}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Corpus:
    """Tokenised text in domains, each split into training and validation."""

    def __init__(self, source: Source, tokenizer: Tokenizer) -> None:
        """Split, clean and tokenise `source`; see `load_corpus` for what is promised.

        Raises ValueError when a domain is too short, or too repetitive, to be split.
        """
        self.name = source.name
        self.domains = tuple(domain.name for domain in source.domains)
        self.tokenizer = tokenizer
        parts = [_split(domain) for domain in source.domains]
        training = ["".join(train) for train, _ in parts]
        held_out = ["".join(validation) for _, validation in parts]
        cleaned = without_leaks(held_out, training)
        self._streams: dict[Part, list[np.ndarray]] = {"train": [], "validation": []}
        rows = []
        for domain, (train, validation), before, after in zip(
            source.domains, parts, held_out, cleaned, strict=True
        ):
            if not after.strip():
                raise ValueError(
                    f'the domain "{domain.name}" repeats itself so much that nothing is left for '
                    f"validation; give more varied text."
                )
            ids = tokenizer.encode_batch([*train, after])
            streams = np.concatenate(ids[:-1]), ids[-1]
            for part, stream in zip(self._streams, streams, strict=True):
                stream.setflags(write=False)
                self._streams[part].append(stream)
            text = "".join(train) + "\0" + after
            rows.append(
                DomainManifest(
                    name=domain.name,
                    documents=len(train) + len(validation),
                    characters=len(text) - 1,
                    train_tokens=streams[0].size,
                    validation_tokens=streams[1].size,
                    leaked_characters=len(before) - len(after),
                    sha256=hashlib.sha256(text.encode()).hexdigest(),
                    origin=domain.origin,
                )
            )
        self.manifest = Manifest(
            corpus=source.name,
            domains=tuple(rows),
            left_out=source.left_out,
            python=platform.python_version(),
            tokenizer_sha256=tokenizer.sha256,
            packages=source.packages,
        )

    def __repr__(self) -> str:
        return f"Corpus({self.name!r}, domains={self.domains}, {self.manifest.fingerprint})"

    def tokens(self, domain: str, part: Part = "train") -> np.ndarray:
        """All of a domain's training or validation text: int32 [tokens], read-only.

        Raises ValueError for a domain or a part that the corpus does not have.
        """
        if domain not in self.domains or part not in self._streams:
            raise ValueError(
                f'the corpus has no "{part}" text of "{domain}"; choose "train" or "validation" of '
                f"{', '.join(self.domains)}."
            )
        return self._streams[part][self.domains.index(domain)]

    def batch(self, *, seed: int, step: int, batch_size: int, seq_len: int) -> Batch:
        """The training batch of a step: `batch_size` sequences of `seq_len` + 1 tokens.

        A pure function of its arguments, so a resumed run sees the same batches. The domains take
        turns, and the turn goes on from step to step: equal shares, whatever the batch size.
        Raises ValueError for impossible sizes and for a domain shorter than a sequence.
        """
        if not (0 <= seed < 1 << 64 and 0 <= step < 1 << 64 and batch_size >= 1):
            raise ValueError(
                f"seed={seed}, step={step}, batch_size={batch_size}: seed and step must be from 0 "
                f"to 2**64 - 1, and batch_size at least 1."
            )
        streams = self._long_enough("train", seq_len)
        count = len(self.domains)
        domain = (step * batch_size % count + np.arange(batch_size)) % count
        # Raw Philox numbers are fixed by the algorithm; numpy's distributions may change.
        key = np.array([seed, step], dtype=np.uint64)
        draws = np.random.Philox(key=key).random_raw(batch_size)
        room = np.array([stream.size - seq_len for stream in streams], dtype=np.uint64)
        return _gather(streams, domain, (draws % room[domain]).astype(np.int64), seq_len)

    def validation(self, *, seq_len: int, windows_per_domain: int) -> Batch:
        """The same windows every time: `windows_per_domain` of each domain, evenly spaced.

        They overlap where a domain's validation text is shorter than all of them together.
        Raises ValueError for impossible sizes and for a domain shorter than a sequence.
        """
        check_whole("windows_per_domain", windows_per_domain)
        streams = self._long_enough("validation", seq_len)
        domain = np.repeat(np.arange(len(streams)), windows_per_domain)
        room = np.array([stream.size - seq_len - 1 for stream in streams])
        place = np.tile(np.arange(windows_per_domain), len(streams))
        return _gather(
            streams, domain, room[domain] * place // max(windows_per_domain - 1, 1), seq_len
        )

    def _long_enough(self, part: Part, seq_len: int) -> list[np.ndarray]:
        streams = self._streams[part]
        shortest = min(range(len(streams)), key=lambda i: streams[i].size)
        longest_sequence = streams[shortest].size - 1
        if not 1 <= seq_len <= longest_sequence:
            raise ValueError(
                f"seq_len={seq_len} must be from 1 to {longest_sequence}: the {part} text of "
                f'"{self.domains[shortest]}" has {longest_sequence + 1} tokens; choose a shorter '
                f"seq_len or give more text."
            )
        return streams


def load_corpus(
    source: str | Path = "embedded",
    *,
    tokenizer: Tokenizer | None = None,
    text_column: str | None = None,
    split: str = "train",
    max_characters: int | None = None,
) -> Corpus:
    """Load text in domains, split it, and tokenise it (with the shipped tokenizer by default).

    `source` is "embedded" or "packages" (offline, on any machine), "tinystories", "wikitext", a Hub
    name "owner/name" or "owner/name:config", or the path of a .txt, .jsonl or .parquet file or of a
    folder of them (a domain each). `text_column` names the column of a table to read, `split` the
    split of a Hub set, and at most `max_characters` are taken of each file or Hub set (2 million by
    default) or of all packages (60 million).

    1. Repeated documents are dropped.
    2. A tenth of the characters goes to validation, by whole documents, chosen by their hash; of
       "packages" a twentieth, by whole packages.
    3. Lines of validation that share a run of `LEAK_WINDOW` characters with training text are
       taken out of validation: no such run is left on both sides.

    Raises ValueError in one sentence for what cannot be found, read or split.
    """
    if source in ("embedded", "packages") and tokenizer is None:
        return _corpus_of_this_machine(str(source), max_characters)
    opened = open_source(source, text_column, split, max_characters)
    return Corpus(opened, tokenizer or Tokenizer.default())


@functools.cache
def _corpus_of_this_machine(source: str, max_characters: int | None) -> Corpus:
    return Corpus(open_source(source, None, "train", max_characters), Tokenizer.default())


def _gather(
    streams: Sequence[np.ndarray], domain: np.ndarray, start: np.ndarray, seq_len: int
) -> Batch:
    rows = [streams[d][s : s + seq_len + 1] for d, s in zip(domain, start, strict=True)]
    return Batch(tokens=np.stack(rows).astype(np.int64), domain=domain.astype(np.int64))


def _split(domain: Domain) -> tuple[list[str], list[str]]:
    """Training and validation documents, each ended by an empty line."""
    documents, held_out = (
        dict.fromkeys(document.strip("\n") + "\n\n" for document in part)
        for part in (domain.documents, domain.held_out)
    )
    if held_out:
        return list(documents), list(held_out)
    by_hash = sorted(documents, key=lambda text: hashlib.sha256(text.encode()).digest())
    most = VALIDATION_SHARE * sum(map(len, documents))
    chosen: set[str] = set()
    taken = 0
    for document in by_hash:  # whatever still fits; the share is met closely, never exceeded
        if taken + len(document) <= most:
            chosen.add(document)
            taken += len(document)
    if not chosen and len(documents) > 1:
        chosen.add(min(by_hash, key=len))
    if not chosen:
        raise ValueError(
            f'the domain "{domain.name}" has {len(documents)} document of {round(10 * most)} '
            f"characters, too little to keep some for validation; give more text."
        )
    return [d for d in documents if d not in chosen], [d for d in documents if d in chosen]
