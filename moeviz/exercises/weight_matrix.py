"""What a router decided as one matrix, weight_TE, so that two may be compared whatever the order in
which they name a token's experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moeviz.exercises.exercise import Wrong

if TYPE_CHECKING:
    from torch import Tensor

    from moeviz.routing import BaseRouter


def package_weights(router: BaseRouter, x_TD: Tensor) -> Tensor:
    """weight_TE of one of the package's routers, in training; 0 where an expert is not chosen."""
    from moeviz.routing import Plan, RouteContext

    plan = router(x_TD, RouteContext(training=True)).plan
    assert isinstance(plan, Plan)
    weight_TE = x_TD.new_zeros(len(x_TD), router.num_experts)
    return weight_TE.index_put((plan.token.long(), plan.expert.long()), plan.weight)


def chosen_weights(given: Any, num_tokens: int, num_experts: int, top_k: int) -> Tensor:
    """weight_TE of the (expert_TK, weight_TK) that a learner's router gave; Wrong where they are
    none."""
    import torch

    if not (isinstance(given, tuple | list) and len(given) == 2):
        raise Wrong("it must return (expert_TK, weight_TK).")
    expert_TK, weight_TK = given
    for name, values in (("expert_TK", expert_TK), ("weight_TK", weight_TK)):
        if not isinstance(values, torch.Tensor) or values.shape != (num_tokens, top_k):
            found = list(values.shape) if isinstance(values, torch.Tensor) else repr(values)
            raise Wrong(f"{name} must be a tensor [{num_tokens}, {top_k}], not {found}.")
    if expert_TK.is_floating_point() or not weight_TK.is_floating_point():
        raise Wrong("expert_TK must hold whole numbers and weight_TK fractions: are they swapped?")
    if not bool(((expert_TK >= 0) & (expert_TK < num_experts)).all()):
        raise Wrong(f"expert_TK must hold numbers of experts, 0 to {num_experts - 1}.")
    empty_TE = weight_TK.new_zeros(num_tokens, num_experts)
    return empty_TE.scatter_add(1, expert_TK.long(), weight_TK)
