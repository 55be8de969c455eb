"""python -m moeviz: training and resuming, refusals in one sentence, the doctor's page."""

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import moeviz.app.train
from helpers.processes import another_process
from helpers.prose import WORDS, prose
from moeviz import __version__
from moeviz.app import cli, doctor
from moeviz.host import data_path
from moeviz.model.adamw import AdamW
from moeviz.model.experts import apply_experts
from moeviz.records.store import load_arrays
from moeviz.training.trainer import Trainer

TINY = (
    "--d-model 8 --num-layers 1 --num-heads 2 --num-experts 4 --top-k 2 --d-expert 4 "
    "--batch-size 2 --seq-len 8 --warmup 3 --device cpu"
).split()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with a text to train on, another one, and one that is none."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "text.txt").write_text(prose(1))
    other = (f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:3])
    (folder / "other.txt").write_text("\n".join(other))
    (folder / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 500)
    return folder


@pytest.fixture
def train(texts, tmp_path):
    """Train a tiny model: the exit status; options override those of TINY."""

    def run(out, *options):
        usual = [*TINY, "--corpus", str(texts / "text.txt"), "--out", str(tmp_path / out)]
        return cli.main(["train", *usual, *options])

    return run


def sentences(capsys):
    """What moeviz says on stderr, each sentence of it; a traceback is none."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    lines = captured.err.splitlines()
    return [line.removeprefix("moeviz: ") for line in lines if line.startswith("moeviz: ")]


def checkpoint(folder):
    arrays, header = load_arrays(folder / "checkpoint.safetensors", kind="checkpoint")
    arrays.pop("history.seconds")  # the clock is the one thing that is not resumed bit for bit
    header.pop("seconds")
    return arrays, header


def interrupting(run, times, at, number=signal.SIGINT):
    """`run`, with a signal (Ctrl-C) sent some times after its `at`-th call; the calls so far."""
    calls = []

    def interrupted(self, *args, **kwargs):
        result = run(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == at:
            for _ in range(times):
                signal.raise_signal(number)
        return result

    return interrupted, calls


# Training.


def test_train_writes_a_checkpoint_on_the_way_and_a_model_at_the_end(
    train, tmp_path, monkeypatch, capsys
):
    saved, save = [], Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self, p: (saved.append(self.step), save(self, p)))
    assert train("run", "--steps", "6", "--validate-every", "3", "--save-every", "4") == 0
    assert saved == [0, 4, 6]
    captured = capsys.readouterr()
    assert re.search(
        r"[\d,]+ parameters, [\d,]+ active per token, on cpu in float32; ", captured.out
    )
    assert re.search(r"Validation loss \d\.\d{3} nats per token \(text \d\.\d{3}\)", captured.out)
    assert "6/6" in captured.err and "loss=" in captured.err
    arrays, header = checkpoint(tmp_path / "run")
    assert header["step"] == 6 and header["model"]["moe"]["num_experts"] == 4
    assert np.isfinite(arrays["history.validation"]).sum() == 2
    _, model = load_arrays(tmp_path / "run" / "model.safetensors", kind="model")
    assert model["step"] == 6
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoint.safetensors", "model.safetensors",
    ]  # fmt: skip


def test_every_option_arrives(train, tmp_path):
    options = "--steps 1 --router switch --option jitter=0.25 --capacity-factor 2 --num-shared 1"
    assert train("run", *options.split(), "--backend", "matmul", "--seed", "3") == 0
    _, header = checkpoint(tmp_path / "run")
    moe = header["model"]["moe"]
    assert (moe["router"], moe["options"]["jitter"], moe["num_shared"]) == ("switch", 0.25, 1)
    assert moe["capacity"]["factor"] == 2 and moe["backend"] == "matmul"
    assert (header["model"]["d_model"], header["train"]["seed"]) == (8, 3)
    assert header["model"]["ffn_scale"] is None
    assert train("dense", "--steps", "1", "--dense", "--d-ff", "12", "--ffn-scale", "0.5") == 0
    _, header = checkpoint(tmp_path / "dense")
    assert header["model"]["moe"] is None and header["model"]["d_ff"] == 12
    assert header["model"]["ffn_scale"] == 0.5


@pytest.mark.parametrize(
    ("place", "name_of_signal"),
    [
        ("between steps", "SIGINT"),
        ("inside a step", "SIGINT"),
        ("inside a step", "SIGTERM"),
        ("inside a step", "SIGHUP"),
    ],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    place, name_of_signal, train, tmp_path, monkeypatch, capsys
):
    """Ctrl-C after the weights have moved but before the step is counted must not save a step
    that the resumed run would take again."""
    assert train("whole", "--steps", "9") == 0
    owner, name = AdamW, "step"
    if place == "between steps":
        owner, name = Trainer, "__next__"
    number = signal.Signals[name_of_signal]
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupting(getattr(owner, name), 1, 4, number)[0])
        assert train("cut", "--steps", "9") == 128 + number
    assert signal.getsignal(number) is before
    assert "Stopped at step 4; --resume goes on from" in capsys.readouterr().out
    assert checkpoint(tmp_path / "cut")[1]["step"] == 4
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert train("cut", "--resume") == 0
    assert "Resumed at step 4 of 9" in capsys.readouterr().out
    arrays, header = checkpoint(tmp_path / "whole")
    again, header_again = checkpoint(tmp_path / "cut")
    assert header == header_again and arrays.keys() == again.keys()
    for name, array in arrays.items():
        assert np.array_equal(array, again[name], equal_nan=True), name


def test_a_second_interrupt_stops_at_once_and_keeps_the_last_checkpoint(
    train, tmp_path, monkeypatch, capsys
):
    impatient, calls = interrupting(AdamW.step, times=2, at=4)
    monkeypatch.setattr(AdamW, "step", impatient)
    assert train("run", "--steps", "9", "--save-every", "2") == 130
    assert sentences(capsys) == ["stopped."]
    assert len(calls) == 4 and checkpoint(tmp_path / "run")[1]["step"] == 2


@pytest.mark.parametrize("stop", [4, None])  # the step at which it is asked to end; at none
def test_an_interrupt_while_it_saves_the_last_step_does_not_lose_it(
    stop, train, tmp_path, monkeypatch, capsys
):
    save, last = Trainer.save, stop or 6

    def interrupted(self, path):
        if self.step == last:
            signal.raise_signal(signal.SIGINT)
        save(self, path)

    monkeypatch.setattr(Trainer, "save", interrupted)
    monkeypatch.setattr(Trainer, "__next__", interrupting(Trainer.__next__, 1, stop)[0])
    assert train("run", "--steps", "6") == 130
    assert f"Stopped at step {last}; --resume goes on from" in capsys.readouterr().out
    assert checkpoint(tmp_path / "run")[1]["step"] == last


def test_under_nohup_a_terminal_that_closes_changes_nothing(train, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        step = interrupting(Trainer.__next__, 1, 4, signal.SIGHUP)[0]
        monkeypatch.setattr(Trainer, "__next__", step)
        assert train("run", "--steps", "6") == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_slow_run_has_its_first_checkpoint_soon(train, monkeypatch):
    saved, save = [], Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self, p: (saved.append(self.step), save(self, p)))
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(moeviz.app.train.time, "monotonic", lambda: float(next(clock)))
    assert train("run", "--steps", "9") == 0
    assert saved == [0, 3, 9]  # steps of ten seconds


def test_two_runs_in_one_folder_know_of_each_other(train, tmp_path, capsys):
    with another_process(tmp_path / "run") as other:
        assert train("run", "--steps", "2") == 2
        (sentence,) = sentences(capsys)
        assert f"run is in use by another process ({other.pid}); wait until it ends" in sentence
        assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert train("run", "--steps", "2") == 0
    with another_process(tmp_path / "run"):
        assert train("run", "--resume", "--steps", "4") == 2
    assert checkpoint(tmp_path / "run")[1]["step"] == 2


def test_a_resumed_run_names_what_it_does_not_take_and_keeps_the_rest(
    train, tmp_path, monkeypatch, capsys
):
    assert train("run", "--steps", "4", "--save-every", "3", "--option", "scale=2") == 0
    sentences(capsys)
    other = (
        "--learning-rate 1 --router switch --num-heads 1 --dense --option weighting=raw "
        "--capacity-factor 2 --seed 0 --steps 7 --option scale=2"
    )
    saved, save = [], Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self, p: (saved.append(self.step), save(self, p)))
    assert train("run", "--resume", *other.split()) == 0
    assert sentences(capsys) == [
        "--resume does not take --learning-rate, --num-heads, --router, --dense, --option "
        "weighting, --capacity-factor: model and training stay those of the checkpoint."
    ]
    assert saved == [6, 7]
    assert train("run", "--resume", "--steps", "8") == 0
    assert sentences(capsys) == []
    assert train("run", "--resume", "--steps", "5") == 2
    assert "has done 8 steps already; steps must be at least that, got 5." in sentences(capsys)[0]
    assert checkpoint(tmp_path / "run")[1]["step"] == 8


def test_a_column_is_named_and_a_text_that_is_cut_is_said(train, tmp_path, capsys):
    text = prose(1)
    bodies = [text[i : i + 300] for i in range(0, len(text), 300)]
    rows = (json.dumps({"title": "a", "body": body}) for body in bodies)
    (tmp_path / "table.jsonl").write_text("\n".join(rows))
    corpus = ["--steps", "1", "--corpus", str(tmp_path / "table.jsonl")]
    assert train("run", *corpus) == 2
    assert "--text-column" in sentences(capsys)[0]
    assert train("run", *corpus, "--text-column", "body", "--max-characters", "9000") == 0
    out = capsys.readouterr().out
    assert "Of table the first 9,000 characters of local file table.jsonl are taken" in out


def test_a_finished_run_is_resumed_and_never_overwritten(train, texts, tmp_path, capsys):
    assert train("run", "--steps", "2") == 0
    file = tmp_path / "run" / "checkpoint.safetensors"
    before = file.read_bytes()
    assert train("run", "--steps", "3") == 2
    assert "exists; add --resume to go on from it, or give another" in sentences(capsys)[0]
    assert train("run", "--resume", "--corpus", str(texts / "other.txt")) == 2
    assert "resume it on the text that it began with" in sentences(capsys)[0]
    assert file.read_bytes() == before
    assert train("run", "--resume", "--steps", "4") == 0
    assert checkpoint(tmp_path / "run")[1]["step"] == 4


def test_a_diverged_run_is_explained_and_kept(train, tmp_path, capsys):
    assert train("run", "--steps", "40", "--learning-rate", "1e30", "--clip", "1e30") == 2
    assert re.search("The (loss|gradient) .* finite .* at step", sentences(capsys)[0])
    arrays, _ = checkpoint(tmp_path / "run")
    assert all(np.isfinite(a).all() for name, a in arrays.items() if name.startswith("model."))


def test_one_expert_of_renormalised_weight_is_explained_once(train, capsys):
    assert train("run", "--steps", "1", "--num-layers", "2", "--top-k", "1") == 0
    (sentence,) = sentences(capsys)
    assert "the task does not train its gate" in sentence
    assert train("raw", "--steps", "1", "--top-k", "1", "--option", "weighting=raw") == 0
    assert sentences(capsys) == []


# Refusals.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--top-k 5", "top_k"),
        ("--d-model 9", "d_model must be a multiple of num_heads, got 9 and 2."),
        ("--steps 0", "steps must be a whole number of at least 1, got 0."),
        ("--option weighting", "--option takes NAME=VALUE"),
        ("--option scale=big", "scale must be a finite number above 0"),
        ("--router oracle", "There is no router 'oracle'"),
        ("--capacity-factor 0", "capacity factor must be a finite number above 0, got 0.0"),
        ("--router soft_moe --capacity-factor 1", "has no assignments to drop"),
        ("--save-every 0", "--save-every must be at least 1, got 0."),
        ("--expert-parallel 4", "needs 4 processes, and this is one; start it as: "),
        ("--seq-len 1000", "the validation text of"),
        ("--corpus nowhere/text.txt", '"nowhere/text.txt" does not exist'),
        ("--corpus {texts}/latin.txt", "is not UTF-8 text: byte 0xe9"),
        ("--corpus nobody/nothing-of-that-name", "not be reached on the Hugging Face Hub"),
        (
            "--corpus embedded --max-characters 9",
            "embedded takes no --max-characters; leave it",
        ),
        ("--corpus packages --text-column a", "packages takes no --text-column; leave it out, or"),
        ("--resume", "to go on from; leave --resume out to begin a run."),
        ("--seed 4294967296", "seed must be a whole number of at least 0 and at most 4294967295"),
        ("--batch-size 1000000000", "GB of memory, and there are"),
        ("--d-model 1000000", "GB of memory, and there are"),
        ("--num-layers 1000000000", "num_layers must be a whole number of at least 1 and at most"),
        ("--num-experts 1000000000", "num_experts must be a whole number of at least 1 and at"),
        ("--device meta", "Device 'meta' is not available here"),
        ("--out {texts}/text.txt", "cannot be a folder"),
        ("--out {texts}/text.txt/deeper", "cannot be a folder"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(
    options, sentence, train, texts, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(Trainer, "__next__", lambda self: pytest.fail("it trained"))
    assert train("run", *(word.format(texts=texts) for word in options.split())) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"moeviz: .*{re.escape(sentence)}.*\n", captured.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("on_path", "command"),
    [
        (".", "torchrun"),
        ("elsewhere", "python -m torch.distributed.run"),  # of another environment
        ("nowhere", "python -m torch.distributed.run"),
    ],
)
def test_several_processes_are_started_by_what_the_shell_finds(
    on_path, command, train, tmp_path, monkeypatch, capsys
):
    programs = tmp_path / "bin"
    (programs / "elsewhere").mkdir(parents=True)
    for folder in (programs, programs / "elsewhere"):
        (folder / "torchrun").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs / on_path))
    assert train("run", "--expert-parallel", "2") == 2
    told = f"start it as: {command} --nproc-per-node 2 -m moeviz train, with the same options.\n"
    assert capsys.readouterr().err.endswith(told)
    assert train("run", "--shard") == 2
    assert capsys.readouterr().err.endswith(f"; start them with {command}.\n")


def test_the_checkpoint_that_is_further_is_gone_on_from(train, tmp_path):
    """Of one process and of several: whoever wrote it."""
    assert train("run") == 0
    run, several = tmp_path / "run", object()
    file, folder = run / "checkpoint.safetensors", run / "checkpoint"
    args = argparse.Namespace(out=run, resume=True)
    find = moeviz.app.train._checkpoint
    assert find(args, None) == (file, file) and find(args, several) == (folder, file)
    folder.mkdir()  # where nothing was saved yet
    assert find(args, several) == (folder, file)
    (folder / "step-00000999").mkdir()
    assert find(args, None) == (file, folder) and find(args, several) == (folder, folder)
    file.unlink()
    assert find(args, None) == (file, folder)


def test_a_foreign_checkpoint_is_refused(train, tmp_path, capsys):
    file, trace = tmp_path / "run" / "checkpoint.safetensors", data_path("traces")
    file.parent.mkdir()
    content = (trace / "start_here.safetensors").read_bytes()
    file.write_bytes(content)
    assert train("run", "--resume") == 2
    assert re.search("trace.*checkpoint.*needed", sentences(capsys)[0].replace(str(file), ""))
    assert file.read_bytes() == content


def test_a_full_disk_ends_the_run_in_one_sentence(train, tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert train("run", "--steps", "2") == 2
    assert "No space left on device" in sentences(capsys)[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("experiment nonsense", "moeviz: There is no experiment 'nonsense'; there is tokenizer, "),
        ("experiment race --seeds 0", "moeviz: --seeds must be at least 1, got 0."),
        ("experiment race --seconds 5", "moeviz: Experiment 'race' takes no --seconds; leave it"),
        ("bench nonsense", "moeviz: There is no benchmark 'nonsense'. Give one of: "),
        ("bench", "moeviz: Give one of: gpu, latency, layer, sanitize, screenshots, startup."),
        ("", "the following arguments are required: command"),
        ("dance", "invalid choice: 'dance'"),
        ("train --depth 3", "unrecognized arguments: --depth 3"),
        ("train --steps many", "argument --steps: invalid int value: 'many'"),
        ("doctor --fast", "unrecognized arguments: --fast"),
        ("experiment race twice", "unrecognized arguments: twice"),
    ],
)
def test_what_is_unknown_ends_with_status_2(command, complaint, capsys):
    try:
        status = cli.main(command.split())
    except SystemExit as stopped:  # argparse's own
        status = stopped.code
    captured = capsys.readouterr()
    *usage, last = captured.err.splitlines()
    assert status == 2 and captured.out == "" and complaint in last
    assert usage[:1] == [] or usage[0].startswith("usage: python -m moeviz")


# What needs no torch.


@pytest.mark.parametrize(
    ("command", "status", "stream", "words"),
    [
        ("--help", 0, "stdout", "doctor"),
        ("--version", 0, "stdout", f"moeviz {__version__}\n"),
        ("experiment nonsense", 2, "stderr", "moeviz: There is no experiment 'nonsense'"),
    ],
)
def test_as_a_module_it_answers_without_torch(command, status, stream, words):
    python = [sys.executable, "-P", "-X", "importtime", "-m", "moeviz"]
    run = subprocess.run([*python, *command.split()], capture_output=True, text=True)
    assert run.returncode == status and words in getattr(run, stream)
    assert "moeviz.app.cli" in run.stderr and not re.search(r"\| +torch$", run.stderr, re.M)


def test_the_help_of_train_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("--resume", "--d-expert", "--compile", "(default: 0.004)", "are all 1"):
        assert words in shown
    assert "SUPPRESS" not in shown and argparse.SUPPRESS not in shown


def test_without_a_checkout_an_experiment_writes_to_a_folder_that_is_here(monkeypatch, tmp_path):
    assert cli._data_folder() == cli.ROOT / "data"
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    assert str(cli._data_folder()) == "data"


def test_one_range_of_pythons_is_named_everywhere():
    root = cli.ROOT
    first, last = doctor.FIRST_PYTHON[1], doctor.LAST_PYTHON[1]
    minors = [f"3.{minor}" for minor in range(first, last + 1)]
    words = f"{', '.join(minors[:-1])} or {minors[-1]}"
    pyproject = (root / "pyproject.toml").read_text()
    assert f'requires-python = ">={minors[0]},<3.{last + 1}"' in pyproject
    for file in ("README.md", "CONTRIBUTING.md", "Makefile"):
        assert words in (root / file).read_text(), file
    assert "|".join(minors) in (root / "Makefile").read_text()


# The doctor.


def page(capsys):
    status = cli.main(["doctor"])
    captured = capsys.readouterr()
    assert captured.err == "" and "Traceback" not in captured.out
    advice = [line for line in captured.out.splitlines() if line.startswith("  - ")]
    assert (status == 1) == bool(advice)
    assert ("Everything that moeviz needs works here." in captured.out) == (status == 0)
    return captured.out, "\n".join(advice)


def installed(monkeypatch, **versions):
    """The doctor sees these versions of packages, None: not installed."""
    real = doctor.package_version
    monkeypatch.setattr(
        doctor, "package_version", lambda name: versions[name] if name in versions else real(name)
    )


@pytest.fixture
def unproved(monkeypatch):
    """What the backends compute is another test's."""
    monkeypatch.setattr(doctor, "_backends", lambda advice: None)


