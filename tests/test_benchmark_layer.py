"""The layer benchmark runs, is complete, checks what it times and says what it leaves out; the
numbers themselves are never asserted."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import layer
import layer_contenders
import layer_shapes
import layer_study
import timing
from layer_contenders import ABSENT, DENSE_COMPILED, OURS, NotRun, Problem
from layer_shapes import SHAPES, Shape
from timing import Ceilings
from training import DENSE

CPU = torch.device("cpu")
MIXTRAL = [f"transformers Mixtral {name}" for name in ("grouped_mm", "batched_mm", "eager")]
PEERS = ["torch grouped_mm", *MIXTRAL]
LOOP = "naive loop over W[e]"
TIMES = ("forward_ms", "inference_ms", "backward_ms", "both_ms")
ROOT = Path(__file__).resolve().parents[1]
has_transformers = bool(importlib.util.find_spec("transformers"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS_PER_TURN", 0.0)
    monkeypatch.setattr(layer_study, "ceilings", lambda *_: Ceilings(0.1, 10.0))
    monkeypatch.setattr(layer_study, "matmul_tflops", lambda *_: 0.05)


def tiny(tmp_path, *more):
    path = tmp_path / "results" / "layer.json"
    tiny = ["--shapes", "tiny", "--rounds", "2", "--device", "cpu"]
    code = layer.main([*tiny, "--json", str(path), *more])
    return code, json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "SECONDS_PER_TURN", 0.0)
        code, report = tiny(tmp_path_factory.mktemp("bench"))
    assert code == 0
    return report


def test_report_is_complete(report, tmp_path):
    assert {"triton", "transformers", "liger-kernel"} < set(report["provenance"]["versions"])
    assert set(report["device"]) == {
        "name", "kind", "capability", "memory_gb", "copy_gb_per_s", "matmul_tflops", "dtype"
    }  # fmt: skip
    assert report["device"]["kind"] == "cpu" and report["device"]["dtype"] == "float32"
    assert str(tmp_path.parent) not in json.dumps(report)
    assert report["failures"] == [] and report["not_run"] == ABSENT
    (case,) = report["cases"]
    assert case["shape"] == {"name": "tiny", **SHAPES["tiny"]._asdict()}
    assert (case["dtype"], case["routing"], case["checked_tokens"]) == ("float32", "uniform", 64)
    assert set(case["limit_ms"]) == {"forward", "both"} and case["kernels"] == []
    assert list(case["contenders"]) == [OURS, "moeviz grouped", *PEERS, LOOP, DENSE]


def test_every_contender_is_measured_and_right(report):
    for name, result in report["cases"][0]["contenders"].items():
        if name == OURS or (name.startswith("transformers") and not has_transformers):
            assert list(result) == ["not_run"]
            continue
        for key in TIMES:
            assert set(result[key]) == {"median", "q1", "q3"}
            assert 0 < result[key]["q1"] <= result[key]["median"] <= result[key]["q3"]
        for key in ("tflops", "of_dense", "of_dense_cpu", "of_limit"):
            assert set(result[key]) == {"forward", "both"}, (name, key)
        for peer, ratios in result["of_peers"].items():
            assert set(ratios) == {"forward", "inference", "both"}, (name, peer)
            for ratio in ratios.values():
                assert 0 < ratio["q1"] <= ratio["median"] <= ratio["q3"]
        for key, ratio in result["of_dense"].items():
            assert ratio == result["of_peers"][DENSE][key]["median"]
        assert result["saved_bytes"] > 0 and result["first_call_s"] > 0
        assert result["peak_bytes"] is result["syncs"] is result["launches"]["both"] is None
        assert result["repeatable"] and 2 <= result["repeated_runs"] <= layer_study.RUNS
        if name != DENSE:
            assert set(result["relative_error"]) == {"out", "dx", "dlogits", "dw13", "dw2"}
            assert all(0 < error < 1e-5 for error in result["relative_error"].values())


def test_ours_is_compared_with_every_peer_that_ran(report):
    found = report["cases"][0]["contenders"]
    ran = [name for name in (*PEERS, LOOP, DENSE) if "both_ms" in found[name]]
    assert {"torch grouped_mm", LOOP, DENSE} <= set(ran)
    assert list(found["moeviz grouped"]["of_peers"]) == ran
    assert list(found["torch grouped_mm"]["of_peers"]) == [DENSE]


def test_ratios_are_taken_within_a_round(monkeypatch):
    """Both slow down threefold in the second of three rounds, and inference does not."""
    turns = iter([
        {OURS: [([1.0, 2.0], [1.0, 1.0]), ([3.0, 6.0], [1.0, 1.0]), ([1.0, 2.0], [1.0, 1.0])],
         "peer": [([2.0, 2.0], [1.0, 4.0]), ([6.0, 6.0], [1.0, 4.0]), ([4.0, 4.0], [1.0, 4.0])]},
        {OURS: [([3.0], [1.0])] * 3, "peer": [([2.0], [1.0])] * 3},
    ])  # fmt: skip
    monkeypatch.setattr(layer_study, "by_turns", lambda *_: next(turns))
    found = {OURS: {}, "peer": {}}
    contenders = dict.fromkeys(found, SimpleNamespace(training_step=None, inference_step=None))
    layer_study.Run.time_by_turns(SimpleNamespace(rounds=3), contenders, found)
    assert found["peer"]["of_peers"] == {}
    assert found[OURS]["of_peers"] == {
        "peer": {
            "forward": {"median": 0.5, "q1": 0.375, "q3": 0.5},
            "inference": {"median": 1.5, "q1": 1.5, "q3": 1.5},
            "both": {"median": 0.75, "q1": 0.5625, "q3": 0.75},
        }
    }
    assert found["peer"]["cpu_ms"]["both"]["median"] == 5.0


def test_recorded_runs_can_still_be_read():
    recorded = sorted((ROOT / "benchmarks" / "results").glob("layer_*.json"))
    cases = [c for path in recorded for c in json.loads(path.read_text("utf-8"))["cases"]]
    assert cases and all("moeviz grouped" in layer.table(case) for case in cases)


def test_table_has_a_row_for_each_contender(report):
    case = report["cases"][0]
    head, columns, *rows = layer.table(case).splitlines()
    assert "tiny: T=64 D=64 F=32 E=8 K=2, float32, uniform routing" in head
    for name, row in zip(case["contenders"], rows, strict=True):
        assert row.startswith(name)
    ends = {row.index("  yes") for row in rows if "  yes" in row}
    assert ends == {columns.index("  repeats")}  # aligned


def test_an_interpreted_run_is_no_speed(report, monkeypatch):
    assert "is no speed" in report["cases"][0]["contenders"][OURS]["not_run"]
    monkeypatch.setattr(
        layer_contenders, "kernels", lambda: SimpleNamespace(interpreted=lambda: True)
    )
    on_gpu = SimpleNamespace(x_TD=SimpleNamespace(is_cuda=True))
    with pytest.raises(NotRun, match="TRITON_INTERPRET is set"):
        layer_contenders.moeviz_triton(on_gpu)


def test_another_computation_is_a_failure(monkeypatch, tmp_path, capsys):
    original = layer_contenders.naive_experts
    monkeypatch.setattr(layer_contenders, "naive_experts", lambda *given: 1.01 * original(*given))
    code, report = tiny(tmp_path)
    assert code == 1
    assert f"FAILED: {LOOP} computes something else: out is 1e-02" in capsys.readouterr().out
    assert all(LOOP in failure for failure in report["failures"])
    assert "both_ms" in report["cases"][0]["contenders"][LOOP]  # timed all the same


def test_nan_is_a_failure_that_json_can_hold(monkeypatch, tmp_path):
    original = layer_contenders.naive_experts
    monkeypatch.setattr(
        layer_contenders, "naive_experts", lambda *given: math.nan * original(*given)
    )
    code, report = tiny(tmp_path)
    assert code == 1 and "nan" in report["failures"][0]
    result = report["cases"][0]["contenders"][LOOP]
    assert not result["repeatable"] and result["relative_error"]["out"] > 1e300


def test_what_is_missing_or_does_not_fit_is_said(monkeypatch, tmp_path, capsys):
    def missing(*_):
        raise ImportError("No module named 'transformers' (/opt/python/site-packages/x.py)")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(layer_contenders, "mixtral_config", missing)
    monkeypatch.setattr(layer_contenders, "naive_experts", full)
    code, report = tiny(tmp_path)
    found = report["cases"][0]["contenders"]
    assert code == 0
    for name in MIXTRAL:
        said = "ImportError: No module named 'transformers' (x.py)"
        assert found[name] == {"not_run": said}
    assert found[LOOP] == {"not_run": "OutOfMemoryError: CUDA out of memory."}
    assert "both_ms" in found["moeviz grouped"]
    assert "not run: OutOfMemoryError: CUDA out of memory." in capsys.readouterr().out


def test_ours_has_to_run(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(layer_contenders, "apply_experts", broken)
    code, report = tiny(tmp_path)
    assert code == 1
    assert report["failures"] == [
        "moeviz grouped did not run: RuntimeError: an illegal memory access, tiny, uniform routing"
    ]


def test_a_case_that_does_not_fit_is_left_out(monkeypatch, tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Problem, "random", full)
    code, report = tiny(tmp_path)
    assert code == 0 and report["cases"] == []
    said = "OutOfMemoryError: CUDA out of memory."
    assert report["not_run"] == {**ABSENT, "tiny, uniform": said}


def test_what_the_budget_does_not_reach_is_noted(tmp_path, monkeypatch, capsys):
    code, report = tiny(tmp_path, "--budget", "0", "--shapes", "tiny,coarse")
    said = "the budget of 0 s was used up"
    assert code == 0 and report["cases"] == []
    assert report["not_run"] == {**ABSENT, "coarse, uniform": said, "tiny, uniform": said}
    assert capsys.readouterr().out.count(said) == 2

    looks = iter([None, None, None])  # for the case, the refused first contender and one more
    monkeypatch.setattr(layer_study.Run, "out_of_time", lambda *_: next(looks, "no time"))
    _, report = tiny(tmp_path)
    found = report["cases"][0]["contenders"]
    assert "both_ms" in found["moeviz grouped"] and "of_dense" not in found["moeviz grouped"]
    assert found[DENSE] == {"not_run": "no time"}


@pytest.mark.parametrize(
    "arguments", [["--shapes", "tiny,huge"], ["--rounds", "0"], ["--dtype", "fp8"]]
)
def test_refuses_what_it_cannot_run(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        layer.main([*arguments, "--json", str(tmp_path / "x.json")])
    assert arguments[0] in capsys.readouterr().err


def test_copies_of_weights_for_each_assignment_have_to_fit():
    if not has_transformers:
        pytest.skip("transformers is not installed")
    coarse = Problem.random(SHAPES["coarse"], "uniform", CPU, torch.float32)
    with pytest.raises(NotRun, match=r"would copy 3\.2 GB of weights"):
        layer_contenders.mixtral(coarse, "batched_mm", 10.0)


def test_the_dense_ffn_is_compiled_too(monkeypatch):
    """The peers that compile: after Liger, and with less of the budget each."""
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: forward)
    build = layer_contenders.compiling_builders()
    assert [*build] == ["liger", "torch grouped_mm compiled", DENSE_COMPILED]
    problem = Problem.random(SMALL, "uniform", CPU, torch.float32)
    plain, compiled = layer_contenders.dense(problem), build[DENSE_COMPILED](problem)
    assert torch.equal(plain.output(), compiled.output())
    assert not compiled.routed and not compiled.graph


def test_cases_and_files_go_by_device(monkeypatch):
    cuda = torch.device("cuda")
    names = [name for name, _ in layer.cases_for(cuda, None)]
    assert names[:5] == ["OLMoE-32768", "Qwen3-32768", "Mixtral-8192", "teach", "mini"]
    assert len(names) == 15 and names[-1] == "DSv3-8192"
    assert [r for n, r in layer.cases_for(cuda, "olmoe-32768,tiny")] == [
        "uniform", "zipf", "all-to-one", "uniform"
    ]  # fmt: skip
    assert layer.cases_for(CPU, "teach,fine") == [("fine", "uniform"), ("teach", "uniform")]
    assert layer.default_file(CPU) == ROOT / "benchmarks" / "results" / "layer_cpu.json"
    for name, file in (("NVIDIA H200", "h200"), ("Tesla T4", "t4"), ("NVIDIA L4-24Q", "l4_24q")):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert layer.default_file(cuda) == ROOT / "data" / "runs" / f"layer_{file}.json"


def test_help_says_where_the_figures_go(capsys):
    with pytest.raises(SystemExit):
        layer.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "data/runs/layer_<gpu>.json, which the panels show, or benchmarks/results/" in said


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(
    ("says", "failed"),
    [
        ("grouped, cpu float32   ok, 4e-07", ""),
        ("grouped, cpu   ok, 4e-07; triton, cuda   WRONG, 1e+00", "Failed: doctor."),
        ("grouped, cpu   ok, 4e-07; triton, cuda   failed: does not fit", "Failed: doctor."),
        ("Traceback (most recent call last)", "Failed: doctor."),
    ],
)
def test_a_wrong_self_check_fails_make_gpu(says, failed, tmp_path):
    """The doctor's page counts, not its exit status: that is 1 without JupyterLab too."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *doctor*) echo "{says}"; exit 1;; esac\n')
    python.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    command = ["make", "-C", str(tmp_path), "gpu", f"GPU_PYTHON={python}"]
    without = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, capture_output=True, text=True, env=without, timeout=60)
    assert (done.returncode != 0) == bool(failed) and failed in done.stderr, done
    assert says in done.stdout


