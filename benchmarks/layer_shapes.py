"""What the layer benchmark measures: sizes, routings, and the least time they can take.

The limit is that of an ideal fused layer, max(FLOPs / matrix peak, bytes / copy bandwidth), with
both ceilings measured in the same run:
    FLOPs    6 T K D F forward, 18 with backward (active ones, without padding)
    bytes    forward   x and y (2 T D), the weights of experts that have tokens (3 D F each), and
                       what training has to keep, gate and up of each assignment (2 T K F)
             backward  these three again, read, the gradient of y in place of y; written are the
                       gradients of x (T D) and of all weights (3 E D F)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from moeviz.watch.timing import Ceilings


class Shape(NamedTuple):
    tokens: int
    d_model: int
    d_expert: int
    num_experts: int
    top_k: int

    @property
    def forward_flops(self) -> float:
        """Active ones, 2 per multiply-add: never those of padding."""
        return 6.0 * self.tokens * self.top_k * self.d_model * self.d_expert


def as_dense(shape: Shape) -> Shape:
    """One expert for all tokens, with the same active FLOPs."""
    tokens, d_model, d_expert, _, top_k = shape
    return Shape(tokens, d_model, top_k * d_expert, num_experts=1, top_k=1)


# tokens, d_model, d_expert, num_experts, top_k; in this order, so that a run that ends early has
# told the most. DSv3's weights have more than 2^31 numbers, which nobody has tried on a GPU: what
# breaks there has nothing after it to take along.
GPU_SHAPES = {
    "OLMoE-32768": Shape(32768, 2048, 1024, 64, 8),
    "Qwen3-32768": Shape(32768, 2048, 768, 128, 8),
    "Mixtral-8192": Shape(8192, 4096, 14336, 8, 2),
    "Qwen3-8192": Shape(8192, 2048, 768, 128, 8),
    "decode-8": Shape(8, 2048, 1024, 64, 8),
    "decode-64": Shape(64, 2048, 1024, 64, 8),
    "teach": Shape(4096, 256, 256, 8, 2),
    "mini": Shape(8192, 512, 256, 64, 8),
    "mini32": Shape(16384, 768, 384, 32, 4),
    "7B-fine": Shape(24576, 1536, 256, 128, 8),
    "OLMoE-8192": Shape(8192, 2048, 1024, 64, 8),
    "decode-1": Shape(1, 2048, 1024, 64, 8),
    "DSv3-8192": Shape(8192, 7168, 2048, 256, 8),
}
# Fine, finest and coarse experts; with two that the first visit has not reached, what comes first;
# of these, where a long run is timed; and two narrow layers, where the host is the limit.
HOT = ("OLMoE-32768", "Qwen3-32768", "Mixtral-8192", "Qwen3-8192")
FIRST = (*HOT, "decode-8", "decode-64")
LONG = ("OLMoE-32768", "Mixtral-8192")
NARROW = ("teach", "mini")
# "tiny" has few tokens, where small steps show.
CPU_SHAPES = {
    "fine": Shape(1024, 512, 256, 64, 8),
    "coarse": Shape(2048, 256, 256, 8, 2),
    "wide": Shape(2048, 512, 512, 8, 2),
    "teach": GPU_SHAPES["teach"],
    "narrow": Shape(2048, 128, 128, 8, 2),
    "finest": Shape(512, 256, 64, 256, 8),
    "tiny": Shape(64, 64, 32, 8, 2),
}
SHAPES = {**GPU_SHAPES, **CPU_SHAPES}
GPU_CASES = [(name, "uniform") for name in GPU_SHAPES]
GPU_CASES[-1:-1] = [("OLMoE-32768", "zipf"), ("OLMoE-32768", "all-to-one")]
CPU_CASES = [(name, "uniform") for name in CPU_SHAPES]


def limit_ms(
    shape: Shape, active_experts: int, element_size: int, ceilings: Ceilings
) -> dict[str, float]:
    """The time of an ideal fused layer, as above."""
    tokens, d_model, d_expert, num_experts, top_k = shape
    width, one_expert = tokens * d_model, 3 * d_model * d_expert
    forward = 2 * width + active_experts * one_expert + 2 * tokens * top_k * d_expert
    backward = forward + width + num_experts * one_expert

    def ms(flops: float, elements: float) -> float:
        matmul = flops / (1e9 * ceilings.matmul_tflops)
        return max(matmul, elements * element_size / (1e6 * ceilings.copy_gb_per_s))

    flops = shape.forward_flops
    return {"forward": ms(flops, forward), "both": ms(3 * flops, forward + backward)}


def kernel_work(shape: Shape, element_size: int) -> dict[str, tuple[float, str]]:
    """What each of moeviz's kernels has to do in a training step: FLOPs, or the bytes of what it
    reads and writes. The gemm and the gather-sum run twice, the tile map's tiles are counted at
    their largest."""
    tokens, d_model, d_expert, num_experts, top_k = shape
    rows = tokens * top_k
    product = 2.0 * rows * d_model * d_expert
    summed = 2 * (element_size * (rows + tokens) * d_model + 4 * (rows + tokens + 1))
    return {
        "up_kernel": (2 * product, "matmul"),
        "gemm_kernel": (3 * product, "matmul"),
        "grad_hidden_kernel": (product, "matmul"),
        "grad_weight_kernel": (3 * product, "matmul"),
        "topk_kernel": (8.0 * tokens * num_experts + 12.0 * rows, "copy"),
        "softmax_topk_backward_kernel": (4.0 * tokens * num_experts + 16.0 * rows, "copy"),
        "histogram_kernel": (8.0 * rows, "copy"),
        "scan_kernel": (8.0 * num_experts, "copy"),
        "scatter_kernel": (32.0 * rows + 4.0 * tokens, "copy"),
        "tile_map_kernel": (8.0 * (num_experts + rows / 64), "copy"),
        "gather_sum_kernel": (summed, "copy"),
    }


def route(routing: str, tokens: int, num_experts: int, top_k: int) -> Tensor:
    """logits_TE on the CPU, so that every device routes the same. uniform: all experts alike; zipf:
    the expert of rank r is drawn with a weight of r^-1.5; all-to-one: all tokens to the same K."""
    generator = torch.Generator().manual_seed(1)
    noise_TE = torch.randn(tokens, num_experts, generator=generator)
    if routing == "uniform":
        return noise_TE
    if routing == "all-to-one":
        return noise_TE + 30.0 * (torch.arange(num_experts) < top_k)
    rank_E = 1 + torch.randperm(num_experts, generator=generator)
    gumbel_TE = -torch.rand(tokens, num_experts, generator=generator).log().neg().log()
    return gumbel_TE - 1.5 * rank_E.log()
