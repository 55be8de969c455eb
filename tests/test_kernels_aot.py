"""The kernels, compiled for GPUs that are not here: they fit, spill nothing, use tensor cores.

`python -m moeviz_kernels.aot` compiles everything, in about ten minutes: so do the slow tests here,
chip by chip. The quick one compiles each kernel once, for sm_90, which has all of them.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moeviz_kernels import aot, sass
from moeviz_kernels.launches import DTYPES, Launch

ROOT = Path(__file__).resolve().parent.parent
TRITON_36 = ROOT / ".venv-triton36"
KERNELS = {
    name
    for path in (ROOT / "kernels").rglob("*.py")
    for name in re.findall(r"@triton.jit.*\ndef (\w+_kernel)\(", path.read_text(encoding="utf-8"))
}
PRODUCTS = {"up_kernel", "gemm_kernel", "grad_hidden_kernel", "grad_weight_kernel"}
# What sm_90 alone ships, in 16 bits.
STAY = {"up_tma_kernel", "gemm_tma_kernel"}
COMBINE = {"gather_kernel", "gather_sum_kernel"}
SHARED_KIB = {"sm_75": 64, "sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}

pytestmark = [
    # Each run takes two processes of its own.
    pytest.mark.xdist_group("aot"),
    pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone"),
]
TRITON_36_STAMP = TRITON_36 / ".complete"  # which names the Python that it was made for
with_triton36 = pytest.mark.skipif(
    not TRITON_36_STAMP.exists()
    or " {}.{}.".format(*sys.version_info) not in TRITON_36_STAMP.read_text(),
    reason="made by tests/make_triton36_env.sh, for the Python of .venv",
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
    held = "maxnreg" in r["launch"] or (r["dtype"] == "fp32" and r["registers"] <= 128)
    assert r["spilled"] <= (96 if held else 0), r
    assert r["shared"] <= SHARED_KIB[r["chip"]] * 1024, r
    right = ""  # no product, or an exact one
    if r["kernel"] in PRODUCTS | STAY and r["dtype"] != "fp32":
        best = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"}.get(r["chip"], "mma.sync")
        right = best if int(re.search(r"BLOCK_M=(\d+)", r["launch"])[1]) >= 64 else "mma.sync"
    assert r["tensor_cores"] == right, r
    assert (r["loop"] is not None) == (right == "wgmma.mma_async"), r
    assert (r["programs"] is not None) == (r["chip"] == "sm_90"), r


def kernels_of(reports, chip):
    return {(r["kernel"], r["dtype"]) for r in reports if r["chip"] == chip}


def all_kernels(chip, dtypes):
    """Triton uses no tensor cores on sm_75: experts run on PyTorch there. The routing knows no
    dtype; for TF32 see launches.UNCHECKED."""
    typed = COMBINE | (PRODUCTS if chip != "sm_75" else set())
    pairs = {(kernel, dtype) for kernel in typed for dtype in dtypes}
    if chip == "sm_90":
        pairs |= {(k, dtype) for k in STAY for dtype in dtypes if dtype in ("fp16", "bf16")}
    if chip == "sm_100":
        pairs -= {(kernel, "tf32") for kernel in PRODUCTS}
    return pairs | {(kernel, "fp32") for kernel in KERNELS - PRODUCTS - STAY - COMBINE}


QUICK = ("--quick", "--chips", "sm_90", "--dtypes", "fp16")


@pytest.mark.parametrize(
    ("version", "path"),
    [(None, None), pytest.param("3.6.0", TRITON_36, marks=with_triton36)],
    ids=["this Triton", "Triton 3.6"],
)
def test_every_kernel_compiles_and_fits(version, path, tmp_path):
    triton, reports = compiled(tmp_path, *QUICK, path=path)
    assert version in (None, triton)
    assert kernels_of(reports, "sm_90") == all_kernels("sm_90", ["fp16"])
    assert "wgmma.mma_async" in {r["tensor_cores"] for r in reports}
    flags = {r["kernel"]: r["launch"].split() for r in reports}
    for kernel in STAY:
        assert "FLAT" in flags[kernel], "the path that sm_90 ships"
    for kernel in ("up_kernel", "up_tma_kernel", "grad_hidden_kernel"):
        assert "FAST" in flags[kernel], "the chip's own sigmoid for 16 bits"
    assert "maxnreg=128" in flags["grad_hidden_kernel"], "two programs share a multiprocessor"


@pytest.mark.slow
@pytest.mark.parametrize("path", [None, pytest.param(TRITON_36, marks=with_triton36)])
def test_every_candidate_of_a_gpu_visit_compiles_and_fits(path, tmp_path):
    _, reports = compiled(tmp_path, "--candidates", path=path)
    assert {r["kernel"] for r in reports} == PRODUCTS | STAY


@pytest.mark.slow
@pytest.mark.parametrize("chip", SHARED_KIB)
def test_every_cut_of_the_whole_table_fits_the_chip(chip, tmp_path):
    _, reports = compiled(tmp_path, "--chips", chip)
    assert kernels_of(reports, chip) == all_kernels(chip, DTYPES)
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
from moeviz_kernels.launches import gemm_launches

def first(*cut, dtype="bf16"):
    return gemm_launches("up", Gemm(*cut), dtype, 1024, 1024)[0]

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


SASS = """
.L_x_0:
        /*0000*/  LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/  UTMALDG.2D [UR4], [UR6] ;
                                              /* 0x0000000000007918 */
        /*0020*/  @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R5], desc[UR8][R6.64] ;
        /*0030*/  LDGDEPBAR ;
        /*0040*/  DEPBAR.LE SB0, 0xa ;
        /*0050*/  @!P1 BRA `(.L_x_9) ;
.L_x_2:
        /*0060*/  HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0070*/  HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;
        /*0080*/  WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0090*/  @P0 BRA `(.L_x_1) ;
        /*00a0*/  WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
