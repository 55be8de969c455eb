"""The kernels, compiled for GPUs that are not here: they fit, spill nothing, use tensor cores.

`python -m moeviz_kernels.aot` compiles everything, in about ten minutes. Here each block is, for
every chip in float16 and bfloat16 and for sm_90 in float32, with other flags on each chip.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRITON_36 = ROOT / ".venv-triton36"
KERNELS = {
    name
    for path in (ROOT / "kernels").rglob("*.py")
    for name in re.findall(r"@triton.jit.*\ndef (\w+_kernel)\(", path.read_text(encoding="utf-8"))
}
PRODUCTS = {"up_kernel", "gemm_kernel", "grad_hidden_kernel", "grad_weight_kernel"}
SHARED_KIB = {"sm_75": 64, "sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}
PRODUCT_CHIPS = [chip for chip in SHARED_KIB if chip != "sm_75"]

pytestmark = [
    pytest.mark.slow,
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
        text=True, timeout=600,
    )  # fmt: skip


def compiled(cache, *arguments, path=None):
    file = cache / "reports.json"
    command = ["-m", "moeviz_kernels.aot", "--quick", *arguments, "--json", str(file)]
    done = run(*command, cache=cache, path=path)
    assert file.exists(), f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return done, json.loads(file.read_text())


@pytest.fixture(scope="module")
def in_halves(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("halves"), "--dtypes", "fp16,bf16")


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory):
    cache = tmp_path_factory.mktemp("float32")
    return compiled(cache, "--chips", "sm_90", "--dtypes", "fp32,tf32")


@pytest.fixture(scope="module")
def with_36(tmp_path_factory):
    cache = tmp_path_factory.mktemp("triton36")
    return compiled(cache, "--chips", "sm_75,sm_90", "--dtypes", "fp16,bf16", path=TRITON_36)


def named(reports, chip):
    """Reports of one chip by a name to show."""
    own = [r for r in reports["reports"] if r["chip"] == chip]
    assert own, f"nothing was compiled for {chip}"
    return {f"{r['dtype']} {r['kernel']} {r['launch']}": r for r in own}


def check(reports, chip):
    """What is asked of a chip, from the figures alone."""
    own = named(reports, chip)
    broken = {name: r["faults"] for name, r in own.items() if not r["registers"]}
    assert not broken, f"{chip} does not compile: {broken}"
    spilled = {name: r["spilled"] for name, r in own.items() if r["spilled"]}
    assert not spilled, f"{chip} spills (bytes): {spilled}"
    limit = SHARED_KIB[chip] * 1024
    large = {name: r["shared"] for name, r in own.items() if r["shared"] > limit}
    assert not large, f"{chip} has {limit} bytes of shared memory, too few for: {large}"
    wrong = {}
    for name, r in own.items():
        if r["kernel"] in PRODUCTS and r["dtype"] != "fp32":
            height = int(re.search(r"BLOCK_M=(\d+)", r["launch"])[1])
            best = {"sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"}.get(chip, "mma.sync")
            right = best if height >= 64 else "mma.sync"
        else:
            right = ""  # no product, or an exact one
        if r["tensor_cores"] != right:
            wrong[name] = f"{r['tensor_cores'] or 'none'}, not {right or 'none'}"
    assert not wrong, f"{chip} uses other tensor cores: {wrong}"
    assert not [r["faults"] for r in own.values() if r["faults"]]


@pytest.mark.parametrize("chip", SHARED_KIB)
def test_every_kernel_fits_the_chip(in_halves, chip):
    check(in_halves[1], chip)


@pytest.mark.parametrize("chip", SHARED_KIB)
def test_every_kernel_is_there(in_halves, chip):
    assert_every_kernel(in_halves[1], chip)


def assert_every_kernel(reports, chip):
    kernels = {(r["kernel"], r["dtype"]) for r in named(reports, chip).values()}
    # Triton uses no tensor cores on sm_75: experts run on PyTorch there.
    typed = {"gather_kernel", "gather_sum_kernel"} | (PRODUCTS if chip != "sm_75" else set())
    assert kernels == {(k, d) for k in typed for d in ("fp16", "bf16")} | {
        (k, "fp32") for k in KERNELS - PRODUCTS - typed
    }


def test_many_choices_are_there(in_halves):
    launches = [r["launch"] for r in in_halves[1]["reports"] if r["kernel"] == "topk_kernel"]
    assert {re.match(r"K=(\d+)", launch)[1] for launch in launches} == {"1", "2", "8", "32"}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("chip", PRODUCT_CHIPS)
def test_every_height_and_odd_widths_are_there(in_halves, chip, dtype):
    own = [r for r in named(in_halves[1], chip).values() if r["dtype"] == dtype]
    for kernel in PRODUCTS:
        launches = [r["launch"] for r in own if r["kernel"] == kernel]
        heights = {int(re.search(r"BLOCK_M=(\d+)", launch)[1]) for launch in launches}
        assert heights == ({128} if kernel == "grad_weight_kernel" else {16, 32, 64, 128}), kernel
    for flag in ("unaligned", "EVEN_K", "SAVE", "GATHER_LEFT", "stride_k=1", "stride_c=1"):
        assert any(flag in r["launch"] for r in own if r["kernel"] in PRODUCTS), flag


def test_float32_fits_sm_90(in_float32):
    check(in_float32[1], "sm_90")
    products = {
        (r["kernel"], r["dtype"]) for r in in_float32[1]["reports"] if r["kernel"] in PRODUCTS
    }
    assert products == {(k, d) for k in PRODUCTS for d in ("fp32", "tf32")}


def test_the_table_and_the_exit_code(in_halves):
    done, found = in_halves
    assert done.returncode == 0, done.stdout[-3000:]
    head, *rows = done.stdout.splitlines()
    count = len(found["reports"])
    assert head.split()[:6] == "chip dtype kernel registers shared spilled".split()
    # The numbers stand below each other, flush right.
    ends = [head.index(name) + len(name) for name in ("registers", "shared", "spilled")]
    for row, r in zip(rows, found["reports"], strict=False):
        numbers = [r["registers"], r["shared"], r["spilled"]]
        assert all(row[:e].endswith(f" {n}") for e, n in zip(ends, numbers, strict=True)), row
    assert rows[-1] == f"Triton {found['triton']}: {count} compilations, 0 with faults"


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


def test_what_cannot_be_done_is_refused_in_a_sentence(tmp_path):
    done = run("-m", "moeviz_kernels.aot", cache=tmp_path, TRITON_INTERPRET="1")
    assert done.returncode == 2 and "TRITON_INTERPRET=1" in done.stderr.splitlines()[-1]
    done = run("-m", "moeviz_kernels.aot", "--chips", "sm_70", cache=tmp_path)
    assert done.returncode == 2 and "'sm_70' is none of sm_75, " in done.stderr.splitlines()[-1]


@with_triton36
def test_triton_36_compiles_them_too(with_36):
    assert with_36[1]["triton"] == "3.6.0"
    for chip in ("sm_75", "sm_90"):
        check(with_36[1], chip)
        assert_every_kernel(with_36[1], chip)
    assert with_36[0].returncode == 0


AGAINST_THE_LOOP = """
import torch, triton, moeviz_kernels
from moeviz.routing import Plan

