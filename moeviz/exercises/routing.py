"""Exercises of 03_routing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moeviz.exercises.answers import as_names, as_truth
from moeviz.exercises.exercise import exercise, number_asked

if TYPE_CHECKING:
    from torch import Tensor

    Route = Callable[[Tensor], Tensor]

# Why each router may, or may not, route a text while it is being written.
CAUSAL = {
    "switch": "first come, first served: a later token takes no earlier one's place.",
    "hash": "the token's own id says it all.",
    "expert_threshold": "its thresholds come from earlier training steps, not from this text.",
}
AHEAD = {
    "gshard": "all first choices are placed before any second one, those of later tokens too.",
    "expert_choice": "an expert ranks all tokens of the text, the later ones too.",
    "soft_moe": "every slot is a mixture of all tokens, the later ones too.",
}


@exercise(
    "03.1",
    "Ask of each: could a token that is not written yet change what was decided before?",
    "Press the six in the panel: a decision that later tokens changed carries the mark ↓.",
    difficulty=2,
    minutes=4,
    asks="a list of names",
    solution='["switch", "hash", "expert_threshold"]',
    praise="A model trained with one of these generates by the very rule it was trained with.",
)
def causal_ones(answer: Any) -> str | None:
    names = as_names(answer, CAUSAL | AHEAD)
    if isinstance(names, str):
        return names
    for name, reason in AHEAD.items():
        if name in names:
            return f"{name} cannot: {reason}"
    missing = [reason for name, reason in CAUSAL.items() if name not in names]
    return f"one that can is missing: there, {missing[0]}" if missing else None


number_asked(
    "03.2",
    35,
    {
        0: "every expert is filled, but nothing says that every token is taken.",
        5: "that is how many are served in the worst case.",
        32: "all experts may agree on the very same tokens: count those that are left then.",
        34: "that is the worst case where the scores of a token sum to 1 (softmax over experts): "
        "no five tokens can lead all 8 columns there. With a sigmoid they can.",
        40: "every expert takes 5 tokens, so some are served.",
    },
    "How many tokens does one expert take?",
    "How few tokens can all the choices of all experts fall on?",
    difficulty=2,
    minutes=3,
    solution="40 - 40 // 8",
    praise="An even load says nothing about the tokens. On real text it is fewer, and never "
    "guaranteed.",
)


# 03.3: routes with and without a look ahead, each x_TD -> weight_TE.


def _routes() -> list[tuple[str, bool, Route]]:
    """What it is, whether it sees later tokens, and the function itself."""
    import torch

    def score(x_TD: Tensor) -> Tensor:
        return x_TD[:, :4].softmax(-1)

    def best(x_TD: Tensor) -> Tensor:
        score_TE = score(x_TD)
        return score_TE * (score_TE == score_TE.amax(1, keepdim=True))

    def so_far(x_TD: Tensor) -> Tensor:
        count_T1 = torch.arange(1, len(x_TD) + 1)[:, None]
        return score(x_TD.cumsum(0) / count_T1)

    def expert_choice(x_TD: Tensor) -> Tensor:
        score_TE = score(x_TD)
        capacity = -(-len(x_TD) // 4)  # a text of one token has room too
        bar_1E = score_TE.topk(capacity, dim=0).values[-1:]
        return score_TE * (score_TE >= bar_1E)

    def one_set(x_TD: Tensor) -> Tensor:
        return best(x_TD.mean(0, keepdim=True).expand_as(x_TD))

    def pairs(x_TD: Tensor) -> Tensor:
        paired = min(8, len(x_TD) // 2 * 2)
        pair_PD = x_TD[:paired].unflatten(0, (-1, 2)).mean(1)
        return score(torch.cat((pair_PD.repeat_interleave(2, 0), x_TD[paired:])))

    return [
        ("token choice", False, best),
        ("a router by the mean of the tokens so far", False, so_far),
        ("expert choice", True, expert_choice),
        ("one set of experts for the whole text", True, one_set),
        ("a router that takes the first tokens in pairs", True, pairs),
    ]


@exercise(
    "03.3",
    "Copy x_TD, change the rows from a cut on, route again, compare the rows before the cut.",
    "One cut can miss: try them all. One difference is enough.",
    difficulty=3,
    minutes=12,
    asks="a function sees_later(route, x_TD)",
    solution="def sees_later(route, x_TD):\n"
    "    before_TE = route(x_TD)\n"
    "    for cut in range(1, len(x_TD)):\n"
    "        changed_TD = x_TD.clone()\n"
    "        changed_TD[cut:] = -2 * x_TD[cut:]\n"
    "        if not torch.allclose(route(changed_TD)[:cut], before_TE[:cut]):\n"
    "            return True\n"
    "    return False",
    praise="Such a probe puts the mark ↓ into the panel.",
)
def probe(answer: Any) -> str | None:
    import torch

    for seed in range(3):
        x_TD = torch.randn(24, 6, generator=torch.Generator().manual_seed(seed))
        for name, wanted, route in _routes():
            given = answer(route, x_TD.clone())
            found = as_truth(given)
            if found is None:
                return f"it must return True or False, not a {type(given).__name__}."
            if found == wanted:
                continue
            if wanted:
                return (
                    f"{name} sees later tokens, and this did not catch it: replace the tokens "
                    "behind a cut by others and compare the rows before it, at every cut."
                )
            if name == "token choice":
                return (
                    f"{name} was accused, though no token there knows of another: only rows before "
                    "the cut may be compared."
                )
            return f"{name} was accused, though it knows nothing of later ones: leave those alone."
    return None


# 03.4: a router of one's own.

BAR = 0.25  # a float32 holds it exactly, so that every way to compare says the same
PLAIN = """
def careful(scores_TE):
    best_TK, expert_TK = scores_TE.topk(2)
    weight_TK = best_TK / best_TK.sum(-1, keepdim=True)
    return torch.zeros_like(scores_TE).scatter(1, expert_TK, weight_TK)
