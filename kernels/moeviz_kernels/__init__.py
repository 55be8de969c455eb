"""Triton kernels for sparse Mixture-of-Experts layers.

    logits --topk--> expert, weight --sort--> rows by expert --tiles--> up --> gemm --combine--> y

This package knows torch, triton and the tensors of a Plan. It never imports moeviz. On a machine
without a GPU its kernels run, slowly, in Triton's interpreter, where TRITON_INTERPRET=1 was set
before triton was imported.
"""

from moeviz_kernels.combine import gather, gather_sum
from moeviz_kernels.experts import experts
from moeviz_kernels.sort import MAX_EXPERTS, sort_by_expert, sort_topk
from moeviz_kernels.support import (
    LaunchError,
    device_refusal,
    interpreted,
    launch_reason,
    refusal,
)
from moeviz_kernels.topk import softmax_topk, topk

__all__ = [
    "MAX_EXPERTS",
    "LaunchError",
    "device_refusal",
    "experts",
    "gather",
    "gather_sum",
    "interpreted",
    "launch_reason",
    "refusal",
    "softmax_topk",
    "sort_by_expert",
    "sort_topk",
    "topk",
]
