"""Each kernel by itself against a plain form of what it computes: compiled where there is a GPU, in
Triton's interpreter elsewhere. The whole of them stands in test_kernels_experts.py."""

import ast

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime.errors import OutOfResources, PTXASError

from helpers.kernels import DEVICE, DTYPES, every_dtype, with_dtypes
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
from moeviz_kernels.tiles import grouped_order, most_tiles, tile_map
from moeviz_kernels.up import up_swiglu

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore:.*deterministic"),
]


def normal(*shape, seed=0, dtype=torch.float32):
    """The same values on every device, rounded to the dtype."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).to(DEVICE, dtype)


def test_unwritten_memory_shows():
    assert torch.empty(3, device=DEVICE).isnan().all()
    assert normal(2, 2).new_empty(3).isnan().all()
    assert (torch.empty(3, device=DEVICE, dtype=torch.int32) == 2**31 - 1).all()


# Softmax and top-K.

EXPERTS_AND_K = [
    (1, 1), (3, 2), (3, 3), (8, 2), (8, 8), (60, 4), (64, 8), (64, 32), (256, 8), (4096, 2)
]  # fmt: skip


def best(scores_TE, k):
    """By Python's sort, which is stable: of equal scores the lower index."""
    rows = [
        sorted(range(len(row)), key=lambda e, row=row: -row[e])[:k] for row in scores_TE.tolist()
    ]
    return torch.tensor(rows, dtype=torch.int32, device=DEVICE).reshape(-1, k)


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


@pytest.mark.parametrize(("num_experts", "k"), EXPERTS_AND_K)
def test_softmax_topk_scores_weighs_and_takes_the_best_and_of_equal_scores_the_first(
    num_experts, k
):
    logits_TE = awkward_scores(num_experts, k)
    scores_TE, weight_TK, expert_TK = softmax_topk(logits_TE, k)
    want_TK, want_TE = best(logits_TE, k), logits_TE.double().softmax(1)
    for got_TK in (expert_TK, topk(logits_TE, k)):
        assert got_TK.dtype == torch.int32 and torch.equal(got_TK, want_TK)
    assert relative(scores_TE, want_TE) < 1e-6
    assert relative(weight_TK, want_TE.gather(1, want_TK.long())) < 1e-6


@pytest.mark.parametrize("through", ["scores", "weights", "both"])
@pytest.mark.parametrize(("num_experts", "k"), EXPERTS_AND_K[:-1])
def test_gradients_of_softmax_topk_are_those_of_autograd_in_float64(num_experts, k, through):
    logits_TE = awkward_scores(num_experts, k)[:101]
    grad_TE = normal(*logits_TE.shape, seed=1)
    grad_TK = normal(len(logits_TE), k, seed=2)
    expert_TK = best(logits_TE, k).long()

    def loss(scores_TE, weight_TK):
        by_scores = (scores_TE * grad_TE).sum() if through != "weights" else 0
        return by_scores + ((weight_TK * grad_TK).sum() if through != "scores" else 0)

    leaf = logits_TE.clone().requires_grad_()
    loss(*softmax_topk(leaf, k)[:2]).backward()
    leaf64 = logits_TE.double().requires_grad_()
    scores64 = leaf64.softmax(1)
    loss(scores64, scores64.gather(1, expert_TK)).backward()
    if num_experts == 1:  # one score is always 1
        assert (leaf.grad == 0).all()
    else:
        assert relative(leaf.grad, leaf64.grad) < 2e-6


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


def assert_sorted(expert_N, num_experts):
    order, rank, expert, slot, offsets = sort_by_expert(expert_N, num_experts)
    assert {v.dtype for v in (order, rank, expert, slot, offsets)} == {torch.int32}
    want_expert, want_order = torch.sort(expert_N.long(), stable=True)
    want_offsets = F.pad(expert_N.long().bincount(minlength=num_experts).cumsum(0), (1, 0))
    assert torch.equal(order.long(), want_order)
    assert torch.equal(rank.long(), want_order.argsort())
    assert torch.equal(expert.long(), want_expert)
    assert torch.equal(offsets.long(), want_offsets)
    rows = torch.arange(expert_N.numel(), device=DEVICE)
    assert torch.equal(slot.long(), rows - want_offsets[want_expert])


# The interpreter takes seconds for the most experts that a program holds.
MANY = 4096 if DEVICE == "cuda" else 300


@pytest.mark.parametrize("num_rows", [0, 1, 16, 301])
@pytest.mark.parametrize("num_experts", [1, 3, 8, 60, 64, 256, MANY])
def test_sort_is_the_stable_one(num_rows, num_experts):
    assert_sorted(random_experts(num_rows, num_experts), num_experts)


