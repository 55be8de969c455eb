"""A real model as it was loaded, with its tokenizer: what it reads, and what it is."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from moeviz.checks import one_line
from moeviz.host import package_version
from moeviz.text.tokenizer import BYTE_ALPHABET, readable


@dataclass(frozen=True)
class Pretrained:
    """A real MoE model, ready to read with: in evaluation mode, of an encoder-decoder the encoder.

    num_parameters: of the whole checkpoint, as loaded; counted: as the calculator counts them from
    its configuration, None where it does not know the model type; unused: how many tensors of the
    files have no place in the model, as those of further blocks.
    """

    name: str
    model_type: str
    model: nn.Module = field(repr=False)  # screens of it
    tokenizer: Any = field(repr=False)
    num_parameters: int
    counted: int | None
    unused: int = 0

    def encode(self, text: str) -> Tensor:
        """Token ids int64 [S] of a text, with the marks that the tokenizer puts at its start and
        end: a model that was trained with them routes other tokens otherwise without. ValueError
        where the text is empty, and where the model has no place for one of its tokens."""
        if not text or not self.tokenizer(text, add_special_tokens=False)["input_ids"]:
            raise ValueError("The text is empty; type a few words.")
        ids_S = torch.tensor(self.tokenizer(text)["input_ids"])
        known = self.model.get_input_embeddings().num_embeddings
        if int(ids_S.max()) >= known:
            raise ValueError(
                f"The tokenizer of {self.name} makes token {int(ids_S.max())} of the text, and the "
                f"model knows {known}: they do not belong together."
            )
        return ids_S

    def pieces(self, ids_S: Tensor) -> tuple[str, ...]:
        """What to show for each token, in the signs of moeviz's own tokenizer."""
        tokens = self.tokenizer.convert_ids_to_tokens(ids_S.tolist())
        return tuple(readable(_bytes_of(token, self._byte_level)) for token in tokens)

    @functools.cached_property
    def _byte_level(self) -> bool:
        """SentencePiece, too, may know the letter Ġ; "▁" is written by it alone."""
        vocabulary = self.tokenizer.get_vocab()
        return any(t.startswith("Ġ") for t in vocabulary) and not any("▁" in t for t in vocabulary)

    @torch.no_grad()
    def run(self, ids_S: Tensor) -> Any:
        """What the model says of the tokens as one sequence; ValueError where it cannot."""
        device = next(self.model.parameters()).device
        try:
            return self.model(input_ids=ids_S[None].to(device), use_cache=False)
        except (RuntimeError, LookupError, TypeError, AttributeError) as error:  # the family's code
            raise ValueError(f"{self.name} cannot read the text: {one_line(error)}.") from None

    def facts(self) -> dict[str, Any]:
        """What a record says of the model."""
        return {
            "model": self.name,
            "model_type": self.model_type,
            "num_parameters": self.num_parameters,
            "counted": self.counted,
            "unused": self.unused,
            "transformers": package_version("transformers"),
        }


def _bytes_of(token: str, byte_level: bool) -> bytes:
    """What a vocabulary's entry stands for: of byte-level BPE each character is a byte, of a
    SentencePiece model "▁" is a space, and <0x0A> a byte."""
    if byte_level and all(character in BYTE_ALPHABET for character in token):
        return bytes(BYTE_ALPHABET[character] for character in token)
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
