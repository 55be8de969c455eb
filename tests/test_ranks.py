"""Training on several processes is a single process's: gloo, on this machine."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.patience import PATIENCE, wait
from helpers.prose import prose
from helpers.ranks import Processes, environment, free_port
from helpers.routers import DISCRETE
from helpers.training import MOE
from moeviz.app.ranks import LOST
from moeviz.costs.cost.traffic import all_to_all
from moeviz.model import architecture_of

pytestmark = pytest.mark.xdist_group("ranks")
ROUNDING = {"float64": 1e-9, "float32": 2e-4}
LONG = ("gshard", "deepseek_v3")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    processes = Processes(2, str(tmp_path_factory.mktemp("two")))
    yield processes
    processes.end()


def check(answers, dtype="float64"):
    for answer in answers:
        assert isinstance(answer, dict) and answer["same experts"], answer
        assert max(answer["errors"].values()) < ROUNDING[dtype], answer


@pytest.mark.parametrize("router", DISCRETE)
def test_two_processes_learn_what_one_does(two, router):
    """Every router that makes a Plan: losses, gradients, balancing state and validation."""
    check(two.ask("equal", data=1, expert=2, router=router, steps=50 if router in LONG else 4))


@pytest.mark.parametrize(
    "given",
    [
        dict(data=2, expert=1),
        dict(data=1, expert=2, train={"accumulate": 2}),
        dict(data=2, expert=1, sharded=True, train={"accumulate": 2}),
        dict(data=1, expert=2, sharded=True, num_shared=1),
        dict(data=1, expert=2, num_shared=1, shared_gate="softmax"),
        dict(data=1, expert=2, capacity={"factor": 0.6, "priority": "probability"}),
        dict(data=1, expert=2, router="switch", options={"jitter": 0.1, "noise": 0.5}),
        dict(data=1, expert=2, options={"bias": "quantile", "bias_rate": 1.0}),
        # A process whose experts get no token does not hang, whatever runs them.
        dict(data=1, expert=2, killed=[0, 1], backend="grouped"),
        dict(data=1, expert=2, killed=[2, 3], backend="matmul"),
        dict(data=1, expert=2, killed=[2, 3], backend="reference"),
        # One copy of a token for each process, whatever it holds.
        dict(data=1, expert=2, copies="device", capacity={"factor": 0.6}),
        dict(data=1, expert=2, copies="device", killed=[2, 3], num_shared=1),
        dict(data=1, expert=2, copies="device", top_k=4),
        # Batches of validation that processes cannot share evenly.
        dict(data=1, expert=2, train={"batch_size": 6, "seq_len": 8}),
    ],
    ids=lambda given: " ".join(f"{name}={value}" for name, value in given.items()),
)
def test_so_they_do_with_every_option(two, given):
    dtype = "float32" if given.get("backend") == "grouped" else "float64"
    check(two.ask("equal", dtype=dtype, **given), dtype)


def test_the_bytes_that_travel_are_those_of_the_calculator(two):
    """To the byte, for every pair, layer and direction, of one real step."""
    answers = two.ask("moved")
    for layer, exchanges in enumerate([(0, 1, 6, 7), (2, 3, 4, 5)]):
        computed = [
            all_to_all(
                architecture_of(MOE),
                tokens_per_device=2 * 16,
                nodes=1,
                devices_per_node=2,
                copies="expert",
                dispatch_bits=32,
                combine_bits=32,
                share_E=answer["shares"][layer],
            )
            for answer in answers
        ]
        out, back, out_again, back_again = (
            [answer["exchanges"][n] for answer in answers] for n in exchanges
        )
        # The backward pass sends what the combine brought and what the dispatch took.
        assert out == out_again and back == back_again
        for source, of in enumerate(computed):
            assert out[source] == pytest.approx(of.dispatch_bytes[source], rel=1e-9)
            for device in range(2):
                want = of.combine_bytes[device][source]
                assert back[device][source] == pytest.approx(want, rel=1e-9)
    assert all(len(answer["exchanges"]) == 8 for answer in answers)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(data=1, expert=2, router="soft_moe"), "mixes tokens instead of sending them"),
        (dict(data=2, expert=1, sharded=True, options={"learning": "rerandomised"}), "A gate that"),
        (
            dict(data=2, expert=1, sharded=True, router="null_experts", options={"constant": 0}),
            "has no entries to shard; leave --shard out.",
        ),
        (dict(data=1, expert=2, num_experts=5), "must divide num_experts = 5, got 2."),
        (dict(data=2, expert=2), "needs 4 processes, and there are 2; start it as: "),
        (dict(data=1, expert=0), "expert_parallel must be a whole number of at least 1, got 0."),
        (dict(data=1, expert=2, train={"batch_size": 5}), "multiple of the 2 processes, got 5."),
        (dict(data=1, expert=2, train={"compile": True}), "compile is for one process"),
    ],
)
def test_what_cannot_be_equal_is_refused_in_one_sentence(two, given, sentence):
    for answer in two.ask("equal", **given):
        assert sentence in answer and "\n" not in answer


def test_processes_that_disagree_say_in_what(two):
    answers = two.ask("disagree")
    assert "Process 0 has seed 0, process 1 has seed 1: start all" in answers[0]
    assert "Process 1 has seed 1, process 0 has seed 0: start all" in answers[1]


def test_a_process_that_does_not_come_is_given_up(two):
    lost, _ = two.ask("hang")
    assert any(word in lost.lower() for word in LOST), lost


def test_a_checkpoint_goes_on_in_another_arrangement(two, tmp_path):
    folder = tmp_path / "checkpoint"
    given = dict(folder=str(folder), data=1, expert=2, router="deepseek_v3")
    assert two.ask("saved", steps=3, sharded=True, **given)[0] == ["step-00000003"]
    check(two.ask("resumed", folder=str(folder), data=1, expert=2), "float32")
    (folder / ".step-00000004.partial").mkdir()  # of a run that was killed while it saved
    assert two.ask("saved", steps=5, **given)[0] == ["step-00000005"]
    check(two.ask("resumed", folder=str(folder), data=2, expert=1, sharded=True), "float32")
    for refusal, names in two.ask("full", folder=str(folder)):
        assert re.fullmatch(r"Could not save .*No space left on device.*another path\.", refusal)
        assert names == ["step-00000005"]
    part = max(folder.rglob("shard-*"))
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    for answer in two.ask("resumed", folder=str(folder), data=1, expert=2):
        assert answer.endswith(
            f"{part.name} is damaged or missing; go on from another checkpoint, or begin anew."
        )
    refusals = two.ask("resumed", folder=str(tmp_path), data=1, expert=2)
    assert all("holds no whole checkpoint" in refusal for refusal in refusals)


@pytest.mark.parametrize("given", [dict(data=1, expert=2), dict(data=2, expert=1, sharded=True)])
def test_several_processes_take_over_the_checkpoint_of_one_and_the_reverse(two, tmp_path, given):
    file, folder = str(tmp_path / "one.safetensors"), str(tmp_path / "several")
    two.ask("saved_alone", file=file, steps=3, router="deepseek_v3")
    check(two.ask("resumed", folder=file, **given), "float32")
    assert two.ask("saved", folder=folder, steps=3, router="deepseek_v3", **given)[0]
    check(two.ask("resumed_alone", folder=folder), "float32")
    part = max(Path(folder).rglob("shard-*"))
    part.unlink()
    for answer in two.ask("resumed_alone", folder=folder):
        assert answer.endswith("go on from another checkpoint, or begin anew.")


def test_a_port_that_is_in_use_is_one_sentence(monkeypatch):
    from moeviz.systems.ranks import Ranks

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in environment(2, 0, port).items():
            if name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
                monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=f"^Port {port} is in use by another program; give"):
            Ranks()


ASKED_TO_STOP = """
import os, signal, sys
from tqdm import tqdm
from moeviz.app.cli import main
from moeviz.systems.ranks import Ranks
from moeviz.training.trainer import Trainer

