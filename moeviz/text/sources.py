"""Where a corpus gets its text: what is embedded or installed, local files, the Hugging Face Hub.

Every source is a tuple of named domains, each a tuple of documents; `moeviz.text.corpus` splits and
tokenises them. Nothing here needs a network except a Hub name.
"""

from __future__ import annotations

import codecs
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moeviz.checks import brief, check_whole, one_line
from moeviz.text.embedded import PIECE, Domain, Source, cut_documents, embedded_source
from moeviz.text.packages import MOST as MOST_OF_PACKAGES
from moeviz.text.packages import packages_source

SUFFIXES = (".txt", ".jsonl", ".parquet")

MOST = 2_000_000  # characters of a file or a Hub set unless told otherwise

_HUB_TIMEOUT = 5.0  # seconds; `datasets` itself would retry an absent network for more than 20

# --- local files ----------------------------------------------------------------------------------


def local_source(path: Path, text_column: str | None, max_characters: int) -> Source:
    """Text of one .txt, .jsonl or .parquet file, or of a folder of them: each file is a domain.

    At most `max_characters` of each file are taken. Raises ValueError in one sentence for what does
    not exist, is no such file, is not UTF-8, is empty, or lacks `text_column`.
    """
    allowed = ", ".join(SUFFIXES)
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
        if not files:
            raise ValueError(f'the folder "{path}" holds no {allowed} file; put one there.')
    elif not path.exists():
        raise ValueError(
            f'"{path}" does not exist; give a {allowed} file, a folder of them, or "embedded".'
        )
    elif path.suffix.lower() not in SUFFIXES:
        raise ValueError(f'"{path}" is none of {allowed}; convert it to one of these.')
    else:
        files = [path]
    stems = [file.stem for file in files]
    domains = []
    for file in files:
        documents: list[str] = []
        taken = 0
        if file.stat().st_size == 0:
            pass  # `datasets` would fail on it; the refusal below says it better
        elif file.suffix.lower() == ".txt":
            text = read_utf8(file, max_characters)
            taken = len(text)
            # A short file is cut finer, so that a tenth of it can be kept for validation.
            documents = cut_documents(text, min(PIECE, max(200, len(text) // 20)))
        else:
            kind = {".jsonl": "json", ".parquet": "parquet"}[file.suffix.lower()]
            table = _table(str(file), kind, data_files=str(file), split="train")
            try:
                documents = _rows(table, str(file), text_column, max_characters)
            except ValueError:
                if file.suffix.lower() == ".jsonl":
                    read_utf8(file, file.stat().st_size)  # if that is why, it names the byte
                raise
        if not documents:
            raise ValueError(f'"{file}" holds no text; give a file with some.')
        name = _printable(file.stem if stems.count(file.stem) == 1 else file.name)
        origin = f"local file {_printable(file.name)}"
        if max(taken, sum(map(len, documents))) >= max_characters:
            origin = f"the first {max_characters:,} characters of {origin}"
        domains.append(Domain(name, tuple(documents), origin))
    return Source(f"local:{path.stem}", tuple(domains))


def _printable(name: str) -> str:
    """A file's name without what would command a terminal."""
    return "".join(c if c.isprintable() else "?" for c in name)


def read_utf8(path: Path, max_characters: int) -> str:
    """The first characters of a UTF-8 file; ValueError names the first byte that is not, or says
    why it cannot be read."""
    most = 4 * max_characters  # bytes: no character takes more than four
    try:
        with path.open("rb") as file:
            raw = file.read(most)
    except OSError as error:
        raise ValueError(
            f'"{path}" cannot be read ({error.strerror}); give another file.'
        ) from None
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(raw, final=len(raw) < most)
    except UnicodeDecodeError as error:
        raise ValueError(
            f'"{path}" is not UTF-8 text: byte 0x{raw[error.start]:02x} at position {error.start}; '
            f"save it as UTF-8."
        ) from None
    return text.replace("\r\n", "\n")[:max_characters]


def _table(
    name: str, *what: str | None, refusal: str | None = None, **options: Any
) -> Iterator[dict[str, Any]]:
    """The rows of a table, streamed: it is read where it lies, and not copied to a cache."""
    import datasets

    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said below
    try:
        yield from datasets.load_dataset(*what, streaming=True, **options)
    except Exception as error:  # `datasets`, pyarrow and HTTP clients each raise their own
        sentence = refusal or f'"{name}" could not be read ({one_line(error)}).'
        raise ValueError(sentence) from None
    finally:
        datasets.logging.set_verbosity(before)


def _rows(
    table: Iterable[dict[str, Any]], name: str, text_column: str | None, max_characters: int
) -> list[str]:
    """The text column of a table's rows, a document each, until `max_characters` are reached."""
    documents: list[str] = []
    left = max_characters
    column: str | None = None
    for row in table:
        column = column or _text_column(row, name, text_column)
        text = row.get(column)
        if isinstance(text, str) and text.strip():
            documents.append(text[:left])
            left -= len(documents[-1])
        if left <= 0:
            break
    return documents


def _text_column(row: dict[str, Any], name: str, wanted: str | None) -> str:
    """The column to read: `wanted`, else "text", else the only one that holds text."""
    texts = [key for key, value in row.items() if isinstance(value, str)]
    for column in (wanted,) if wanted else ("text", *(texts if len(texts) == 1 else ())):
        if column in row:
            return column
    raise ValueError(
        f'"{name}" has no column "{wanted or "text"}"; choose one of {", ".join(row)} '
        f"as text_column (on the command line: --text-column)."
    )


# --- the Hugging Face Hub -------------------------------------------------------------------------

# A row of WikiText is a line; an article begins at a line like " = Title = ".
_ARTICLE = re.compile(r" ?= [^=]")
_KNOWN = {
    "tinystories": "roneneldan/TinyStories",
    "wikitext": "Salesforce/wikitext:wikitext-2-raw-v1",
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def hub_source(name: str, text_column: str | None, split: str, max_characters: int) -> Source:
    """The first `max_characters` of a Hub dataset "owner/name" or "owner/name:config", streamed.

    One domain; a row is a document (of WikiText, an article). Without a network the local cache of
    `datasets` is tried. Raises ValueError in one sentence, within seconds, when neither has it.
    """
    import datasets

    repo, _, config = name.partition(":")
    unreachable = _why_unreachable(repo)
    before = datasets.config.HF_HUB_OFFLINE
    # The public switch is an environment variable read at import; this is the value it sets.
    datasets.config.HF_HUB_OFFLINE = before or unreachable is not None
    refusal = unreachable and (
        f'"{name}" could not be reached on the Hugging Face Hub ({unreachable}) and is not in the '
        f'local cache; go online, or use load_corpus("embedded"), which needs no network.'
    )
    table = _table(name, repo, config or None, split=split, refusal=refusal)
    try:
        documents = _rows(table, name, text_column, max_characters)
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    if name == _KNOWN["wikitext"]:
        starts = [i for i, line in enumerate(documents) if i == 0 or _ARTICLE.match(line)]
        ends = [*starts[1:], len(documents)]
        documents = ["".join(documents[a:b]) for a, b in zip(starts, ends, strict=True)]
    origin = f"Hugging Face Hub, {name}, split {split}"
    domain = Domain(repo.split("/")[-1].lower(), tuple(documents), origin)
    return Source(f"hub:{name}", (domain,))


def _why_unreachable(repo: str) -> str | None:
    """None when the Hub answers for `repo`, else the reason; ValueError when it has no such set."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    if datasets.config.HF_HUB_OFFLINE:
        return "offline mode is set"
    answer: list[BaseException | None] = []

    def ask() -> None:
        try:
            HfApi().dataset_info(repo, timeout=_HUB_TIMEOUT)
            answer.append(None)
        except Exception as error:
            answer.append(error)

    # A thread, because behind a silent firewall the timeout counts again for each address.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_TIMEOUT)
    if not answer:
        return f"no answer in {_HUB_TIMEOUT:.0f} s"
    if isinstance(answer[0], RepositoryNotFoundError):
        raise ValueError(
            f'the Hugging Face Hub has no dataset "{repo}" that you may read; check the name, '
            f'or use load_corpus("embedded").'
        )
    return one_line(answer[0]) if answer[0] else None


def open_source(
    source: str | Path, text_column: str | None, split: str, max_characters: int | None
) -> Source:
    """Find what `source` means: "embedded", "packages", a known or full Hub name, or a local path.

    Raises ValueError in one sentence for anything else, and as the loader it ends up with.
    """
    if max_characters is None:
        max_characters = MOST_OF_PACKAGES if source == "packages" else MOST
    check_whole("max_characters", max_characters)
    if not isinstance(source, str | Path) or source == "":
        raise ValueError(f"A corpus must be a name or a path, got {brief(source)}.")
    if source == "embedded":
        return embedded_source()
    if source == "packages":
        return packages_source(max_characters)
    if isinstance(source, str):
        name = _KNOWN.get(source, source)
        path = Path(name).expanduser()
        local = path.exists() or path.is_absolute() or path.suffix.lower() in SUFFIXES
        if not local and not name.startswith(".") and _HUB_NAME.fullmatch(name):
            return hub_source(name, text_column, split, max_characters)
        if not local and path.name == name and not path.suffix:
            raise ValueError(
                f'"{source}" is no corpus; give "embedded", "packages", '
                f'{", ".join(map(repr, _KNOWN))}, a Hub name "owner/name", or the path of a '
                f"{', '.join(SUFFIXES)} file."
            )
    return local_source(Path(source).expanduser(), text_column, max_characters)
