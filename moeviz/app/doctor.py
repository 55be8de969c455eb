"""What this machine can run, each expert backend proved by a real computation, in one page."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from moeviz import __version__
from moeviz.checks import one_line
from moeviz.host import cores, has_gpu, package_version

if TYPE_CHECKING:
    import torch

SIZES = ((48, 32), (8, 64, 32), (8, 32, 32))  # of x_TD, w13_E2FD and w2_EDF
FIRST_PYTHON, LAST_PYTHON = (3, 11), (3, 13)  # as pyproject.toml and the Makefile say


def main(argv: list[str]) -> int:
    """Print the page; 0 where all that moeviz needs works, 1 where something is to be done."""
    advice: list[str] = []
    print(f"moeviz {__version__} on Python {platform.python_version()}, {platform.platform()}")
    major, minor, _ = platform.python_version_tuple()
    if not FIRST_PYTHON <= (int(major), int(minor)) <= LAST_PYTHON:
        advice.append(
            f"Python {platform.python_version()} is not tested; use 3.11, 3.12 or 3.13: "
            "make lab PYTHON=python3.13"
        )
    _packages(advice)
    if package_version("torch"):
        _devices(advice)
        _triton(advice)
        _backends(advice)
    _data(advice)
    print("\nWhat to do" if advice else "\nEverything that moeviz needs works here.")
    for line in advice:
        print(f"  - {line}")
    return 1 if advice else 0


def _line(name: str, value: str) -> None:
    print(f"  {name:34}{value}")


def _packages(advice: list[str]) -> None:
    print("\nPackages")
    needs = {
        "torch": "to train and to route texts of your own",
        "numpy": "for every picture",
        "ipywidgets": "for the panels",
        "jupyterlab": "for `make lab` (Colab and VS Code bring their own)",
        "safetensors": "for recordings and checkpoints",
        "tokenizers": "for texts of your own",
        "datasets": "for corpora from the Hub or from files",
    }
    for name, why in needs.items():
        version = package_version(name)
        _line(name, version or "not installed")
        if version is None:
            advice.append(f"Install {name}, {why}: pip install {name}")
    widgets = package_version("ipywidgets")
    if widgets and int(widgets.split(".")[0]) not in (7, 8):
        advice.append(f"ipywidgets {widgets} is not tested; 7.7 and 8.1 are.")


def _devices(advice: list[str]) -> None:
    import torch

    from moeviz.backend import native_bfloat16

    print("\nDevices")
    _line("CPU", f"{cores()} cores, torch uses {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        _line("CUDA", "none (everything runs on the CPU; the notebooks are sized for two cores)")
        if has_gpu():
            _line("", f"PyTorch does not see the NVIDIA GPU: {_why_no_cuda()}")
        return
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        _line(
            f"CUDA {i}",
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability "
            f"{properties.major}.{properties.minor}, bf16 "
            f"{'yes' if native_bfloat16() else 'no: float16 is used'}",
        )


def _why_no_cuda() -> str:
    import torch

    try:
        torch.empty(0, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return one_line(error)
    return "it does now"


def _triton(advice: list[str]) -> None:
    print("\nTriton")
    version = package_version("triton")
    if version is None:
        _line("triton", f"not installed (there is no build for {platform.system()} everywhere)")
        return
    from moeviz.backend import kernels_anywhere

    try:
        interpreted = kernels_anywhere().interpreted()
        import triton  # noqa: F401
    except ValueError as error:
        _line("triton", f"{version}, does not import")
        advice.append(str(error))
        return
    except Exception as error:
        _line("triton", f"{version}, does not import: {error}")
        advice.append("Reinstall the Triton that your torch names: pip install -r requirements.txt")
        return
    _line("triton", f"{version}{', in its interpreter: for tests only' if interpreted else ''}")


def _backends(advice: list[str]) -> None:
    """Run each expert backend on a small random case, beside a plain loop in float64."""
    import torch

    from moeviz.backend import Backend, native_bfloat16, resolve_backend
    from moeviz.experiments.backends_timed import naive_loop

    print("\nExpert backends (relative error against a float64 loop, output and gradients)")
    truth = _outcome(naive_loop, "cpu", torch.float64)
    cases = [("cpu", torch.float32)]
    if torch.cuda.is_available():
        cases += [("cuda", torch.float32), ("cuda", torch.float16)]
        cases += [("cuda", torch.bfloat16)] if native_bfloat16() else []
    for device, dtype in cases:
        where = f"{device} {str(dtype).removeprefix('torch.')}"
        like = [torch.empty(size, device=device, dtype=dtype) for size in SIZES]
        _line(f"auto, {where}", f"runs {resolve_backend('auto', *like)}")
        for backend in get_args(Backend):
            if backend == "auto":
                continue
            verdict, mend = _proved(backend, device, dtype, truth)
            _line(f"{backend}, {where}", verdict)
            advice += [mend] if mend else []


def _proved(
    backend: str, device: str, dtype: torch.dtype, truth: list[torch.Tensor]
) -> tuple[str, str]:
    """What a backend gives here, in words, and what to do about it ("": nothing)."""
    import torch

    from moeviz.model.experts import apply_experts
    from moeviz.routing import Plan

    def experts(
        x_TD: torch.Tensor, expert_TK: torch.Tensor, weight_TK: torch.Tensor, *w: torch.Tensor
    ) -> torch.Tensor:
        plan = Plan.from_topk(expert_TK, weight_TK, num_experts=len(w[0]))
        return apply_experts(x_TD, plan, *w, backend=backend)

    try:
        results = _outcome(experts, device, dtype)
    except ValueError as error:  # a refusal
        return f"no: {str(error).splitlines()[0]}", ""
    except RuntimeError as error:
        mend = f"Backend {backend} does not train on {device}: use another."
        return f"failed: {str(error).splitlines()[0]}", mend
    worst = max(float((a - b).norm() / b.norm()) for a, b in zip(results, truth, strict=True))
    if worst < (1e-5 if dtype == torch.float32 and device == "cpu" else 5e-2):
        return f"ok, {worst:.0e}", ""
    mend = f"Backend {backend} computes wrongly on {device}: use another, and report it."
    return f"WRONG, {worst:.0e}", mend


def _outcome(
    experts: Callable[..., torch.Tensor], device: str, dtype: torch.dtype
) -> list[torch.Tensor]:
    """What experts (x_TD, expert_TK, weight_TK, w13_E2FD, w2_EDF) give on the same small case each
    time, and the gradients of its squared sum, in float64 on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x_TD, w13_E2FD, w2_EDF = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        .to(device, dtype)
        .requires_grad_()
        for size in SIZES
    )
    scores_TE = torch.rand(len(x_TD), len(w2_EDF), generator=generator).softmax(-1)
    weight_TK, expert_TK = scores_TE.to(device).topk(2)
    leaves = (x_TD, w13_E2FD, w2_EDF, weight_TK.requires_grad_())
    y_TD = experts(x_TD, expert_TK, weight_TK, w13_E2FD, w2_EDF)
    grads = torch.autograd.grad(y_TD.square().sum(), leaves, materialize_grads=True)
    return [v.detach().double().cpu() for v in (y_TD, *grads)]


def _data(advice: list[str]) -> None:
    from moeviz.host import data_path

    print("\nRecorded data")
    for parts in (
        ("tokenizer", "tokenizer.json"),
        ("models", "start_here.safetensors"),
        ("traces", "start_here.safetensors"),
        ("traces", "inside_layer.safetensors"),
        ("runs", "race.safetensors"),
    ):
        name = "/".join(parts)
        try:
            size = data_path(*parts).stat().st_size
        except FileNotFoundError as error:
            _line(name, "missing")
            advice.append(str(error))
        else:
            _line(name, f"{size / 1000:.0f} kB")