.L_x_3:
        /*00b0*/  HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;
        /*00c0*/  WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*00d0*/  @P0 BRA `(.L_x_3) ;
        /*00e0*/  @P2 BRA `(.L_x_0) ;
        /*00f0*/  EXIT ;
.L_x_9:
        /*0100*/  SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR4], R0 ;
        /*0110*/  @!P1 BRA `(.L_x_9) ;
        /*0120*/  BRA `(.L_x_2) ;
"""


FLAT_SASS = """
.L_x_1:
        /*0010*/  @P0 BRA `(.L_x_3) ;
        /*0020*/  LDG.E R2, desc[UR8][R6.64] ;
        /*0030*/  LDG.E R3, desc[UR8][R8.64] ;
.L_x_3:
        /*0040*/  SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR4], R0 ;
        /*0050*/  @!P1 BRA `(.L_x_9) ;
.L_x_2:
        /*0060*/  @P2 BRA `(.L_x_4) ;
        /*0070*/  HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;
.L_x_4:
        /*0080*/  WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0090*/  @P3 BRA `(.L_x_6) ;
        /*0098*/  UTMALDG.3D [UR4], [UR6] ;
        /*00a0*/  @P0 BRA `(.L_x_5) ;
        /*00b0*/  WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*00c0*/  STG.E.128 desc[UR8][R8.64], R24 ;
.L_x_5:
        /*00d0*/  @P0 BRA `(.L_x_1) ;
.L_x_6:
        /*00e0*/  EXIT ;
