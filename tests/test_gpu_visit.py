"""A visit to a GPU loses nothing: what fails and what is late is named, a kill leaves whole files;
and what it leaves is adopted only where it says where it comes from."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import gpu
import gpu_adopt
import gpu_table
from helpers.visit import Clock, Parts
from layer_contenders import DENSE, OURS
from moeviz.host import data_path
from moeviz_kernels import configs
from moeviz_kernels.configs import KERNEL_OF, ROLES, Gemm, Tuned
from moeviz_kernels.tune import Products, candidates
from visit import Phase, in_processes, load

NAMES = ("layer", "paths")
ROOT = Path(__file__).resolve().parents[1]


def test_a_phase_keeps_what_is_done_and_names_what_fails_or_is_late(tmp_path):
    clock = Clock()
    phase = Phase("sweep", tmp_path, deadline=10.0, clock=clock)

    def slow():
        clock.now += 6
        return {"ms": 1.5}

    assert phase.item("one", slow) == {"ms": 1.5}
    assert load(tmp_path, "sweep")["items"] == {"one": {"ms": 1.5}}
    assert phase.item("wrong", lambda: 1 / 0) is None
    assert phase.item("two", slow) == {"ms": 1.5}
    assert phase.item("three", slow) is None
    phase.save()
    left = load(tmp_path, "sweep")
    assert left["failed"] == {"wrong": "ZeroDivisionError: division by zero"}
    assert left["late"] == ["three"] and set(left["items"]) == {"one", "two"} and left["done"]
    assert left["sentence"] == (
        "sweep: 2 done, 1 struck out, 1 not begun, for want of time in 12 s"
    )


def test_a_process_that_dies_strikes_out_its_part_alone(tmp_path):
    phase = Phase("check", tmp_path, time.monotonic() + 900)
    parts = ("a", "raises", "b", "dies", "c", "loses", "d")
    in_processes(phase, [Parts("up", parts), Parts("down", ("a",))], workers=2)
    assert set(phase.items) == {"up a", "up b", "up c", "up d", "down a"}
    assert phase.failed == {
        "up raises": "ValueError: no such cut",
        "up dies": "its process ended with exit code 9",
        "up loses": "RuntimeError: CUDA error: an illegal memory access was encountered",
    }
    # A process goes on after an error of its own, and never after one that broke its GPU.
    processes = [phase.items[f"up {part}"] for part in "abcd"]
    assert processes[0] == processes[1] and len(set(processes)) == 3


def test_a_process_that_hangs_ends_with_the_phase(tmp_path):
    # By a clock that stands still until the first part is through: a process starts in seconds.
    answered = []

    def clock():
        if phase.items and not answered:
            answered.append(time.monotonic())
        return time.monotonic() - answered[0] if answered else 0.0

    phase = Phase("check", tmp_path, 0.3, lambda: 0.0)
    phase.clock = clock
    in_processes(phase, [Parts("up", ("a", "sleeps", "b"))], workers=1)
    assert clock() < 30
    assert set(phase.items) == {"up a"} and phase.late == ["up sleeps", "up b"]
    assert load(tmp_path, "check")["late"] == phase.late


def test_every_product_is_held_to_float64():
    """And the check sees a wrong one: of weights that are not the layer's."""
    cut = Gemm(16, 16, 16, 4, 2)
    products = Products((19, 40, 24, 4, 2), torch.float16, "cpu")
    other = Products((19, 40, 24, 4, 2), torch.float16, "cpu")
    other.weight.mul_(1.1), other.w13_E2FD.mul_(1.1), other.h_NF.mul_(1.1), other.x_TD.mul_(1.1)
    for role in ROLES:
        assert max(products.errors(role, products.call(role, cut))) < 1e-3
        assert max(products.errors(role, other.call(role, cut))) > 0.05
    assert products.offsets[1] == 0 < products.offsets[2], "the first expert has no token"


