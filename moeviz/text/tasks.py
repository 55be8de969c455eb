"""Two tasks that the lab makes itself: a phone book to remember, and products to work out.

Every example is a line of text of one length, a question and right behind it its answer:

    Kav0471     the phone book: a name and its number, drawn at random. Nothing but memory helps:
                a name says nothing of its number, and what is measured is what was read.
    743*8=6772  multiplication by one digit, every number with its ones first, as one multiplies on
                paper: 347 × 8 = 2776. What is measured are pairs that training never shows, in
                either order, so that remembering whole products does not help.

A token is a byte, so a learner reads what the model reads. A Task takes a corpus' place in a
Trainer; `training.answers.AnswerTrainer` counts the answer's tokens alone.
"""

from __future__ import annotations

import functools
import hashlib
import platform

import numpy as np

from moeviz.checks import check_whole
from moeviz.text.corpus import Batch, Corpus, DomainManifest, Manifest
from moeviz.text.split import Part
from moeviz.text.tokenizer import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMES = len(LETTERS) ** 3
NUMBERS = 10_000  # of four digits
MOST_DIGITS = 5  # all pairs are told apart in memory
FACTORS = range(2, 10)  # to multiply by 0 or by 1 asks for no work
BOOK, PRODUCTS = "phone book", "multiplication"
# What is recorded: entries of a book, digits of the number that is multiplied.
SIZES: dict[str, tuple[int, ...]] = {BOOK: (1500, 2000, 3000), PRODUCTS: (3, 4)}
HELD_OUT = 0.1  # of all pairs: for validation, and again for the reserve


@functools.cache
def byte_tokenizer() -> Tokenizer:
    """A token is a byte: 256 of them."""
    return Tokenizer.train([], 256)


