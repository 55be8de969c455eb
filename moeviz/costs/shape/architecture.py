"""A decoder's shape, from which everything else is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from moeviz.costs.read_hf.read import read_hf
from moeviz.costs.shape.feedforward import FFN, MoE
from moeviz.costs.shape.layers import Layer, Mixer
from moeviz.costs.shape.sizes import check_sizes
from moeviz.costs.shape.terms import Weight, vector, weight


@dataclass(frozen=True)
class Architecture:
    """A transformer by its sizes; ValueError, naming the field, on impossible ones.

    layers: the decoder's, in order. tied: whether the head is the embedding table. norm_vectors: of
    d_model in each norm: 1 for RMSNorm, 2 for LayerNorm with bias, 0 for one without parameters.
    positions: rows of a learned position table. head_bias: of the logits. streams: residual streams
    of hyper-connections, 1 for a plain one.
    encoder: layers of an encoder before the decoder, whose own layers then have `cross`.
    relative_buckets: of T5's relative position bias, one table of buckets x heads per stack.
    context_tokens: the longest context that it was made for, None where unknown.
    """

    name: str
    d_model: int
    vocab: int
    layers: tuple[Layer, ...]
    tied: bool = False
    norm_vectors: int = 1
    positions: int = 0
    head_bias: bool = False
    streams: int = 1
    encoder: tuple[Layer, ...] = ()
    relative_buckets: int = 0
    context_tokens: int | None = None

    def __post_init__(self) -> None:
        check_sizes(self, zero=("norm_vectors", "positions", "relative_buckets"))
        if not self.layers or not all(isinstance(v, Layer) for v in self.all_layers):
            raise ValueError("layers must be a non-empty tuple of Layer.")
        crossed = [layer.cross is not None for layer in self.layers]
        if any(crossed) != bool(self.encoder) or any(v.cross is not None for v in self.encoder):
            raise ValueError(
                "encoder must be given where decoder layers have cross attention, and only there."
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], name: str | None = None) -> Architecture:
        """From the config.json of a Hugging Face checkpoint; the text tower of a multimodal one.

        Layers for predicting further tokens (MTP) are left out, as vendors do. ValueError, naming
        what it is, on a model_type that is not known and on fields that are missing, contradict
        each other, or change the shape in a way that the type does not have.
        """
        return cls(**read_hf(config, name))

    @cached_property
    def all_layers(self) -> tuple[Layer, ...]:
        """The encoder's, then the decoder's."""
        return (*self.encoder, *self.layers)

    @cached_property
    def moe_layers(self) -> tuple[int, ...]:
        """Numbers of the layers that have experts, the encoder's first."""
        return tuple(i for i, v in enumerate(self.all_layers) if isinstance(v.ffn, MoE))

    @property
    def is_moe(self) -> bool:
        return bool(self.moe_layers)

    @cached_property
    def moe(self) -> MoE:
        """The experts of the MoE layers; ValueError for a dense model and where layers differ."""
        kinds = {layer.ffn for layer in self.all_layers if isinstance(layer.ffn, MoE)}
        if len(kinds) != 1:
            what = "has no experts" if not kinds else "has MoE layers of several shapes"
            raise ValueError(f"{self.name} {what}; this needs one shape of expert layer.")
        return kinds.pop()

    def mixers(self) -> list[tuple[int, Mixer]]:
        """(times, mixer) of the decoder, equal ones together; ValueError with an encoder."""
        self.decoder_only()
        times = Counter(layer.mixer for layer in self.layers if layer.mixer is not None)
        return [(count, mixer) for mixer, count in times.items()]

    def decoder_only(self) -> None:
        """ValueError for an encoder-decoder, whose tokens do not all meet the same layers."""
        if self.encoder:
            raise ValueError(
                f"{self.name} has an encoder: its compute and cache differ between encoder and "
                "decoder tokens, which is not counted here."
            )

    def weights(self) -> Iterator[tuple[int, Weight]]:
        """(times, weight) of everything, layer by layer kind."""
        d, vocab = ("d_model", self.d_model), ("vocab", self.vocab)
        if self.tied:
            yield 1, weight("embedding", "token embedding, also the head", vocab, d)
        else:
            yield 1, vector("embedding", "token embedding", vocab, d)
        if self.positions:
            yield 1, vector("embedding", "position embedding", ("positions", self.positions), d)
        norm = (d,) if self.norm_vectors == 1 else (("", self.norm_vectors), d)
        for layer, times in Counter(self.all_layers).items():
            for item in layer.weights(self.d_model, self.streams):
                yield times, item
            if layer.norms and self.norm_vectors:
                yield times, vector("norms", "layer norms", ("norms", layer.norms), *norm)
        stacks = 2 if self.encoder else 1
        if self.norm_vectors:
            yield stacks, vector("norms", "final norm", *norm)
        if self.relative_buckets:
            table = ("buckets", self.relative_buckets), ("heads", self.layers[0].heads)
            yield stacks, vector("attention", "relative position bias", *table)
        if self.streams > 1:
            streams = ("streams", self.streams)
            yield 1, weight("residual", "joining the streams", streams, streams, d)
            yield 1, vector("residual", "joining, base and scale", ("", self.streams + 1))
        if not self.tied:
            yield 1, weight("head", "head", vocab, d)
        if self.head_bias:
            yield 1, vector("biases", "head bias", vocab)

    def dense_twin(self) -> Architecture:
        """The dense model of the same compute per token: each MoE layer an FFN as wide as the
        experts that one token visits, top_k and shared ones together. ValueError for a dense model
        and for latent experts, which no one FFN equals."""
        if not self.is_moe:
            raise ValueError(f"{self.name} is dense already; a twin needs experts.")
        return replace(
            self,
            name=f"{self.name}, dense twin",
            layers=tuple(_dense(layer) for layer in self.layers),
            encoder=tuple(_dense(layer) for layer in self.encoder),
        )


def _dense(layer: Layer) -> Layer:
    moe = layer.ffn
    if not isinstance(moe, MoE):
        return layer
    if moe.latent_width is not None:
        raise ValueError("latent_width must be None for a dense twin: latent experts have none.")
    width = moe.top_k * moe.expert_width + moe.shared_width
    return replace(layer, ffn=FFN(width, moe.gated, moe.expert_bias))