def asked(real):
    def call(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)
    return call

def lost(self):
    raise RuntimeError("gloo: Connection closed by peer")

{}
sys.exit(main("train --d-model 8 --num-layers 1 --num-heads 2 --steps 2 --device cpu".split()))
"""


@pytest.mark.parametrize(
    "moment, sentence",
    [
        ("Ranks.first_to_speak = asked(Ranks.first_to_speak)", "2 processes, and there are 1"),
        ("Trainer.__iter__ = lost; tqdm.close = asked(tqdm.close)", "Another process of this run"),
    ],
)
def test_who_speaks_for_all_is_not_ended_before_it_has(tmp_path, moment, sentence):
    """torchrun ends all as soon as one has ended, which may be between any two lines."""
    code = ASKED_TO_STOP.format(moment)
    if "first_to_speak" in moment:
        code = code.replace("train ", "train --data-parallel 2 ")
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment(1, 0, free_port()),
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert run.returncode in (1, 2) and run.stderr.count("moeviz: ") == 1, run.stderr
    assert sentence in run.stderr


def test_four_processes_of_which_one_dies_leave_a_whole_checkpoint(two, tmp_path):
    """By torchrun, in a mesh of 2 x 2; two processes then go on as if one had trained all along."""
    (tmp_path / "text.txt").write_text(prose(1))
    options = (
        "--d-model 8 --num-layers 1 --num-heads 2 --num-experts 4 --top-k 2 --d-expert 4 "
        "--batch-size 4 --seq-len 8 --device cpu --steps 10000 --save-every 5 --validate-every 0 "
        "--expert-parallel 2 --data-parallel 2 --corpus text.txt --out run"
    )
    run = "-m torch.distributed.run --standalone --nproc-per-node 4 -m moeviz train".split()
    process = subprocess.Popen(
        [sys.executable, "-P", *run, *options.split()], cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / "run" / "checkpoint"
    try:
        wait(
            lambda: list(folder.glob("step-*[1-9]*")) or process.poll() is not None,
            "the first checkpoint",
        )
        listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True)
        pairs = [map(int, line.split()) for line in listed.stdout.splitlines()]
        workers = sorted(pid for pid, parent in pairs if parent == process.pid)
        os.kill(workers[-1], signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode and "4 processes: 2 times the model" in out
    # It may stand behind the bar of another process.
    sentence = (
        r"moeviz: Another process of this run has ended or does not answer \(.*\); "
        r"--resume goes on from the last checkpoint\."
    )
    assert err.count("moeviz: ") == 1 and re.search(sentence, err), err
    answers = two.ask(
        "resumed", folder=str(folder), text=str(tmp_path / "text.txt"), data=1, expert=2
    )
    assert answers[0]["step"] >= 5
    check(answers, "float32")
