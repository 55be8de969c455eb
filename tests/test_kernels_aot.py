"""The kernels, compiled for GPUs that are not here: they fit, spill nothing, use tensor cores.

`python -m moeviz_kernels.aot` compiles everything, in about ten minutes: so do the slow tests here,
chip by chip. The quick one compiles each kernel once, for the oldest chip and for sm_90.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moeviz_kernels import aot

ROOT = Path(__file__).resolve().parent.parent
TRITON_36 = ROOT / ".venv-triton36"
KERNELS = {
    name
    for path in (ROOT / "kernels").rglob("*.py")
    for name in re.findall(r"@triton.jit.*\ndef (\w+_kernel)\(", path.read_text(encoding="utf-8"))
}
PRODUCTS = {"up_kernel", "gemm_kernel", "grad_hidden_kernel", "grad_weight_kernel"}
# Candidates until a GPU has measured them.
STAY = {"up_tma_kernel", "gemm_tma_kernel", "grad_hidden_tma_kernel"}
COMBINE = {"gather_kernel", "gather_sum_kernel"}
SHARED_KIB = {"sm_75": 64, "sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}

pytestmark = [
    # Each run takes two processes of its own.
    pytest.mark.xdist_group("aot"),
    pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone"),
]
with_triton36 = pytest.mark.skipif(
    not (TRITON_36 / ".complete").exists(), reason="made by tests/make_triton36_env.sh"
)


def run(*arguments, cache, path=None, **extra):
    """Python on these arguments, in an environment in which kernels are compiled."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    before = [str(path)] if path else []
    inherited = [p for p in (environment.get("PYTHONPATH"),) if p]
    environment |= {"PYTHONPATH": os.pathsep.join(before + inherited)}
    environment |= {"TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"} | extra
    return subprocess.run(
        [sys.executable, "-P", *arguments], env=environment, cwd=cache, capture_output=True,
        text=True, timeout=1200,
    )  # fmt: skip


def compiled(cache, *arguments, path=None):
    """Triton's version, and the reports of a run that finds no fault."""
    file = cache / "reports.json"
    done = run("-m", "moeviz_kernels.aot", *arguments, "--json", str(file), cache=cache, path=path)
    assert file.exists(), f"exit code {done.returncode}: {done.stderr[-3000:]}"
    written = json.loads(file.read_text())
    reports = written["reports"]
    assert done.returncode == 0, [r for r in reports if r["faults"]]
    last = f"Triton {written['triton']}: {len(reports)} compilations, 0 with faults"
    assert done.stdout.splitlines()[-1] == last
    for r in reports:
        check(r)
    return written["triton"], reports


def check(r):
    """What is asked of a compilation, from its figures alone."""
    assert r["registers"] and not r["faults"], r
    assert r["spilled"] <= (32 if "maxnreg" in r["launch"] else 0), r
    assert r["shared"] <= SHARED_KIB[r["chip"]] * 1024, r
    right = ""  # no product, or an exact one
    if r["kernel"] in PRODUCTS | STAY and r["dtype"] != "fp32":
        best = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"}.get(r["chip"], "mma.sync")
        right = best if int(re.search(r"BLOCK_M=(\d+)", r["launch"])[1]) >= 64 else "mma.sync"
    assert r["tensor_cores"] == right, r


def kernels_of(reports, chip):
    return {(r["kernel"], r["dtype"]) for r in reports if r["chip"] == chip}


def all_kernels(chip, dtypes):
    """Triton uses no tensor cores on sm_75: experts run on PyTorch there. The routing knows no
    dtype; for TF32 see aot.UNCHECKED."""
    typed = COMBINE | (PRODUCTS if chip != "sm_75" else set())
    pairs = {(kernel, dtype) for kernel in typed for dtype in dtypes}
    if chip == "sm_100":
        pairs -= {(kernel, "tf32") for kernel in PRODUCTS}
    return pairs | {(kernel, "fp32") for kernel in KERNELS - PRODUCTS - STAY - COMBINE}


QUICK = ("--quick", "--chips", "sm_75,sm_90", "--dtypes", "fp16")


@pytest.mark.parametrize(
    ("version", "path"),
    [
        (None, None),
        pytest.param("3.6.0", TRITON_36, marks=[with_triton36, pytest.mark.slow]),
    ],
    ids=["this Triton", "Triton 3.6"],
)
def test_every_kernel_compiles_and_fits(version, path, tmp_path):
    triton, reports = compiled(tmp_path, *QUICK, path=path)
    assert version in (None, triton)
    for chip in ("sm_75", "sm_90"):
        assert kernels_of(reports, chip) == all_kernels(chip, ["fp16"])
    assert "wgmma.mma_async" in {r["tensor_cores"] for r in reports}


@pytest.mark.slow
@pytest.mark.parametrize("path", [None, pytest.param(TRITON_36, marks=with_triton36)])
def test_every_candidate_of_a_gpu_visit_compiles_and_fits(path, tmp_path):
    _, reports = compiled(tmp_path, "--candidates", path=path)
    assert {r["kernel"] for r in reports} == PRODUCTS | STAY