""".strip()


@exercise(
    "03.4",
    "Start with the two best. Which of the second ones must go, and what is then left to "
    "renormalise?",
    "topk may return tied experts in any order; a sort that is stable keeps the lower number "
    "first.",
    difficulty=2,
    minutes=10,
    asks="a function careful(scores_TE)",
    start=PLAIN,
    solution="def careful(scores_TE):\n"
    "    best_TE, expert_TE = scores_TE.sort(dim=1, descending=True, stable=True)\n"
    "    best_TK, expert_TK = best_TE[:, :2], expert_TE[:, :2]\n"
    "    second_T = best_TK[:, 1] * (best_TK[:, 1] > 0.25)\n"
    "    best_TK = torch.stack((best_TK[:, 0], second_T), dim=1)\n"
    "    weight_TK = best_TK / best_TK.sum(-1, keepdim=True)\n"
    "    return torch.zeros_like(scores_TE).scatter(1, expert_TK, weight_TK)",
    praise="It works token by token, so it is causal; how many experts run now depends on the "
    "text.",
)
def careful(answer: Any) -> str | None:
    import torch

    for scores_TE in _score_cases():
        weight_TE = answer(scores_TE.clone())
        if not isinstance(weight_TE, torch.Tensor) or weight_TE.shape != scores_TE.shape:
            return f"it must return a tensor of weights {list(scores_TE.shape)}, as its scores are."
        if not torch.isfinite(weight_TE).all():
            return "some of its weights are no finite numbers: is there a token without any?"
        for score_E, weight_E in zip(scores_TE.tolist(), weight_TE.tolist(), strict=True):
            if fault := _careful_token(score_E, weight_E):
                return f"for the scores {[round(s, 3) for s in score_E]} {fault}"
    scores_TE = _score_cases()[0].requires_grad_()
    if not answer(scores_TE).requires_grad:
        return "the weights carry no gradient, so this router could not learn."
    return None


def _careful_token(score_E: list[float], weight_E: list[float]) -> str | None:
    ranked = sorted(range(len(score_E)), key=lambda e: (-score_E[e], e))
    wanted = ranked[: 2 if score_E[ranked[1]] > BAR else 1]
    chosen = sorted((e for e, w in enumerate(weight_E) if w != 0), key=ranked.index)
    if len(chosen) > 2:
        return f"it took {len(chosen)} experts; two are the most."
    if ranked[0] not in chosen and score_E[ranked[0]] > max(
        [score_E[e] for e in chosen], default=-1
    ):
        return f"expert {ranked[0]}, the best, must be taken."
    if len(chosen) > len(wanted):
        score = score_E[chosen[1]]
        where = "not above" if score == BAR else "below"
        return f"a second expert was taken, at a score of {score:.3f}, which is {where} {BAR}."
    if len(chosen) < len(wanted):
        return f"expert {wanted[1]} must be taken too: its score is above {BAR}."
    if chosen != wanted:
        return f"the lower number wins a tie: {sorted(wanted)}, not {sorted(chosen)}."
    total = sum(score_E[e] for e in wanted)
    if abs(sum(weight_E) - 1) > 1e-4:
        return f"the weights sum to {sum(weight_E):.2f}, not to 1."
    if any(abs(weight_E[e] - score_E[e] / total) > 1e-4 for e in wanted):
        return "the weights sum to 1, but not in the ratio of the scores."
    return None


def _score_cases() -> list[Tensor]:
    """Random scores, decided and undecided ones; and ties."""
    import torch

    draw = torch.Generator().manual_seed(0)
    random = [(s * torch.randn(40, 6, generator=draw)).softmax(-1) for s in (2.0, 0.3, 6.0)]
    ties = [
        [0.25, 0.25, 0.25, 0.25],
        [0.1, 0.45, 0.0, 0.45],
        [0.32, 0.34, 0.02, 0.32],
        [0.625, 0.25, 0.125, 0.0],
        [0.2, 0.2, 0.2, 0.4],
        [0.0, 0.0, 1.0, 0.0],
    ]
    return [*random, torch.tensor(ties)]


number_asked(
    "03.9",
    0.125,
    {
        1.0: "that is the sum of renormalised weights; these are raw.",
        1 / 64: "that is the weight of one expert; a token has 8 of them.",
        8.0: "with equal scores each weight is 1/64, not 1.",
        12.5: "give a share between 0 and 1, not per cent.",
    },
    "What is every score of a softmax over 64 equal logits?",
    "Raw weights are the chosen scores as they are: how many of them does a token have?",
    difficulty=1,
    minutes=2,
    tolerance=1e-6,
    solution="8 / 64",
    praise="At the start the logits are nearly equal, so that a layer with raw weights starts "
    "quiet; the more experts, the quieter.",
)
