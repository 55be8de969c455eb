"""What a layer does to each token alone: a dense FFN, or experts behind a router."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moeviz.costs.shape.sizes import check_sizes
from moeviz.costs.shape.terms import Weight, vector, weight


@dataclass(frozen=True)
class FFN:
    """One FFN of the given width; gated: three matrices (SwiGLU and its kin) instead of two."""

    width: int
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        check_sizes(self)

    def weights(self, d_model: int) -> Iterator[Weight]:
        return _ffn("dense_ffn", "dense FFN", d_model, self.width, self.gated, self.bias)


@dataclass(frozen=True)
class MoE:
    """num_experts experts of `expert_width`, of which a token visits top_k.

    shared_experts, shared_width: how many every token visits besides, and their width together (0:
    none); shared_gates: learned weights of that shared FFN, each a vector of d_model (Qwen2-MoE has
    one). router_matrices: matrices of d_model x num_experts that decide (0 for hash routing, 2 for
    noisy top-k); router_bias, score_bias: a learned bias of the logits, and one that only picks, of
    routers that keep it as a parameter. expert_bias, shared_bias: biases inside. latent_width: the
    width that experts work at, with a projection down and up around them (None: d_model), which has
    biases where the shared experts have. groups,
    top_groups: experts lie in so many groups, of which a token may visit only some (DeepSeek-V3:
    4 of 8 nodes).
    """

    num_experts: int
    top_k: int
    expert_width: int
    gated: bool = True
    shared_experts: int = 0
    shared_width: int = 0
    shared_gates: int = 0
    router_matrices: int = 1
    router_bias: bool = False
    score_bias: bool = False
    expert_bias: bool = False
    shared_bias: bool = False
    latent_width: int | None = None
    groups: int = 1
    top_groups: int = 1

    def __post_init__(self) -> None:
        zero = ("shared_experts", "shared_width", "shared_gates", "router_matrices")
        check_sizes(self, zero=zero)
        if self.top_k > self.num_experts:
            raise ValueError(
                f"top_k must be at most num_experts = {self.num_experts}, got {self.top_k}."
            )
        if bool(self.shared_experts) != bool(self.shared_width):
            raise ValueError(
                "shared_experts and shared_width must both be 0 or both be above 0, got "
                f"{self.shared_experts} and {self.shared_width}."
            )
        if not self.shared_width and (self.shared_gates or self.shared_bias):
            raise ValueError("shared_width must be above 0 where there is a shared gate or bias.")
        if self.num_experts % self.groups:
            raise ValueError(
                f"groups must divide num_experts = {self.num_experts}, got {self.groups}."
            )
        if self.top_groups > self.groups:
            raise ValueError(
                f"top_groups must be at most groups = {self.groups}, got {self.top_groups}."
            )
        if self.top_k > self.top_groups * (self.num_experts // self.groups):
            raise ValueError(
                f"top_k must fit the {self.top_groups} of {self.groups} groups that a token may "
                f"visit, {self.top_groups * (self.num_experts // self.groups)} experts, got "
                f"{self.top_k}."
            )

    def expert_parameters(self, d_model: int) -> int:
        """One routed expert, its biases included."""
        return sum(item.size for item in self._expert(d_model))

    def weights(self, d_model: int) -> Iterator[Weight]:
        d, experts = ("d_model", d_model), ("experts", self.num_experts)
        yield from self._expert(d_model)
        if self.router_matrices:
            many = [("", self.router_matrices)] if self.router_matrices > 1 else []
            yield weight("router", "router", *many, d, experts)
        if self.router_bias:
            yield vector("biases", "router bias", experts)
        if self.score_bias:
            yield vector("biases", "balance bias", experts)
        if self.latent_width is not None:
            latent = ("latent", self.latent_width)
            yield weight("shared_experts", "to the latent width and back", ("", 2), d, latent)
            if self.shared_bias:
                yield vector("biases", "latent bias, down", latent)
                yield vector("biases", "latent bias, up", d)
        if self.shared_width:
            yield from _ffn("shared_experts", "shared experts", d_model, self.shared_width,
                            self.gated, self.shared_bias)  # fmt: skip
        if self.shared_gates:
            yield weight("router", "shared gate", ("", self.shared_gates), d)

    def _expert(self, d_model: int) -> Iterator[Weight]:
        width = self.latent_width or d_model
        return _ffn("routed_experts", "routed experts", width, self.expert_width, self.gated,
                    self.expert_bias, copies=self.num_experts, used=self.top_k)  # fmt: skip


def _ffn(
    component: str, label: str, width: int, hidden: int, gated: bool, bias: bool, **copies: int
) -> Iterator[Weight]:
    """The matrices of an FFN, and its biases where it has them."""
    matrices = ("matrices", 3 if gated else 2)
    yield weight(component, label, matrices, ("d_model", width), ("width", hidden), **copies)
    if bias:
        into = [("", 2)] if gated else []
        yield vector("biases", f"{label}, bias in", *into, ("width", hidden), **copies)
        yield vector("biases", f"{label}, bias out", ("d_model", width), **copies)
