"""python -m moeviz: training and resuming, refusals in one sentence, the doctor's page."""

import argparse
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from helpers.prose import WORDS, prose
from moeviz import __version__
from moeviz.app import cli, doctor
from moeviz.experiments import EXPERIMENTS
from moeviz.host import data_path
from moeviz.records.store import load_arrays
from moeviz.training.trainer import Trainer

TINY = (
    "--d-model 8 --num-layers 1 --num-heads 2 --num-experts 4 --top-k 2 --d-expert 4 "
    "--batch-size 2 --seq-len 8 --warmup 3 --device cpu"
).split()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(prose(1))
    return path


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in the same order here and in a process of its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def train(text, tmp_path):
    """Train a tiny model: the exit status; options override those of TINY."""

    def run(out, *options):
        return cli.main(
            ["train", *TINY, "--corpus", str(text), "--out", str(tmp_path / out), *options]
        )  # noqa: E501

    return run


def refused(capsys, status=2):
    """The one sentence on stderr."""
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert status == 2 and "Traceback" not in captured.err + captured.out
    assert len(lines) == 1 and lines[0].startswith("moeviz: "), captured.err
    return lines[0].removeprefix("moeviz: ")


def checkpoint(folder):
    arrays, header = load_arrays(folder / "checkpoint.safetensors", kind="checkpoint")
    arrays.pop("history.seconds")  # the clock is the one thing that is not resumed bit for bit
    header.pop("seconds")
    return arrays, header


def assert_same(a, b):
    (arrays_a, header_a), (arrays_b, header_b) = checkpoint(a), checkpoint(b)
    assert header_a == header_b and arrays_a.keys() == arrays_b.keys()
    for name, array in arrays_a.items():
        assert np.array_equal(array, arrays_b[name], equal_nan=True), name


# Training.


def test_train_writes_a_checkpoint_and_a_model(train, tmp_path, capsys):
    assert train("run", "--steps", "6", "--validate-every", "3") == 0
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


def test_a_dense_model_trains_too(train, tmp_path):
    assert train("run", "--steps", "2", "--dense", "--d-ff", "12") == 0
    _, header = checkpoint(tmp_path / "run")
    assert header["model"]["moe"] is None and header["model"]["d_ff"] == 12


def test_checkpoints_are_written_on_the_way(train, tmp_path, monkeypatch):
    saved = []
    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self, p: (saved.append(self.step), save(self, p)))
    assert train("run", "--steps", "5", "--save-every", "2") == 0
    assert saved == [2, 4, 5]


