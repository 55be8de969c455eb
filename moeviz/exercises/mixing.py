"""Exercises of 14_many_models_in_one on mixing: who wrote a prompt, and what a stream loads."""

from __future__ import annotations

import numpy as np

from moeviz.exercises.exercise import function_asked, number_asked


def mixed(loss_MS, prompt):
    score_M = -loss_MS[:, :prompt].sum(1)
    weight_M = np.exp(score_M - score_M.max())
    weight_M = weight_M / weight_M.sum()
    probability_S = weight_M @ np.exp(-loss_MS[:, prompt:])
    return -np.log(probability_S).mean()


def _weights(loss_MS: np.ndarray, score_M: np.ndarray) -> np.ndarray:
    weight_M = np.exp(score_M - score_M.max())
    return np.asarray(weight_M / weight_M.sum())


def _mean_of_losses(loss_MS: np.ndarray, prompt: int) -> float:
    weight_M = _weights(loss_MS, -loss_MS[:, :prompt].sum(1))
    return float((weight_M @ loss_MS[:, prompt:]).mean())


def _mean_scores(loss_MS: np.ndarray, prompt: int) -> float:
    weight_M = _weights(loss_MS, -loss_MS[:, :prompt].mean(1))
    return float(-np.log(weight_M @ np.exp(-loss_MS[:, prompt:])).mean())


def _looks_ahead(loss_MS: np.ndarray, prompt: int) -> float:
    weight_M = _weights(loss_MS, -loss_MS.sum(1))
    return float(-np.log(weight_M @ np.exp(-loss_MS[:, prompt:])).mean())


def _wrong_way(loss_MS: np.ndarray, prompt: int) -> float:
    weight_M = _weights(loss_MS, loss_MS[:, :prompt].sum(1))
    return float(-np.log(weight_M @ np.exp(-loss_MS[:, prompt:])).mean())


def _unscaled(loss_MS: np.ndarray, prompt: int) -> float:
    weight_M = np.exp(-loss_MS[:, :prompt].sum(1))
    return float(-np.log(weight_M @ np.exp(-loss_MS[:, prompt:])).mean())


def _likeliest(loss_MS: np.ndarray, prompt: int) -> float:
    return float(loss_MS[loss_MS[:, :prompt].sum(1).argmin(), prompt:].mean())


def _even(loss_MS: np.ndarray, prompt: int) -> float:
    return float(-np.log(np.exp(-loss_MS[:, prompt:]).mean(0)).mean())


def _texts() -> list[tuple[np.ndarray, int]]:
    """Models of which none is much likelier than all others to have written the prompt."""
    rng = np.random.default_rng(148)
    shapes = ((3, 12, 4), (2, 9, 2), (5, 20, 6))
    return [(rng.uniform(1, 2.5, (models, tokens)), prompt) for models, tokens, prompt in shapes]


function_asked(
    "14.8",
    "The probability that a model gives to the whole prompt is the product of what it gives to "
    "each token; its logarithm is minus the sum of its losses there.",
    "Divide each model's probability of the prompt by the sum over models: these are the weights. "
    "Add up the probabilities of a later token by these weights, and only then take the logarithm.",
    difficulty=2,
    minutes=8,
    solution=mixed,
    praise="That is Branch-Train-Merge's ensemble: nothing was trained to choose.",
    cases=_texts,
    mistakes=(
        (_mean_of_losses, "that averages losses; a mixture averages probabilities."),
        (_mean_scores, "that takes the mean over the prompt; the prompt's probability is a product "
         "over all of its tokens."),
        (_looks_ahead, "the weights have seen the tokens that they are to foretell."),
        (_wrong_way, "the model that loses most on the prompt gets most weight."),
        (_unscaled, "the weights do not sum to 1: divide each by the sum over the models."),
        (_likeliest, "that is the likeliest model alone; a mixture has a part of each."),
        (_even, "all models weigh alike there, whatever the prompt says."),
    ),
    words="of {0.shape[0]} models and a prompt of {1} tokens the mixture does not lose that.",
)  # fmt: skip

number_asked(
    "14.9",
    8,
    {
        4: "that counts one layer; each of the two layers loads an expert of its own.",
        12: "two texts of one topic in a row need no new experts.",
        6: "the first topic's expert is gone when its text comes again: there is room for one.",
        10: "two of the texts follow one of their own topic, and not only one.",
    },
    "Go from text to text: is the expert that it asks for the one that a layer still holds?",
    "A layer loads for the first text, and for every text of another topic than the one before.",
    difficulty=1,
    minutes=3,
    solution="2 * (1 + 3)  # two layers; the first text and three changes of the topic",
    praise="Gathered by topic, the same six texts would need 6 loads.",
)
