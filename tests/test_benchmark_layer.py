"""The layer benchmark runs, is complete, checks what it times and says what it leaves out; the
numbers themselves are never asserted."""

import importlib.util
import json
import math
from types import SimpleNamespace

import pytest
import torch

import layer
import layer_contenders
import layer_shapes
import layer_study
import timing
from layer_contenders import OURS, NotRun, Problem
from layer_shapes import SHAPES, Shape
from timing import Ceilings
from training import DENSE

CPU = torch.device("cpu")
PEERS = ["torch grouped_mm", "transformers Mixtral grouped_mm", "transformers Mixtral eager"]
LOOP = "naive loop over W[e]"
TIMES = ("forward_ms", "inference_ms", "backward_ms", "both_ms")
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
    assert report["failures"] == [] and report["not_run"] == {}
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
        assert result["saved_bytes"] > 0 and result["first_call_s"] > 0
        assert result["peak_bytes"] is result["syncs"] is result["launches"]["both"] is None
        assert result["repeatable"] and 2 <= result["repeated_runs"] <= layer_study.RUNS
        if name != DENSE:
            assert set(result["relative_error"]) == {"out", "dx", "dlogits", "dw13", "dw2"}
            assert all(0 < error < 1e-5 for error in result["relative_error"].values())


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
    for name in PEERS[1:]:
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
    assert report["not_run"] == {"tiny, uniform": "OutOfMemoryError: CUDA out of memory."}


def test_what_the_budget_does_not_reach_is_noted(tmp_path, monkeypatch, capsys):
    code, report = tiny(tmp_path, "--budget", "0", "--shapes", "tiny,coarse")
    said = "the budget of 0 s was used up"
    assert code == 0 and report["cases"] == []
    assert report["not_run"] == {"coarse, uniform": said, "tiny, uniform": said}
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


def test_cases_and_files_go_by_device(monkeypatch):
    cuda = torch.device("cuda")
    names = [name for name, _ in layer.cases_for(cuda, None)]
    assert names[:5] == ["OLMoE-32768", "Qwen3-32768", "Mixtral-8192", "teach", "mini"]
    assert len(names) == 15 and names[-1] == "DSv3-8192"
    assert [r for n, r in layer.cases_for(cuda, "olmoe-32768,tiny")] == [
        "uniform", "zipf", "all-to-one", "uniform"
    ]  # fmt: skip
    assert layer.cases_for(CPU, "teach,fine") == [("fine", "uniform"), ("teach", "uniform")]
    assert layer.default_file(CPU).name == "layer_cpu.json"
    for name, file in (("NVIDIA H200", "h200"), ("Tesla T4", "t4"), ("NVIDIA L4-24Q", "l4_24q")):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert layer.default_file(cuda).name == f"layer_{file}.json"


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
    times = {"forward_ms": {"median": 1.0}, "both_ms": {"median": 1.0}}
    contenders = {DENSE: dict(times), OURS: dict(times), "gone": {"not_run": "no"}}
    case = {"contenders": contenders, "limit_ms": {"forward": 0.25, "both": 0.5}}
    layer_study.Run.add_ratios(run, SMALL, case)
    assert contenders[OURS]["of_limit"] == {"forward": 0.25, "both": 0.5}
    assert contenders[OURS]["of_dense"] == {"forward": 1.0, "both": 1.0}
    # x and y 160, weights 3 x 8 x 8, gate and up 10 x 16.
    assert contenders[DENSE]["of_limit"]["forward"] == pytest.approx(2 * 512e-6)
    assert contenders["gone"] == {"not_run": "no"}


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
