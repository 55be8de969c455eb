"""A small byte-level BPE tokenizer whose pieces a learner can read.

Every byte is a token, so no input is ever unknown; digits and brackets stand one by one, so that
arithmetic and nesting are visible; newlines stand alone and the indentation of a line is one piece.
"""

from __future__ import annotations

import functools
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from moeviz.checks import one_line
from moeviz.host import data_path

DEFAULT_VOCAB_SIZE = 2048
AT_ONCE = 1024  # texts: the library's encodings take some 100 bytes a token while they last

# What a piece may never cross. In order: indentation; a word with the space before it, where a
# capital begins a new one (Py|Object, HTTP|Server); one digit; one bracket; a run of other signs; a
# newline; other spaces, but for the last one, which belongs to the word that follows. `^` is the
# start of a line: the engine is Oniguruma with Ruby's syntax.
_SPLIT = (
    r"^[ \t]+| ?\p{Lu}?\p{Ll}+| ?\p{Lu}+(?!\p{Ll})| ?\p{L}+|\p{N}| ?[()\[\]{}]"
    r"| ?[^\s\p{L}\p{N}()\[\]{}]+|\n|[^\S\n]+(?!\S)|[^\S\n]+"
)


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes a byte as one printable character; this maps it back (GPT-2's)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}


BYTE_ALPHABET = _byte_alphabet()


class Tokenizer:
    """Byte-level BPE: text to ids and back without loss.

    Build one with `default` (the one that ships), `from_file` or `train`.
    """

    def __init__(self, text: str) -> None:
        """Read a tokenizer from its JSON text, the format of the Hugging Face `tokenizers` library.

        Raises ValueError, in one sentence, when the text is no such tokenizer or not byte-level
        with all 256 bytes (then some input would be unknown).
        """
        import tokenizers

        try:
            self._backend = tokenizers.Tokenizer.from_str(text)
            model = json.loads(text)["model"]
            vocab: dict[str, int] = model["vocab"]
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"the tokenizer cannot be read ({one_line(error)})") from None
        by_id = sorted(vocab, key=vocab.__getitem__)
        if (
            model.get("type") != "BPE"
            or not all(character in vocab for character in BYTE_ALPHABET)
            or not all(character in BYTE_ALPHABET for piece in by_id for character in piece)
            or sorted(vocab.values()) != list(range(len(vocab)))
        ):
            raise ValueError("the tokenizer is not a byte-level BPE with all 256 bytes")
        self._text = text
        self._bytes = [bytes(BYTE_ALPHABET[character] for character in piece) for piece in by_id]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = DEFAULT_VOCAB_SIZE) -> Tokenizer:
        """Learn at most `vocab_size` pieces (fewer where the texts hold no more) from `texts`.

        The same texts give the same tokenizer. Raises ValueError when `vocab_size` is under 256.
        """
        if vocab_size < 256:
            raise ValueError(
                f"vocab_size={vocab_size} is too small: a byte-level tokenizer needs at least 256, "
                f"one for each byte; {DEFAULT_VOCAB_SIZE} is the default."
            )
        from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Backend

        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=sorted(BYTE_ALPHABET),
            show_progress=False,
            special_tokens=[],
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend.to_str(pretty=True))

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read the tokenizer that `save` wrote. Raises ValueError when `path` holds none."""
        try:
            # Universal newlines: a checkout on Windows may have rewritten them, and the hash of
            # the tokenizer must not depend on the machine.
            return cls(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f'"{path}" is not a usable tokenizer ({one_line(error)}); restore the shipped '
                f'one with "git checkout -- data/tokenizer" or by reinstalling moeviz.'
            ) from None

    @staticmethod
    @functools.cache
    def default() -> Tokenizer:
        """The tokenizer that ships with moeviz; read once a process.

        Raises FileNotFoundError when it is missing and ValueError when it is damaged.
        """
        return Tokenizer.from_file(data_path("tokenizer", "tokenizer.json"))

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids run from 0 to `vocab_size` - 1."""
        return len(self._bytes)

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the tokenizer's JSON text, the same on every machine: 64 hex digits."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the JSON that `from_file` reads."""
        Path(path).write_text(self._text, encoding="utf-8", newline="\n")

    def encode(self, text: str) -> np.ndarray:
        """Ids of `text`: int32 [tokens]. Raises ValueError for what UTF-8 cannot write."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, on all cores: a list of int32 [tokens]; errors as in `encode`."""
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(
                    f"a tokenizer encodes text, not {type(text).__name__}; give a str."
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"the text has half of a surrogate pair (U+{ord(text[error.start]):04X}) at "
                    f"character {error.start}, which is not valid Unicode; remove it, or read the "
                    f'file with errors="replace".'
                ) from None
        ids: list[np.ndarray] = []
        for start in range(0, len(texts), AT_ONCE):
            some = list(texts[start : start + AT_ONCE])
            encodings = self._backend.encode_batch_fast(some, add_special_tokens=False)
            ids += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        return ids

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of `ids` [tokens]; bytes that form no character become U+FFFD.

        Raises ValueError for an id outside the vocabulary.
        """
        return b"".join(self._bytes[i] for i in self._checked(ids)).decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int] | np.ndarray) -> list[str]:
        """What to show for each of `ids` [tokens]: one printable string a token.

        A space is shown as "·", a newline as "⏎", a tab as "⇥", a combining mark at a token's
        start on "◌", and what is not printable, or is one of these signs itself, by its bytes, as
        in "‹e2›". Raises ValueError for an id outside the vocabulary.
        """
        return [readable(self._bytes[i]) for i in self._checked(ids)]

    def _checked(self, ids: Iterable[int] | np.ndarray) -> list[int]:
        numbers = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids)).reshape(-1)
        if numbers.size == 0:
            return []
        if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= self.vocab_size:
            raise ValueError(
                f"token ids must be whole numbers from 0 to {self.vocab_size - 1}, but these run "
                f"from {numbers.min()} to {numbers.max()}; encode the text with this tokenizer."
            )
        return numbers.tolist()


_SIGNS = {" ": "·", "\n": "⏎", "\t": "⇥"}
_MARK_HOLDER = "◌"
_RESERVED = {*_SIGNS.values(), _MARK_HOLDER, "‹", "›"}
_NO_LETTER = {"", *_SIGNS.values(), "›"}  # what a combining mark cannot stand on


def readable(piece: bytes) -> str:
    """A token's bytes as printable text; see `Tokenizer.pieces`."""
    text = []
    # surrogateescape keeps the bytes that form no character, as U+DC80 + (byte - 0x80).
    for character in piece.decode("utf-8", "surrogateescape"):
        if character in _SIGNS:
            text.append(_SIGNS[character])
        elif not character.isprintable() or character in _RESERVED:
            text.extend(f"‹{b:02x}›" for b in character.encode("utf-8", "surrogateescape"))
        elif unicodedata.category(character)[0] == "M" and "".join(text)[-1:] in _NO_LETTER:
            text.append(_MARK_HOLDER + character)  # alone, it would sit on what stands before
        else:
            text.append(character)
    return "".join(text)