def test_the_doctor_proves_the_backends_and_fits_on_a_page(capsys):
    out, _ = page(capsys)
    assert out.startswith(f"moeviz {__version__} on Python ")
    for part in ("Packages", "Devices", "Triton", "Expert backends", "Recorded data"):
        assert f"\n{part}" in out
    for backend in ("reference", "grouped", "matmul", "triton"):
        assert re.search(rf"{backend}, cpu float32 +ok, \de-\d\d", out)
    assert re.search(r"auto, cpu float32 +runs grouped", out)
    assert len(out.splitlines()) <= 60 and max(map(len, out.splitlines())) <= 200


@pytest.mark.parametrize(
    ("package", "version", "advice"),
    [
        *(
            (name, None, rf"Install {name}, .*pip install {name}")
            for name in ("jupyterlab", "datasets", "ipywidgets", "torch")
        ),
        ("ipywidgets", "9.0", r"ipywidgets 9\.0 is not tested; 7\.7 and 8\.1 are\."),
        ("triton", None, "^$"),
    ],
)
def test_the_doctor_names_what_is_missing_and_what_to_do(
    package, version, advice, unproved, capsys, monkeypatch
):
    usual = dict.fromkeys(("torch", "numpy", "jupyterlab", "safetensors", "datasets"), "1.0")
    installed(monkeypatch, **{**usual, "ipywidgets": "8.1", package: version})
    out, given = page(capsys)
    assert re.search(advice, given) and given.count("  - ") == (advice != "^$")
    assert re.search(rf"^  {package} +{version or 'not installed'}", out, re.M)


