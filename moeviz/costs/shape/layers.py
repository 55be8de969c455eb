"""One layer of a transformer: what mixes its tokens, what each of them goes through, its norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moeviz.checks import check_whole
from moeviz.costs.shape.compressed import CompressedAttention
from moeviz.costs.shape.feedforward import FFN, MoE
from moeviz.costs.shape.mixers import Attention, LatentAttention
from moeviz.costs.shape.recurrent import Recurrence
from moeviz.costs.shape.terms import Weight, vector, weight

Mixer = Attention | LatentAttention | CompressedAttention | Recurrence


@dataclass(frozen=True)
class Layer:
    """mixer or ffn may be None, not both. norms: how many of d_model the layer has; cross: a
    decoder's attention over its encoder."""

    mixer: Mixer | None
    ffn: FFN | MoE | None
    norms: int = 2
    cross: Attention | None = None

    def __post_init__(self) -> None:
        if self.mixer is None and self.ffn is None:
            raise ValueError("mixer or ffn must be given: a layer of neither does nothing.")
        check_whole("norms", self.norms, 0)

    @property
    def heads(self) -> int:
        """Attention heads; ValueError where the layer has none."""
        if not isinstance(self.mixer, Attention):
            raise ValueError("mixer must be Attention here: it is asked for its heads.")
        return self.mixer.heads

    def weights(self, d_model: int, streams: int) -> Iterator[Weight]:
        """All but the norms, whose kind is the architecture's."""
        for part in (self.mixer, self.cross, self.ffn):
            if part is None:
                continue
            yield from part.weights(d_model)
            if streams > 1 and part is not self.cross:
                # Zhu et al. 2024 (2409.19606): read, write and mix the streams around each
                # sublayer, by weights computed from all of them.
                mixed, wide = ("mixing", streams * (streams + 2)), ("streams", streams)
                yield weight("residual", "hyper-connections", mixed, wide, ("d_model", d_model))
                base = ("", mixed[1] + 3)
                yield vector("residual", "hyper-connection base and scale", base)
