"""What pictures of whole models share: sizes, the parts of a model, their colours, numbers."""

from __future__ import annotations

from moeviz.costs import Architecture, Total, model
from moeviz.pictures.svg import si

# Part -> its colour and the components of moeviz.costs in it, in the order of a stack.
PARTS = {
    "embedding, head": ("#56b4e9", ("embedding", "head")),
    "attention": ("#0072b2", ("attention",)),
    "router": ("#cc79a7", ("router",)),
    "routed experts": ("#e69f00", ("routed_experts",)),
    "shared experts": ("#009e73", ("shared_experts",)),
    "dense FFN": ("#d55e00", ("dense_ffn",)),
    "norms, biases": ("#6e6e6e", ("norms", "biases", "residual", "")),
}


def sizes_of(name: str) -> Architecture:
    """The architecture of a model of MODELS; ValueError where its sizes are not public."""
    found = model(name).architecture
    if found is None:
        raise ValueError(f"The sizes of {name} are not public: nothing can be computed.")
    return found


def sparse_sizes_of(name: str) -> Architecture:
    """The same; ValueError for a dense model."""
    found = model(name).architecture
    if found is None or not found.is_moe:
        raise ValueError(f"{name} has no experts that could be counted.")
    return found


def by_part(total: Total) -> dict[str, float]:
    """A total's parts in the order of a stack, 0 where it has none."""
    found = total.components
    return {
        part: sum(found.get(component, 0) for component in components)
        for part, (_, components) in PARTS.items()
    }


def part_of(component: str) -> str:
    """The part that a component belongs to."""
    return next(part for part, (_, components) in PARTS.items() if component in components)


def count(value: float) -> str:
    """6.71e11 -> "671B": three figures, as models are named."""
    return si(value, "").replace(" ", "").replace("G", "B")


def money(usd: float) -> str:
    """5.576e6 -> "$5.58M"."""
    return f"${count(usd)}" if usd >= 0.01 else f"${usd:.2g}"
