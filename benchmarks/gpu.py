"""A visit to a GPU in one command: right cuts, fast cuts, the layer beside its peers.

    python -m moeviz bench gpu --out DIR [--minutes 9] [--phases check,sweep,layer,train]
    python -m moeviz bench gpu --out DIR --rehearse    all of it at toy size, without a GPU
    python -m moeviz bench gpu --adopt DIR             later, on any machine

    check   compiles every candidate cut in parallel, against float64, five runs of equal bits
    sweep   times those that passed, at the sizes that count; the best are the layer's from here on
    layer   `bench layer` with them: beside a dense FFN, grouped_mm, transformers, Liger
    train   three experiments at a size that no laptop reaches; their text is read meanwhile
    step    where asked for: what a training step costs the host, compiled and as a CUDA graph too

A GPU is rare and a visit is short: each phase has its share of the minutes and runs in a process of
its own, every result is written as it comes, and what fails or comes too late is named. DIR holds
env.json, one file for each phase and log.txt. --adopt puts the results where the kernels, the
panels and the notebooks look for them, and builds these notebooks; it refuses figures that do not
say where they come from.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

import gpu_adopt
import layer
import report
import step_runs
import train_runs
from cuts import Device, check, describe, sweep
from layer_contenders import PACKAGES
from layer_shapes import HOT
from moeviz.records.store import write_atomically
from moeviz_kernels.configs import Gemm
from visit import Phase, load

# How long each phase is beside the others that run. All but the last are a visit's by default.
LENGTHS = {"check": 15.0, "sweep": 10.0, "layer": 38.0, "train": 35.5, "step": 7.0}
USUAL = ("check", "sweep", "layer", "train")
SPARE = 0.985  # of the visit; the rest is for its summary
LAST_CASE_S = 10.0  # for what the layer has begun when its budget ends
GRACE_S = 5.0  # for a phase to end by itself after its deadline
SUMMARY_LINES = 40
# The cuts of the last sweep on this machine, which `make gpu-verify` takes too.
TABLE = Path(__file__).resolve().parent.parent / "build" / "gpu" / "tuned.json"


def ends(phases: list[str], seconds: float) -> dict[str, float]:
    """When each phase ends, in seconds from the visit's begin."""
    total, passed, found = sum(LENGTHS[name] for name in phases), 0.0, {}
    for name in phases:
        passed += LENGTHS[name]
        found[name] = SPARE * seconds * passed / total
    return found


def environment(command: str, rehearse: bool) -> dict[str, Any]:
    """Where the figures come from: commit, date, device, driver, versions."""
    found = report.begin(command, PACKAGES)
    found |= {"rehearsal": rehearse, "gpu": None}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gb": properties.total_memory / 1e9,
            "multiprocessors": properties.multi_processor_count,
            "driver": driver(),
            "cuda": torch.version.cuda,
        }
    return found


def driver() -> str | None:
    """The driver's version, as nvidia-smi says it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip().splitlines()[0] if answer.stdout.strip() else None


def run_phase(name: str, out: Path, until: float, rehearse: bool) -> int:
    """One phase, in this process. until: by time.monotonic(), the same clock in all processes."""
    names, device = (["toy"] if rehearse else [*HOT, "OLMoE-8192"]), Device.here(rehearse)
    if name == "layer":
        return layer.main(
            [
                "--json",
                str(out / "layer.json"),
                "--budget",
                f"{max(1.0, until - time.monotonic() - LAST_CASE_S):g}",
            ]
            + (["--device", "cpu", "--shapes", "tiny", "--rounds", "1"] if rehearse else [])
        )
    if name == "train":
        corpus = train_runs.text(rehearse)
        if not sys.stdin.readline():  # its turn; nobody is there to give it
            return 1
    phase = Phase(name, out, until)
    phase.facts["provenance"] = load(out, "env").get("provenance", {})
    if name == "check":
        check(phase, names, device)
    elif name == "sweep":
        sweep(phase, names, device, set(load(out, "check")["items"]))
    elif name == "step":
        step_runs.run(phase, rehearse)
    else:
        train_runs.train(phase, corpus, rehearse)
    phase.save()
    print(phase.sentence(), flush=True)
    return 0


def begin(name: str, out: Path, until: float, rehearse: bool) -> subprocess.Popen[str]:
    """The process of a phase."""
    words = ["bench", "gpu", "--phase", name, "--out", str(out), "--until", f"{until:.1f}"]
    command = [sys.executable, "-P", "-m", "moeviz", *words] + ["--rehearse"] * rehearse
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if name == "layer" and (table := load(out, "sweep").get("table")):
        write_atomically(TABLE, json.dumps(table).encode())
        environment["MOEVIZ_TUNED"] = str(TABLE)
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], until: float, log: Any) -> str | None:
    """It is the phase's turn: its output goes to the screen and the log. Why it did not end well,
    if so."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(until + GRACE_S - time.monotonic(), stop)
    timer.daemon = True
    timer.start()
    assert process.stdin is not None and process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # of a process that has ended
            process.stdin.write("\n")
            process.stdin.close()
        for line in process.stdout:
            print(line, end="", flush=True)
            log.write(line)
            log.flush()
        code = process.wait()
    finally:
        timer.cancel()
        if process.returncode is None:  # an interrupted visit: nobody would end its phase
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if late.is_set():
        return f"was stopped {GRACE_S:g} s after its deadline"
    return f"ended with exit code {code}" if code else None


