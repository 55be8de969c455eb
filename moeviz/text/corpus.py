"""Text as the model meets it: domains, a split that does not leak, and batches of token ids."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from moeviz.checks import check_whole
from moeviz.text.embedded import Package, Source, embedded_source
from moeviz.text.kept_tokens import keep, kept, what_decides
from moeviz.text.leaks import without_leaks
from moeviz.text.sources import open_source
from moeviz.text.split import Part, split_documents
from moeviz.text.tokenizer import Tokenizer


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
    leaked_characters: int  # taken out because a part before it holds them too
    sha256: str  # of the text of all parts
    origin: str
    train_tokens: int
    validation_tokens: int
    reserve_tokens: int = 0  # where the source keeps no reserve


@dataclass(frozen=True)
class Manifest:
    """Which text a result saw. It holds no path of a machine."""

    corpus: str
    domains: tuple[DomainManifest, ...]
    left_out: tuple[str, ...]  # a sentence for each domain that is not whole here
    python: str
    tokenizer_sha256: str
    packages: tuple[Package, ...] = ()  # that gave the text, of the corpus "packages"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Short hash of the text and the tokenizer alone: 12 hex digits, the same on every Python
        that has the same text."""
        hashes = [*(domain.sha256 for domain in self.domains), self.tokenizer_sha256]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return f'"{self.corpus}" under Python {self.python} (fingerprint {self.fingerprint})'


