"""Exercises of 10_efficiency_frontier: shares of quality, a fit, a law by hand, a verdict, a task
and what fits into memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from moeviz.checks import brief
from moeviz.costs.laws.published import LING_START, ling_leverage
from moeviz.exercises.answers import as_number
from moeviz.exercises.exercise import Wrong, function_asked, name_asked, number_asked


def shares(loss, dense_loss, unigram_loss):
    ratio = dense_loss / loss
    perplexity = np.exp(dense_loss - loss)
    gain = (unigram_loss - loss) / (unigram_loss - dense_loss)
    return ratio, perplexity, gain


def _three(given: Any) -> tuple[float, ...]:
    values = [*given] if hasattr(given, "__iter__") and np.ndim(given) == 1 else []
    numbers = [as_number(value) for value in values]
    if len(numbers) != 3 or None in numbers:
        what = "three numbers, (loss ratio, perplexity, gain over the unigram)"
        raise Wrong(f"it must return {what}; this returned {brief(given)}.")
    return tuple(number for number in numbers if number is not None)


def _losses() -> list[tuple[float, float, float]]:
    """Losses of a model, of a dense one and of the unigram: a worse model, a better one, any."""
    rng = np.random.default_rng(10)
    drawn = rng.uniform((2.0, 2.0, 5.0), (4.0, 4.0, 8.0), (4, 3))
    return [(3.0, 2.9, 6.0), (2.8, 2.9, 6.0), *map(tuple, drawn.tolist())]


function_asked(
    "10.1",
    "The perplexity of a model is exp(loss). How does a lower one become a share above 1?",
    "The gain over the unigram is how far a model lies below the unigram's loss; the share is the "
    "model's gain over the dense model's.",
    difficulty=1,
    minutes=4,
    solution=shares,
    praise="One difference in nats, and three shares of quality. A share without its way says "
    "little.",
    cases=_losses,
    mistakes=(
        (
            lambda a, d, u: tuple(1 / share for share in shares(a, d, u)),
            "turned around: a worse model must have shares below 1.",
        ),
        (
            lambda a, d, u: (d / a, np.exp(a - d), (u - a) / (u - d)),
            "the perplexity is turned around: a worse model has a higher one, and must have a "
            "share below 1.",
        ),
        (
            lambda a, d, u: (a / d, np.exp(d - a), (u - a) / (u - d)),
            "the loss ratio is turned around: a worse model must have a share below 1.",
        ),
        (
            lambda a, d, u: (d / a, 2 ** (d - a), (u - a) / (u - d)),
            "losses are in nats here: a perplexity is e, not 2, to the loss.",
        ),
    ),
    words="for losses {} (model), {} (dense) and {} (unigram) it is {wanted[0]:.3f}, "
    "{wanted[1]:.3f} and {wanted[2]:.3f}, not {found[0]:.3f}, {found[1]:.3f} and {found[2]:.3f}.",
    read=_three,
)


def exponent(experts_N, loss_N):
    x_N, y_N = np.log(experts_N), np.log(loss_N)
    x_N = x_N - x_N.mean()
    return -(x_N * y_N).sum() / (x_N**2).sum()


def _frontiers() -> list[tuple[np.ndarray, np.ndarray]]:
    """Losses that fall as a power of the number of experts, and some luck of the seed."""
    rng = np.random.default_rng(2)
    cases = []
    for count, slope in ((4, 0.02), (4, 0.1), (7, 0.05)):
        experts_N = 4.0 ** np.arange(1, count + 1)
        luck_N = 1 + 0.005 * rng.standard_normal(count)
        cases.append((experts_N, 3.2 * experts_N**-slope * luck_N))
    return cases


def _slope(x_N: np.ndarray, y_N: np.ndarray) -> float:
    return float(np.polyfit(x_N, y_N, 1)[0])


function_asked(
    "10.2",
    "A power law is a straight line where both axes are logarithmic. Which two arrays is the line "
    "fitted to?",
    "The slope of a line of least squares is the sum of (x - mean x) (y - mean y) over the sum of "
    "(x - mean x)²; np.polyfit(x, y, 1) does it too. Mind the sign.",
    difficulty=2,
    minutes=8,
    solution=exponent,
    praise="In such a law every fourfold of the experts takes the same part of the loss away, "
    "for ever. Real losses have a floor: the law with an offset knows of it.",
    cases=_frontiers,
    mistakes=(
        (
            lambda e, loss: -exponent(e, loss),
            "that is the slope, which is below 0 where the loss falls; b is above 0 there.",
        ),
        (
            lambda e, loss: -_slope(np.log(e), loss),
            "the loss must be taken in logarithms too.",
        ),
        (
            lambda e, loss: -_slope(e, np.log(loss)),
            "the number of experts must be taken in logarithms too.",
        ),
        (
            lambda e, loss: -np.log(loss[-1] / loss[0]) / np.log(e[-1] / e[0]),
            "that takes the first and the last point alone; a fit takes all of them.",
        ),
    ),
    words="for {} experts with losses {} it gives {found:.4f}; it must be {wanted:.4f}.",
)


MET, PIECES, FLOPS = 0.031, 12, 1e22
_POWER = 1.23 - 0.0761 * 22

number_asked(
    "10.3",
    round(ling_leverage(MET, PIECES, FLOPS), 2),
    {
        round(ling_leverage(MET, PIECES, FLOPS, 10), 2): "that is with the logarithm of G to base "
        "10. The paper puts its example above 7: which base gives that?",
        round(ling_leverage(MET, PIECES, FLOPS, math.e), 2): "that is with the natural logarithm "
        "of G; its base is 2.",
        round(ling_leverage(MET - LING_START, PIECES, FLOPS), 2): "Â is the part of the experts "
        "and 0.0163 more.",
        round((MET + LING_START) ** _POWER, 2): "that is the leverage without granularity; add "
        "the two terms in log G to the exponent.",
    },
    "First α: the logarithm of C is to base 10, so log C is 22.",
    "Then the exponent: α + 0.0167 (log2 12)² - 0.117 log2 12, and log2 12 is 3.585. Raise "
    "0.031 + 0.0163 to it.",
    difficulty=2,
    minutes=6,
    solution="(0.031 + 0.0163) ** (1.23 - 0.0761 * 22 + 0.0167 * 3.585**2 - 0.117 * 3.585)",
    praise="By this law an MoE model with 3.1 % of its experts at work takes a seventh of the "
    "FLOPs of its dense equal. A public calculator takes the other logarithm, and its best "
    "granularity is in the thousands.",
    tolerance=0.05,  # 7.2 is right too
)


name_asked(
    "10.4",
    "C",
    {
        "A": "the interval of one comparison leaves out zero, but this is one of six: after "
        "Holm's correction 0.08 is not below 0.05.",
        "B": "that an effect was not shown does not show that there is none: the interval reaches "
        "to -0.035.",
        "D": "the interval is of the mean difference, not of single seeds.",
    },
    "A verdict is of the whole table. Which of the two p-values is the table's?",
    "A difference that is not shown may be there all the same. Which sentence says so?",
    difficulty=1,
    minutes=3,
    solution='"C"',
    praise="Open is a verdict too. More seeds can close it; more confidence cannot.",
    asks="one of A, B, C and D, in quotes",
)


def written(number, factor):
    product = number * factor
    return [product // 10**place % 10 for place in range(4)]


def _digits(given: Any) -> tuple[float, ...]:
    values = [*given] if hasattr(given, "__iter__") and np.ndim(given) == 1 else []
    numbers = [as_number(value) for value in values]
    if len(numbers) != 4 or None in numbers:
        raise Wrong(f"it must return four digits, ones first; this returned {brief(given)}.")
    return tuple(number for number in numbers if number is not None)


function_asked(
    "10.5",
    "What is left of a number when it is divided by 10 is its ones.",
    "product // 100 % 10 is the hundreds: what is left of the whole hundreds.",
    difficulty=1,
    minutes=4,
    solution=written,
    praise="With the ones first, a digit of the product and the carry that it leaves are known "
    "before the next digit is written.",
    cases=lambda: [(347, 8), (5, 4), (0, 7), (999, 9), (60, 2)],
    mistakes=(
        (
            lambda a, b: written(a, b)[::-1],
            "that has the thousands first; the model writes the ones first.",
        ),
        (
            lambda a, b: [*(a // 10**place % 10 * b % 10 for place in range(3)), 0],
            "the carry is lost: 7 × 8 leaves a 5 for the tens.",
        ),
    ),
    words="for {} and {} it is {wanted[0]}, {wanted[1]}, {wanted[2]}, {wanted[3]}, not "
    "{found[0]:g}, {found[1]:g}, {found[2]:g}, {found[3]:g}.",
    read=_digits,
)


PARAMETERS, ACTIVE = 166_208, 80_192
ENTRY_BITS = math.log2(10_000)

number_asked(
    "10.6",
    round(2 * PARAMETERS / ENTRY_BITS),
    {
        round(2 * ACTIVE / ENTRY_BITS): "that counts the active parameters; a fact may lie in any "
        "expert, so all of them count.",
        round(PARAMETERS / ENTRY_BITS): "a parameter holds two bits.",
        round(2 * PARAMETERS / math.log(10_000)): "that is with the natural logarithm; bits are "
        "to base 2.",
        round(2 * PARAMETERS / 4): "a decimal digit is more than one bit: 10,000 numbers are "
        "told apart by log2 10,000 bits.",
    },
    "How many bits tell one of 10,000 numbers from the others?",
    "It is 2 × 166,208 bits over log2 10,000 bits an entry.",
    difficulty=2,
    minutes=5,
    solution="2 * 166_208 / np.log2(10_000)",
    praise="Far more than our models recall: two bits a parameter are what the best recipe "
    "reaches when each fact is read a thousand times. In a short training the time is up first.",
    tolerance=100,
)
