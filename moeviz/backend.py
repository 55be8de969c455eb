"""The one place that chooses how expert FFNs run: reference | grouped | matmul | triton.

reference: a clear loop over experts, any dtype and size, on every device
grouped:   sort -> torch.nn.functional.grouped_mm -> gather-sum, the default on a CPU
matmul:    one matrix product per expert between gather and gather-sum, the default on GPUs whose
           tensor cores neither Triton nor grouped_mm uses (below 8.0, such as Colab's T4)
triton:    kernels/moeviz_kernels, the default on GPUs from compute capability 8.0 on

On a GPU the routing's own steps, top-k and sort, run in Triton too (kernels_for).
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from moeviz.checks import check_choice

Backend = Literal["auto", "reference", "grouped", "matmul", "triton"]
# grouped_mm reads rows in 16-byte steps and takes these dtypes only.
GROUPED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GROUPED_ROW_BYTES = 16


_loaded: ModuleType | str | None = None  # a plain global: torch.compile can look through it


def _import_kernels() -> ModuleType | str:
    """moeviz_kernels, or why it does not import. Only now: importing Triton takes a second, and
    its interpreter must have been asked for before."""
    global _loaded
    if _loaded is None:
        try:
            _loaded = importlib.import_module("moeviz_kernels")
        except ImportError as error:
            _loaded = (
                f"The Triton kernels do not import ({error}): install the Triton that your "
                "PyTorch names, 'pip install triton' on Linux."
            )
    return _loaded


def kernels() -> ModuleType:
    """The package moeviz_kernels; ValueError where Triton or the table of cuts is missing or
    broken."""
    module = _import_kernels()
    if isinstance(module, str):
        raise ValueError(module)
    return module


def kernels_anywhere() -> ModuleType:
    """As kernels(), and without a GPU in Triton's interpreter, which is asked for here: for small
    sizes, to watch. ValueError where Triton was imported before and no interpreter was asked for.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    module = kernels()
    if module.device_refusal(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        raise ValueError(
            "Triton was imported before its interpreter was asked for: restart the kernel (menu "
            "Kernel, Restart) and run the cells from the top."
        )
    return module


def native_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16 itself, from compute capability 8.0 on. By default torch
    says yes of older ones too, such as Colab's T4, where it is emulated and slow."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def kernels_for(tensor: Tensor, *, num_experts: int = 1) -> ModuleType | None:
    """moeviz_kernels for a tensor on a GPU where Triton runs, and for as many experts as a program
    of the sort or the top-k holds; elsewhere None: plain PyTorch it is. So it is for float64, which
    the kernels do not know. On a CPU the interpreter would be asked by name only, it is far too
    slow."""
    module = _import_kernels() if tensor.is_cuda and tensor.dtype != torch.float64 else ""
    return None if isinstance(module, str) or num_experts > module.MAX_EXPERTS else module


def triton_refusal(x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor) -> str | None:
    """Why the Triton kernels cannot take these tensors, as one sentence; None where they can."""
    module = _import_kernels()
    if isinstance(module, str):
        return module
    return module.refusal(x_TD, w13_E2FD, w2_EDF)


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
        if not width or width * x_TD.element_size() % GROUPED_ROW_BYTES:
            step = GROUPED_ROW_BYTES // x_TD.element_size()
            return f"grouped_mm needs {name} to be a multiple of {step}, got {width}."
    for name, weight in (("w13_E2FD", w13_E2FD), ("w2_EDF", w2_EDF)):
        if not (weight.is_contiguous() or weight.mT.is_contiguous()):
            return f"grouped_mm needs {name} contiguous, got strides {weight.stride()}."
    return None


def resolve_backend(backend: str, x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor) -> str:
    """The backend that will run; ValueError where the one asked for cannot.

    "auto" takes the first that can of triton, grouped, matmul on a GPU, and says once why it is not
    triton; on a CPU of grouped and reference. What torch.compile traces has matmul for grouped,
    whose rule there refuses all but bfloat16 (torch 2.13).
    """
    check_choice("backend", backend, get_args(Backend))
    if backend != "auto":
        refusals = {"triton": triton_refusal, "grouped": grouped_refusal}
        refusal = refusals[backend](x_TD, w13_E2FD, w2_EDF) if backend in refusals else None
        if refusal:
            raise ValueError(f"{refusal} Use backend='auto' or 'reference'.")
        return backend
    compiling = torch.compiler.is_compiling()
    no_grouped = compiling or grouped_refusal(x_TD, w13_E2FD, w2_EDF)
    if not x_TD.is_cuda:
        return "matmul" if compiling else "reference" if no_grouped else "grouped"
    no_triton = triton_refusal(x_TD, w13_E2FD, w2_EDF)
    if not no_triton:
        return "triton"
    chosen = "matmul" if no_grouped else "grouped"
    say_once(f"{no_triton} Expert FFNs run on the {chosen} backend.")
    return chosen


@functools.cache
def say_once(sentence: str) -> None:
    """A warning, the first time that this sentence is said in this process."""
    warnings.warn(sentence, stacklevel=3)
