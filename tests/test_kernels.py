"""Each kernel by itself against a plain form of what it computes: compiled where there is a GPU, in
Triton's interpreter elsewhere, at the smallest sizes that reach every branch. The whole of them:
test_experts.py, test_kernels_experts.py."""

import ast
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime.errors import OutOfResources, PTXASError

from helpers.kernels import DEVICE, TOLERANCES, every_dtype, normal, with_dtypes
from helpers.numerics import relative
from moeviz_kernels import (
    LaunchError,
    gather,
    gather_sum,
    launch_reason,
    softmax_topk,
    sort_by_expert,
    sort_topk,
    topk,
)
from moeviz_kernels import sort as sorting
from moeviz_kernels.configs import Gemm
from moeviz_kernels.gemm import grouped_gemm
from moeviz_kernels.grad_hidden import grad_hidden
from moeviz_kernels.grad_weight import grad_weight
from moeviz_kernels.sizes import cdiv, next_power_of_2
from moeviz_kernels.tiles import grouped_order, most_tiles, room_for_tiles, tile_map
from moeviz_kernels.tma import programs_that_stay, takes_tma
from moeviz_kernels.up import logistic, up_swiglu

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore:.*deterministic"),
]

on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")


def test_unwritten_memory_shows():
    assert torch.empty(3, device=DEVICE).isnan().all()
    assert normal(2, 2).new_empty(3).isnan().all()
    assert (torch.empty(3, device=DEVICE, dtype=torch.int32) == 2**31 - 1).all()


# Softmax and top-K.


def best(scores_TE, k):
    """By Python's sort, which is stable: of equal scores the lower index."""
    rows = [
        sorted(range(len(row)), key=lambda e, row=row: -row[e])[:k] for row in scores_TE.tolist()
    ]
    return torch.tensor(rows, device=DEVICE).reshape(-1, k)


