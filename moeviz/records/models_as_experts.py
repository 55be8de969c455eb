"""Models that learned apart and were put together: their names, and what they make of one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# Domains that a model each has learned, and domains that nobody has.
SEEN, UNSEEN = ("python", "english", "arithmetic"), ("c", "hex", "brackets")
PROMPT = 16  # tokens, by which a text's models are chosen; losses are those of the tokens after

START = "common start"
TOLD = "whole models, told the domain"
PICKED = "whole models, one picked"
MIXED = "whole models, mixed by the router"
BY_PROMPT = "whole models, mixed by the prompt's loss"
EVEN = "whole models, mixed evenly"
HINDSIGHT = "whole models, best in hindsight"
SOUP = "weights averaged"
ONE_SET = "FFNs as experts, one for a text"
GATED = "FFNs as experts, router trained"
TUNED = "FFNs as experts, all trained"
DENSE_ALL = "one dense model on everything"
MOE_ALL = "one MoE on everything"
# In the order in which they are shown; the first and HINDSIGHT are told, and compared with nobody.
ARMS = (
    START, TOLD, PICKED, MIXED, BY_PROMPT, EVEN, HINDSIGHT, SOUP, ONE_SET, GATED, TUNED, DENSE_ALL,
    MOE_ALL,
)  # fmt: skip

# Whom the experts of one MoE are chosen for.
BY_TOKEN, BY_START, BY_TEXT = (
    "token by token", "one set, by the prompt", "one set, by the whole text"
)  # fmt: skip
NO_EXPERTS = "dense"

# Written for this project: of two domains that were learned, of one that was not, and of a topic
# that changes.
TEXTS = {
    "Python": "def mean(values):\n    total = 0.0\n    for value in values:\n        "
    "total += value\n    return total / len(values)\n",
    "English": "The method returns a list of all names that were found. If the file cannot be "
    "opened, an exception is raised and nothing is changed.",
    "C, which nobody learned": "static int\nsum(struct pair *p)\n{\n    if (p == NULL)\n        "
    "return -1;\n    return p->left + p->right;\n}\n",
    "English, then sums": "This function adds two numbers and returns the result. For example, the "
    "sums are\n17+25=42\n103-58=45\n6*7=42\n88+13=101\n",
}


@dataclass(frozen=True)
class MixedText:
    """What M models make of one text of S + 1 tokens.

    tokens: what to show for each; loss: nats of every token but the first, [M, S]; router: by how
    much the router weighs each model, by the first PROMPT tokens, [M]; prompt: the same by what
    each loses on them, [M].
    """

    tokens: tuple[str, ...]
    loss: np.ndarray
    router: np.ndarray
    prompt: np.ndarray

    def mixed(self, weight_M: np.ndarray) -> np.ndarray:
        """What the mixture by these weights loses at every token but the first, [S]."""
        return -np.log(np.maximum(weight_M @ np.exp(-self.loss), np.finfo(float).tiny))

    def after(self, loss_S: np.ndarray) -> float:
        """The mean of the tokens after the first PROMPT ones; of all where there are no more."""
        last = loss_S[..., PROMPT - 1 :]
        return float((last if last.size else loss_S).mean())

    def to_json(self) -> dict[str, Any]:
        """JSON values, in four decimals."""
        arrays = {name: getattr(self, name) for name in ("loss", "router", "prompt")}
        return {"tokens": list(self.tokens)} | {
            name: np.round(array, 4).tolist() for name, array in arrays.items()
        }

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> MixedText:
        arrays = (np.array(values[name]) for name in ("loss", "router", "prompt"))
        return cls(tuple(values["tokens"]), *arrays)
