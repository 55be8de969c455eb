"""The one place that chooses how expert FFNs run: reference | grouped | triton.

reference: a clear loop over experts, any dtype and size, on every device
grouped:   sort -> torch.nn.functional.grouped_mm -> gather-sum, the default on CPU and CUDA
triton:    kernels/moeviz_kernels, which does not carry kernels yet
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["auto", "reference", "grouped", "triton"]
# grouped_mm reads rows in 16-byte steps and takes these dtypes only.
GROUPED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GROUPED_ROW_BYTES = 16


def grouped_refusal(x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor) -> str | None:
    """Why grouped_mm cannot take these tensors, as one sentence; None where it can."""
    if not hasattr(F, "grouped_mm"):
        return f"torch {torch.__version__} has no grouped_mm; 2.11 or newer has."
    if x_TD.device.type not in ("cpu", "cuda"):
        return f"grouped_mm runs on cpu and cuda, not on {x_TD.device.type}."
    if x_TD.device.type == "cuda" and torch.cuda.get_device_capability(x_TD.device) < (8, 0):
        return "grouped_mm needs a GPU of compute capability 8.0 or newer."
    if x_TD.dtype not in GROUPED_DTYPES:
        return f"grouped_mm takes float32, bfloat16 and float16, not {x_TD.dtype}."
    for name, width in (("d_model", w2_EDF.shape[1]), ("d_expert", w2_EDF.shape[2])):
        if width * x_TD.element_size() % GROUPED_ROW_BYTES:
            step = GROUPED_ROW_BYTES // x_TD.element_size()
            return f"grouped_mm needs {name} to be a multiple of {step}, got {width}."
    return None


def resolve_backend(backend: str, x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor) -> str:
    """The backend that will run; ValueError where the one asked for cannot."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}.")
    if backend == "triton":
        raise ValueError(
            "The triton backend has no kernels in this version; use 'auto', 'grouped' or "
            "'reference'."
        )
    if backend == "reference":
        return backend
    refusal = grouped_refusal(x_TD, w13_E2FD, w2_EDF)
    if backend == "grouped" and refusal:
        raise ValueError(f"{refusal} Use backend='reference' or 'auto'.")
    return "reference" if refusal else "grouped"