@pytest.mark.parametrize("place", ["between", "inside a step"])
def test_an_interrupted_run_goes_on_bit_for_bit(place, train, tmp_path, monkeypatch, capsys):
    """Ctrl-C after the weights have moved but before the step is counted must not save a step
    that the resumed run would take again."""
    assert train("whole", "--steps", "9") == 0
    step = torch.optim.AdamW.step if place != "between" else Trainer.__next__
    calls = []

    def interrupt(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return result

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        owner, name = (Trainer, "__next__") if place == "between" else (torch.optim.AdamW, "step")
        patch.setattr(owner, name, interrupt)
        assert train("cut", "--steps", "9") == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "Stopped at step 4; --resume goes on from" in capsys.readouterr().out
    assert checkpoint(tmp_path / "cut")[1]["step"] == 4
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert train("cut", "--resume") == 0
    assert "Resumed at step 4 of 9" in capsys.readouterr().out
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_process_that_gets_sigint_goes_on_bit_for_bit(train, text, tmp_path):
    """As from a terminal: another process, a signal at any moment."""
    out = tmp_path / "cut"
    steps = ["--steps", "3000", "--schedule", "constant", "--validate-every", "0"]
    command = [sys.executable, "-P", "-m", "moeviz", "train", *TINY, "--corpus", str(text)]
    run = subprocess.Popen(
        [*command, "--out", str(out), "--save-every", "5", *steps],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (out / "checkpoint.safetensors").exists() and run.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    said, complained = run.communicate(timeout=30)
    assert run.returncode == 130, complained
    found = re.search(r"Stopped at step (\d+); --resume goes on", said)
    assert found and "Traceback" not in complained
    stood = int(found.group(1))
    assert 5 <= stood < 3000 and checkpoint(out)[1]["step"] == stood
    # Both to a few steps further; the schedule is constant, so their number changes nothing else.
    further = ["--steps", str(stood + 4)]
    assert train("cut", "--resume", *further) == 0
    assert train("whole", *steps, *further) == 0
    assert_same(tmp_path / "whole", out)


def test_a_second_interrupt_stops_at_once_and_keeps_the_last_checkpoint(
    train, tmp_path, monkeypatch, capsys
):
    step, calls = torch.optim.AdamW.step, []

    def impatient(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", impatient)
    assert train("run", "--steps", "9", "--save-every", "2") == 130
    assert capsys.readouterr().err.endswith("moeviz: stopped.\n")
    assert len(calls) == 4 and checkpoint(tmp_path / "run")[1]["step"] == 2


def test_resume_can_go_further_than_the_run_was_meant_to(train, tmp_path):
    assert train("run", "--steps", "3") == 0
    assert train("run", "--resume", "--steps", "5") == 0
    assert checkpoint(tmp_path / "run")[1]["step"] == 5


def test_a_finished_run_is_not_overwritten_without_resume(train, tmp_path, capsys):
    assert train("run", "--steps", "2") == 0
    capsys.readouterr()
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    sentence = refused(capsys, train("run", "--steps", "3"))
    assert "exists; add --resume to go on from it, or give another --out." in sentence
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before


def test_a_diverged_run_is_explained_and_kept(train, tmp_path, capsys):
    status = train("run", "--steps", "40", "--learning-rate", "1e30", "--clip", "1e30")
    assert status == 2
    captured = capsys.readouterr()
    assert re.search("moeviz: The (loss|gradient) .* finite .* at step", captured.err)
    assert "Traceback" not in captured.err
    arrays, _ = checkpoint(tmp_path / "run")
    assert all(np.isfinite(a).all() for name, a in arrays.items() if name.startswith("model."))


def test_one_expert_of_renormalised_weight_is_explained_once(train, capsys):
    assert train("run", "--steps", "1", "--num-layers", "2", "--top-k", "1") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moeviz: ")]
    assert len(lines) == 1 and "the task does not train its gate" in lines[0]
    assert train("raw", "--steps", "1", "--top-k", "1", "--option", "weighting=raw") == 0
    assert "moeviz: " not in capsys.readouterr().err


# Refusals.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--top-k", "5"], "top_k"),
        (["--top-k", "0"], "top_k"),
        (["--num-experts", "0"], "num_experts"),
        (["--num-experts", "-3"], "num_experts"),
        (["--d-expert", "0"], "d_expert must be a whole number of at least 1, got 0."),
        (["--d-model", "9"], "d_model must be a multiple of num_heads, got 9 and 2."),
        (["--d-model", "6"], "even head width"),
        (["--num-heads", "0"], "num_heads must be a whole number of at least 1"),
        (["--num-layers", "0"], "num_layers must be a whole number of at least 1"),
        (["--steps", "0"], "steps must be a whole number of at least 1, got 0."),
        (["--seed", "-1"], "seed must be a whole number of at least 0"),
        (["--learning-rate", "nan"], "learning_rate must be a finite number above 0, got nan"),
        (["--schedule", "linear"], "schedule must be one of cosine, constant"),
        (["--precision", "int8"], "precision must be one of"),
        (["--precision", "float16"], "float16 training needs a GPU"),
        (["--device", "abacus"], "Device 'abacus' is not available here"),
        (["--option", "weighting=none"], "weighting must be one of renormalise, raw"),
        (["--option", "weighting"], "--option takes NAME=VALUE"),
        (["--option", "scale=big"], "scale must be a finite number above 0"),
        (["--router", "oracle"], "There is no router 'oracle'"),
        (["--capacity-factor", "0"], "capacity factor must be a finite number above 0, got 0.0"),
        (["--router", "soft_moe", "--capacity-factor", "1"], "has no assignments to drop"),
        (["--num-shared", "-1"], "num_shared must be a whole number of at least 0, got -1."),
        (["--backend", "gpu"], "backend must be one of"),
        (["--save-every", "0"], "--save-every must be at least 1, got 0."),
        (["--seq-len", "100000"], "seq_len=100000 must be from 1 to"),
        (["--seq-len", "1000"], "the validation text of"),
        (["--corpus", "nowhere/text.txt"], '"nowhere/text.txt" does not exist'),
        (["--corpus", "nonsense"], '"nonsense" is no corpus'),
        (["--resume"], "There is no file"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(options, sentence, train, tmp_path, capsys):
    assert sentence in refused(capsys, train("run", *options))
    assert not (tmp_path / "run").exists()


def test_text_that_cannot_be_read_is_refused(train, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 500)
    assert "is not UTF-8 text: byte 0xe9" in refused(
        capsys, train("run", "--corpus", str(tmp_path / "latin.txt"))
    )
    (tmp_path / "empty.txt").write_bytes(b"")
    assert "holds no text" in refused(capsys, train("run", "--corpus", str(tmp_path / "empty.txt")))


def test_a_hub_name_offline_is_refused_and_the_embedded_text_offered(train, monkeypatch, capsys):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    sentence = refused(capsys, train("run", "--corpus", "nobody/nothing-of-that-name"))
    assert "could not be reached on the Hugging Face Hub" in sentence and "embedded" in sentence


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95rubbish", None])
def test_a_damaged_or_foreign_checkpoint_is_refused(content, train, tmp_path, capsys):
    file = tmp_path / "run" / "checkpoint.safetensors"
    file.parent.mkdir()
    trace = data_path("traces", "start_here.safetensors")
    file.write_bytes(trace.read_bytes() if content is None else content)
    before = file.read_bytes()
    wanted = "trace.*checkpoint.*needed" if content is None else "no pickles"
    assert re.search(wanted, refused(capsys, train("run", "--resume")).replace(str(file), ""))
    assert file.read_bytes() == before


def test_a_run_of_another_text_is_not_resumed(train, tmp_path, capsys):
    assert train("run", "--steps", "2") == 0
    capsys.readouterr()
    other = tmp_path / "other.txt"
    other.write_text("\n".join(f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:3]))
    assert "resume on the corpus it began with" in refused(
        capsys, train("run", "--resume", "--corpus", str(other))
    )


def test_an_out_that_cannot_be_a_folder_is_refused_before_anything_is_trained(
    train, tmp_path, monkeypatch, capsys
):
    (tmp_path / "run").write_text("a file")
    monkeypatch.setattr(Trainer, "__next__", lambda self: pytest.fail("it trained"))
    assert "cannot be a folder" in refused(capsys, train("run"))
    assert "cannot be a folder" in refused(capsys, train("run/deeper"))


def test_a_full_disk_ends_the_run_in_one_sentence(train, tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert train("run", "--steps", "2") == 2
    complained = capsys.readouterr().err
    assert "No space left on device" in complained and "Traceback" not in complained
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("experiment nonsense", "There is no experiment 'nonsense'; there is tokenizer, "),
        ("experiment race --seeds -1", "--seeds must be at least 1, got -1."),
        ("experiment race --seeds 0", "--seeds must be at least 1, got 0."),
        ("bench nonsense", "There is no benchmark 'nonsense'. Give one of: "),
        ("bench", "Give one of: "),
    ],
)
def test_unknown_names_are_refused_in_one_sentence(arguments, sentence, capsys):
    assert sentence in refused(capsys, cli.main(arguments.split()))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "the following arguments are required: command"),
        ("dance", "invalid choice: 'dance'"),
        ("train --depth 3", "unrecognized arguments: --depth 3"),
        ("train --steps many", "argument --steps: invalid int value: 'many'"),
        ("doctor --fast", "unrecognized arguments: --fast"),
        ("experiment race twice", "unrecognized arguments: twice"),
    ],
)
def test_unknown_options_end_with_status_2(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments.split())
    assert stopped.value.code == 2
    *usage, last = capsys.readouterr().err.splitlines()
    assert complaint in last and usage[0].startswith("usage: python -m moeviz")


