"""Exercises of 14_many_models_in_one on an expert of one's own: LoRA, and why B begins at 0."""

from __future__ import annotations

from typing import Any

import numpy as np

from moeviz.exercises.compression import as_array
from moeviz.exercises.exercise import Wrong, exercise, function_asked, function_fault

TRIES = 6


def lora(x_TD, w0_FD, a_rD, b_Fr, alpha):
    rank = a_rD.shape[0]
    return x_TD @ w0_FD.T + alpha / rank * (x_TD @ a_rD.T) @ b_Fr.T


def _layers() -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]]:
    """Random ones; in the first B is 0. The ranks divide no width, and alpha is no rank."""
    rng = np.random.default_rng(141)
    cases = []
    for number in range(TRIES):
        rank = (3, 5, 2)[number % 3]
        b_Fr = rng.normal(size=(9, rank)) * (number > 0)
        cases.append((rng.normal(size=(4, 7)), rng.normal(size=(9, 7)),
                      rng.normal(size=(rank, 7)), b_Fr, 1.5 * rank + number))  # fmt: skip
    return cases


function_asked(
    "14.1",
    "Which of A's two axes is the rank? x meets A first, and B then.",
    "Here a token is a row of x, so W0 x is x_TD @ w0_FD.T. Add alpha / r times what A and then B "
    "make of x, where r is the number of A's rows.",
    difficulty=1,
    minutes=6,
    solution=lora,
    praise="Only A and B are trained: here r (D + F) numbers in place of D F.",
    cases=_layers,
    read=as_array,
    mistakes=(
        (lambda x, w, a, b, alpha: x @ w.T, "that is W0 x alone."),
        (lambda x, w, a, b, alpha: x @ w.T + x @ a.T @ b.T, "where is alpha / r?"),
        (
            lambda x, w, a, b, alpha: x @ w.T + alpha * x @ a.T @ b.T,
            "alpha is divided by the rank.",
        ),
        (
            lambda x, w, a, b, alpha: lora(x, w, a, b, alpha) - x @ w.T,
            "that is what is added; W0 x is a part of y too.",
        ),
    ),
    words="these are not the values of W0 x + (alpha / r) B A x, with alpha = {4:g}.",
)


def lora_gradients(x_D, g_F, a_rD, b_Fr, alpha):
    scale = alpha / a_rD.shape[0]
    return scale * np.outer(b_Fr.T @ g_F, x_D), scale * np.outer(g_F, a_rD @ x_D)


def _two(value: Any) -> np.ndarray:
    """Two gradients as one array, so that they can be compared."""
    try:
        first, second = (np.asarray(part, dtype=float) for part in value)
    except (TypeError, ValueError):
        raise Wrong("it must give two arrays: the gradient by A and that by B.") from None
    if first.ndim != 2 or second.ndim != 2:
        raise Wrong("both gradients must be matrices, shaped as A and as B are.")
    shapes = np.array([*first.shape, *second.shape], dtype=float)
    return np.concatenate([shapes, first.ravel(), second.ravel()])


def _gradient_cases() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(142)
    cases = []
    for x_TD, _, a_rD, b_Fr, alpha in _layers():
        cases.append((x_TD[0], rng.normal(size=len(b_Fr)), a_rD, b_Fr, alpha))
    return cases


def _unscaled(x_D, g_F, a_rD, b_Fr, alpha):
    return lora_gradients(x_D, g_F, a_rD, b_Fr, len(a_rD))


def _exchanged(x_D, g_F, a_rD, b_Fr, alpha):
    return lora_gradients(x_D, g_F, a_rD, b_Fr, alpha)[::-1]


MISTAKES = (
    (_unscaled, "alpha / r belongs to both gradients."),
    (_exchanged, "the gradient by A comes first, then that by B."),
)


@exercise(
    "14.2",
    "Call h = A x. Then y = W0 x + (alpha / r) B h, which is linear in B, and linear in h.",
    "By B: alpha / r times the outer product of g and A x. By A: alpha / r times the outer product "
    "of B^T g and x. Which of the two is zero where B is?",
    difficulty=2,
    minutes=10,
    solution=lora_gradients,
    praise="With B = 0 nothing is added and A gets no gradient, but B gets one: so it learns. Were "
    "A zero too, neither would, and it would stay so forever.",
    mistakes=MISTAKES,
)
def gradients(answer: Any) -> str | None:
    def read(function: Any) -> Any:
        return lambda *case: _two(function(*case))

    def say(case: Any, found: Any, wanted: Any) -> str:
        return f"with alpha = {case[4]:g} these are not the gradients by A and by B."

    mistakes = [(read(function), sentence) for function, sentence in MISTAKES]
    return function_fault(read(answer), read(lora_gradients), _gradient_cases(), mistakes, say)