@pytest.mark.slow
@pytest.mark.parametrize("chip", SHARED_KIB)
def test_every_cut_of_the_whole_table_fits_the_chip(chip, tmp_path):
    _, reports = compiled(tmp_path, "--chips", chip)
    assert kernels_of(reports, chip) == all_kernels(chip, aot.DTYPES)
    launches = {
        kernel: [r["launch"] for r in reports if r["kernel"] == kernel] for kernel in KERNELS
    }
    choices = {re.match(r"K=(\d+)", launch)[1] for launch in launches["topk_kernel"]}
    assert choices == {"1", "2", "8", "32"}
    if chip == "sm_75":
        return
    for kernel in PRODUCTS:
        heights = {int(re.search(r"BLOCK_M=(\d+)", launch)[1]) for launch in launches[kernel]}
        assert heights == ({128} if kernel == "grad_weight_kernel" else {16, 32, 64, 128}), kernel
    for flag in ("unaligned", "EVEN_K", "SAVE", "GATHER_LEFT", "stride_k=1", "stride_c=1"):
        assert any(flag in launch for kernel in PRODUCTS for launch in launches[kernel]), flag


TOO_MUCH = """
import dataclasses, json, sys
from moeviz_kernels import aot
from moeviz_kernels.configs import Gemm

def first(*cut, dtype="bf16"):
    return aot.gemm_launches("up", Gemm(*cut), dtype, 1024, 1024)[0]

if __name__ == "__main__":
    spilling, large, right = (
        first(64, 128, 32, 1, 2), first(128, 128, 64, 8, 5), first(32, 32, 32, 4, 3, dtype="fp32")
    )
    untyped = dataclasses.replace(right, dtype="tf32")
    broken = dataclasses.replace(right, constants=right.constants | {"BLOCK_K": 24})
    jobs = dict(spilling=spilling, large=large, right=right, untyped=untyped, broken=broken)
    print(json.dumps({k: aot.compile_launch(v, "sm_89").faults for k, v in jobs.items()}))
    # And the whole command, with one bad launch among the good.
    aot.shipped = lambda *_: [right, spilling]
    sys.argv = ["aot", "--chips", "sm_89"]
    sys.exit(aot.main())
"""


@pytest.mark.slow
def test_each_fault_is_found(tmp_path):
    script = tmp_path / "too_much.py"
    script.write_text(TOO_MUCH)
    done = run(str(script), cache=tmp_path)
    assert done.returncode == 1, done.stderr[-3000:]
    first, *table = done.stdout.splitlines()
    found = json.loads(first)
    assert found["right"] == []
    assert any(re.fullmatch(r"spills \d+ bytes", fault) for fault in found["spilling"])
    assert any("of shared memory, of 99 KiB" in fault for fault in found["large"])
    assert found["untyped"] == ["uses no tensor cores, not mma.sync"]
    assert len(found["broken"]) == 1 and found["broken"][0].startswith("does not compile: ")
    assert table[-1].endswith("2 compilations, 1 with faults")
    assert "FAULT spills" in table[2] and "FAULT" not in table[1]


ANY_BATCH = """
import torch
from moeviz_kernels import aot, configs, sort, tiles
from moeviz_kernels.topk import launch

def launches(num_rows):
    found = []
    with aot.recording("fp32") as routing:
        launch(aot.meta(num_rows, 8, dtype=torch.float32), 2, True)
        expert_N = aot.meta(num_rows)
        count = sort.histogram(expert_N, 8)
        sort.scatter(expert_N, count, sort.scan(count))
        tiles.tile_map(aot.meta(9), num_rows, 64)
    for kernel in configs.KERNELS:
        cut = configs.Gemm(64, 64, 32, 4, 3)
        found += aot.gemm_launches(kernel, cut, "bf16", 64, 64, num_rows=num_rows)
    return routing + found

some, more = launches(1), launches(1024)
assert some == launches(77) == launches(128), "the smallest batches"
assert more == launches(1001) == launches(1008)
assert len(more) == len(some) > 8
"""


def test_no_size_of_a_batch_compiles_anew(tmp_path):
    """What grows with the number of tokens is no constant and no multiple of 16 to the compiler;
    but the scan takes as many blocks as the next power of two."""
    done = run("-c", ANY_BATCH, cache=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_cannot_be_done_is_refused_in_a_sentence(monkeypatch, capsys):
    for arguments, sentence in (
        ([], "TRITON_INTERPRET=1"),
        (["--chips", "sm_70"], "'sm_70' is none of sm_75, "),
    ):
        monkeypatch.setattr(aot, "interpreted", lambda: True)
        monkeypatch.setattr(sys, "argv", ["aot", *arguments])
        with pytest.raises(SystemExit, match="2"):
            aot.main()
        assert sentence in capsys.readouterr().err.splitlines()[-1]


ALL_TESTS = """
import sys, pytest, triton
assert triton.__version__ == "3.6.0"
sys.exit(pytest.main(["-q", "-m", "not slow", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.slow
@with_triton36
def test_triton_36_interprets_them_right(tmp_path):
    tests = [str(ROOT / "tests" / f"test_kernels{name}.py") for name in ("", "_experts")]
    done = run("-c", ALL_TESTS, *tests, cache=tmp_path, path=TRITON_36, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-3000:]
