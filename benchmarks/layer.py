"""One MoE layer from the router's logits on, beside its peers and the limit of the device.

    python -m moeviz bench layer [--shapes teach,OLMoE-32768] [--budget 360] [--json FILE]

Timed is all that a layer does once its logits are there: softmax, top-k, sort, experts, combine;
forward as in training, forward without gradients, and backward. The logits are one fixed tensor for
all contenders, which share their weights too. Before anything is timed, outputs and all gradients
are compared with float64, and runs with each other, bit by bit.

The limit is that of an ideal fused layer, with the ceilings of the device measured in the same run
(layer_shapes.py); "x dense" is the time over that of a dense FFN with the same active FLOPs, and in
the file "of_peers" is the time over that of each peer. What does not run, for want of time
(--budget), memory or a package, says so. The file is written after each case: an interrupted run
leaves those that it finished.On a GPU the quick contenders come first, then, in processes of their
own (layer_apart.py), Liger and what compiles for long: at the largest shapes and the untried ones,
then at all others; last come the profiles and transformers' eager loop. Each time has beside it the
host's, for what it takes to queue the work, and the chip's clock, power and temperature.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import report
from layer_apart import compile_all, compiling, measure_all, slow
from layer_contenders import ABSENT, DENSE, PACKAGES, NotRun
from layer_shapes import CPU_CASES, FIRST, GPU_CASES, SHAPES
from layer_study import Run, reason
from moeviz.host import data_path, processor_name
from moeviz.watch.chip import Chip
from profiling import free_memory

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def table(case: dict[str, Any]) -> str:
    """The case as text, one row a contender, then one a kernel."""
    shape, limit = case["shape"], case["limit_ms"]
    lines = [
        f"{shape['name']}: T={shape['tokens']} D={shape['d_model']} F={shape['d_expert']} "
        f"E={shape['num_experts']} K={shape['top_k']}, {case['dtype']}, {case['routing']} routing: "
        f"busiest expert {case['max_over_mean_load']:.1f}x the mean; limit {limit['forward']:.3g} "
        f"ms forward, {limit['both']:.3g} ms both; errors at T={case['checked_tokens']}",
        f"{'':32}{'forward ms':>24}{'inference':>10}{'backward':>10}{'both':>10}{'TFLOP/s':>9}"
        f"{'x dense':>8}{'limit':>7}{'saved MB':>9}{'peak MB':>9}{'launches':>9}{'syncs':>6}"
        f"{'error':>8}  repeats",
    ]
    for name, r in case["contenders"].items():
        if "not_run" in r:
            lines.append(f"{name:32}not run: {r['not_run']}")
            continue
        f, (saved, peak) = r["forward_ms"], (r["saved_bytes"], r["peak_bytes"])
        errors, dense = r.get("relative_error"), r["of_peers"].get(DENSE)
        cells = (
            f"{f['median']:.3f} ({f['q1']:.3f}-{f['q3']:.3f})".rjust(24),
            *(f"{r[key]['median']:10.3f}" for key in ("inference_ms", "backward_ms", "both_ms")),
            f"{r['tflops']['both']:9.3g}",
            f"{dense['both']['median']:8.2f}" if dense else f"{'-':>8}",
            f"{r['of_limit']['both']:7.0%}",
            *("-".rjust(9) if v is None else f"{v / 1e6:9.1f}" for v in (saved, peak)),
            str("-" if r["launches"]["both"] is None else r["launches"]["both"]).rjust(9),
            str("-" if r["syncs"] is None else r["syncs"]).rjust(6),
            f"{max(errors.values()):8.0e}" if errors else f"{'-':>8}",
            f"  {'yes' if r['repeatable'] else 'no'} ({r['repeated_runs']})",
        )
        lines.append(f"{name:32}" + "".join(cells))
        graphs = {part: r.get(f"graph_{part}_ms") for part in ("forward", "both")}
        if words := [f"{part} {ms['median']:.3f} ms" for part, ms in graphs.items() if ms]:
            lines.append(f"{'  as a CUDA graph':32}{', '.join(words)}")
        if host := r.get("host_ms"):
            words = [f"{part} {host[part]:.3f} ms" for part in ("forward", "backward")]
            lines.append(f"  host: {', '.join(words)}{words_of(r.get('chip'))}")
    for kernel in case["kernels"]:
        share = f"{kernel['share']:.0%} of {kernel['of']}" if kernel["of"] else ""
        lines.append(
            f"  {kernel['name'][:60]:60}{kernel['calls']:6g} x{kernel['ms']:10.4f} ms  {share}"
        )
    return "\n".join(lines)


def words_of(chip: dict[str, float] | None) -> str:
    if not chip or "sm_mhz" not in chip:
        return ""
    return f"; chip: {chip['sm_mhz']:.0f} MHz, {chip.get('power_w', math.nan):.0f} W"


def cases_for(device: torch.device, names: str | None) -> list[tuple[str, str]]:
    """Shape and routing of each case; ValueError on unknown names."""
    usual = GPU_CASES if device.type == "cuda" else CPU_CASES
    if names is None:
        return usual
    known = {name.lower(): name for name in SHAPES}
    asked = names.lower().split(",")
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(
            f"--shapes takes {', '.join(SHAPES)}, separated by commas, got {', '.join(unknown)}"
        )
    wanted = [known[name] for name in asked]
    cases = [case for case in usual if case[0] in wanted]
    return cases + [(name, "uniform") for name in wanted if (name, "uniform") not in cases]


def describe(run: Run) -> dict[str, Any]:
    """The device, as the report has it."""
    described = {"name": processor_name(), "capability": None, "memory_gb": None}
    if run.on_gpu:
        chip = torch.cuda.get_device_properties(run.device)
        described = {"name": chip.name, "capability": f"{chip.major}.{chip.minor}"}
        described["memory_gb"] = chip.total_memory / 1e9
    dtype = str(run.dtype).removeprefix("torch.")
    return {**described, "kind": run.device.type, "dtype": dtype, **asdict(run.ceilings)}


def default_file(gpu: str | None) -> Path:
    """layer_cpu.json, or by the GPU's name, where the panels find it: data/runs/layer_h200.json."""
    if gpu is None:
        return report.RESULTS / "layer_cpu.json"
    words = re.sub(r"[^a-z0-9]+", " ", gpu.lower()).split()
    name = "_".join(word for word in words if word not in ("nvidia", "tesla"))
    return data_path("runs") / f"layer_{name}.json"


