"""The recipes of runs/compression.json: what they are called, and how they are drawn."""

from __future__ import annotations

from typing import Any

from moeviz.pictures.plot import Key
from moeviz.pictures.svg import INK

BITS, RANK, FITTED_RANK = "bits", "low rank", "low rank, calibrated"
LOAD, ABLATION, CHANCE = "prune by load", "prune by ablation", "prune by chance"
REAP, FIRST_REAP = "prune by REAP", "prune by REAP, not renormalised"
NAEE = "prune by output error (NAEE)"
HC, MATCHED = "merge by output (HC-SMoE)", "merge by output, neurons matched"
M_SMOE = "merge by logits (M-SMoE)"
TUNED, TUNED_WHOLE = f"{REAP}, router tuned", "router tuned, all experts"
CRITERIA, MERGES = (LOAD, ABLATION, FIRST_REAP, REAP, NAEE), (HC, MATCHED, M_SMOE)

# What a learner reads: the field's short words.
SHORT = {
    BITS: "fewer bits", RANK: "low rank", FITTED_RANK: "low rank, calibrated",
    LOAD: "prune: load", ABLATION: "prune: ablation", REAP: "prune: REAP",
    FIRST_REAP: "prune: REAP, first form", NAEE: "prune: output error", CHANCE: "prune: chance",
    HC: "merge: output", MATCHED: "merge: output, matched", M_SMOE: "merge: logits",
    TUNED: "REAP, router tuned",
}  # fmt: skip
AMOUNTS = {
    "int8": "INT8", "int4": "INT4", "int3": "INT3", "int2": "INT2", "half": "half of the bytes",
    "quarter": "a quarter of the bytes", "6": "6 of 8 experts", "4": "4 of 8 experts",
    "2": "2 of 8 experts", "8": "all experts",
}  # fmt: skip
KEYS = {
    name: Key(SHORT[name], colour, dash, shape)
    for name, colour, dash, shape in (
        (BITS, "#0072b2", "", "circle"),
        (FITTED_RANK, "#d55e00", "", "square"),
        (RANK, "#d55e00", "6 3", "cross"),
        (LOAD, "#009e73", "", "diamond"),
        (ABLATION, "#009e73", "6 3", "cross"),
        (REAP, "#cc79a7", "", "circle"),
        (NAEE, "#cc79a7", "2 3", "square"),
        (CHANCE, INK, "2 3", "ring"),
        (HC, "#6e6e6e", "", "square"),
        (M_SMOE, "#6e6e6e", "6 3", "diamond"),
    )
}
REGIMES = {
    "batch": "a loss for each batch", "sequence": "a loss for each sequence", "bias": "a bias",
}  # fmt: skip

Figures = dict[str, Any]


def spoken(recipe: str) -> str:
    """A recipe within a sentence: "pruning by load"."""
    return recipe.replace("prune ", "pruning ").replace("merge ", "merging ")


def loss_of(figures: Figures, recipe: str, amount: str, regime: str = "batch") -> Figures:
    """The rise of the loss over seeds, of a recipe and amount under a regime."""
    found: Figures = figures["regimes"][regime]["recipes"][recipe][amount]
    return found.get("loss", found)