def test_the_shipped_cuts_are_candidates():
    for (kernel, heights), _ in zip(
        dict.fromkeys(configs.KERNELS, (128, 64)).items(), range(4), strict=True
    ):
        for height in heights[: 1 if kernel == "grad_weight" else 2]:
            block_n, *more = configs.TABLE["sm_90"][kernel][height][0]
            assert Gemm(height, block_n, *more) in candidates(kernel, height)
    for (*_, role, _, _), cut in configs.Tuned.read(configs.PACKAGED).cuts.items():
        assert cut in candidates(KERNEL_OF[role], cut.block_m), f"measured as the fastest: {role}"
    assert set(KERNEL_OF.values()) == set(configs.KERNELS)


@pytest.mark.parametrize(
    "written,why",
    [
        (None, "FileNotFoundError"),
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"cuts": []}', "KeyError: 'heights'"),
        ('{"cuts": [{"for": [1], "cut": {"rows": 2}}], "heights": []}', "TypeError: .*'rows'"),
    ],
)
def test_a_table_of_cuts_that_cannot_be_read_is_no_empty_one(tmp_path, monkeypatch, written, why):
    if written is not None:
        (tmp_path / "cuts.json").write_text(written)
    monkeypatch.setenv("MOEVIZ_TUNED", str(tmp_path / "cuts.json"))
    with pytest.raises(ValueError, match=rf"{tmp_path}/cuts.json \({why}.*or unset it"):
        runpy.run_path(configs.__file__)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="reinstall moeviz"):
        patch.setattr(configs, "PACKAGED", tmp_path / "cuts.json")
        Tuned.read(configs.PACKAGED)
    monkeypatch.setenv("MOEVIZ_TUNED", "")
    assert runpy.run_path(configs.__file__)["TUNED"].heights == configs.TUNED.heights


@pytest.fixture
def results(tmp_path):
    """What a visit leaves."""
    out = tmp_path / "visit"
    env = {
        "provenance": {
            "date": "2026-11-27",
            "commit": "abc",
            "device": "NVIDIA H200",
            "versions": {"torch": "2.11", "triton": "3.6"},
        },
        "rehearsal": False,
        "gpu": {"name": "NVIDIA H200", "driver": "570.1"},
    }
    place = ["sm_90", "3.6", "bfloat16", 512]
    cut = dict(block_m=64, block_n=128, block_k=64, num_warps=4, num_stages=3, maxnreg=128)
    table = {
        "heights": [{"for": [*place, 2048, 768], "height": 64, "ms": {"64": 1.0, "128": 2.0}}],
        "cuts": [{"for": [*place, "up", 1536, 2048], "cut": cut, "ms": [1.0]}],
    }
    items = {"O-8 up 64": [{"cut": cut | {"path": "pointer"}, "ms": [0.5, 0.5, 0.6, 9.0]}]}
    times = {part: {"median": 2.0} for part in ("forward_ms", "both_ms")}
    ours = times | {"tflops": {"forward": 500.0, "both": 450.0}, "graph_both_ms": {"median": 1.5}}
    dense = {part: {"median": 1.0} for part in times}
    shape = dict(name="O", tokens=8192, d_model=8, d_expert=4, num_experts=2, top_k=1)
    contenders = {OURS: ours, DENSE: dense, "liger": {"not_run": "no time"}}
    layer = {
        "provenance": env["provenance"],
        "device": {"name": "NVIDIA H200", "dtype": "bfloat16", "matmul_tflops": 787.9,
                   "copy_gb_per_s": 4299.2},
        "cases": [{"shape": shape, "routing": "uniform", "contenders": contenders}],
    }  # fmt: skip
    out.mkdir()
    for name, content in {
        "env": env, "layer": layer,
        "sweep": {"provenance": env["provenance"], "table": table, "items": items, "failed": {}},
    }.items():  # fmt: skip
        (out / f"{name}.json").write_text(json.dumps(content))
    return out