.L_x_9:
        /*00f0*/  BRA `(.L_x_2) ;
"""


def test_the_main_loop_is_the_inner_one_that_loads():
    """Neither the loop around it, nor the ragged end's, nor the wait that lies behind the end; and
    of one loop of tiles and steps what most steps skip is not counted, but for products."""
    assert sass.main_loop(SASS) == sass.Loop(9, 2, 1, 1, product_wait=1, load_wait=10)
    assert sass.main_loop("/*0000*/ EXIT ;") is None
    assert sass.main_loop(FLAT_SASS) == sass.Loop(10, 1, 0, 1, product_wait=1, load_wait=None)


@pytest.mark.parametrize(
    ("registers", "kib", "num_warps", "programs"),
    [(255, 192, 8, 1), (128, 96, 8, 2), (129, 96, 8, 1), (128, 113, 8, 2), (128, 114, 8, 1)]
    + [(168, 72, 4, 3), (32, 0, 4, 16), (16, 0, 1, 32)],
)
def test_programs_share_a_multiprocessor(registers, kib, num_warps, programs):
    assert sass.programs_together(registers, kib * 1024, num_warps) == programs


@pytest.mark.parametrize(
    ("kernel", "constants", "changes", "words"),
    [
        ("gemm_kernel", {}, {}, []),
        ("gemm_kernel", {}, {"instructions": 131}, ["takes 131 instructions a step, of 130"]),
        ("gemm_tma_kernel", {"FLAT": False}, {"instructions": 131}, ["takes 131 "]),
        ("gemm_tma_kernel", {"FLAT": True}, {"instructions": 200}, []),
        ("gemm_tma_kernel", {"FLAT": True}, {"instructions": 201}, ["takes 201 "]),
        ("gemm_tma_kernel", {"FLAT": True}, {"product_wait": 0}, ["waits for each product"]),
        ("grad_weight_kernel", {"PATH": "tma"}, {"instructions": 200}, []),
        ("grad_weight_kernel", {"PATH": "tma"}, {"instructions": 201}, ["takes 201 "]),
        ("grad_weight_kernel", {"PATH": "pointer"}, {"instructions": 281}, []),
        ("grad_weight_kernel", {"PATH": "pointer"}, {"product_wait": 0}, ["waits for each"]),
        ("gemm_kernel", {}, {"product_wait": None}, ["waits for each product"]),
        ("gemm_kernel", {"BLOCK_N": 64}, {"product_wait": 0}, []),
        ("gemm_kernel", {}, {"programs": 1}, ["has a multiprocessor to itself"]),
    ],
)
def test_a_slow_loop_is_a_fault_of_a_large_cut(kernel, constants, changes, words):
    block = {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64} | constants
    launch = Launch("", kernel, "bf16", {}, block, [], num_warps=8, num_stages=3, maxnreg=128)
    programs = changes.get("programs", 2)
    of_loop = {name: value for name, value in changes.items() if name != "programs"}
    loop = replace(sass.Loop(130, 4, 12, 0, product_wait=1, load_wait=4), **of_loop)
    report = aot.Report("sm_90", "bf16", kernel, "", programs=programs, loop=loop)
    faults = [*aot.slow(launch, report)]
    assert len(faults) == len(words) and all(map(str.startswith, faults, words))


AS_ON_A_GPU = """
from contextlib import contextmanager
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import JITFunction

from moeviz_kernels import aot, launches

TARGET, run = GPUTarget("cuda", 90, 32), JITFunction.run

class Driver:
    get_current_device = get_current_stream = lambda *_: 0
    get_current_target = lambda _: TARGET

def key(source, options):
    options = CUDABackend(TARGET).parse_options(dict(options))
    return source.fn.__name__, source.hash(), options.hash()

def every_launch():
    found = launches.routing_launches((60,)) + [*launches.combine_launches("bf16")]
    return found + launches.shipped_gemms("sm_90", "bf16") + launches.all_candidates()

def compiles(kernel, *args, grid, warmup, **kwargs):
    run(kernel, *args, grid=grid, warmup=True, **kwargs)

@contextmanager
def by_triton(dtype, aligned=True):  # which takes tensors without memory for aligned ones
    with mock.patch.object(JITFunction, "run", compiles if aligned else mock.Mock()):
        yield []

aligned = [x for x in every_launch() if any(x.signature[name][0] == "*" for name in x.divisible)]
own, tritons = {key(aot.source(x), aot.options(x)) for x in aligned}, set()
triton.runtime.driver.set_active(Driver())
compile = lambda source, target, options: tritons.add(key(source, options))
by_triton_alone = mock.patch.object(launches, "recording", by_triton)
with mock.patch("triton.compiler.compile", compile), by_triton_alone:
    every_launch()
assert own == tritons, {name for name, *_ in own ^ tritons}
print(triton.__version__, *sorted({name for name, *_ in own}))
"""


@pytest.mark.parametrize(
    "path",
    [None, pytest.param(TRITON_36, marks=with_triton36)],
    ids=["this Triton", "Triton 3.6"],
)
def test_what_is_compiled_ahead_has_the_key_of_what_is_launched(path, tmp_path):
    done = run("-c", AS_ON_A_GPU, cache=tmp_path, path=path)
    assert done.returncode == 0, done.stderr[-2000:]
    version, *kernels = done.stdout.split()
    assert {*kernels} == KERNELS and version.startswith("3.6" if path else "3.")


ANY_BATCH = """
import torch
from moeviz_kernels import configs, sort, tiles
from moeviz_kernels.launches import gemm_launches, meta, recording
from moeviz_kernels.topk import launch_topk, launch_topk_backward

def launches(num_rows):
    found = []
    with recording("fp32") as routing:
        chosen = launch_topk(meta(num_rows, 8, dtype=torch.float32), 2, softmax=True)
        launch_topk_backward(*chosen, *chosen[:2], False)
        sort.launch_sort(meta(num_rows, 1), 8)
        tiles.tile_map(meta(9), num_rows, 64)
    for kernel in configs.KERNELS:
        cut = configs.Gemm(64, 64, 32, 4, 3)
        found += gemm_launches(kernel, cut, "bf16", 64, 64, num_rows=num_rows)
    return routing + found

some, more = launches(1), launches(1024)
assert some == launches(77) == launches(128), "the smallest batches"
assert more == launches(1001) == launches(1008)
assert len(more) == len(some) > 9
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
