"""What a router may know of the tokens besides their hidden states."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

PER_TOKEN = ("token_ids", "sequence", "position", "previous_ids", "mask")


@dataclass(frozen=True)
class RouteContext:
    """What a router may know of the tokens besides their hidden states; every field is optional.

    token_ids, sequence, position: int64 [T] (hash routing, pools of tokens, capacity); without
    sequence all tokens are one. previous_ids: int64 [T], the id before each token, -1 for a first
    one (bigram hashes, where the token before is not among these). mask: bool [T], True for real
    tokens; generator: the source of all noise.
    """

    token_ids: Tensor | None = None
    sequence: Tensor | None = None
    position: Tensor | None = None
    previous_ids: Tensor | None = None
    mask: Tensor | None = None
    training: bool = False
    generator: torch.Generator | None = None

    def select(self, mask_T: Tensor) -> RouteContext:
        """The same of the tokens under a mask, all of them real."""
        fields = {name: getattr(self, name) for name in PER_TOKEN}
        kept = {name: values_T[mask_T] for name, values_T in fields.items() if values_T is not None}
        return dataclasses.replace(self, **kept | {"mask": None})