def change(out, name, **values):
    path = out / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_a_visit_leaves_is_adopted_and_chosen(results, tmp_path, monkeypatch):
    tuned, runs, readme = tmp_path / "tuned.json", tmp_path / "runs", tmp_path / "README"
    marker, other = (f"<!-- {n}: made by python -m moeviz bench gpu --adopt -->" for n in NAMES)
    end = "<!-- end -->"
    readme.write_text(f"before\n{marker}\nold\n{end}\nbetween\n{other}\n{end}\nafter\n")
    gpu_adopt.adopt(results, tuned, runs, readme)
    lines = gpu_adopt.adopt(results, tuned, runs, readme)  # again: the same places, no second entry
    assert (runs / "layer_h200.json").is_file() and len(lines) == 2
    table = readme.read_text()
    assert "| 8192, 8, 4, 2, 1 | uniform | 500 / 450 | – / 1.5 | 0.50 / 0.50 |" in table
    assert "old" not in table and "Liger" not in table and table.startswith(f"before\n{marker}\n")
    assert "| O-8 | up, 64 rows |  | **0.500** |  |  |  |" in table
    assert table.endswith("\n<!-- end -->\nafter\n") and "8192³ reaches 788 TFLOP/s" in table
    written = json.loads(tuned.read_text())
    assert len(written["cuts"]) == len(written["heights"]) == 1
    assert written["cuts"][0]["origin"]["gpu"]["driver"] == "570.1"

    monkeypatch.setattr(configs, "TUNED", Tuned.read(tuned))
    monkeypatch.setattr(configs.triton, "__version__", "3.6.2")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    like = type("OnGpu", (), {"dtype": torch.bfloat16, "is_cuda": True, "device": "cuda"})()
    for rows, height in ((512, 64), (300, 64), (513, 128), (200, 128)):
        assert configs.height_of_tiles(like, rows, 2048, 768) == height
        cut = configs.choose("up", like, rows, 1536, 2048, height)
        assert (cut.maxnreg == 128) == (height == 64) and cut.block_m == height
    assert configs.choose("up", like, 512, 1536, 2048, 128).maxnreg is None
    assert configs.choose("up", like, 512, 1536, 1024, 64).maxnreg is None
    # Another product of the same width and depth has cuts of its own.
    assert configs.choose("dx", like, 512, 1536, 2048, 64).maxnreg is None
    assert configs.launch_options(Gemm(64, 64, 64, 4, 3), torch.float16).get("maxnreg") is None
    monkeypatch.setattr(configs.triton, "__version__", "3.7.1")
    assert configs.choose("up", like, 512, 1536, 2048, 64).maxnreg is None


def test_what_a_step_costs_is_adopted_with_its_origin(results, tmp_path):
    change(results, "sweep", table={"cuts": [], "heights": []})
    change(results, "layer", cases=[])
    provenance = load(results, "env")["provenance"]
    Phase("step", results, 1e12, items={"MoE eager": {"step_ms": 73.0}}).save()
    with pytest.raises(ValueError, match=r"step\.json has None as its commit"):
        gpu_adopt.adopt(results, tmp_path / "t", tmp_path, tmp_path / "README")
    change(results, "step", provenance=provenance)
    [line] = gpu_adopt.adopt(results, tmp_path / "t", tmp_path, tmp_path / "README")
    kept = json.loads((tmp_path / "step_h200.json").read_text())
    assert "step_h200.json" in line and kept["gpu"]["driver"] == "570.1"
    assert kept["items"] == {"MoE eager": {"step_ms": 73.0}}
    assert kept["provenance"] == provenance


def test_the_table_has_the_hosts_time_and_the_chips_clock_where_they_were_recorded(results):
    run = json.loads((results / "layer.json").read_text())
    ours = run["cases"][0]["contenders"][OURS]
    ours["host_ms"] = {"forward": 0.5, "backward": 1.25}
    ours["chip"] = {"samples": 4, "sm_mhz": 1710.0}
    run["cases"].append({**run["cases"][0], "contenders": {OURS: dict(ours, host_ms=None)}})
    _, _, head, _, first, second = gpu_table.overview(run).splitlines()
    assert head.endswith("| as a CUDA graph, ms | host, ms | MHz, W | dense FFN |")
    assert first.endswith("| – / 1.5 | 0.5 / 1.75 | 1710, – | 0.50 / 0.50 |")
    assert second.endswith("| – / 1.5 | – | 1710, – | – |")


