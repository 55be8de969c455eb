"""How many keys a query sees on average, in closed form."""

from __future__ import annotations

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
        if cap == 0:
            return 0.0
        return self._mean(lambda n: _capped(n, cap, every))

    def mean_chunked(self, chunk: int) -> float:
        """Mean of (i - 1) % chunk + 1: keys seen where attention starts afresh every `chunk`."""

        def seen(n: int) -> int:
            whole, rest = divmod(n, chunk)
            return whole * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2

        return self._mean(seen)

    def _mean(self, total) -> float:
        return (total(self.last) - total(self.first - 1)) / (self.last - self.first + 1)


def _floors(n: int, every: int) -> int:
    """Sum of i // every for i in 1..n."""
    whole = n // every
    return every * whole * (whole - 1) // 2 + whole * (n - whole * every + 1)


def _capped(n: int, cap: int | None, every: int) -> int:
    """Sum of min(i // every, cap) for i in 1..n."""
    if cap is None or n < every * cap:
        return _floors(n, every)
    return _floors(every * cap - 1, every) + cap * (n - every * cap + 1)