def study(
    run: Run,
    cases: list[tuple[str, str]],
    done: list[dict[str, Any]],
    not_run: dict[str, str],
    save: Callable[[], None],
) -> None:
    """All cases: what ran goes to `done`, the others' reasons to `not_run`."""
    first = [case for case in cases if run.on_gpu and case[0] in FIRST and case[1] == "uniform"]
    for part in (first, [case for case in cases if case not in first]):
        ran = []
        for name, routing in part:
            try:
                if late := run.out_of_time():
                    raise NotRun(late)
                done.append(run.case(name, routing))
                ran.append((name, routing))
                print(table(done[-1]), end="\n\n", flush=True)
            except (NotRun, torch.OutOfMemoryError) as error:
                not_run[f"{name}, {routing}"] = reason(error)
                print(f"{name}, {routing}: not run: {reason(error)}\n", flush=True)
            free_memory()
            save()
        if run.on_gpu:
            items = compiling(ran)
            measure_all(run, items, done, save, compile_all(run, items))
    if run.on_gpu:
        run.profile(done, save)
        measure_all(run, slow([(c["shape"]["name"], c["routing"]) for c in done]), done, save, {})


def add_chip(case: dict[str, Any], chip: Chip | None) -> None:
    """The chip's clock, power and temperature in place of when something was timed."""
    for result in case["contenders"].values():
        for timed in (result, *(result.get("long_run") or ())):
            if spans := timed.pop("timed", None):
                timed["chip"] = chip.medians(spans) if chip else None


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 where all compute the same and moeviz repeats its bits, else 1."""
    parser = report.command_line("layer", __doc__)
    add = parser.add_argument
    where = (
        "data/runs/layer_<gpu>.json, which the panels show, or benchmarks/results/layer_cpu.json"
    )
    add("--json", type=Path, help=f"where the figures go (default: {where})")
    add("--shapes", help=f"of {', '.join(SHAPES)} (default: by device)")
    add("--device", choices=("cpu", "cuda"), help="(default: the GPU, where there is one)")
    add("--dtype", choices=DTYPES, help="(default: bf16 on a GPU, fp32 on a CPU)")
    add("--rounds", type=int, default=7, help="turns of each contender on a CPU")
    add("--budget", type=float, default=360.0, help="seconds, after which the rest is left out")
    arguments = parser.parse_args(argv)
    has_gpu = torch.cuda.is_available()
    device = torch.device(arguments.device or ("cuda" if has_gpu else "cpu"))
    if device.type == "cuda" and not has_gpu:
        parser.error("--device cuda needs an NVIDIA GPU and a PyTorch for it")
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    try:
        cases = cases_for(device, arguments.shapes)
    except ValueError as error:
        parser.error(str(error))
    dtype = arguments.dtype or ("bf16" if device.type == "cuda" else "fp32")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    path = arguments.json or default_file(gpu)

    command = f"{parser.prog} --device {device.type} --dtype {dtype}"
    command += f" --budget {arguments.budget:g}"
    command += f" --rounds {arguments.rounds}" if device.type == "cpu" else ""
    command += f" --shapes {arguments.shapes}" if arguments.shapes else ""
    results = report.begin(command, PACKAGES)
    run = Run(device, DTYPES[dtype], arguments.rounds, arguments.budget)
    done: list[dict[str, Any]] = []
    not_run = dict(ABSENT)
    results |= {"device": describe(run), "threads": torch.get_num_threads()}
    results |= {"cases": done, "not_run": not_run, "failures": run.failures}
    print(
        f"{results['device']['name']}, {dtype}: {run.ceilings.matmul_tflops:.3g} TFLOP/s in a "
        f"matrix product, {run.ceilings.copy_gb_per_s:.4g} GB/s in a copy",
        *(f"{peer}: not run: {why}" for peer, why in ABSENT.items()),
        sep="\n",
        end="\n\n",
        flush=True,
    )
    with Chip() if run.on_gpu else contextlib.nullcontext() as chip:

        def save() -> None:
            for case in done:
                add_chip(case, chip)
            report.save(results, path)

        study(run, cases, done, not_run, save)
    if run.on_gpu:
        results["chip"] = str(chip)
        save()
        print("\n\n".join(table(case) for case in done), f"\n\n{chip}", end="\n\n")
    print("Times: median (quartiles). TFLOP/s, x dense and share of the limit: forward + backward.")
    for failure in run.failures:
        print(f"FAILED: {failure}")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