# The limit and the work of the kernels, by hand.

SMALL = Shape(tokens=10, d_model=8, d_expert=4, num_experts=5, top_k=2)


def test_limit_is_the_larger_of_arithmetic_and_traffic():
    # Forward: x and y 160, 3 experts' weights 288, gate and up of 20 rows 160: 608 elements; then
    # 608 again, 80 for dx and 480 for the gradients of all weights.
    quick_sums = Ceilings(matmul_tflops=1e6, copy_gb_per_s=1.0)
    limit = layer_shapes.limit_ms(SMALL, 3, 2, quick_sums)
    assert limit == pytest.approx({"forward": 2 * 608e-6, "both": 2 * (608 + 608 + 560) * 1e-6})
    # Arithmetic: 6 x 10 x 2 x 8 x 4 FLOPs at 1 kFLOP/s.
    slow_sums = Ceilings(matmul_tflops=1e-9, copy_gb_per_s=1.0)
    limit = layer_shapes.limit_ms(SMALL, 3, 2, slow_sums)
    assert limit == pytest.approx({"forward": 3840.0, "both": 11520.0})


def test_the_dense_ffn_has_a_limit_of_its_own():
    """It reads K * F columns of one matrix, not the weights of all experts."""
    run = SimpleNamespace(dtype=torch.bfloat16, ceilings=Ceilings(1e6, 1.0))
    times = {f"{key}_ms": {"median": 1.0} for key in ("forward", "inference", "both")}
    contenders = {name: dict(times) for name in (DENSE, OURS, DENSE_COMPILED)}
    contenders["gone"] = {"not_run": "no"}
    case = {"contenders": contenders, "limit_ms": {"forward": 0.25, "both": 0.5}}
    layer_study.Run.add_ratios(run, SMALL, case)
    assert contenders[OURS]["of_limit"] == {"forward": 0.25, "both": 0.5}
    assert contenders[OURS]["of_dense"] == {"forward": 1.0, "both": 1.0}
    # x and y 160, weights 3 x 8 x 8, gate and up 10 x 16.
    for dense in (DENSE, DENSE_COMPILED):
        assert contenders[dense]["of_limit"]["forward"] == pytest.approx(2 * 512e-6)
    assert contenders["gone"] == {"not_run": "no"}


