"""Exercise 02.4: a whole MoE layer, compared with the package's own, gradients included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from moeviz.exercises.exercise import Wrong, exercise, function_fault

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from moeviz.model.layer import MoEFFN

    Layer = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

# Tokens, experts, K: experts without a token among them, and one token alone.
CASES = ((11, 6, 2), (3, 9, 2), (17, 4, 3), (1, 3, 2))
D_MODEL, D_EXPERT = 8, 5

SOLUTION = """
def moe(x_TD, gate_ED, w13_E2FD, w2_EDF, top_k):
    best_TK, expert_TK = (x_TD @ gate_ED.T).topk(top_k)
    weight_TK = best_TK.softmax(-1)
    y_TD = torch.zeros_like(x_TD)
    for e in range(len(gate_ED)):
        token_n, choice_n = (expert_TK == e).nonzero(as_tuple=True)
        gate_nF, up_nF = (x_TD[token_n] @ w13_E2FD[e].T).chunk(2, dim=-1)
        y_nD = (torch.nn.functional.silu(gate_nF) * up_nF) @ w2_EDF[e].T
        y_TD[token_n] += weight_TK[token_n, choice_n, None] * y_nD
    return y_TD
""".strip()


def layer_of(num_tokens: int, num_experts: int, top_k: int) -> tuple[MoEFFN, Tensor]:
    """The package's layer, and tokens for it; always the same."""
    import torch

    from moeviz.model.layer import MoEConfig, MoEFFN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(num_tokens)
        layer = MoEFFN(D_MODEL, MoEConfig(num_experts, top_k, D_EXPERT))
        torch.nn.init.normal_(layer.router.weight_ED)
        return layer, torch.randn(num_tokens, D_MODEL)


def _inputs(layer: MoEFFN, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All arguments but top_k."""
    return x_TD, layer.router.weight_ED, layer.w13_E2FD, layer.w2_EDF


def _output(moe: Layer, *case: int) -> np.ndarray:
    """y_TD of somebody's layer on a case."""
    import torch

    layer, x_TD = layer_of(*case)
    y_TD = moe(*_inputs(layer, x_TD), case[-1])
    if not isinstance(y_TD, torch.Tensor) or y_TD.shape != x_TD.shape:
        found = list(y_TD.shape) if isinstance(y_TD, torch.Tensor) else repr(y_TD)
        raise Wrong(f"it must return y_TD, a tensor {list(x_TD.shape)} as x_TD is, not {found}.")
    return y_TD.detach().numpy()


def _package(*case: int) -> np.ndarray:
    from moeviz.routing import RouteContext

    layer, x_TD = layer_of(*case)
    y_TD, _ = layer(x_TD, RouteContext())
    return y_TD.detach().numpy()


def _variant(
    x_TD: Tensor,
    gate_ED: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    top_k: int,
    *,
    weighting: str = "renormalise",
    swapped: bool = False,
    activation: bool = True,
    choices: slice = slice(None),
) -> Tensor:
    """The layer with one thing done otherwise: what learners write."""
    import torch

    score_TE = (x_TD @ gate_ED.T).softmax(0 if weighting == "over tokens" else -1)
    best_TK, expert_TK = score_TE.topk(top_k)
    if weighting == "all":
        expert_TK = torch.arange(len(gate_ED)).expand(score_TE.shape)
        best_TK = score_TE
    elif weighting == "none":
        best_TK = torch.ones_like(best_TK)
    elif weighting == "renormalise":
        best_TK = best_TK / best_TK.sum(-1, keepdim=True)
    gate_TEF, up_TEF = torch.einsum("td,efd->tef", x_TD, w13_E2FD).chunk(2, dim=-1)
    if swapped:
        gate_TEF, up_TEF = up_TEF, gate_TEF
    hidden_TEF = (torch.nn.functional.silu(gate_TEF) if activation else gate_TEF) * up_TEF
    y_TED = torch.einsum("tef,edf->ted", hidden_TEF, w2_EDF)
    weight_TE = torch.zeros_like(score_TE).scatter(1, expert_TK[:, choices], best_TK[:, choices])
    return (weight_TE[..., None] * y_TED).sum(1)


MISTAKES = tuple(
    (partial(_variant, **change), sentence)
    for change, sentence in (
        ({"weighting": "raw"}, "the weights are the chosen scores as they are; renormalise them: "
         "a token's weights sum to 1."),
        ({"weighting": "none"}, "the experts' outputs are added up as they are: multiply each by "
         "its weight."),
        ({"weighting": "all"}, "every expert works on every token: only the top_k best may."),
        ({"weighting": "over tokens"}, "the softmax goes over the tokens: each token's scores must "
         "sum to 1 over the experts."),
        ({"swapped": True}, "gate and up are swapped: the first half of w13's rows is the gate, "
         "and silu is taken of it."),
        ({"activation": False}, "there is no silu: an expert is (silu(gate) * up) @ w2.T."),
        ({"choices": slice(0, 1)}, "only the first choice is added; a token has top_k of them."),
    )
)  # fmt: skip


@exercise(
    "02.4",
    "Score, choose and weigh first. Then let each expert work on the tokens that chose it, one "
    "expert after the other.",
    "(expert_TK == e).nonzero(as_tuple=True) gives the tokens of expert e, and which of their "
    "choices it is.",
    difficulty=3,
    minutes=15,
    asks="a function moe(x_TD, gate_ED, w13_E2FD, w2_EDF, top_k)",
    solution=SOLUTION,
    praise="Output and gradients are those of the package's layer, whatever T, E and K are.",
    mistakes=MISTAKES,
)
def moe_layer(answer: Any) -> str | None:
    def say(case: tuple[int, ...], found_TD: np.ndarray, wanted_TD: np.ndarray) -> str:
        t = int(abs(found_TD - wanted_TD).max(1).argmax())
        return (
            f"with {case[0]} tokens, {case[1]} experts and K = {case[2]} the output of token {t} "
            f"begins with {found_TD[t, 0]:.3f}; the package's layer gives {wanted_TD[t, 0]:.3f}."
        )

    mistakes = [(partial(_output, other), sentence) for other, sentence in MISTAKES]
    fault = function_fault(
        partial(_output, answer), _package, CASES, mistakes, say, rtol=1e-4, atol=1e-5
    )
    return fault or _gradient_fault(answer)


def _gradient_fault(answer: Layer) -> str | None:
    import torch

    from moeviz.routing import RouteContext

    case = CASES[0]
    layer, x_TD = layer_of(*case)
    x_TD.requires_grad_()
    inputs = _inputs(layer, x_TD)
    weight_TD = torch.linspace(-1, 1, x_TD.numel()).view_as(x_TD)
    wanted = torch.autograd.grad((layer(x_TD, RouteContext())[0] * weight_TD).sum(), inputs)
    y_TD = answer(*inputs, case[-1])
    if not y_TD.requires_grad:
        return "the output is right, but it carries no gradient: nothing would learn."
    found = torch.autograd.grad((y_TD * weight_TD).sum(), inputs, allow_unused=True)
    names = "x_TD", "gate_ED", "w13_E2FD", "w2_EDF"
    # x_TD last: a slip at a weight often shows in its gradient, too.
    for name, a, b in reversed([*zip(names, found, wanted, strict=True)]):
        if a is None or not torch.allclose(a, b, rtol=1e-3, atol=1e-5):
            return f"the output is right, but the gradient that reaches {name} is not."
    return None
