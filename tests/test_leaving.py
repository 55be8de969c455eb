"""A program that ends, however it ends, loses no step and leaves nothing behind."""

import os
import subprocess
import sys

import numpy as np
import pytest

from helpers.mutants import searches
from helpers.patience import PATIENCE
from helpers.prose import prose
from moeviz.records.lock import NAME
from moeviz.records.store import load_arrays, load_header

# How a panel's program may be when it comes to its end.
ENDS = {
    "while it trains": (
        "panel._command('play')\nwait(lambda: panel.live and panel.live[0].step > 2)\n"
        "print(min(learner.step for learner in panel.live))"
    ),
    "after single steps": (
        "panel._command('step')\n"
        "wait(lambda: panel._frame and panel._frame.message == 'One step done.')\nprint(1)"
    ),
    "while it is built": "panel._command('play')\nwait(lambda: panel._frame)\nprint(0)",
}
PANEL = """
import time
from moeviz.panels import Race
def wait(condition):
    while not condition():
        time.sleep(0.01)
panel = Race()
"""


def run(program, home, *arguments):
    """Run a program of its own whose autosaves lie at home, and which waits for its threads as long
    as a busy machine may take."""
    patient = f"from moeviz import leaving\nleaving.PATIENCE = {PATIENCE}\n"
    return subprocess.run(
        [sys.executable, "-P", "-c", patient + program, *arguments],
        env={**os.environ, "MOEVIZ_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(
    "when",
    [
        pytest.param(when, marks=[pytest.mark.slow] * (when == "after single steps"))
        for when in ENDS
    ],
)
def test_a_program_that_ends_while_a_panel_works_neither_aborts_nor_loses_a_step(when, tmp_path):
    ended = run(PANEL + ENDS[when], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "terminate called" not in ended.stderr and "moeviz" not in ended.stderr
    seen, folder = int(ended.stdout), tmp_path / "live" / "race"
    files = sorted(path.name for path in folder.iterdir() if path.name != NAME)
    # What was built while Python ended is saved too.
    assert files == ["MoE.safetensors", "dense.safetensors"] or not (seen or files)
    for name in files:
        assert load_header(folder / name, kind="checkpoint")["step"] >= seen


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 0.5, 2.0])
def test_a_program_that_ends_while_the_small_model_loads_does_not_abort(seconds, tmp_path):
    program = (
        "import sys, time\nfrom moeviz.panels import CompareRouters, shipped_model\n"
        "panel = CompareRouters()\nshipped_model.READER.ask(panel)\n"
        f"time.sleep({seconds})"
    )
    ended = run(program, tmp_path)
    assert ended.returncode == 0 and "terminate called" not in ended.stderr, ended.stderr


# A child is forked where torch is imported, so that it trains within a second of its birth. It is
# killed a moment after its first checkpoint, every fourth one somewhere before that.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import moeviz.app.train
from moeviz.app import cli
from moeviz.records.store import load_header

whole, cut, kills, options = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]

def train(out, steps, *more):
    child = os.fork()
    if child == 0:
        os._exit(cli.main(["train", *options, "--out", str(out), "--steps", str(steps), *more]))
    return child

def step():
    file = cut / "checkpoint.safetensors"
    return load_header(file, kind="checkpoint")["step"] if file.exists() else -1

rng, begun = random.Random(0), time.monotonic()
for kill in range(kills):
    before = step()
    child = train(cut, 10**6, *(["--resume"] if before >= 0 else []))
    until = time.monotonic() + (rng.uniform(0, 1) if kill % 4 == 3 else 60)
    while step() == before and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.2))
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        sys.exit(f"run {kill} ended by itself: {status}")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if step() < before:
        sys.exit("a kill took steps away")
    partial = len(list(cut.glob(".*.partial")))
    print("kill", kill, "at step", step(), "partial files", partial, flush=True)
print(f"{kills} kills in {time.monotonic() - begun:.0f} s")
last = step() + 20
for out, more in ((cut, ["--resume"]), (whole, [])):
    if os.waitpid(train(out, last, *more), 0)[1]:
        sys.exit("it was refused")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@searches(5, 20)
def test_a_run_that_is_killed_again_and_again_is_the_same_bit_for_bit(count, tmp_path):
    (tmp_path / "text.txt").write_text(prose(1))
    options = (
        "--d-model 16 --num-layers 2 --num-heads 2 --num-experts 4 --top-k 2 --d-expert 8 "
        "--batch-size 2 --seq-len 8 --warmup 3 --device cpu --save-every 3 --validate-every 0 "
        "--schedule constant --corpus"
    )
    options = [*options.split(), str(tmp_path / "text.txt")]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = run(KILLED, tmp_path, str(whole), str(cut), str(count), *options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    print(ended.stdout)
    names = ["checkpoint.safetensors", "model.safetensors"]
    assert sorted(path.name for path in cut.iterdir()) == names
    (arrays, _), (again, _) = (
        load_arrays(folder / names[0], kind="checkpoint") for folder in (whole, cut)
    )
    assert arrays.keys() == again.keys()
    for name in arrays.keys() - {"history.seconds"}:  # the clock alone is another
        assert np.array_equal(arrays[name], again[name], equal_nan=True), name


def test_what_the_end_breaks_off_is_not_told(tmp_path):
    late = "threading.main_thread().join(), logging.getLogger('moeviz').error('late')"
    program = (
        "import logging, threading, moeviz.leaving\n"
        f"threading.Thread(target=lambda: ({late})).start()\n"
        "logging.getLogger('moeviz').error('early')"
    )
    assert run(program, tmp_path).stderr == "early\n"