print(triton.__version__)
torch.manual_seed(0)
for T, D, F, E, K, dtype, tolerance in (
    (33, 48, 20, 8, 2, torch.float32, 1e-5),
    (5, 16, 32, 12, 3, torch.float32, 1e-5),
    (33, 48, 20, 8, 2, torch.float16, 2e-3),
):
    logits = torch.randn(T, E)
    scores, weight, expert = moeviz_kernels.softmax_topk(logits, K)
    assert torch.equal(expert.long(), logits.topk(K).indices)
    assert torch.allclose(scores, logits.softmax(-1))
    plan = Plan.from_topk(expert.long(), weight, num_experts=E)
    order, _, _, slot, offsets = moeviz_kernels.sort_by_expert(expert.flatten(), E)
    assert torch.equal(order.long(), torch.sort(expert.flatten(), stable=True).indices)
    assert torch.equal(offsets, plan.offsets) and torch.equal(slot, plan.slot)

    inputs = torch.randn(T, D), torch.randn(E, 2 * F, D) / D**0.5, torch.randn(E, D, F) / F**0.5
    *inputs, grad = (v.to(dtype) for v in (*inputs, torch.randn(T, D)))
    got = [v.clone().requires_grad_() for v in (*inputs, plan.weight)]
    where = {n: getattr(plan, n) for n in ("token", "offsets", "inverse", "token_offsets")}
    y = moeviz_kernels.experts(*got[:3], weight=got[3], **where)
    y.backward(grad)
    want = [v.double().requires_grad_() for v in (*inputs, plan.weight)]
    x, w13, w2, w = want
    rows = []
    for n, (t, e) in enumerate(zip(plan.token.tolist(), plan.expert.tolist())):
        gate, up = (w13[e] @ x[t]).chunk(2)
        rows.append(w[n] * (w2[e] @ (torch.nn.functional.silu(gate) * up)))
    loop = torch.zeros(T, D).double().index_add(0, plan.token.long(), torch.stack(rows))
    loop.backward(grad.double())
    pairs = [(y, loop), *((a.grad, b.grad) for a, b in zip(got, want))]
    for a, b in pairs:
        assert (a.double() - b).norm() <= tolerance * b.norm(), ((T, D, F, E, K), dtype, a, b)
print("agreed")
"""


@with_triton36
def test_triton_36_interprets_them_right(tmp_path):
    done = run("-c", AGAINST_THE_LOOP, cache=tmp_path, path=TRITON_36, TRITON_INTERPRET="1")
    assert done.stdout.split() == ["3.6.0", "agreed"], done.stderr[-3000:]