class Corpus:
    """Tokenised text in domains, each split into training, validation and, where the source keeps
    one, a reserve."""

    def __init__(self, source: Source, tokenizer: Tokenizer) -> None:
        """Split, clean and tokenise `source`; see `load_corpus` for what is promised.

        Raises ValueError when a domain is too short, or too repetitive, to be split.
        """
        self.name = source.name
        self.domains = tuple(domain.name for domain in source.domains)
        self.tokenizer = tokenizer
        split = [split_documents(domain, source.reserve) for domain in source.domains]
        joined = [["".join(documents[part]) for documents in split] for part in split[0]]
        texts = dict(zip(split[0], without_leaks(joined), strict=True))
        self._streams: dict[Part, list[np.ndarray]] = {part: [] for part in texts}
        rows = []
        for index, domain in enumerate(source.domains):
            documents = split[index]
            cleaned = {part: texts[part][index] for part in texts}
            for part, text in cleaned.items():
                if not text.strip():
                    raise ValueError(
                        f'the domain "{domain.name}" repeats itself so much that nothing is left '
                        f"for {part}; give more varied text."
                    )
                # Document by document, on all cores; what is held out is short.
                ids = tokenizer.encode_batch(documents["train"] if part == "train" else [text])
                stream = np.concatenate(ids)
                stream.setflags(write=False)
                self._streams[part].append(stream)
            sizes = {
                f"{part}_tokens": streams[index].size for part, streams in self._streams.items()
            }
            characters = sum(map(len, cleaned.values()))
            rows.append(
                DomainManifest(
                    name=domain.name,
                    documents=sum(map(len, documents.values())),
                    characters=characters,
                    leaked_characters=sum(len(d) for part in documents.values() for d in part)
                    - characters,
                    sha256=hashlib.sha256("\0".join(cleaned.values()).encode()).hexdigest(),
                    origin=domain.origin,
                    **sizes,
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

    @classmethod
    def _put_together(
        cls, tokenizer: Tokenizer, arrays: dict[str, np.ndarray], manifest: dict[str, Any]
    ) -> Corpus:
        """The corpus that `_take_apart` gave such parts of."""
        corpus = cls.__new__(cls)
        rows = tuple(DomainManifest(**row) for row in manifest["domains"])
        lists = {"domains": rows, "left_out": tuple(manifest["left_out"])}
        corpus.manifest = Manifest(**{**manifest, **lists, "packages": ()})
        corpus.name = corpus.manifest.corpus
        corpus.domains = tuple(row.name for row in rows)
        corpus.tokenizer = tokenizer
        corpus._streams = {}
        for part in get_args(Part):
            corpus._streams[part] = [arrays[f"{part}.{domain}"] for domain in corpus.domains]
            for stream in corpus._streams[part]:
                stream.setflags(write=False)
        return corpus

    def _take_apart(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Its streams, int32 [tokens] by part and domain, and its manifest as JSON values; of a
        corpus with a reserve and without packages."""
        arrays = {
            f"{part}.{domain}": stream
            for part, streams in self._streams.items()
            for domain, stream in zip(self.domains, streams, strict=True)
        }
        return arrays, dataclasses.asdict(self.manifest)

    def __repr__(self) -> str:
        return f"Corpus({self.name!r}, domains={self.domains}, {self.manifest.fingerprint})"

    def only(self, *domains: str) -> Corpus:
        """The same text of these domains alone, in the order given.

        Raises ValueError for a domain that the corpus does not have, for none, and for one twice.
        """
        if not domains or len(set(domains)) < len(domains) or not {*domains} <= {*self.domains}:
            raise ValueError(
                f"domains must be some of {', '.join(self.domains)}, each once, got "
                f"{', '.join(domains) or 'none'}."
            )
        places = [self.domains.index(domain) for domain in domains]
        smaller = copy.copy(self)
        smaller.domains = domains
        smaller._streams = {p: [s[place] for place in places] for p, s in self._streams.items()}
        rows = tuple(self.manifest.domains[place] for place in places)
        smaller.manifest = dataclasses.replace(self.manifest, domains=rows)
        return smaller

    def tokens(self, domain: str, part: Part = "train") -> np.ndarray:
        """All text of a domain in a part: int32 [tokens], read-only.

        Raises ValueError for a domain or a part that the corpus does not have.
        """
        streams = self._part(part)
        if domain not in self.domains:
            raise ValueError(
                f'the corpus has no domain "{domain}"; choose one of {", ".join(self.domains)}.'
            )
        return streams[self.domains.index(domain)]

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

    def windows(self, part: Part, *, seq_len: int, windows_per_domain: int) -> Batch:
        """The same windows of a part every time: `windows_per_domain` of each domain, evenly
        spaced.

        part: "validation" for every choice, "reserve" for the final figure after all choices.
        Windows overlap where a domain's text is shorter than all of them together. Raises
        ValueError for impossible sizes, for a domain shorter than a sequence, and for a part that
        the corpus does not have.
        """
        check_whole("windows_per_domain", windows_per_domain)
        streams = self._long_enough(part, seq_len)
        domain = np.repeat(np.arange(len(streams)), windows_per_domain)
        room = np.array([stream.size - seq_len - 1 for stream in streams])
        place = np.tile(np.arange(windows_per_domain), len(streams))
        return _gather(
            streams, domain, room[domain] * place // max(windows_per_domain - 1, 1), seq_len
        )

    def _part(self, part: Part) -> list[np.ndarray]:
        if part not in self._streams:
            raise ValueError(
                f'the corpus "{self.name}" has no part "{part}"; choose one of '
                f"{', '.join(self._streams)} (only the embedded corpus keeps a reserve)."
            )
        return self._streams[part]

    def _long_enough(self, part: Part, seq_len: int) -> list[np.ndarray]:
        streams = self._part(part)
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
       "packages" a twentieth, by whole packages. Of "embedded", another tenth is kept in reserve,
       for figures that are measured after every choice was made on validation.
    3. Lines of validation or of the reserve that share a run of `LEAK_WINDOW` characters with a
       part before it are taken out: no such run is left in two parts.

    Raises ValueError in one sentence for what cannot be found, read or split.
    """
    if source in ("embedded", "packages") and tokenizer is None:
        return _corpus_of_this_machine(str(source), max_characters)
    opened = open_source(source, text_column, split, max_characters)
    return Corpus(opened, tokenizer or Tokenizer.default())


@functools.cache
def _corpus_of_this_machine(source: str, max_characters: int | None) -> Corpus:
    if source == "embedded" and max_characters is None:
        return _embedded(Tokenizer.default())
    return Corpus(open_source(source, None, "train", max_characters), Tokenizer.default())


def _embedded(tokenizer: Tokenizer) -> Corpus:
    """The embedded corpus, from the disk where an earlier process kept it."""
    decided_by = what_decides(tokenizer)
    if parts := kept(decided_by):
        return Corpus._put_together(tokenizer, *parts)
    corpus = Corpus(embedded_source(), tokenizer)
    keep(decided_by, *corpus._take_apart())
    return corpus


def _gather(
    streams: Sequence[np.ndarray], domain: np.ndarray, start: np.ndarray, seq_len: int
) -> Batch:
    rows = [streams[d][s : s + seq_len + 1] for d, s in zip(domain, start, strict=True)]
    return Batch(tokens=np.stack(rows).astype(np.int64), domain=domain.astype(np.int64))
