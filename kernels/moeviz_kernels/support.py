"""What the kernels can take, and why not, in one sentence."""

from __future__ import annotations

import re

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError
from triton.runtime.jit import JITFunction

from moeviz_kernels.configs import OLDEST
from moeviz_kernels.sort import MAX_EXPERTS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MATRIX_ELEMENTS = 2**31 - 1  # offsets inside one expert's matrix are 32-bit
# What a launch may raise although `refusal` found nothing: a chip with less shared memory, or one
# that this Triton, or its ptxas, does not know.
LaunchError = (OutOfResources, triton.CompilationError, PTXASError)


def launch_reason(error: BaseException) -> str:
    """The line of a LaunchError that says why, without the source and the logs around it."""
    # Triton wraps what fails inside of a function that the kernel calls, and says no more there.
    while isinstance(error.__cause__, triton.CompilationError):
        error = error.__cause__
    if isinstance(error, PTXASError):
        complaint = re.search(r"^ptxas.*\b(?:error|fatal)\s*:\s*(.+)$", str(error), re.MULTILINE)
        return f"ptxas: {complaint[1]}" if complaint else str(error).partition("\n")[0]
    lines = [line for line in str(error).splitlines() if line.strip(" ^")]
    return lines[-1].strip() if lines else type(error).__name__


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET was set before triton and
    this package were imported, and not only since."""
    from moeviz_kernels.gemm import gemm_kernel

    return not isinstance(gemm_kernel, JITFunction) and not isinstance(tl.sum, JITFunction)


def device_refusal(device: torch.device) -> str | None:
    """Why no kernel of this package runs on a device; None where they do."""
    if device.type == "cpu":
        if interpreted():
            return None
        return (
            "Triton kernels run on an NVIDIA GPU; on a CPU they need Triton's interpreter: set "
            "TRITON_INTERPRET=1 before Python starts."
        )
    return None if device.type == "cuda" else f"Triton kernels run on cuda, not on {device.type}."


def refusal(x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor) -> str | None:
    """Why `experts` cannot take these tensors; None where it can."""
    no_device = device_refusal(x_TD.device)
    if no_device:
        return no_device
    if x_TD.is_cuda:
        capability = torch.cuda.get_device_capability(x_TD.device)
        if capability < OLDEST:
            return (
                f"Triton uses tensor cores from compute capability {OLDEST[0]}.{OLDEST[1]} on; "
                f"this GPU has {capability[0]}.{capability[1]}."
            )
    if x_TD.dtype not in DTYPES:
        return f"Triton kernels take float32, float16 and bfloat16, not {x_TD.dtype}."
    if x_TD.dtype == torch.bfloat16 and interpreted():
        return "Triton's interpreter computes bfloat16 wrongly: use float32 or float16."
    num_experts, d_model, d_expert = w2_EDF.shape
    if not w2_EDF.numel():
        return (
            f"Triton kernels take at least one expert of at least one unit, got {num_experts} "
            f"experts, d_model {d_model}, d_expert {d_expert}."
        )
    for name, weights in (("w13_E2FD", w13_E2FD), ("w2_EDF", w2_EDF)):
        if not weights.is_contiguous():
            return f"Triton kernels read weights in order: {name} must be contiguous()."
        if weights[0].numel() > MATRIX_ELEMENTS:
            return (
                f"Triton kernels take up to 2^31 - 1 weights in one matrix, {name} has "
                f"{weights[0].numel()}."
            )
    if num_experts > MAX_EXPERTS:
        return f"Triton kernels take up to {MAX_EXPERTS} experts, got {num_experts}."
    return None