@pytest.mark.parametrize("max_blocks", [1, 2, 3])
@pytest.mark.parametrize("num_experts", [1, 8, 60, 256])
def test_sort_by_programs_of_several_steps(monkeypatch, num_experts, max_blocks):
    """As with more than 131072 assignments, where a program takes more than one block."""
    monkeypatch.setattr(sorting, "MAX_BLOCKS", max_blocks)
    expert_N = random_experts(901, num_experts)
    cut = sorting.blocking(901, num_experts)
    assert cut["rows"] > cut["block"] and cut["programs"] <= max_blocks
    assert_sorted(expert_N, num_experts)


@pytest.mark.parametrize("num_rows", [131_072, 131_073])
def test_sort_scans_at_most_as_many_blocks_as_one_program_holds(num_rows):
    cut = sorting.blocking(num_rows, 8)
    assert cut["programs"] <= sorting.MAX_BLOCKS and cut["rows"] % cut["block"] == 0
    assert cut["programs"] * cut["rows"] >= num_rows
    assert (cut["rows"] > cut["block"]) == (num_rows > 131_072)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_sort_of_any_list(data):
    num_experts = data.draw(st.sampled_from((1, 2, 9, 100)))
    experts = data.draw(st.lists(st.integers(0, num_experts - 1), max_size=300))
    dtype = data.draw(st.sampled_from((torch.int64, torch.int32, torch.uint8)))
    step = data.draw(st.integers(1, 2))
    assert_sorted(torch.tensor(experts, device=DEVICE, dtype=dtype)[::step], num_experts)


@pytest.mark.parametrize("edge", [-1, 0, 1])
def test_sort_topk_splits_its_assignments_up_to_the_last_of_a_block(edge):
    assert_rectangle(random_experts(sorting.RECTANGLE + edge, 8)[:, None], 8)


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (1, 1), (1, 8), (33, 3), (513, 2), (200, 8)])
def test_sort_topk_says_whose_row_it_is_and_which_choice(shape):
    assert_rectangle(random_experts(shape[0] * shape[1], 8).reshape(shape), 8)
    assert_rectangle(random_experts(shape[0] * shape[1], 8).reshape(shape[::-1]).T, 8)


