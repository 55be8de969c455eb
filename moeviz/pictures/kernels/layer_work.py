"""What a layer has to compute and to move at the least: as a whole, and kernel by kernel."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.costs import distinct_experts

TOKENS = tuple(2**i for i in range(13))  # of a batch: decoding one token to a prefill of 4,096
SHAPE = ("d_model", "d_expert", "num_experts", "top_k")
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TOPK_FLOPS = 5  # a logit: maximum, difference, exponential, sum, quotient
ALL_EXPERTS = "all experts"


@dataclass(frozen=True)
class Work:
    """What has to be computed and moved at the least, each number once: FLOP and bytes."""

    name: str
    flops: float
    size: float

    @property
    def intensity(self) -> float:
        return self.flops / self.size


@dataclass(frozen=True)
class Reached:
    """A measurement: FLOP/s by active FLOPs, at an intensity by the same formula. by: the fastest
    contender, where it is of another layer."""

    name: str
    intensity: float
    flops_per_s: float
    by: str = ""


def all_experts(tokens: int, layer: dict[str, int], size: int) -> Work:
    """The experts' forward pass: x and y once, the weights of the experts that are hit once."""
    d_model, d_expert, num_experts, top_k = (layer[name] for name in SHAPE)
    weights = distinct_experts(num_experts, top_k, tokens).total * 3 * d_model * d_expert
    flops = 6.0 * tokens * top_k * d_model * d_expert
    return Work(ALL_EXPERTS, flops, size * (weights + 2 * tokens * d_model))


def works(tokens: int, layer: dict[str, int], size: int) -> tuple[Work, ...]:
    """The dense FFN of equal FLOPs, the experts as a whole, and kernel by kernel; size: bytes of a
    number. What is in the registers of one kernel costs no bytes."""
    d_model, d_expert, num_experts, top_k = (layer[name] for name in SHAPE)
    rows = tokens * top_k
    hit = distinct_experts(num_experts, top_k, tokens).total
    product = 2.0 * rows * d_model * d_expert
    whole = all_experts(tokens, layer, size)
    dense = size * (3 * d_model * d_expert * top_k + 2 * tokens * d_model)
    return (
        Work("dense FFN, same FLOPs", whole.flops, dense),
        whole,
        Work(
            "kernel: up, SwiGLU", 2 * product,
            size * (tokens * d_model + hit * 2 * d_model * d_expert + rows * d_expert),
        ),
        Work(
            "kernel: down", product,
            size * (rows * d_expert + hit * d_model * d_expert + rows * d_model),
        ),
        Work("kernel: combine", rows * d_model, size * (rows + tokens) * d_model + 4 * rows),
        Work(
            "kernel: top-k", TOPK_FLOPS * tokens * num_experts,
            8.0 * tokens * num_experts + 8 * rows,
        ),
    )  # fmt: skip