def test_on_a_gpu_ratios_are_those_of_the_medians_and_later_peers_join():
    run = SimpleNamespace(dtype=torch.bfloat16, ceilings=Ceilings(1e6, 1.0))

    def times(ms):
        return {f"{key}_ms": {"median": ms} for key in ("forward", "inference", "both")}

    ours, peer = times(1.0), times(4.0)
    case = {"contenders": {OURS: ours, DENSE: times(2.0)}, "limit_ms": {"forward": 1, "both": 1}}
    layer_study.Run.add_ratios(run, SMALL, case)
    assert list(ours["of_peers"]) == [DENSE]
    case["contenders"]["liger"] = peer
    layer_study.Run.add_ratios(run, SMALL, case)
    quarter = dict.fromkeys(("forward", "inference", "both"), {"median": 0.25})
    assert list(ours["of_peers"]) == [DENSE, "liger"] and ours["of_peers"]["liger"] == quarter
    assert ours["of_dense"] == {"forward": 0.5, "both": 0.5}
    assert list(peer["of_peers"]) == [DENSE]


def test_a_contender_that_compiles_leaves_time_to_those_before_it(monkeypatch):
    names = ("first", "second", "third")
    monkeypatch.setattr(layer_study, "compiling_builders", lambda: dict.fromkeys(names))
    shares = {}
    run = SimpleNamespace(
        again=lambda case: (SMALL, None),
        study=lambda name, *_, share: shares.update({name: share}),
        add_ratios=lambda *_: None,
    )
    layer_study.Run.compiled(run, {})
    assert shares == pytest.approx({"first": 0.8, "second": 0.7, "third": 0.6})