def test_what_is_said_below_the_table_of_paths_follows_from_the_rounds():
    def timed(columns, *ms):
        return {"cut": {"path": "flat", "maxnreg": None, "block_n": columns}, "ms": [*ms]}

    cuts = [
        timed(256, 1.0, 1.0, 1.0, 2.0, 2.0),
        timed(256, 1.0, 1.1, 1.2, 2.0),
        timed(128, 3, 3, 3),
    ]
    text = gpu_table.paths({"items": {"O-8 up 64": cuts, "Q-8 up 64": [timed(128, 1.0, 1.2, 9)]}})
    assert text.endswith(
        "cuts changed by 10.0 % (the median of 1 pairs), by 10.0 % at most.\n\n"
        "The best cut of 128 columns over the best of 256, in time: 3.00 to 3.00 in `up`."
    )
    assert gpu_table.paths({"items": {"Q-8 up 64": [timed(128, 1.0)]}}).endswith("**1.000** |")


def test_the_readme_shows_the_recorded_run():
    runs, text = data_path("runs"), gpu_table.README.read_text("utf-8")
    for name, table in (("layer", gpu_table.overview), ("paths", gpu_table.paths)):
        file = {"layer": "layer", "paths": "sweep"}[name]
        rows = table(json.loads((runs / f"{file}_h200.json").read_text("utf-8")))
        assert rows in text and gpu_table.renewed(text, name, rows) == text
    with pytest.raises(ValueError, match="0 places for the table 'layer'"):
        gpu_table.renewed("no marker", "layer", "")


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("env", {"rehearsal": True}, "holds a rehearsal"),
        ("env", {"gpu": {"name": "NVIDIA H200", "driver": None}}, "does not say the GPU's driver"),
        ("env", {"gpu": None}, "does not say the GPU's name, the GPU's driver"),
        (
            "env",
            {"provenance": {"date": "2026-11-27", "versions": {"torch": "2.11", "triton": None}}},
            "does not say commit, device, the version of triton:",
        ),
        ("layer", {"provenance": {"commit": "abd"}}, "layer.json has abd as its commit and env.j"),
        ("sweep", {"provenance": {}}, "sweep.json has None as its commit .* give each visit a fol"),
        ("sweep", {"table": {"cuts": [], "heights": []}}, "holds nothing to adopt"),
    ],
)
def test_figures_without_their_origin_are_refused(results, tmp_path, name, values, words):
    change(results, name, **values)
    if "nothing" in words:
        change(results, "layer", cases=[])
    with pytest.raises(ValueError, match=words):
        gpu_adopt.adopt(results, tmp_path / "tuned.json", tmp_path / "runs", tmp_path / "README")
    assert not (tmp_path / "tuned.json").exists()


def test_what_shows_a_gpus_figures_is_built_when_they_are_adopted(monkeypatch, capsys):
    shows = re.compile(r"gpu_(race|experts|collapse)|so_far\(\)|panels\.(Contenders|Roofline)")
    sources = gpu_adopt.BUILD.with_name("src").glob("*.md")
    found = {path.stem for path in sources if shows.search(path.read_text("utf-8"))}
    assert found == {*gpu_adopt.NOTEBOOKS}
    calls = []
    monkeypatch.setattr(gpu_adopt, "adopt", lambda out, *_: [f"adopted {out}"])
    run = SimpleNamespace(run=lambda call: calls.append(call) or SimpleNamespace(returncode=5))
    monkeypatch.setattr(gpu_adopt, "subprocess", run)
    assert gpu.main(["--adopt", "results"]) == 5
    assert calls == [[sys.executable, "-P", str(gpu_adopt.BUILD), *gpu_adopt.NOTEBOOKS]]
    assert capsys.readouterr().out.startswith("adopted results\nBuilding what shows them: 01_den")