class Task(Corpus):
    """Examples by number, in the place of a corpus with one domain. A subclass says its `line` and
    how many characters of it are the `answer`.

    pools: the numbers of the examples of each part, int64 [examples].
    """

    answer: int

    def __init__(self, name: str, pools: dict[Part, np.ndarray]) -> None:
        self.name = name
        self.domains = (name,)
        self.tokenizer = byte_tokenizer()
        self.pools = pools
        self.seq_len = len(self.line(0)) - 1
        digest = hashlib.sha256(name.encode())
        for pool in pools.values():
            digest.update("\n".join(self.line(int(n)) for n in pool[:1000]).encode())
        sizes = {f"{part}_tokens": len(pool) * (self.seq_len + 1) for part, pool in pools.items()}
        row = DomainManifest(
            name=name,
            documents=sum(map(len, pools.values())),
            characters=sum(sizes.values()),
            leaked_characters=0,
            sha256=digest.hexdigest(),
            origin="made by moeviz.text.tasks",
            **sizes,
        )
        self.manifest = Manifest(name, (row,), (), platform.python_version(), self.tokenizer.sha256)

    def line(self, number: int) -> str:
        """The example of a number: its question, then its answer."""
        raise NotImplementedError

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Token ids of these examples, int64 [examples, S+1]."""
        text = "".join(self.line(int(number)) for number in numbers)
        return _ids_of_bytes()[np.frombuffer(text.encode(), np.uint8)].reshape(len(numbers), -1)

    def tokens(self, domain: str, part: Part = "train") -> np.ndarray:
        """All examples of a part, one behind the other: int32 [tokens]."""
        if domain not in self.domains:
            raise ValueError(f'the task has one domain, "{self.name}", and no "{domain}".')
        return self.rows(self._pool(part)).ravel().astype(np.int32)

    def batch(self, *, seed: int, step: int, batch_size: int, seq_len: int) -> Batch:
        """Examples of training drawn at random, a pure function of seed and step."""
        self._check_length(seq_len)
        key = np.array([seed, step], dtype=np.uint64)
        draws = np.random.Philox(key=key).random_raw(batch_size)
        pool = self._pool("train")
        rows = self.rows(pool[draws % np.uint64(len(pool))])
        return Batch(rows, np.zeros(batch_size, np.int64))

    def windows(self, part: Part, *, seq_len: int, windows_per_domain: int) -> Batch:
        """The same examples of a part every time, evenly spaced over it."""
        self._check_length(seq_len)
        check_whole("windows_per_domain", windows_per_domain)
        pool = self._pool(part)
        place = np.arange(windows_per_domain) * len(pool) // windows_per_domain
        return Batch(self.rows(pool[place]), np.zeros(windows_per_domain, np.int64))

    def _pool(self, part: Part) -> np.ndarray:
        if part not in self.pools:
            raise ValueError(
                f'the task "{self.name}" has no part "{part}"; choose one of '
                f"{', '.join(self.pools)}."
            )
        return self.pools[part]

    def _check_length(self, seq_len: int) -> None:
        if seq_len != self.seq_len:
            raise ValueError(
                f"seq_len={seq_len} does not fit: a line of this task has {self.seq_len + 1} "
                f"tokens, so give seq_len={self.seq_len}."
            )


class PhoneBook(Task):
    """`entries` names of three letters, each with a number of four digits; another book for each
    seed. All parts are the whole book: what was read is what is asked."""

    answer = 4

    def __init__(self, entries: int, seed: int = 0) -> None:
        check_whole("entries", entries, high=NAMES)
        check_whole("seed", seed, 0, 2**32 - 1)
        draws = np.random.Philox(key=np.array([seed, entries], dtype=np.uint64))
        self.names = np.argsort(draws.random_raw(NAMES), kind="stable")[:entries]
        self.numbers = (draws.random_raw(entries) % np.uint64(NUMBERS)).astype(np.int64)
        book = np.arange(entries)
        super().__init__(
            task_name(BOOK, entries),
            dict.fromkeys(("train", "validation", "reserve"), book),
        )

    def line(self, number: int) -> str:
        name, size = int(self.names[number]), len(LETTERS)
        first, second, third = name // size**2, name // size % size, name % size
        letters = LETTERS[first].upper() + LETTERS[second] + LETTERS[third]
        return f"{letters}{self.numbers[number]:04d}"


class Multiplication(Task):
    """Products of a number of `digits` digits and one of FACTORS, ones first. A tenth of all pairs
    is held out for validation and a tenth for the reserve, drawn by the seed; a pair and its mirror
    (8 * 7 and 7 * 8) are always in one part."""

    def __init__(self, digits: int, seed: int = 0) -> None:
        check_whole("digits", digits, high=MOST_DIGITS)
        check_whole("seed", seed, 0, 2**32 - 1)
        self.digits, self.answer = digits, digits + 1
        pair = np.arange(10**digits * len(FACTORS))
        number, factor = self.factors(pair)
        # Of two that have a mirror, one stands for both.
        mirrored = np.isin(number, FACTORS) & (number < factor)
        same = np.where(mirrored, self._pair(factor, number), pair)
        key = np.array([seed, digits], dtype=np.uint64)
        draw = np.random.Philox(key=key).random_raw(len(pair))[same] / 2**64
        super().__init__(
            task_name(PRODUCTS, digits),
            {
                "train": pair[draw >= 2 * HELD_OUT],
                "validation": pair[draw < HELD_OUT],
                "reserve": pair[(draw >= HELD_OUT) & (draw < 2 * HELD_OUT)],
            },
        )

    @staticmethod
    def factors(pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number and the factor of examples by their numbers."""
        number, factor = np.divmod(pair, len(FACTORS))
        return number, factor + FACTORS[0]

    @staticmethod
    def _pair(number: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return number * len(FACTORS) + factor - FACTORS[0]

    def line(self, number: int) -> str:
        first, factor = divmod(number, len(FACTORS))
        factor += FACTORS[0]

        def ones_first(value: int, width: int) -> str:
            return f"{value:0{width}d}"[::-1]

        return (
            f"{ones_first(first, self.digits)}*{factor}={ones_first(first * factor, self.answer)}"
        )


def task_name(task: str, size: int) -> str:
    """ "phone book of 2,000 entries" or "multiplication of 3 digits"."""
    return f"{task} of {size:,} {'entries' if task == BOOK else 'digits'}"


def make_task(task: str, size: int, seed: int) -> Task:
    """The book or the products of a seed."""
    return PhoneBook(size, seed) if task == BOOK else Multiplication(size, seed)


@functools.cache
def _ids_of_bytes() -> np.ndarray:
    """The token of each byte of ASCII, int64 [128]."""
    return np.array([byte_tokenizer().encode(chr(byte))[0] for byte in range(128)], dtype=np.int64)