def test_kernels_share_the_active_flops_and_move_their_bytes():
    work = layer_shapes.kernel_work(SMALL, 2)
    flops = [amount for amount, of in work.values() if of == "matmul"]
    assert len(flops) == 4 and sum(flops) == 3 * SMALL.forward_flops == 18 * 20 * 8 * 4
    # Rows read, tokens written in bf16, the plan in int32, twice.
    assert work["gather_sum_kernel"] == (2 * (2 * (20 * 8 + 10 * 8) + 4 * (20 + 11)), "copy")
    assert work["topk_kernel"] == (4 * (50 + 50 + 20 + 20), "copy")


# What is compared and measured.


@pytest.mark.parametrize("routing", ["uniform", "zipf", "all-to-one"])
def test_routings_are_as_skewed_as_they_are_called(routing):
    problem = Problem.random(Shape(512, 8, 4, 16, 2), routing, CPU, torch.float32)
    load_E = layer_contenders.load(problem)
    assert load_E.sum() == 1024
    share = float(load_E.max()) / 64
    low, high = {"uniform": (1, 1.5), "zipf": (2.5, 8), "all-to-one": (8, 8)}[routing]
    assert low <= share <= high
    assert (load_E[2:] == 0).all() == (routing == "all-to-one")


@pytest.mark.parametrize("which", ["out", "dx", "dlogits", "dw13", "dw2"])
def test_errors_are_found_in_the_output_and_in_every_gradient(which, monkeypatch):
    problem = Problem.random(Shape(16, 8, 4, 5, 2), "all-to-one", CPU, torch.float32)
    contender = layer_contenders.naive(problem)
    errors = layer_contenders.relative_errors(contender)
    assert list(errors) == ["out", "dx", "dlogits", "dw13", "dw2"]
    assert all(error < 1e-6 for error in errors.values())
    place, run = list(errors).index(which), contender.run

    def wrong():
        results = run()
        results[place][-1] += 1.0  # of the weights: an expert without tokens
        return results

    monkeypatch.setattr(contender, "run", wrong)
    wrong_errors = layer_contenders.relative_errors(contender)
    assert wrong_errors.pop(which) > 1e-2
    assert all(error < 1e-6 for error in wrong_errors.values())


def test_large_shapes_are_compared_on_fewer_tokens(monkeypatch, tmp_path):
    monkeypatch.setattr(layer_study, "matmul_tflops", lambda *_: 1e-12 * 18 * 2 * 64 * 32 * 5)
    code, report = tiny(tmp_path)
    assert code == 0 and report["cases"][0]["checked_tokens"] == 5