@pytest.mark.slow
def test_a_rehearsal_leaves_every_file(tmp_path):
    out = tmp_path / "out"
    words = ["-m", "moeviz", "bench", "gpu", "--rehearse", "--minutes", "10", "--out", str(out)]
    run = subprocess.run(
        [sys.executable, "-P", *words], capture_output=True, text=True, timeout=570,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert {p.name for p in out.iterdir()} == {
        "env.json", "check.json", "sweep.json", "layer.json", "train.json", "log.txt"
    }  # fmt: skip
    check, sweep = load(out, "check"), load(out, "sweep")
    assert len(check["items"]) == 2 * len(ROLES) and not check["late"]
    assert len(check["failed"]) == len(ROLES), "the cut that cannot work"
    assert all("power of 2" in why for why in check["failed"].values())
    assert len(sweep["items"]) == len(ROLES) == len(sweep["table"]["cuts"])
    assert [entry["height"] for entry in sweep["table"]["heights"]] == [16]
    train = load(out, "train")
    assert sum("/seed 0" in key for key in train["items"]) >= 8 and not train["failed"]
    summary = run.stdout.partition("== no GPU: a rehearsal")[2].splitlines()
    assert len(summary) <= 40 and any("toy dW13" in line for line in summary)
    with pytest.raises(ValueError, match="holds a rehearsal"):
        gpu_adopt.adopt(out, tmp_path / "tuned.json", tmp_path / "runs", tmp_path / "README")


def test_make_gpu_measures_first_and_keeps_the_callers_path(tmp_path):
    """With a stand-in for Python, which writes down how it was called, in a folder of its own."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH,$MOEVIZ_TUNED,$*" >> {calls}\n')
    python.chmod(0o755)
    make = ["make", "-C", str(tmp_path), "-f", str(ROOT / "Makefile"), f"GPU_PYTHON={python}"]
    make += ["OUT=out", "MINUTES=7", "PHASES=sweep,layer"]

    def told(target, **environment):
        """What each call was told: the path, the table of cuts, the words."""
        calls.write_text("")
        # What `make test` itself was told stands in its own variables.
        not_ours = {"PYTHONPATH", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS"}
        rest = {name: value for name, value in os.environ.items() if name not in not_ours}
        subprocess.run([*make, target], check=True, env=rest | environment, capture_output=True)
        return [line.split(",", 2) for line in calls.read_text().splitlines()]

    own = f"{tmp_path}/build/gpu:{tmp_path}/benchmarks"
    for target in ("gpu", "gpu-verify"):
        assert {path for path, *_ in told(target, PYTHONPATH="/carried")} == {f"{own}:/carried"}
        assert {path for path, *_ in told(target)} == {own}, "an empty entry is the root"
    [(_, tuned, words)] = told("gpu")
    assert words.endswith("-m moeviz bench gpu --out out --minutes 7 --phases sweep,layer")
    assert not tuned, "the kernels' own table, unless this visit's sweep left one"
    assert not any(tuned for _, tuned, _ in told("gpu-verify"))
    (tmp_path / "build" / "gpu" / "tuned.json").write_text("{}")
    verified = told("gpu-verify")
    assert {tuned for _, tuned, _ in verified} == {"build/gpu/tuned.json"}
    kinds = [
        kind for *_, words in verified for kind in ("pytest", "sanitize", "layer") if kind in words
    ]
    assert kinds == ["pytest", "sanitize", "layer"]
    assert (tmp_path / "out" / "verify.txt").is_file()


def test_make_gpu_verify_alone_finds_the_package_and_names_what_fails_or_is_late(tmp_path):
    """A part that fails, one that takes too long (as `timeout` tells it), one that is well."""
    python, out = tmp_path / "python", tmp_path / "out"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *"-m pytest"*) exit 3 ;; *" sanitize "*) exit 124 ;; '
        '*"import xdist"*) exit 1 ;; *) echo fine ;; esac\n'
    )
    python.chmod(0o755)
    make = ["make", "-C", str(tmp_path), "-f", str(ROOT / "Makefile"), f"GPU_PYTHON={python}"]
    done = subprocess.run([*make, f"OUT={out}", "gpu-verify"], capture_output=True)
    assert done.returncode != 0
    assert (out / "verify.txt").read_text().splitlines() == [
        "FAILED: the tests, exit code 3",
        "FAILED: the memory checker took longer than 50 s",
        "fine",
    ]
    assert {link.name for link in (tmp_path / "build" / "gpu").iterdir() if link.is_symlink()} == {
        "moeviz",
        "moeviz_kernels",
    }