@pytest.mark.parametrize("version", [("3", "10", "1"), ("3", "14", "0rc1")])
def test_the_doctor_names_an_untested_python(version, unproved, capsys, monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version_tuple", lambda: version)
    assert "is not tested; use 3.11, 3.12 or 3.13" in page(capsys)[1]


def test_the_doctor_says_why_pytorch_sees_no_gpu(unproved, capsys, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch, "empty", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    assert "PyTorch does not see the NVIDIA GPU: The NVIDIA driver on your sys" in page(capsys)[0]


def test_the_doctor_names_missing_data(unproved, capsys, monkeypatch):
    monkeypatch.setattr(
        "moeviz.host.data_path",
        lambda *parts: data_path(*parts, "gone") if parts[0] == "models" else data_path(*parts),
    )
    out, advice = page(capsys)
    assert re.search(r"models/start_here.safetensors +missing", out)
    assert "reinstall moeviz, or restore it" in advice
    assert re.search(r"traces/start_here.safetensors +\d+ kB", out)


@pytest.mark.parametrize(
    ("backend", "output", "gradient"),
    [("grouped", 1.01, 1), ("matmul", 1, 0), ("matmul", 1, 1.01)],
)
def test_the_doctor_finds_a_wrong_output_or_gradient(
    backend, output, gradient, capsys, monkeypatch
):
    def off(x, plan, w13, w2, *, backend):
        if backend != wrong:
            return apply_experts(x, plan, w13, w2, backend=backend)
        weight = plan.weight.detach() * (1 - gradient) + plan.weight * gradient
        plan = dataclasses.replace(plan, weight=weight)
        return output * apply_experts(x, plan, w13, w2, backend=backend)

    wrong = backend
    monkeypatch.setattr("moeviz.model.experts.apply_experts", off)
    out, advice = page(capsys)
    assert re.search(rf"{backend}, cpu float32 +WRONG", out)
    assert re.search(r"reference, cpu float32 +ok", out)
    assert f"Backend {backend} computes wrongly on cpu" in advice


def test_the_doctor_says_in_a_sentence_that_a_backward_kernel_does_not_launch(capsys, monkeypatch):
    errors = pytest.importorskip("triton.runtime.errors")

    def too_large(*_, **__):
        raise errors.OutOfResources(300_000, 101_376, "shared memory")

    monkeypatch.setattr(sys.modules["moeviz_kernels.experts"], "grad_hidden", too_large)
    out, advice = page(capsys)
    said = r"triton, cpu float32 +failed: A Triton kernel of .* does not fit .*out of resource"
    assert re.search(said, out) and "Backend triton does not train on cpu" in advice


def test_the_doctor_finds_a_triton_that_does_not_import(capsys, monkeypatch):
    installed(monkeypatch, triton="3.0")
    for module in ("triton", "moeviz_kernels"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("moeviz.backend._loaded", None)
    out, advice = page(capsys)
    assert "3.0, does not import" in out
    assert re.search(r"triton, cpu float32 +no: The Triton kernels do not import", out)
    assert "install the Triton that your PyTorch names" in advice