def assert_rectangle(expert_TK, num_experts):
    *same, token, choice, token_offsets = sort_topk(expert_TK, num_experts)
    want = sort_by_expert(expert_TK.reshape(-1), num_experts)
    assert all(torch.equal(a, b) for a, b in zip(same, want, strict=True))
    num_tokens, k = expert_TK.shape
    assert {v.dtype for v in (token, choice, token_offsets)} == {torch.int32}
    assert token.tolist() == [assignment // k for assignment in want[0].tolist()]
    assert choice.tolist() == [assignment % k for assignment in want[0].tolist()]
    assert token_offsets.tolist() == [k * t for t in range(num_tokens + 1)]


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
    "one expert": (70,),
    "one row": (0, 1),
    "one row each": (1,) * 60,
    "many experts": tuple(e * 7 % 40 for e in range(300)),
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


@pytest.mark.parametrize("block_m", [16, 32, 64, 128])
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
            assert len(tiles_by_hand(worst, block_m)) == bound


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


# The grouped matrix products. A block of 16 x 32 meets widths that it divides and does not, experts
# of several tiles; one of 128 x 128 is larger than most of what it computes.

CUTS = [
    Gemm(16, 32, 16, num_warps=4, num_stages=2, group=1),
    Gemm(32, 64, 32, num_warps=4, num_stages=3, group=3),
    Gemm(128, 128, 32, num_warps=8, num_stages=2),
]
EXPERT_LOADS = ((0, 5, 1, 0, 37, 20, 0), (0, 70, 0), (21,), (0, 1), (2, 129))
WIDTHS = ((20, 65), (65, 20), (7, 33), (1, 1), (64, 48))
every_cut_and_dtype = with_dtypes(("cut",), [(cut,) for cut in CUTS], quick=[(CUTS[0],)])
every_case = pytest.mark.parametrize(
    ("loads", "widths"),
    list(zip(EXPERT_LOADS, WIDTHS, strict=True)),
    ids=lambda pair: "-".join(map(str, pair)),
)


class Rows:
    """Rows of random tokens, so many for each expert."""

    def __init__(self, loads, block_m):
        draw = torch.Generator().manual_seed(sum(loads))
        self.num_rows, self.num_tokens, self.num_experts = sum(loads), 23, len(loads)
        self.offsets = offsets_of(loads)
        self.expert = torch.repeat_interleave(torch.arange(len(loads)), torch.tensor(loads))
        self.expert = self.expert.to(DEVICE)
        token = torch.randint(self.num_tokens, (self.num_rows,), generator=draw)
        self.token = token.to(DEVICE, torch.int32)
        self.tiles = tile_map(self.offsets, self.num_rows, block_m)
        self.weight = normal(self.num_rows, seed=9)

    def of(self, x_TD):
        """Each row's token, in float64."""
        return x_TD.double()[self.token.long()]


@every_cut_and_dtype
@every_case
def test_up_gathers_multiplies_and_applies_swiglu(loads, widths, cut, dtype):
    (d_model, d_expert), rows = widths, Rows(loads, cut.block_m)
    x_TD = normal(rows.num_tokens, d_model, dtype=dtype)
    w13 = normal(rows.num_experts, 2 * d_expert, d_model, seed=1).div(d_model**0.5).to(dtype)
    args = (x_TD, rows.token, rows.weight, w13, rows.offsets, rows.tiles, cut)
    h_NF, z_N2F = up_swiglu(*args, save=True)

    want_z = torch.einsum("nd,nfd->nf", rows.of(x_TD), w13.double()[rows.expert])
    gate, up = want_z.chunk(2, dim=1)
    want_h = rows.weight.double()[:, None] * F.silu(gate) * up
    assert h_NF.dtype == z_N2F.dtype == dtype
    assert relative(z_N2F, want_z) < DTYPES[dtype]
    assert relative(h_NF, want_h) < DTYPES[dtype]
    again, kept = up_swiglu(*args, save=False)
    assert torch.equal(again, h_NF) and kept.shape == (0, 2 * d_expert)


@every_cut_and_dtype
@every_case
@pytest.mark.parametrize("transposed", [False, True], ids=["as it is", "transposed"])
def test_grouped_gemm_is_each_rows_product_with_its_experts_matrix(
    loads, widths, cut, dtype, transposed
):
    (depth, width), rows = widths, Rows(loads, cut.block_m)
    rows_NK = normal(rows.num_rows, depth, dtype=dtype)
    shape = (width, depth) if transposed else (depth, width)
    matrix = normal(rows.num_experts, *shape, seed=1).div(depth**0.5).to(dtype)
    matrix = matrix.transpose(1, 2) if transposed else matrix
    got = grouped_gemm(rows_NK, matrix, rows.offsets, rows.tiles, cut)
    want = torch.einsum("nk,nkc->nc", rows_NK.double(), matrix.double()[rows.expert])
    assert got.dtype == dtype and relative(got, want) < DTYPES[dtype]


@every_cut_and_dtype
@every_case
def test_grad_hidden_is_autograd_of_the_down_projection_and_swiglu(loads, widths, cut, dtype):
    (d_model, d_expert), rows = widths, Rows(loads, cut.block_m)
    grad_TD = normal(rows.num_tokens, d_model, dtype=dtype)
    w2 = normal(rows.num_experts, d_model, d_expert, seed=1).div(d_expert**0.5).to(dtype)
    z_N2F = normal(rows.num_rows, 2 * d_expert, seed=2, dtype=dtype)
    h_NF, dz_N2F, grad_N = grad_hidden(
        grad_TD, rows.token, rows.weight, w2, z_N2F, rows.offsets, rows.tiles, cut
    )
    z64, weight64 = (v.double().requires_grad_() for v in (z_N2F, rows.weight))
    gate, up = z64.chunk(2, dim=1)
    want_h = weight64[:, None] * F.silu(gate) * up
    y_ND = torch.einsum("nf,ndf->nd", want_h, w2.double()[rows.expert])
    y_ND.backward(rows.of(grad_TD))
    assert h_NF.dtype == dz_N2F.dtype == dtype and grad_N.dtype == torch.float32
    assert relative(h_NF, want_h) < DTYPES[dtype]
    assert relative(dz_N2F, z64.grad) < DTYPES[dtype]
    assert relative(grad_N, weight64.grad) < 1e-5  # nothing is rounded on the way to it


@every_cut_and_dtype
@every_case
@pytest.mark.parametrize("gather_left", [True, False], ids=["left gathered", "right gathered"])
def test_grad_weight_sums_each_experts_outer_products_and_writes_zeros_without_rows(
    loads, widths, cut, dtype, gather_left
):
    (width_a, width_b), rows = widths, Rows(loads, cut.block_m)
    lengths = (rows.num_tokens, rows.num_rows)[:: 1 if gather_left else -1]
    left = normal(lengths[0], width_a, dtype=dtype)
    right = normal(lengths[1], width_b, seed=1, dtype=dtype)
    got = grad_weight(left, right, rows.token, rows.offsets, cut, gather_left=gather_left)
    left64, right64 = left.double(), right.double()
    left64, right64 = (rows.of(left), right64) if gather_left else (left64, rows.of(right))
    outer_NAB = left64[:, :, None] * right64[:, None, :]
    want = torch.zeros(rows.num_experts, width_a, width_b, device=DEVICE, dtype=torch.float64)
    want.index_add_(0, rows.expert, outer_NAB)
    assert got.dtype == dtype and relative(got, want) < DTYPES[dtype]
    empty = rows.offsets.diff() == 0
    assert (got[empty] == 0).all() and (got[~empty] != 0).any()


def test_long_sums_are_kept_in_float32():
    """Of 4000 products in float16, the result alone is rounded: by 2e-4, not by what 250 steps of
    16 would lose."""
    cut, depth, half = CUTS[0], 4000, torch.float16
    rows, tall = Rows((0, 5, 3), cut.block_m), Rows((0, depth), cut.block_m)
    x_TD = normal(23, depth, dtype=half)
    w13, w2 = normal(3, 2, depth, dtype=half) / 64, normal(3, depth, 1, dtype=half)
    where = (rows.offsets, rows.tiles, cut)
    _, z_N2F = up_swiglu(x_TD, rows.token, rows.weight, w13, *where, save=True)
    want_z = torch.einsum("nd,nfd->nf", rows.of(x_TD), w13.double()[rows.expert])
    assert relative(z_N2F, want_z) < 4e-4
    x_ND = rows.of(x_TD).half()
    assert relative(grouped_gemm(x_ND, w13.transpose(1, 2), *where), want_z) < 4e-4

    ones = torch.ones(8, 2, device=DEVICE, dtype=half)
    _, _, grad_N = grad_hidden(x_TD, rows.token, rows.weight, w2, ones, *where)
    want_dh = torch.einsum("nd,nd->n", rows.of(x_TD), w2.double()[rows.expert, :, 0])
    # Not rounded at all; but tensor cores cut each step of their sums off, always downwards.
    assert relative(grad_N, want_dh * F.silu(torch.ones(()).double())) < 1e-4

    right = normal(depth, 3, seed=1, dtype=half)
    args = (x_TD[:, :5].contiguous(), right, tall.token, tall.offsets, cut)
    want = torch.einsum("na,nb->ab", tall.of(args[0]), right.double())
    assert relative(grad_weight(*args, gather_left=True)[1], want) < 4e-4


# Gather and gather-sum.

ROWS_PER_TOKEN = (2, 0, 1, 45, 0, 3, 1)


@every_dtype
@pytest.mark.parametrize("width", [1, 7, 20, 513, 2048, 2049, 5000])
def test_gather_copies_and_gather_sum_adds_each_tokens_rows_in_their_order(width, dtype):
    token_offsets = offsets_of(ROWS_PER_TOKEN)
    num_rows, draw = sum(ROWS_PER_TOKEN), torch.Generator().manual_seed(1)
    inverse = torch.randperm(num_rows, generator=draw).to(DEVICE, torch.int32)
    rows_ND = normal(num_rows, width, dtype=dtype)
    want = torch.zeros(len(ROWS_PER_TOKEN), width, device=DEVICE)
    for t, (start, end) in enumerate(zip(token_offsets[:-1], token_offsets[1:], strict=True)):
        for row in inverse[start:end]:
            want[t] += rows_ND[row].float()
    got = gather_sum(rows_ND, inverse, token_offsets)
    assert torch.equal(got, want.to(dtype))
    token = torch.randint(len(got), (num_rows,), generator=draw).to(DEVICE, torch.int32)
    assert torch.equal(gather(got, token), got[token.long()])


def test_gather_sum_adds_in_float32():
    """2048 + 1 is 2048 in float16."""
    rows_ND = torch.ones(2100, 3, device=DEVICE, dtype=torch.float16)
    inverse = torch.arange(2100, device=DEVICE, dtype=torch.int32)
    assert (gather_sum(rows_ND, inverse, offsets_of((2100,))) == 2100).all()


def test_gathers_read_views():
    rows_ND, token_offsets = normal(45, 6), offsets_of((2, 0, 42, 1))
    inverse = torch.arange(45, device=DEVICE, dtype=torch.int32).flip(0)
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
