"""What pictures of whole models share: sizes, the parts of a model, their colours, numbers."""

from __future__ import annotations

from moeviz.costs import Architecture, Total, model
from moeviz.pictures.plot import Key
from moeviz.pictures.svg import si

# The components of moeviz.costs in each part, in the order of a stack.
PARTS = {
    Key("embedding, head", "#56b4e9", mark="box"): ("embedding", "head"),
    Key("attention", "#0072b2", mark="box"): ("attention",),
    Key("router", "#cc79a7", mark="box"): ("router",),
    Key("routed experts", "#e69f00", mark="box"): ("routed_experts",),
    Key("shared experts", "#6e6e6e", mark="box"): ("shared_experts",),
    Key("dense FFN", "#009e73", mark="box"): ("dense_ffn",),
    Key("norms, biases", "#f0e442", mark="box"): ("norms", "biases", "residual", ""),
}


def sizes_of(name: str) -> Architecture:
    """The architecture of a model of MODELS; ValueError where its sizes are not public."""
    architecture = model(name).architecture
    if architecture is None:
        raise ValueError(f"The sizes of {name} are not public: nothing can be computed.")
    return architecture


def sparse_sizes_of(name: str) -> Architecture:
    """The same; ValueError for a dense model."""
    architecture = model(name).architecture
    if architecture is None or not architecture.is_moe:
        raise ValueError(f"{name} has no experts that could be counted.")
    return architecture


def by_part(total: Total) -> dict[Key, float]:
    """A total's parts in the order of a stack, 0 where it has none."""
    known = total.components
    return {key: sum(known.get(name, 0) for name in names) for key, names in PARTS.items()}


def part_of(component: str) -> str:
    """The part that a component belongs to."""
    return next(key.name for key, names in PARTS.items() if component in names)


def count(value: float) -> str:
    """6.71e11 -> "671B": three figures, as models are named."""
    return si(value, "").replace(" ", "").replace("G", "B")


def money(usd: float) -> str:
    """5.576e6 -> "$5.58M"."""
    return f"${count(usd)}" if usd >= 0.01 else f"${usd:.2g}"