def awkward_scores(num_experts, k):
    """Rows for three programs and some, each sixth of the same kind: far apart, close together,
    with ties, all equal, zeros of both signs, one -inf."""
    rows_of_a_program = max(1, 2048 // triton.next_power_of_2(num_experts))
    scores_TE = normal(2 * rows_of_a_program + 13, num_experts, seed=num_experts)
    scores_TE[0::6] *= 300
    scores_TE[2::6] = scores_TE[2::6].round()
    scores_TE[3::6] = scores_TE[3::6, :1]
    scores_TE[4::6] = torch.copysign(torch.zeros(()).to(DEVICE), scores_TE[4::6])
    if k < num_experts:
        scores_TE[5::6, num_experts // 2] = -torch.inf
    return scores_TE


@pytest.mark.parametrize("renormalise", [False, True], ids=["raw", "renormalised"])
@pytest.mark.parametrize(
    ("num_experts", "k"), [(1, 1), (3, 2), (8, 8), (60, 4), (64, 32), (4096, 2)]
)
def test_softmax_topk_scores_weighs_and_takes_the_best_and_of_equal_scores_the_first(
    num_experts, k, renormalise
):
    logits_TE = awkward_scores(num_experts, k).requires_grad_()
    scores_TE, weight_TK, expert_TK = softmax_topk(logits_TE, k, renormalise=renormalise)
    exact_TE, want_TK = logits_TE.detach().double().requires_grad_(), best(logits_TE, k)
    for got_TK in (expert_TK, topk(logits_TE, k)):
        assert got_TK.dtype == torch.int64 and torch.equal(got_TK, want_TK)
    chosen_TK = exact_TE.softmax(1).gather(1, want_TK)
    share_TK = chosen_TK / chosen_TK.sum(1, keepdim=True)
    want = exact_TE.softmax(1), share_TK if renormalise else chosen_TK
    grads = normal(*scores_TE.shape, seed=1), normal(*weight_TK.shape, seed=2)
    for ours, theirs in zip((scores_TE, weight_TK), want, strict=True):
        assert relative(ours, theirs) < 1e-6
    for through in ([0], [1], [0, 1]):
        got, exact = (
            torch.autograd.grad([outputs[i] for i in through], leaf, gs, retain_graph=True)[0]
            for outputs, leaf, gs in (
                ((scores_TE, weight_TK), logits_TE, [grads[i] for i in through]),
                (want, exact_TE, [grads[i].double() for i in through]),
            )
        )
        # One score is always 1, and one renormalised weight.
        none = num_experts == 1 or (renormalise and k == 1 and through == [1])
        assert (got == 0).all() if none else relative(got, exact) < 2e-6


def test_topk_reads_transposed_scores_and_no_tokens():
    scores_ET = normal(8, 5)
    assert torch.equal(topk(scores_ET.T, 2), best(scores_ET.T, 2))
    assert torch.equal(softmax_topk(scores_ET.T, 2)[2], best(scores_ET.T, 2))
    assert [v.shape for v in softmax_topk(scores_ET.T[:0], 2)] == [(0, 8), (0, 2), (0, 2)]
    assert topk(scores_ET.T[:0], 2).shape == (0, 2)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_topk_of_nan_stays_inside_the_experts():
    scores_TE = torch.full((3, 5), torch.nan, device=DEVICE)
    scores_TE[1:, 1:] = normal(2, 4)
    for expert_TK in (topk(scores_TE, 5), softmax_topk(scores_TE, 5)[2]):
        assert 0 <= int(expert_TK.min()) and int(expert_TK.max()) < 5


@pytest.mark.parametrize(
    ("scores_TE", "k", "said"),
    [
        (torch.zeros(4), 1, r"float32 matrix \[T, E\], got torch.float32 \(4,\)"),
        (torch.zeros(2, 4).double(), 1, "got torch.float64"),
        (torch.zeros(2, 0), 1, r"1..4096, got 0"),
        (torch.zeros(2, 4097), 1, r"1..4096, got 4097"),
        (torch.zeros(2, 4), 0, r"k must lie in 1..4, the number of experts, got 0"),
        (torch.zeros(2, 4), 5, r"k must lie in 1..4, the number of experts, got 5"),
    ],
)
def test_topk_refuses_in_one_sentence(scores_TE, k, said):
    for call in (topk, softmax_topk):
        with pytest.raises(ValueError, match=said):
            call(scores_TE.to(DEVICE), k)


# Counting sort.


def random_experts(num_rows, num_experts, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(num_experts, (num_rows,), generator=draw).to(DEVICE)


def assert_sorted(expert_TK, num_experts):
    num_tokens, k = expert_TK.shape
    expert, order = torch.sort(expert_TK.reshape(-1).long(), stable=True)
    offsets = F.pad(expert.bincount(minlength=num_experts).cumsum(0), (1, 0))
    want = dict(order=order, rank=order.argsort(), expert=expert)
    want |= dict(slot=torch.arange(len(order), device=DEVICE) - offsets[expert], offsets=offsets)
    want |= dict(token=order // max(1, k), choice=order % max(1, k))
    want |= dict(token_offsets=k * torch.arange(num_tokens + 1, device=DEVICE))
    got = sort_topk(expert_TK, num_experts)
    for (name, theirs), ours in zip(want.items(), got, strict=True):
        assert ours.dtype == torch.int32 and torch.equal(ours.long(), theirs), name
    for ours, same in zip(sort_by_expert(expert_TK.reshape(-1), num_experts), got, strict=False):
        assert torch.equal(ours, same)


# The interpreter takes seconds for the most experts that a program holds.
MANY = 4096 if DEVICE == "cuda" else 300


@pytest.mark.parametrize(
    ("num_tokens", "k", "num_experts"),
    [
        (0, 2, 8),
        (3, 0, 8),
        (1, 1, 1),
        (33, 3, 8),
        (301, 1, 60),
        (150, 2, 64),
        (8, 2, MANY),
        (128, 1, 8),
        (129, 1, 8),
    ],
)
def test_sorts_are_stable_and_say_whose_row_it_is_and_which_choice(num_tokens, k, num_experts):
    expert_N = random_experts(num_tokens * k, num_experts)
    assert_sorted(expert_N.reshape(num_tokens, k), num_experts)
    assert_sorted(expert_N.reshape(k, num_tokens).T, num_experts)


@settings(max_examples=8, derandomize=True)
@given(st.data())
def test_sort_of_any_list(data):
    num_experts = data.draw(st.sampled_from((1, 2, 9, 100)))
    experts = data.draw(st.lists(st.integers(0, num_experts - 1), max_size=200))
    dtype = data.draw(st.sampled_from((torch.int64, torch.int32, torch.uint8)))
    step = data.draw(st.integers(1, 2))
    assert_sorted(torch.tensor(experts, device=DEVICE, dtype=dtype)[::step, None], num_experts)


@pytest.mark.parametrize("max_blocks", [1, 3])
@pytest.mark.parametrize("num_experts", [8, 256])
def test_sort_by_programs_of_several_steps(monkeypatch, num_experts, max_blocks):
    """As with more than 131072 assignments, where a program takes more than one block."""
    monkeypatch.setattr(sorting, "MAX_BLOCKS", max_blocks)
    cut = sorting.blocking(401, num_experts)
    assert cut["rows"] > cut["block"] and cut["programs"] <= max_blocks
    assert_sorted(random_experts(401, num_experts)[:, None], num_experts)


@pytest.mark.parametrize("num_rows", [131_072, 131_073])
def test_sort_scans_at_most_as_many_blocks_as_one_program_holds(num_rows):
    cut = sorting.blocking(num_rows, 8)
    assert cut["programs"] <= sorting.MAX_BLOCKS and cut["rows"] % cut["block"] == 0
    assert cut["programs"] * cut["rows"] >= num_rows
    assert (cut["rows"] > cut["block"]) == (num_rows > 131_072)


@pytest.mark.parametrize(
    ("shape", "dtype", "num_experts", "said"),
    [
        ((2, 2, 2), torch.int32, 4, r"got \(2, 2, 2\)"),
        ((2,), torch.float32, 4, "by integers, got torch.float32"),
        ((2,), torch.int32, 0, r"1..4096, got 0"),
        ((2,), torch.int32, 4097, r"1..4096, got 4097"),
    ],
)
def test_sorts_refuse_in_one_sentence(shape, dtype, num_experts, said):
    expert = torch.zeros(shape, dtype=dtype, device=DEVICE)
    with pytest.raises(ValueError, match=said):
        sort_by_expert(expert, num_experts)
    with pytest.raises(ValueError, match=said):
        sort_topk(expert if expert.ndim > 2 else expert[None], num_experts)


# The tile map.

LOADS = {
    "even": (16,) * 8,
    "empty experts at both ends and between": (0, 0, 5, 1, 0, 37, 128, 33, 0),
    "all to one": (0, 0, 0, 301, 0),
    "one row": (0, 1),
    "several programs": tuple(e * 7 % 40 for e in range(70)),
    "no rows": (0, 0, 0),
}


def offsets_of(loads):
    return F.pad(torch.tensor(loads).cumsum(0), (1, 0)).to(DEVICE, torch.int32)


def tiles_by_hand(loads, block_m):
    """(expert, first row) of each tile."""
    tiles, start = [], 0
    for e, load in enumerate(loads):
        tiles += [(e, start + first) for first in range(0, load, block_m)]
        start += load
    return tiles


@pytest.mark.parametrize("block_m", [16, 128])
@pytest.mark.parametrize("loads", LOADS.values(), ids=LOADS)
def test_tile_map_is_the_loop_over_experts(loads, block_m):
    expert, row = tile_map(offsets_of(loads), sum(loads), block_m)
    assert expert.dtype == row.dtype == torch.int32
    want = tiles_by_hand(loads, block_m)
    spare = most_tiles(sum(loads), len(loads), block_m) - len(want)
    assert spare >= 0
    assert list(zip(expert.tolist(), row.tolist(), strict=True)) == want + [(-1, -1)] * spare


@pytest.mark.parametrize("block_m", [16, 128])
def test_the_worst_routing_fills_the_bound(block_m):
    """One row for each expert, as far as they go, and all others for the first."""
    for num_rows in (0, 1, 2, 15, 16, 17, 31, 32, 33, 100, 128, 129, 1000):
        for num_experts in range(1, 70):
            some = min(num_rows, num_experts)
            worst = [num_rows - some + 1] * (some > 0) + [1] * (some - 1)
            assert sum(worst) == num_rows
            bound = most_tiles(num_rows, num_experts, block_m)
            assert (
                len(tiles_by_hand(worst, block_m)) == bound <= room_for_tiles(num_rows, num_experts)
            )


@triton.jit
def order_kernel(out_ptr, num_tiles, num_columns, GROUP: tl.constexpr):
    tile, column = grouped_order(tl.program_id(0), num_tiles, num_columns, GROUP)
    tl.store(out_ptr + 2 * tl.program_id(0), tile)
    tl.store(out_ptr + 2 * tl.program_id(0) + 1, column)


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize(("num_tiles", "num_columns"), [(1, 1), (3, 5), (8, 3), (19, 4), (5, 1)])
def test_grouped_order_visits_each_block_once_and_few_tiles_at_a_time(
    num_tiles, num_columns, group
):
    seen = torch.empty(num_tiles * num_columns, 2, device=DEVICE, dtype=torch.int32)
    order_kernel[(len(seen),)](seen, num_tiles, num_columns, GROUP=group)
    visits = [tuple(visit) for visit in seen.tolist()]
    assert sorted(visits) == [(t, c) for t in range(num_tiles) for c in range(num_columns)]
    for first in range(0, len(visits), group * num_columns):
        together = visits[first : first + group * num_columns]
        assert len({tile for tile, _ in together}) <= group
        assert [column for _, column in together] == sorted(column for _, column in together)


# The grouped matrix products. The narrow block meets widths that it divides and does not, and
# experts of several tiles; the wide one is larger than most of what it computes. The last two go by
# the copy engine, where the widths allow it.

CUTS = {
    "narrow": Gemm(16, 32, 16, num_warps=4, num_stages=2, group=1),
    "grouped": Gemm(32, 64, 32, num_warps=4, num_stages=3, group=3),
    "wide": Gemm(128, 128, 32, num_warps=8, num_stages=2),
    "tma": Gemm(16, 32, 16, num_warps=4, num_stages=2, group=2, path="tma"),
    "flat": Gemm(64, 64, 32, num_warps=4, num_stages=3, path="flat"),
}
# Rows of each expert, and the two widths.
PROBLEMS = {
    "several": ((0, 5, 1, 0, 37, 20, 0), (20, 65)),
    "all to one": ((0, 70, 0), (65, 20)),
    "one": ((0, 1), (1, 1)),
    "tall": ((2, 129), (64, 48)),
    "many": ((9, 0, 16, 40, 1, 0, 65, 17), (72, 40)),
    "odd units": ((9, 0, 40), (24, 33)),  # where up alone takes descriptors
}
QUICK = [("tma", "many"), ("narrow", "several"), ("flat", "many"), ("tma", "odd units")]
QUICK += [("grouped", "several"), ("narrow", "one"), ("wide", "tall")]


class Rows:
    """Rows of random tokens, so many for each expert."""

    def __init__(self, cut, loads):
        draw = torch.Generator().manual_seed(sum(loads))
        num_rows, self.num_tokens, self.num_experts = sum(loads), 23, len(loads)
        self.offsets = offsets_of(loads)
        expert = torch.repeat_interleave(torch.arange(len(loads)), torch.tensor(loads))
        token = torch.randint(self.num_tokens, (num_rows,), generator=draw)
        self.expert, self.token = expert.to(DEVICE), token.to(DEVICE, torch.int32)
        self.where = (self.offsets, tile_map(self.offsets, num_rows, cut.block_m), cut)
        self.weight = normal(num_rows, seed=9)

    def of(self, x_TD):
        """Each row's token, in float64."""
        return x_TD.double()[self.token.long()]

    def times(self, x_NB, bank_EAB):
        """Each row times its expert's matrix, in float64."""
        return torch.einsum("nb,nab->na", x_NB.double(), bank_EAB.double()[self.expert])

    def outer(self, left_NA, right_NB):
        """Each expert's outer products added up, in float64."""
        outer_NAB = left_NA.double()[:, :, None] * right_NB.double()[:, None, :]
        sums_EAB = outer_NAB.new_zeros(self.num_experts, *outer_NAB.shape[1:])
        return sums_EAB.index_add_(0, self.expert, outer_NAB)


@with_dtypes(
    ("cut", "problem"),
    [(cut, problem) for cut in CUTS for problem in PROBLEMS],
    quick=lambda *case, dtype: case in QUICK[: 7 if dtype == torch.float32 else 2],
)
def test_each_product_is_its_plain_form_on_the_inputs_of_a_layer(cut, problem, dtype):
    cut, (loads, (d_model, d_expert)) = CUTS[cut], PROBLEMS[problem]
    rows = Rows(cut, loads)
    x_TD, grad_TD = (normal(rows.num_tokens, d_model, seed=i, dtype=dtype) for i in (1, 2))
    w13 = (normal(rows.num_experts, 2 * d_expert, d_model) / d_model**0.5).to(dtype)
    w2 = (normal(rows.num_experts, d_model, d_expert) / d_expert**0.5).to(dtype)
    given = (rows.token, rows.weight)
    h_NF, z_N2F = up_swiglu(x_TD, *given, w13, *rows.where, save=True)
    y_ND = grouped_gemm(h_NF, w2.transpose(1, 2), *rows.where)
    again_NF, dz_N2F, dweight_N = grad_hidden(grad_TD, *given, w2, z_N2F, *rows.where)
    dx_ND = grouped_gemm(dz_N2F, w13, *rows.where)
    of_bank = (rows.token, rows.offsets, cut)
    dw2 = grad_weight(grad_TD, h_NF, *of_bank, gather_left=True)
    dw13 = grad_weight(dz_N2F, x_TD, *of_bank, gather_left=False)

    def hidden(z_N2F, weight_N):
        gate, up = z_N2F.chunk(2, dim=1)
        return weight_N[:, None] * F.silu(gate) * up

    want_z = rows.times(rows.of(x_TD), w13)
    z64, weight64 = (v.double().requires_grad_() for v in (z_N2F, rows.weight))
    h64 = hidden(z64, weight64)
    want_dz, want_dweight = torch.autograd.grad(
        rows.times(h64, w2), (z64, weight64), rows.of(grad_TD)
    )
    for name, ours, theirs in (
        ("z", z_N2F, want_z),
        ("h", h_NF, hidden(want_z, rows.weight.double())),
        ("y", y_ND, rows.times(h_NF, w2)),
        ("h again", again_NF, h64),
        ("dz", dz_N2F, want_dz),
        ("dx", dx_ND, rows.times(dz_N2F, w13.mT)),
        ("dw2", dw2, rows.outer(rows.of(grad_TD), h_NF)),
        ("dw13", dw13, rows.outer(dz_N2F, rows.of(x_TD))),
    ):
        assert ours.dtype == dtype and relative(ours, theirs) < TOLERANCES[dtype], name
    assert dweight_N.dtype == torch.float32
    assert relative(dweight_N, want_dweight) < 1e-5  # nothing is rounded on the way to it


PATHS = ("ahead", "tma")
# With BLOCK_K 16: no row, one, one more than a block, exactly one, several and a ragged end.
RAGGED = (0, 1, 17, 16, 47, 1)


@with_dtypes(
    ("path", "widths"),
    [(path, widths) for path in PATHS for widths in ((40, 24), (20, 65), (1, 1))],
    quick=lambda *case, dtype: case[1] == (40, 24) or dtype == torch.float32,
)
def test_every_path_of_grad_weight_adds_the_same_numbers_in_the_same_order(path, widths, dtype):
    """And none of the expert before and the one behind, whose rows are NaN."""
    cut = Gemm(16, 32, 16, num_warps=4, num_stages=2)
    rows = Rows(cut, RAGGED)
    for gather_left in (True, False):
        shapes = [(len(rows.token), widths[0]), (len(rows.token), widths[1])]
        shapes[not gather_left] = (rows.num_tokens, widths[not gather_left])
        left, right = (normal(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes))
        given = (rows.token, rows.offsets)
        want = grad_weight(left, right, *given, cut, gather_left=gather_left)
        ways = grad_weight(left, right, *given, replace(cut, path=path), gather_left=gather_left)
        assert torch.equal(ways, want)
        sides = (rows.of(left), right) if gather_left else (left, rows.of(right))
        assert relative(ways, rows.outer(*sides)) < TOLERANCES[dtype]

        straight = right if gather_left else left
        for e in range(1, len(RAGGED), 2):  # of two neighbours one is NaN
            straight[rows.expert == e] = torch.nan
        ways = grad_weight(left, right, *given, replace(cut, path=path), gather_left=gather_left)
        assert torch.equal(ways[::2], want[::2])
        assert ways[1::2].isnan().all()


def whole(*shape, seed, dtype):
    """Numbers whose products every sum of up to 130 holds exactly, in whatever order."""
    return normal(*shape, seed=seed).round().clamp(-3, 3).to(dtype)


def results_of(cut, loads, widths, dtype, wrong=slice(0)):
    """Of every kernel that walks tiles of rows, on whole numbers, with NaN in the tokens and the
    rows `wrong`."""
    rows, (d_model, d_expert) = Rows(cut, loads), widths
    given = (torch.arange(len(rows.token), device=DEVICE, dtype=torch.int32), rows.weight)
    sizes = ((len(rows.token), width) for width in (d_model, d_expert, 2 * d_expert))
    inputs = [whole(*size, seed=i, dtype=dtype) for i, size in enumerate(sizes)]
    for matrix in inputs:
        matrix[wrong] = torch.nan
    x_TD, h_NF, z_N2F = inputs
    w13 = whole(rows.num_experts, 2 * d_expert, d_model, seed=3, dtype=dtype)
    w2 = whole(rows.num_experts, d_model, d_expert, seed=4, dtype=dtype)
    return (
        *up_swiglu(x_TD, *given, w13, *rows.where, save=True),
        grouped_gemm(h_NF, w2.transpose(1, 2), *rows.where),
        grouped_gemm(z_N2F, w13, *rows.where),
        *grad_hidden(x_TD, *given, w2, z_N2F, *rows.where),
    )


@with_dtypes(
    ("path", "cut", "problem"),
    [(path, cut, p) for path in ("tma", "flat") for cut in ("narrow", "wide") for p in PROBLEMS],
    quick=lambda path, cut, problem, dtype: (
        (cut, problem) == ("narrow", "odd units") and (path == "flat") == (dtype == torch.float32)
    ),
)
def test_every_path_gives_the_bits_of_the_pointers_where_sums_are_exact(
    path, cut, problem, dtype, monkeypatch
):
    """On whole numbers, for no product of NumPy promises where in a block a sum is rounded how."""
    cut, case = replace(CUTS[cut], path=path), PROBLEMS[problem]
    want = results_of(replace(cut, path="pointer"), *case, dtype)
    for ours, theirs in zip(results_of(cut, *case, dtype), want, strict=True):
        assert torch.equal(ours, theirs)


@with_dtypes(("path",), [("tma",), ("flat",)], quick=lambda path, dtype: dtype == torch.float16)
def test_the_copy_engine_brings_what_pointers_read_and_no_neighbours_rows(path, dtype, monkeypatch):
    """Blocks that it brings reach into the next expert's rows, and behind the last row."""
    loads, widths = (3, 0, 40, 0, 21, 16, 1), (40, 24)
    cut = replace(CUTS["tma"], path=path)
    want = results_of(replace(cut, path="pointer"), loads, widths, dtype)
    for name in ("up", "gemm"):
        if takes_tma(normal(8, 8)):  # not on an older GPU
            monkeypatch.setattr(f"moeviz_kernels.{name}.{name}_kernel", None)
    got = results_of(cut, loads, widths, dtype)
    among_nan = results_of(cut, loads, widths, dtype, wrong=slice(43, 64))
    for ours, theirs, nan in zip(got, want, among_nan, strict=True):
        assert torch.equal(ours, theirs)
        assert nan[43:64].isnan().all()
        assert torch.equal(nan[:43], ours[:43]) and torch.equal(nan[64:], ours[64:])


def test_descriptors_stand_for_matrices_in_steps_of_16_bytes(monkeypatch):
    even, odd = normal(3, 8, 16, dtype=torch.float16), normal(3, 8, 12, dtype=torch.float16)
    assert takes_tma(even) and takes_tma(odd.float()) and takes_tma(even, odd.mT.contiguous())
    assert not takes_tma(odd) and not takes_tma(even, odd) and not takes_tma(even.mT)
    shifted = normal(8 * 16 + 4, dtype=torch.float16)[4:].view(8, 16)
    assert shifted.is_contiguous() and not takes_tma(shifted)
    on_gpu = SimpleNamespace(
        is_cuda=True, device="cuda", stride=even.stride, itemsize=2, data_ptr=even.data_ptr
    )
    for capability, has in (((8, 0), False), ((8, 9), False), ((9, 0), True), ((10, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert takes_tma(on_gpu) == has


def test_as_many_programs_stay_as_fit():
    """The registers of 256 threads that may take all are those of one multiprocessor; half of them
    let two programs in, where the shared memory of their stages does."""
    half = torch.empty(0, device=DEVICE, dtype=torch.float16)
    one = torch.cuda.get_device_properties(0).multi_processor_count if DEVICE == "cuda" else 3
    for cut, together in (
        (Gemm(128, 256, 64, 8, 4, path="tma"), 1),
        (Gemm(128, 128, 64, 8, 3, maxnreg=128, path="tma"), 2),
        (Gemm(128, 128, 64, 8, 3, maxnreg=128, path="flat"), 1),
        (Gemm(128, 128, 64, 8, 4, maxnreg=128, path="tma"), 1),
        (Gemm(128, 128, 64, 4, 3, path="tma"), 2),
    ):
        assert programs_that_stay(cut, half, 10**6) == together * one
        assert programs_that_stay(cut, half, 2) == 2


@triton.jit
def logistic_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr, FAST: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, logistic(tl.load(x_ptr + at), FAST))


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=on_gpu)])
def test_the_sigmoid_is_far_better_than_16_bits(fast):
    x = torch.linspace(-87, 200, 2**14, device=DEVICE)
    got = torch.empty_like(x)
    logistic_kernel[(16,)](x, got, BLOCK=2**10, FAST=fast)
    want = x.double().sigmoid()
    assert ((got - want).abs() / want).max() < 2**-16
    ends = torch.tensor([-torch.inf, torch.inf, torch.nan, -1e4] * 256, device=DEVICE)
    logistic_kernel[(1,)](ends, got, BLOCK=2**10, FAST=fast)
    assert got[:4].nan_to_num(7.0).tolist() == [0.0, 1.0, 7.0, 0.0]


def test_long_sums_are_kept_in_float32():
    """Of 1600 products in float16, the result alone is rounded: by 2e-4, not by what 100 steps of
    16 would lose."""
    cut, depth, half = CUTS["narrow"], 1600, torch.float16
    rows, tall = Rows(cut, (0, 5, 3)), Rows(cut, (0, depth))
    x_TD, right = normal(23, depth, dtype=half), normal(depth, 3, seed=1, dtype=half)
    w13, w2 = normal(3, 2, depth, dtype=half) / 40, normal(3, depth, 1, dtype=half)
    x_ND, left = rows.of(x_TD).half(), x_TD[:, :5].contiguous()
    _, z_N2F = up_swiglu(x_TD, rows.token, rows.weight, w13, *rows.where, save=True)
    y_ND = grouped_gemm(x_ND, w13.mT, *rows.where)
    sums = grad_weight(left, right, tall.token, tall.offsets, cut, gather_left=True)
    for ours, theirs in (
        (z_N2F, rows.times(x_ND, w13)),
        (y_ND, rows.times(x_ND, w13)),
        (sums, tall.outer(tall.of(left), right)),
    ):
        assert relative(ours, theirs) < 4e-4
    ones = torch.ones(8, 2, device=DEVICE, dtype=half)
    _, _, dweight_N = grad_hidden(x_TD, rows.token, rows.weight, w2, ones, *rows.where)
    want_N = rows.times(x_ND, w2.mT)[:, 0] * F.silu(torch.ones(()).double())
    # Not rounded at all; but tensor cores cut each step of their sums off, always downwards.
    assert relative(dweight_N, want_N) < 1e-4


# Gather and gather-sum.


@every_dtype
@pytest.mark.parametrize("width", [1, 20, 513, 2049])
def test_gather_copies_and_gather_sum_adds_each_tokens_rows_in_their_order(width, dtype):
    loads = (2, 0, 1, 9, 0, 3)
    num_rows, draw = sum(loads), torch.Generator().manual_seed(1)
    inverse = torch.randperm(num_rows, generator=draw).to(DEVICE, torch.int32)
    rows_ND = normal(num_rows, width, dtype=dtype)
    want = torch.zeros(len(loads), width, device=DEVICE)
    for t, rows in enumerate(inverse.split(loads)):
        for row in rows:
            want[t] += rows_ND[row].float()
    got = gather_sum(rows_ND, inverse, offsets_of(loads))
    assert torch.equal(got, want.to(dtype))
    token = torch.randint(len(got), (num_rows,), generator=draw).to(DEVICE, torch.int32)
    assert torch.equal(gather(got, token), got[token.long()])


@every_dtype
def test_gather_sum_of_four_rows_at_a_time_reads_none_of_the_next_token(dtype):
    """Whose rows are NaN. And zeros stand for rows that are not there: no sum is -0 before or
    after them."""
    loads = (1, 2, 3, 1, 4, 3, 5, 1)
    rows_ND = torch.full((sum(loads), 9), -0.0, device=DEVICE, dtype=dtype)
    for rows in rows_ND.split(loads)[1::2]:
        rows.fill_(torch.nan)
    inverse = torch.arange(sum(loads), device=DEVICE, dtype=torch.int32)
    y_TD = gather_sum(rows_ND, inverse, offsets_of(loads))
    assert (y_TD[::2] == 0).all() and not y_TD[::2].signbit().any()
    assert y_TD[1::2].isnan().all()


def test_gather_sum_adds_in_float32():
    """2048 + 1 is 2048 in float16."""
    rows_ND = torch.ones(13, 3, device=DEVICE, dtype=torch.float16)
    rows_ND[0] = 2048
    inverse = torch.arange(13, device=DEVICE, dtype=torch.int32)
    assert (gather_sum(rows_ND, inverse, offsets_of((13,))) == 2060).all()


def test_gathers_read_views():
    rows_ND, token_offsets = normal(9, 6), offsets_of((2, 0, 6, 1))
    inverse = torch.arange(9, device=DEVICE, dtype=torch.int32).flip(0)
    token = inverse % 4

    def view(v):
        return v.repeat_interleave(2, 0)[::2]

    want = gather_sum(rows_ND, inverse, token_offsets)
    assert torch.equal(gather_sum(*map(view, (rows_ND, inverse, token_offsets))), want)
    assert torch.equal(gather_sum(rows_ND.T.contiguous().T, inverse, token_offsets), want)
    assert torch.equal(gather(view(want), view(token)), want[token.long()])
    assert torch.equal(gather(want, token[:1].expand(9)), want[token[:1].long()].expand(9, -1))


@pytest.mark.parametrize(
    ("num_rows", "width", "loads"), [(5, 0, (5, 0)), (0, 3, (0, 0)), (0, 3, ())]
)
def test_no_columns_no_rows_and_no_tokens_gather_to_zeros(num_rows, width, loads):
    token = torch.zeros(num_rows, device=DEVICE, dtype=torch.int32)
    assert gather(normal(4, width), token).shape == (num_rows, width)
    y_TD = gather_sum(normal(num_rows, width), token, offsets_of(loads))
    assert y_TD.shape == (len(loads), width) and (y_TD == 0).all()


# What a launch may raise.

SOURCE = "def kernel(p):\n    tl.store(p, inner(p))\n"
PTXAS = """Internal Triton PTX codegen error
`ptxas` stderr:
ptxas info    : 0 bytes gmem
{}
Repro command: ptxas -v --gpu-name=sm_999a /tmp/tmp0.ptx -o /tmp/tmp0.ptx.o
"""


def compilation_error(said):
    return triton.CompilationError(SOURCE, ast.parse(SOURCE).body[0].body[0], said)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (compilation_error("Cannot broadcast\n[4] to [8].\n"), "[4] to [8]."),
        (compilation_error(None), "tl.store(p, inner(p))"),
        (OutOfResources(300_000, 101_376, "shared memory"), "Hardware limit: 101376"),
        (PTXASError("`ptxas` raised SIGSEGV\n`ptxas` stderr:\n"), "error: `ptxas` raised SIGSEGV"),
        (
            PTXASError(PTXAS.format("ptxas fatal   : Value 'sm_999a' is not defined")),
            "ptxas: Value 'sm_999a' is not defined",
        ),
        (
            PTXASError(PTXAS.format("ptxas /tmp/a.ptx, line 9; error   : Feature 'x' is unknown")),
            "ptxas: Feature 'x' is unknown",
        ),
    ],
)
def test_a_launch_error_has_one_line_that_says_why(error, reason):
    assert isinstance(error, LaunchError)
    said = launch_reason(error)
    assert reason in said and "\n" not in said and "/tmp" not in said


def test_the_reason_is_that_of_the_innermost_function():
    with pytest.raises(LaunchError) as caught:
        raise compilation_error(None) from compilation_error("Input shapes must be equal.")
    assert launch_reason(caught.value) == "Input shapes must be equal."


def test_sizes_are_those_of_triton():
    for a in range(70):
        for b in (1, 2, 3, 64):
            assert cdiv(a, b) == triton.cdiv(a, b)
    for n in range(1, 300):
        assert next_power_of_2(n) == triton.next_power_of_2(n)
