"""Exercises of 06_shared_and_fine_grained: sets of experts, exact pieces, what is left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from moeviz.exercises.exercise import (
    Wrong,
    exercise,
    function_asked,
    function_fault,
    name_asked,
    number_asked,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from moeviz.model.layer import MoEFFN

    Split = Callable[[Tensor, Tensor, int], Any]


def sets(num_experts, top_k, m):
    return math.comb(m * num_experts, m * top_k)


function_asked(
    "06.1",
    "Into how many pieces are all experts cut, and how many of the pieces does a token choose?",
    "math.comb(n, k) counts the sets of k things out of n; the order of the choices is no matter.",
    difficulty=1,
    minutes=3,
    solution=sets,
    praise="The pieces cost nothing but a larger router, and the sets multiply. Whether a model "
    "learns to use them is another question.",
    cases=lambda: ((8, 2, 1), (8, 2, 2), (4, 1, 3), (16, 2, 4)),
    mistakes=(
        (
            lambda e, k, m: m * math.comb(e, k),
            "m times as many sets would be those of one m; each choice is among more pieces.",
        ),
        (
            lambda e, k, m: math.comb(m * e, k),
            "a token chooses m times as many, or the pieces that work would be narrower in all.",
        ),
        (
            lambda e, k, m: math.comb(e, k) ** m,
            "pieces need not come one of each: any m K of all m E may be chosen.",
        ),
        (
            lambda e, k, m: math.perm(m * e, m * k),
            "the order of the choices is no matter: count sets.",
        ),
    ),
    words="for {} experts, K = {} and m = {} it gives {found:,.0f}; it must be {wanted:,.0f}.",
)


# 06.2: pieces that the real layer runs.


SOLUTION = """
def split_expert(w13_2FD, w2_DF, m):
    gate_FD, up_FD = w13_2FD.chunk(2)
    gates, ups, downs = gate_FD.chunk(m), up_FD.chunk(m), w2_DF.chunk(m, dim=1)
    return [
        (torch.cat([gate_fD, up_fD]), down_Df)
        for gate_fD, up_fD, down_Df in zip(gates, ups, downs, strict=True)
    ]
""".strip()

# Experts, K, m; always of width 12 in a model of width 8.
CASES = ((4, 2, 2), (5, 1, 3), (6, 3, 4))
D_MODEL, D_EXPERT = 8, 12


def whole_layer(num_experts: int, top_k: int) -> tuple[MoEFFN, Tensor]:
    """The package's layer with whole experts, and tokens for it; always the same."""
    import torch

    from moeviz.model.layer import MoEConfig, MoEFFN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(num_experts)
        config = MoEConfig(num_experts, top_k, D_EXPERT, options={"weighting": "raw"})
        layer = MoEFFN(D_MODEL, config)
        torch.nn.init.normal_(layer.router.weight_ED)
        return layer, torch.randn(9, D_MODEL)


