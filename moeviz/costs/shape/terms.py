"""What every result is made of: named terms that add up, each with its sum written in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from moeviz.checks import check_choice

# The order in which a stack is drawn, and the names by which a component is meant elsewhere.
COMPONENTS = (
    "embedding", "attention", "router", "routed_experts", "shared_experts", "dense_ffn",
    "residual", "norms", "biases", "head",
)  # fmt: skip


@dataclass(frozen=True)
class Term:
    """One summand: what it is, how much, and how it was multiplied out. component: one of
    COMPONENTS, or "" where none is meant."""

    label: str
    value: float
    formula: str
    component: str = ""


@dataclass(frozen=True)
class Total:
    """A sum that shows its terms: `total` is in `unit`."""

    unit: str
    terms: tuple[Term, ...]

    @property
    def total(self) -> float:
        return sum(term.value for term in self.terms)

    @property
    def components(self) -> dict[str, float]:
        """Component -> its part of the total, in the order of COMPONENTS, empty ones left out."""
        parts: dict[str, float] = {}
        for term in self.terms:
            parts[term.component] = parts.get(term.component, 0) + term.value
        return {name: parts[name] for name in (*COMPONENTS, "") if name in parts}

    def part(self, component: str) -> float:
        """A component's part of the total, 0 where it has none. ValueError on an unknown one."""
        check_choice("component", component, COMPONENTS)
        return self.components.get(component, 0)

    def scaled(self, factor: float, words: str) -> Total:
        """Every term times a factor; `words` is put before each formula."""
        terms = tuple(
            Term(t.label, factor * t.value, f"{words} × {t.formula}", t.component)
            for t in self.terms
        )
        return Total(self.unit, terms)


def single(unit: str, label: str, value: float, formula: str) -> Total:
    """A result of one term: a number that says how it came about."""
    return Total(unit, (Term(label, value, formula),))


@dataclass(frozen=True)
class Weight:
    """One kind of weight tensor of a layer.

    size: elements of one copy; copies: how many there are (experts); used: how many of them one
    token meets. matmul: whether a token that meets it multiplies by it, 2 FLOPs an element; a
    table that is looked up and a vector that is added or scaled with are not counted as FLOPs.
    """

    component: str
    label: str
    size: int
    formula: str
    copies: int = 1
    used: int = 1
    matmul: bool = True

    @property
    def count(self) -> int:
        return self.size * self.copies

    @property
    def active(self) -> int:
        return self.size * self.used


def weight(component: str, label: str, *factors: tuple[str, int], **options: Any) -> Weight:
    """A Weight whose size is the product of named factors, which also make its formula."""
    size = math.prod(value for _, value in factors)
    words = " × ".join(f"{name} {value:,}" if name else f"{value:,}" for name, value in factors)
    return Weight(component, label, size, words, **options)


def vector(component: str, label: str, *factors: tuple[str, int], **options: Any) -> Weight:
    """A Weight that no token multiplies a matrix by: a norm, a bias, a table."""
    return weight(component, label, *factors, matmul=False, **options)


def gathered(pairs: Iterable[tuple[int, Weight]], active: bool) -> tuple[Term, ...]:
    """(times, Weight) pairs as terms, equal labels and formulas of a component added up."""
    times: Counter[Weight] = Counter()
    for count, item in pairs:
        times[item] += count
    terms = []
    for item, count in times.items():
        value = count * (item.active if active else item.count)
        each = item.used if active else item.copies
        of = f" (of {item.copies:,})" if active and item.used != item.copies else ""
        words = [f"{count} layers"] if count > 1 else []
        words += [f"{each:,} experts{of}"] if item.copies > 1 else []
        if value:
            formula = " × ".join([*words, item.formula])
            terms.append(Term(item.label, value, formula, item.component))
    return tuple(terms)