# What needs no torch.


def test_help_and_version_come_without_torch():
    code = """
import sys
from moeviz.app import cli
try:
    cli.main([sys.argv[1]])
finally:
    assert "torch" not in sys.modules
"""
    for option, wanted in (("--help", "doctor"), ("--version", f"moeviz {__version__}\n")):
        run = subprocess.run(
            [sys.executable, "-P", "-c", code, option], capture_output=True, text=True
        )
        assert run.returncode == 0 and run.stderr == "" and wanted in run.stdout


def test_the_module_can_be_run():
    command = [sys.executable, "-P", "-m", "moeviz", "experiment", "nonsense"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("moeviz: There is no experiment 'nonsense'")


def test_the_help_of_train_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--d-model", "--num-experts", "--top-k", "--resume", "--corpus", "--compile"):
        assert option in shown
    assert "with 1, renormalised weights are all 1" in " ".join(shown.split())
    assert "SUPPRESS" not in shown and argparse.SUPPRESS not in shown


def test_experiments_are_listed_each_in_one_line(capsys):
    assert cli.main(["experiment"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert all(len(line.split()) > 4 for line in lines)


# The doctor.


def page(capsys):
    status = cli.main(["doctor"])
    captured = capsys.readouterr()
    assert captured.err == "" and "Traceback" not in captured.out
    advice = [line for line in captured.out.splitlines() if line.startswith("  - ")]
    assert (status == 1) == bool(advice)
    assert ("Everything that moeviz needs works here." in captured.out) == (status == 0)
    return status, captured.out, advice


def test_the_doctor_proves_the_backends_and_fits_on_a_page(capsys):
    _, out, _ = page(capsys)
    assert out.startswith(f"moeviz {__version__} on Python ")
    for part in ("Packages", "Devices", "Triton", "Expert backends", "Recorded data"):
        assert f"\n{part}" in out
    for backend in ("reference", "grouped", "matmul", "triton"):
        assert re.search(rf"{backend}, cpu float32 +ok, \de-\d\d", out)
    assert re.search(r"auto, cpu float32 +runs grouped", out)
    assert len(out.splitlines()) <= 60 and max(map(len, out.splitlines())) <= 200


def test_the_doctor_is_content_where_all_is_there(capsys, monkeypatch):
    monkeypatch.setattr(
        doctor, "package_version", lambda name: "8.1.0" if name != "triton" else None
    )
    status, out, advice = page(capsys)
    assert status == 0 and advice == [] and "not installed (there is no build" in out


@pytest.mark.parametrize("name", ["jupyterlab", "datasets", "ipywidgets", "torch"])
def test_the_doctor_names_a_missing_package_and_what_to_do(name, capsys, monkeypatch):
    version = doctor.package_version
    monkeypatch.setattr(doctor, "package_version", lambda n: None if n == name else version(n))
    status, out, advice = page(capsys)
    assert status == 1 and re.search(rf"^  {name} +not installed$", out, re.M)
    assert any(f"Install {name}, " in line and f"pip install {name}" in line for line in advice)
    assert ("Expert backends" in out) == (name != "torch")


def test_the_doctor_names_untested_widgets(capsys, monkeypatch):
    version = doctor.package_version
    monkeypatch.setattr(
        doctor, "package_version", lambda n: "9.0" if n == "ipywidgets" else version(n)
    )
    assert any("ipywidgets 9.0 is not tested; 7.7 and 8.1 are." in line for line in page(capsys)[2])


@pytest.mark.parametrize("version", [("3", "10", "1"), ("3", "14", "0rc1")])
def test_the_doctor_names_an_untested_python(version, capsys, monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version_tuple", lambda: version)
    assert any("is not tested; use 3.11, 3.12 or 3.13" in line for line in page(capsys)[2])


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


def test_the_doctor_names_missing_data(capsys, monkeypatch):
    def without_models(*parts):
        if parts[0] == "models":
            return data_path("models", "gone")
        return data_path(*parts)

    monkeypatch.setattr("moeviz.host.data_path", without_models)
    status, out, advice = page(capsys)
    assert status == 1 and re.search(r"models/start_here.safetensors +missing", out)
    assert any("reinstall moeviz, or restore it" in line for line in advice)
    assert re.search(r"traces/start_here.safetensors +\d+ kB", out)


def test_the_doctor_finds_a_backend_that_computes_wrongly(capsys, monkeypatch):
    from moeviz.model.experts import apply_experts

    def off(x, plan, w13, w2, *, backend):
        y = apply_experts(x, plan, w13, w2, backend=backend)
        return y * 1.01 if backend == "grouped" else y

    monkeypatch.setattr("moeviz.model.experts.apply_experts", off)
    status, out, advice = page(capsys)
    assert status == 1 and re.search(r"grouped, cpu float32 +WRONG", out)
    assert re.search(r"reference, cpu float32 +ok", out)
    assert any("Backend grouped computes wrongly on cpu" in line for line in advice)


@pytest.mark.parametrize("factor", [0, 1.01])
def test_the_doctor_finds_a_wrong_gradient_of_the_combine_weight(factor, capsys, monkeypatch):
    from moeviz.model.experts import apply_experts

    def off(x, plan, w13, w2, *, backend):
        if backend == "matmul":
            weight = plan.weight.detach() * (1 - factor) + plan.weight * factor
            plan = dataclasses.replace(plan, weight=weight)
        return apply_experts(x, plan, w13, w2, backend=backend)

    monkeypatch.setattr("moeviz.model.experts.apply_experts", off)
    status, out, _ = page(capsys)
    assert status == 1 and re.search(r"matmul, cpu float32 +WRONG", out)
    assert re.search(r"reference, cpu float32 +ok", out)


def test_the_doctor_says_in_a_sentence_that_a_backward_kernel_does_not_launch(capsys, monkeypatch):
    errors = pytest.importorskip("triton.runtime.errors")

    def too_large(*_, **__):
        raise errors.OutOfResources(300_000, 101_376, "shared memory")

    monkeypatch.setattr(sys.modules["moeviz_kernels.experts"], "grad_hidden", too_large)
    status, out, advice = page(capsys)
    said = r"triton, cpu float32 +failed: A Triton kernel of .* does not fit .*out of resource"
    assert status == 1 and re.search(said, out)
    assert any("Backend triton does not train on cpu" in line for line in advice)


def test_the_doctor_finds_a_triton_that_does_not_import(capsys, monkeypatch):
    version = doctor.package_version
    monkeypatch.setattr(doctor, "package_version", lambda n: "3.0" if n == "triton" else version(n))
    for module in ("triton", "moeviz_kernels"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("moeviz.backend._loaded", None)
    _, out, advice = page(capsys)
    assert "3.0, does not import" in out
    assert re.search(r"triton, cpu float32 +no: The Triton kernels do not import", out)
    assert any("Reinstall the Triton that your torch names" in line for line in advice)