def _pieces(answer: Split, layer: MoEFFN, m: int) -> tuple[Tensor, Tensor]:
    """The bank of all pieces; Wrong where it is none."""
    import torch

    shapes = [[2 * D_EXPERT // m, D_MODEL], [D_MODEL, D_EXPERT // m]]
    bank: list[list[Tensor]] = [[], []]
    for w13_2FD, w2_DF in zip(layer.w13_E2FD.detach(), layer.w2_EDF.detach(), strict=True):
        found = answer(w13_2FD.clone(), w2_DF.clone(), m)
        if not isinstance(found, (list, tuple)) or len(found) != m:
            raise Wrong(f"it must return a list of m = {m} pieces, (w13, w2) each.")
        for piece in found:
            if not isinstance(piece, (list, tuple)) or len(piece) != 2:
                raise Wrong("each piece must be two tensors, (w13, w2).")
            for part, values, shape in zip(bank, piece, shapes, strict=True):
                if not isinstance(values, torch.Tensor) or list(values.shape) != shape:
                    raise Wrong(
                        f"a piece's w13 has the shape {shapes[0]} and its w2 {shapes[1]} for "
                        f"m = {m}, a width of {D_EXPERT} and a model of width {D_MODEL}."
                    )
                part.append(values.float())
    return torch.stack(bank[0]), torch.stack(bank[1])


def _output(answer: Split, num_experts: int, top_k: int, m: int) -> np.ndarray:
    """y_TD of the package's layer with somebody's pieces. A piece has the row of its expert and
    1/m of its score, which W2 makes up for."""
    import torch

    from moeviz.model.layer import MoEConfig, MoEFFN
    from moeviz.routing import RouteContext

    layer, x_TD = whole_layer(num_experts, top_k)
    w13, w2 = _pieces(answer, layer, m)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        fine = MoEFFN(
            D_MODEL,
            MoEConfig(m * num_experts, m * top_k, D_EXPERT // m, options={"weighting": "raw"}),
        )
        fine.router.weight_ED.copy_(layer.router.weight_ED.repeat_interleave(m, 0))
        fine.w13_E2FD.copy_(w13)
        fine.w2_EDF.copy_(m * w2)
        y_TD, _ = fine(x_TD, RouteContext())
    return y_TD.numpy()


def _whole(num_experts: int, top_k: int, m: int) -> np.ndarray:
    import torch

    from moeviz.routing import RouteContext

    layer, x_TD = whole_layer(num_experts, top_k)
    with torch.no_grad():
        y_TD, _ = layer(x_TD, RouteContext())
    return y_TD.numpy()


def _right(w13_2FD: Tensor, w2_DF: Tensor, m: int) -> list[tuple[Tensor, Tensor]]:
    import torch

    gate_FD, up_FD = w13_2FD.chunk(2)
    parts = zip(gate_FD.chunk(m), up_FD.chunk(m), w2_DF.chunk(m, dim=1), strict=True)
    return [(torch.cat([gate_fD, up_fD]), down_Df) for gate_fD, up_fD, down_Df in parts]


def _rows_as_they_come(w13_2FD: Tensor, w2_DF: Tensor, m: int) -> list[tuple[Tensor, Tensor]]:
    return [*zip(w13_2FD.chunk(m), w2_DF.chunk(m, dim=1), strict=True)]


def _up_first(w13_2FD: Tensor, w2_DF: Tensor, m: int) -> list[tuple[Tensor, Tensor]]:
    import torch

    pieces = _right(w13_2FD, w2_DF, m)
    return [(torch.cat([*reversed(w13.chunk(2))]), w2) for w13, w2 in pieces]


def _divided(w13_2FD: Tensor, w2_DF: Tensor, m: int) -> list[tuple[Tensor, Tensor]]:
    return [(w13, w2 / m) for w13, w2 in _right(w13_2FD, w2_DF, m)]


def _multiplied(w13_2FD: Tensor, w2_DF: Tensor, m: int) -> list[tuple[Tensor, Tensor]]:
    return [(w13, w2 * m) for w13, w2 in _right(w13_2FD, w2_DF, m)]


def _first_columns(w13_2FD: Tensor, w2_DF: Tensor, m: int) -> list[tuple[Tensor, Tensor]]:
    width = w2_DF.shape[1] // m
    return [(w13, w2_DF[:, :width]) for w13, _ in _right(w13_2FD, w2_DF, m)]


MISTAKES = (
    (
        _rows_as_they_come,
        "w13 holds all gate rows first and then all up rows: a piece needs some of each, the same "
        "ones.",
    ),
    (_up_first, "a piece's w13 must have its gate rows first too, and its up rows after them."),
    (_divided, "the pieces are added up, so W2 is not divided by m here."),
    (_multiplied, "the layer multiplies W2 by m already; leave its values as they are."),
    (
        _first_columns,
        "every piece has the first columns of W2: it needs those of its own hidden units.",
    ),
)


@exercise(
    "06.2",
    "An expert is a sum over its hidden units. Which rows of w13, and which columns of w2, belong "
    "to hidden unit f?",
    "Cut the gate rows, the up rows and the columns of w2 into m parts each. Part p of the three "
    "makes piece p.",
    difficulty=2,
    minutes=8,
    asks="a function split_expert(w13_2FD, w2_DF, m)",
    solution=SOLUTION,
    praise="The package's layer runs your pieces, and each token gets what the whole experts gave.",
    mistakes=MISTAKES,
)
def pieces(answer: Any) -> str | None:
    def say(case: tuple[int, ...], found_TD: np.ndarray, wanted_TD: np.ndarray) -> str:
        t = int(abs(found_TD - wanted_TD).max(1).argmax())
        return (
            f"with {case[0]} experts, K = {case[1]} and m = {case[2]} the output of token {t} "
            f"begins with {found_TD[t, 0]:.3f}; whole experts give {wanted_TD[t, 0]:.3f}."
        )

    mistakes = [(partial(_output, other), sentence) for other, sentence in MISTAKES]
    return function_fault(
        partial(_output, answer), _whole, CASES, mistakes, say, rtol=1e-4, atol=1e-5
    )


number_asked(
    "06.3",
    1,
    {
        4: "a softmax shares one sum among all pieces; a sigmoid looks at each row alone, so a "
        "piece keeps the score of its expert.",
        0.25: "a piece keeps the score of its expert, and the four outputs add up to the expert's.",
        16: "neither the score nor the sum is off by so much.",
        2: "how does the score of a piece differ from its expert's, where no other row counts?",
    },
    "What is the sigmoid of the same logit?",
    "Write the weight of a piece beside that of its expert, for softmax and for sigmoid scores.",
    difficulty=2,
    minutes=3,
    solution="1",
    praise="Raw sigmoid scores know of no other expert. Renormalised, they would be divided by "
    "four times as many, and the factor would be 4 again.",
    tolerance=1e-9,
)


name_asked(
    "06.4",
    "B",
    {
        "A": "the two hold equally many parameters: each is one expert of the same width.",
        "C": "nothing was trained again in either case.",
        "D": "five seeds may do for so large a difference; the two changes are not alike.",
    },
    "For how many tokens does the first change anything, and for how many the second?",
    "Each token has eight experts at work. How many of them does it lose in each of the two cases?",
    difficulty=2,
    minutes=4,
    solution='"B"',
    praise="A fair rival is one choice of every token: as much work is lost as with the shared "
    "expert.",
    asks="one of A, B, C and D, in quotes",
)
