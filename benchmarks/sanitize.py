"""One small forward and backward pass of the Triton kernels under NVIDIA's memory checker.

    python -m moeviz bench sanitize [--seconds 60]

compute-sanitizer's memcheck watches every read and write of the GPU. Each tensor gets memory of its
own, without PyTorch's cache between, so that one step too far is outside. Sizes are odd: rows and
columns of padding are where a kernel goes wrong. Where the checker is missing, does not support the
device or takes too long, that is said and is no failure; an error that it finds is.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
import time

import torch

import report
from layer_contenders import Problem, moeviz_triton
from layer_shapes import Shape

SHAPES = (Shape(100, 72, 40, 5, 2), Shape(1, 136, 24, 8, 8), Shape(33, 64, 56, 60, 3))
FOUND = 9  # compute-sanitizer's exit code for errors
KILLED = -9  # and that of what took too long
ERROR = re.compile(r"^=+ (Invalid|Misaligned|Illegal) ", re.MULTILINE)


def step() -> None:
    """What is watched: kernels and routing, three sizes, with gradients and without."""
    for dtype in (torch.bfloat16, torch.float32):
        for shape in SHAPES:
            contender = moeviz_triton(Problem.random(shape, "zipf", torch.device("cuda"), dtype))
            contender.run()
            contender.inference_step(torch.cuda.synchronize)


def verdict(code: int, output: str) -> tuple[int, str]:
    """This command's exit code, and a sentence on what the checker's exit code and output mean."""
    summary = re.search(r"ERROR SUMMARY: (\d+) error", output)
    if "device not supported" in output.lower():
        return 0, "compute-sanitizer does not support this device: not checked."
    if code == FOUND or (summary and int(summary[1])):
        return 1, f"compute-sanitizer found errors:\n{output}"
    if code == KILLED:
        if ERROR.search(output):  # what it found until then counts
            return 1, f"compute-sanitizer found errors in the time that it had:\n{output}"
        return 0, "compute-sanitizer took longer than --seconds: not checked."
    if not summary:
        return 0, f"compute-sanitizer did not run (exit code {code}): not checked.\n{output}"
    if code:
        return 1, f"The kernels failed (exit code {code}):\n{output}"
    return 0, "compute-sanitizer found no errors."


def run_within(command: list[str], seconds: float) -> tuple[int, str]:
    """Exit code and output. After `seconds` the command and all that it started are KILLED."""
    limited = ["timeout", "--signal=KILL", f"{max(seconds, 1):g}", *command]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pipe = subprocess.PIPE
    done = subprocess.run(
        limited, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment
    )
    return done.returncode, done.stdout


def main(argv: list[str] | None = None) -> int:
    """0 where nothing was found, or nothing could be checked; 1 on an error."""
    parser = report.command_line("sanitize", __doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="to give up after, in all")
    parser.add_argument("--step", action="store_true", help="the pass itself, unwatched")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("compute-sanitizer needs an NVIDIA GPU: not checked.")
        return 0
    if arguments.step:
        step()
        return 0
    toolkits = os.pathsep.join(sorted(glob.glob("/usr/local/cuda*/bin"), reverse=True))
    checker = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=toolkits)
    if checker is None:
        print("compute-sanitizer is neither on the PATH nor in /usr/local/cuda*/bin: not checked.")
        return 0
    # API errors are no memory errors: PyTorch asks for what a driver may not have.
    command = [checker, "--tool", "memcheck", "--report-api-errors", "no"]
    command += ["--error-exitcode", str(FOUND), "--print-limit", "10", "--show-backtrace", "device"]
    watched = [sys.executable, "-P", "-m", "moeviz", "bench", "sanitize", "--step"]
    deadline = time.monotonic() + arguments.seconds
    code, output = run_within(watched, arguments.seconds)  # compiles the kernels
    if code == 0:
        code, output = run_within([*command, *watched], deadline - time.monotonic())
    elif code != KILLED:
        print(f"The kernels failed before they were watched (exit code {code}):\n{output}")
        return code
    code, sentence = verdict(code, output)
    print(sentence)
    return code


if __name__ == "__main__":
    sys.exit(main())