def visit(out: Path, minutes: float, phases: list[str], rehearse: bool, command: str) -> int:
    """All phases, one after the other, and a summary; 1 where a phase did not end well."""
    out.mkdir(parents=True, exist_ok=True)
    begun, total, troubles = time.monotonic(), 60 * minutes, {}
    deadlines = {name: begun + end for name, end in ends(phases, total).items()}
    where = environment(command, rehearse)
    report.save(where, out / "env.json")
    if not rehearse and (missing := gpu_adopt.unsaid(where)):
        hint = "; MOEVIZ_COMMIT names a tree's commit" if "commit" in missing else ""
        print(f"== --adopt will refuse this visit: {', '.join(missing)} unknown{hint}.", flush=True)
    # The text of the training takes a core half a minute: it is read from the start on.
    early = {n: begin(n, out, deadlines[n], rehearse) for n in phases if n == "train"}
    with contextlib.ExitStack() as leaving:
        for process in early.values():
            leaving.callback(process.kill)  # whose turn did not come
        log = leaving.enter_context(open(out / "log.txt", "a", encoding="utf-8"))
        for name, end in deadlines.items():
            now = time.monotonic()
            if now >= end:
                trouble = f"not begun: its time had passed after {end - begun:.0f} s"
            else:
                print(f"== {name}: from {now - begun:.0f} to {end - begun:.0f} s", flush=True)
                process = early.pop(name, None) or begin(name, out, end, rehearse)
                trouble = finish(process, end, log)
            if trouble:
                troubles[name] = trouble
            report.save(where | {"troubles": troubles}, out / "env.json")
        lines = summary(out)
        print("\n".join(lines), flush=True)
        log.write("\n".join(lines) + "\n")
    return 1 if troubles else 0


def summary(out: Path) -> list[str]:
    """What a visit has found, in at most 40 lines."""
    where = load(out, "env")
    gpu = where.get("gpu") or {"name": "no GPU: a rehearsal, no figure is a measurement"}
    lines = ["", f"== {gpu['name']}, commit {where['provenance']['commit']}"]
    lines += [f"{name} {trouble}" for name, trouble in where.get("troubles", {}).items()]
    for name in ("check", "sweep", "train", "step"):
        phase = load(out, name)
        lines += [phase["sentence"]] if "sentence" in phase else []
        lines += [f"  struck out: {key}: {why}" for key, why in list(phase["failed"].items())[:4]]
    for case in load(out, "layer").get("cases", []):
        ours = case["contenders"].get("moeviz triton", {})
        if "tflops" in ours:
            of_dense = ours["of_peers"].get("dense, equal active FLOPs")
            ratio = f", {of_dense['both']['median']:.2f} x dense" if of_dense else ""
            both = ours["tflops"]
            lines.append(
                f"  {case['shape']['name']:16} {case['routing']:10} forward {both['forward']:.3g}, "
                f"both {both['both']:.3g} TFLOP/s{ratio}"
            )
    for name, record in train_runs.records(load(out, "train"), {}).items():
        for arm, of_arm in record["arms"].items():
            lines.append(
                f"  {name} {arm:20} {of_arm['runs']} x {record['steps']} steps: held-out loss "
                f"{of_arm['validation_loss']['mean']:.4f}, "
                f"{of_arm['tokens_per_second']['mean']:,.0f} tokens/s"
            )
    for key, item in load(out, "step")["items"].items():
        if "step_ms" in item:
            told = f"{item['step_ms']:.1f} ms, {item['tokens_per_second']:,.0f} tokens/s"
        else:
            graph = (item["graph_ms"] or {}).get("median", math.nan)
            told = f"{item['both_ms']['median']:.1f} ms, {graph:.1f} as a CUDA graph"
        lines.append(f"  step, {key:20} {told}")
    for key, results in load(out, "sweep")["items"].items():
        ms, cut = statistics.median(results[0]["ms"]), Gemm(**results[0]["cut"])
        lines.append(f"  {key:28} {ms:9.3f} ms  {describe(cut)}")
    if len(lines) > SUMMARY_LINES:
        lines = [*lines[: SUMMARY_LINES - 1], f"... and more in {out}"]
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = report.command_line("gpu", __doc__)
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        metavar="DIR",
        default=TABLE.parent / "results",
        help="(default: build/gpu/results)",
    )
    add("--minutes", type=float, default=9.0, help="for all phases (default: 9)")
    add("--phases", default=",".join(USUAL), help=f"of {','.join(LENGTHS)}")
    add("--rehearse", action="store_true", help="at toy size in Triton's interpreter")
    add("--adopt", type=Path, metavar="DIR", help="put a visit's results where they are used")
    add("--phase", choices=LENGTHS, help=argparse.SUPPRESS)
    add("--until", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.adopt:
        try:
            return gpu_adopt.adopt_and_build(arguments.adopt)
        except ValueError as error:
            parser.error(str(error))
    if not arguments.rehearse and not torch.cuda.is_available():
        parser.error("a visit needs an NVIDIA GPU; --rehearse needs none.")
    if arguments.rehearse and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("a rehearsal needs TRITON_INTERPRET=1 before Python starts.")
    if arguments.phase:
        return run_phase(arguments.phase, arguments.out, arguments.until, arguments.rehearse)
    phases = arguments.phases.split(",")
    if unknown := [name for name in phases if name not in LENGTHS]:
        parser.error(f"--phases takes {', '.join(LENGTHS)}, got {', '.join(unknown)}.")
    if not arguments.minutes > 0:
        parser.error(f"--minutes must be above 0, got {arguments.minutes:g}.")
    command = f"{parser.prog} --minutes {arguments.minutes:g} --phases {','.join(phases)}"
    command += " --rehearse" * arguments.rehearse
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the phase, too
    return visit(arguments.out, arguments.minutes, phases, arguments.rehearse, command)


if __name__ == "__main__":
    sys.exit(main())
