"""Operations with a fast and a slow form give the same, and the right, result both ways."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from helpers.numerics import relative
from moeviz import ops
from moeviz.routing import Plan


def best(scores, k):
    """The k best of each row, ties to the lower index, by Python's own sort."""
    return [sorted(range(len(row)), key=lambda e: (-row[e], e))[:k] for row in scores.tolist()]


@given(
    arrays.arrays(
        np.float64, (3, 5), elements=st.sampled_from([0.0, -0.0, 1.0, 1 + 1e-9, 1e39, 2e39, -1e300])
    ),
    st.integers(1, 5),
)
def test_topk_of_float64_is_exact_where_float32_would_tie_or_overflow(scores, k):
    assert ops.topk(torch.from_numpy(scores), k).tolist() == best(scores, k)


@pytest.mark.parametrize("fast", [False, True])
def test_topk_ties_go_to_the_lower_index_both_ways(fast, request):
    if fast:
        request.getfixturevalue("triton_everywhere")
    scores_TE = torch.randint(-2, 3, (40, 7), generator=torch.Generator().manual_seed(0)).float()
    assert ops.topk(scores_TE, 4).tolist() == best(scores_TE, 4)


@pytest.mark.parametrize("fast", [False, True])
def test_softmax_topk_with_gradients(fast, request):
    if fast:
        request.getfixturevalue("triton_everywhere")
    g = torch.Generator().manual_seed(1)
    logits_TE = torch.randn(9, 5, generator=g).requires_grad_()
    grad_TE, grad_TK = torch.randn(9, 5, generator=g), torch.randn(9, 2, generator=g)
    scores_TE, chosen_TK, expert_TK = ops.softmax_topk(logits_TE, 2)
    exact = logits_TE.detach().double().requires_grad_()
    want_TE = exact.softmax(-1)
    want_TK = want_TE.gather(1, torch.tensor(best(exact, 2)))
    assert expert_TK.dtype == torch.int64 and expert_TK.tolist() == best(exact, 2)
    assert relative(scores_TE, want_TE) < 1e-6 and relative(chosen_TK, want_TK) < 1e-6
    (got,) = torch.autograd.grad((scores_TE, chosen_TK), logits_TE, (grad_TE, grad_TK))
    (want,) = torch.autograd.grad((want_TE, want_TK), exact, (grad_TE.double(), grad_TK.double()))
    assert relative(got, want) < 1e-5


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("T,K,E", [(1, 1, 1), (7, 3, 4), (33, 2, 70)])
def test_sorting_a_topk_is_sorting_its_list(T, K, E, fast, request):
    if fast:
        request.getfixturevalue("triton_everywhere")
    g = torch.Generator().manual_seed(T)
    expert_TK = torch.rand(T, E, generator=g).topk(K).indices
    order, rank, expert, slot, offsets, token, choice, token_offsets = ops.sort_topk(expert_TK, E)
    flat = expert_TK.flatten().tolist()
    want = sorted(range(T * K), key=lambda row: (flat[row], row))
    assert order.tolist() == want and [want[r] for r in rank.tolist()] == list(range(T * K))
    assert expert.tolist() == [flat[row] for row in want]
    assert offsets.tolist() == [sum(e < bound for e in flat) for bound in range(E + 1)]
    assert slot.tolist() == [r - offsets[flat[row]] for r, row in enumerate(want)]
    assert token.tolist() == [row // K for row in want]
    assert choice.tolist() == [row % K for row in want]
    assert token_offsets.tolist() == [K * t for t in range(T + 1)]


@pytest.mark.parametrize("fast", [False, True])
def test_gather_sum_is_the_transpose_of_gather(fast, request):
    if fast:
        request.getfixturevalue("triton_everywhere")
    g = torch.Generator().manual_seed(2)
    weight_TE = torch.rand(6, 4, generator=g)
    plan = Plan.from_dense(weight_TE, weight_TE > 0.4)  # any number of rows a token
    x_TD = torch.randn(6, 16, generator=g)
    x_ND = ops.gather(x_TD, plan.token)
    assert torch.equal(x_ND, x_TD[plan.token.long()])
    y_TD = ops.gather_sum(x_ND, plan.inverse, plan.token_offsets, plan.weight)
    want_TD = plan.dense_weights().sum(1, keepdim=True) * x_TD
    assert relative(y_TD, want_TD) < 1e-6
