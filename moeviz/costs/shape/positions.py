"""How many keys a query sees on average, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moeviz.checks import check_whole


@dataclass(frozen=True)
class Positions:
    """The query positions first..last, counted from 1, over which a cost is averaged.

    Causal attention: the query at position i sees i keys, itself among them. A whole sequence is
    Positions(1, S), whose mean is (S + 1) / 2; one decoded token is Positions(c, c).
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        check_whole("first", self.first)
        check_whole("last", self.last, self.first)

    def mean_keys(self, cap: int | None = None, every: int = 1) -> float:
        """Mean of min(i // every, cap): keys seen of a cache with one entry every so many tokens,
        of which at most `cap` are looked at."""

        def seen(n: int) -> int:
            # For each count up to the most, the positions that reach it.
            most = n // every if cap is None else min(n // every, cap)
            return most * (n + 1) - every * most * (most + 1) // 2

        return self._mean(seen)

    def mean_chunked(self, chunk: int) -> float:
        """Mean of (i - 1) % chunk + 1: keys seen where attention starts afresh every `chunk`."""

        def seen(n: int) -> int:
            whole, rest = divmod(n, chunk)
            return whole * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2

        return self._mean(seen)

    def _mean(self, total: Callable[[int], int]) -> float:
        """From the sum over positions 1..n."""
        return (total(self.last) - total(self.first - 1)) / (self.last - self.first + 1)
