"""Operations with a fast and a slow form give the same, and the right, result both ways."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.numerics import relative
from moeviz import ops
from moeviz.routing import Plan


@pytest.fixture(params=[False, True], ids=["torch", "triton"])
def both(request):
    """The operation as on a CPU, and as on a GPU."""
    if request.param:
        request.getfixturevalue("triton_everywhere")


both_ways = pytest.mark.usefixtures("both")


def best(scores, k):
    """The k best of each row, ties to the lower index, by Python's own sort."""
    return [sorted(range(len(row)), key=lambda e: (-row[e], e))[:k] for row in scores.tolist()]


# Few values, so that nearly every row has ties; 0.0 == -0.0 is one. In float32 those of the second
# list would tie or overflow.
VALUES = {
    torch.float32: [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, 1 + 2**-23],
    torch.float64: [0.0, -0.0, 1.0, 1 + 1e-9, 1e39, 2e39, -1e300],
}


@pytest.mark.parametrize("dtype", VALUES)
@given(data=st.data())
def test_topk_equals_a_stable_sort_with_ties_negatives_and_signed_zeros(dtype, data):
    E = data.draw(st.integers(1, 12))
    row = st.lists(st.sampled_from(VALUES[dtype]), min_size=E, max_size=E)
    scores_TE = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=5)), dtype=dtype)
    k = data.draw(st.integers(1, E))
    assert ops.topk(scores_TE, k).tolist() == best(scores_TE, k)


@both_ways
@pytest.mark.parametrize("E", [7, 3000])
def test_topk_ties_go_to_the_lower_index_both_ways(E):
    scores_TE = torch.randint(-2, 3, (9, E), generator=torch.Generator().manual_seed(0)).float()
    assert ops.topk(scores_TE, 4).tolist() == best(scores_TE, 4)


@both_ways
def test_softmax_topk_with_gradients():
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


@both_ways
@pytest.mark.parametrize("T,K,E", [(1, 1, 1), (7, 3, 4), (33, 2, 70)])
def test_sorting_a_topk_is_sorting_its_list(T, K, E):
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


@both_ways
def test_gather_sum_is_the_transpose_of_gather():
    g = torch.Generator().manual_seed(2)
    weight_TE = torch.rand(6, 4, generator=g)
    plan = Plan.from_dense(weight_TE, weight_TE > 0.4)  # any number of rows a token
    x_TD = torch.randn(6, 16, generator=g)
    x_ND = ops.gather(x_TD, plan.token)
    assert torch.equal(x_ND, x_TD[plan.token.long()])
    y_TD = ops.gather_sum(x_ND, plan.inverse, plan.token_offsets, plan.weight)
    want_TD = plan.dense_weights().sum(1, keepdim=True) * x_TD
    assert relative(y_TD, want_TD) < 1e-6
