"""Exercises of 04_collapse."""

from __future__ import annotations

from typing import Any

from moeviz.exercises.answers import as_names
from moeviz.exercises.exercise import Wrong, exercise, number_asked
from moeviz.experiments.cures import recorded
from moeviz.pictures.training.cures_told import BASE, cures_of, failing
from moeviz.records.metrics import max_violation

EXPERTS, TOKENS, STEPS = 16, 1024, 300
BOUND = 1.0  # MaxVio of a batch, mean of the last 50: the sign rule has 0.6, chance alone 0.3


number_asked(
    "04.1",
    7,
    {
        8: "that is the largest load over the mean load; an even load must give 0.",
        2: "that is how many experts are in effect.",
        0: "the two are even among themselves, but the mean is over all 16 experts.",
        15: "that is one expert taking all; here two share.",
    },
    "MaxVio = largest load / mean load - 1.",
    "The mean is over all 16 experts; what is the largest load?",
    difficulty=1,
    minutes=2,
    solution="512 / 64 - 1",
    praise="With two experts in effect out of 16, MaxVio can be 7 at the least: E / 2 - 1.",
)


@exercise(
    "04.2",
    "The column 'collapsed' of the picture counts them.",
    "The base case is no cure. A cure counts where exactly half of its runs collapsed, too.",
    difficulty=1,
    minutes=2,
    asks="a list of names",
    solution="failing(recorded())",
    praise="Not all that is built into routers against instability is against imbalance.",
)
def fail(answer: Any) -> str | None:
    arms, wanted = recorded()["arms"], failing(recorded())
    names = as_names(answer, [BASE, *cures_of(recorded())])
    if isinstance(names, str):
        return names
    for name in names:
        if name == BASE:
            return f"'{BASE}' is no cure: it is what the cures are compared with."
        if name not in wanted:
            fell = f"{arms[name]['collapsed']} of {arms[name]['runs']} runs collapsed"
            return f"under '{name}' {fell}: fewer than half."
    missing = len({*wanted} - {*names})
    if missing:
        verb = "have" if missing > 1 else "has"
        return f"{missing} more of the cures {verb} at least half of the runs collapsed."
    return None


def simulate(update: Any) -> tuple[list[float], float]:
    """Let the package's top-1 router choose among 16 experts, some of them favourites of all
    tokens, and after each batch of 1,024 tokens replace its selection bias by
    update(bias_E, load_E). Returns every batch's MaxVio and that of the last 50 batches together.
    Wrong where update returns no bias."""
    import torch

    from moeviz.routing import RouteContext, build_router
    from moeviz.watch.routers import one_thread

    generator = torch.Generator().manual_seed(0)
    router = build_router(
        "token_choice", d_model=EXPERTS, num_experts=EXPERTS, top_k=1, weighting="raw", bias="sign"
    )
    router.weight_ED.data = torch.eye(EXPERTS)
    favour_E = torch.linspace(1.5, -1.5, EXPERTS)
    loads = []
    for _ in range(STEPS):
        with torch.no_grad(), one_thread():
            x_TD = torch.randn(TOKENS, EXPERTS, generator=generator) + favour_E
            load_E = router(x_TD, RouteContext(training=True)).plan.load()
        loads.append(load_E.numpy())
        bias_E = update(router.bias.bias_E.clone(), load_E.float())
        if not isinstance(bias_E, torch.Tensor) or bias_E.shape != (EXPERTS,):
            shape = list(bias_E.shape) if isinstance(bias_E, torch.Tensor) else repr(bias_E)
            raise Wrong(f"update must return the new bias, a tensor [{EXPERTS}], not {shape}.")
        if not torch.isfinite(bias_E).all():
            raise Wrong("the bias it returns holds numbers that are not finite.")
        router.bias.bias_E.copy_(bias_E)
    return [max_violation(load_E) for load_E in loads], max_violation(sum(loads[-50:]))


def update(bias_E, load_E):
    return bias_E + 0.01 * (load_E.mean() - load_E).sign()


@exercise(
    "04.3",
    "Who has more than the mean load must get less bias: what has the sign of mean - load?",
    "How large a step? The scores lie between 0 and 1, and there are 300 steps to go.",
    difficulty=2,
    minutes=8,
    solution=update,
    praise="MaxVio is at most 1, without a gradient, and the weights never see the bias. Wang et "
    "al. (2024) step by the sign of mean - load, each time by the same amount.",
    start="def update(bias_E, load_E):\n    return bias_E",
)
def bias_rule(answer: Any) -> str | None:
    each, together = simulate(answer)
    before, after = each[0], sum(each[-50:]) / 50
    if after > BOUND and together < 0.5 * after:
        return (
            f"the load swings from batch to batch (MaxVio {after:.1f}, while 50 batches together "
            f"have {together:.1f}): take smaller steps."
        )
    if after > 1.3 * before:
        return f"MaxVio rises from {before:.1f} to {after:.1f}: the busy get busier. Mind the sign."
    if after > 0.7 * before:
        return f"MaxVio stays where it was: {before:.1f} at first, {after:.1f} after {STEPS} steps."
    if after > BOUND:
        return (
            f"it is on its way, but too slow: MaxVio {before:.1f} at first, {after:.1f} after "
            f"{STEPS} steps; at most {BOUND:g} is asked for."
        )
    return None


def balance(scores_TE, expert_T):
    num_experts = scores_TE.shape[1]
    share_E = expert_T.bincount(minlength=num_experts) / len(expert_T)
    return num_experts * (share_E * scores_TE.mean(0)).sum()


@exercise(
    "04.4",
    "f_e is the share of tokens that chose e; P_e the mean of scores_TE[:, e].",
    "Counts carry no gradient, mean scores do: the product of both is summed over the experts.",
    difficulty=2,
    minutes=8,
    solution=balance,
    praise="Value and gradient at the logits are those of the package's load_balancing_loss.",
)
def balancing_loss(answer: Any) -> str | None:
    import torch

    generator = torch.Generator().manual_seed(0)
    even_TE = torch.full((32, 8), 1 / 8, requires_grad=True)
    value = answer(even_TE, torch.arange(32) % 8)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        return "it must return one number, as a tensor."
    if abs(value.item() - 1) > 1e-4:
        return f"on an even load with even scores it must give 1, this gives {value.item():.3f}."
    for lean in (0.0, 3.0):
        logits_TE = torch.randn(32, 8, generator=generator) + lean * torch.eye(8)[0]
        logits_TE.requires_grad_()
        scores_TE = logits_TE.softmax(-1)
        expert_T = (logits_TE.argmax(-1) + 1) % 8  # a bias may choose another than the best score
        loss, wanted = (rule(scores_TE, expert_T) for rule in (answer, balance))
        if not loss.requires_grad:
            return "it carries no gradient: counts have none, the mean scores have."
        if not torch.isclose(loss, wanted, atol=1e-4):
            return (
                f"where experts are chosen unevenly it gives {loss.item():.3f} instead of "
                f"{wanted.item():.3f}: both the counts and the scores belong into it."
            )
        # At the logits: a number added to all scores of a token is none that a softmax can feel.
        slope, slope_wanted = (
            torch.autograd.grad(v, logits_TE, retain_graph=True)[0] for v in (loss, wanted)
        )
        if not torch.allclose(slope, slope_wanted, atol=1e-6, rtol=1e-4):
            return "its value is right, its gradient is not."
    return None


def z_loss(logits_TE):
    return logits_TE.logsumexp(dim=1).square().mean()


def _z_mistakes() -> list[tuple[Any, str]]:
    """Other losses, and what each is told."""
    return [
        (lambda z: z.logsumexp(1).mean(), "the logsumexp of each token must be squared."),
        (lambda z: z.logsumexp(1).mean().square(), "square first, then take the mean of tokens."),
        (lambda z: z.logsumexp(1).square().sum(), "take the mean over tokens, not their sum."),
        (lambda z: z.logsumexp(0).square().mean(), "sum over the experts of a token, not over "
         "tokens."),
        (lambda z: z.square().mean(), "that is the mean square of the logits; it needs their "
         "logsumexp."),
        (lambda z: z.softmax(1).logsumexp(1).square().mean(), "logits go in as they are: no "
         "softmax before."),
    ]  # fmt: skip


@exercise(
    "04.5",
    "A token's logits become one number: the logarithm of the sum of their exponentials.",
    "exp of a logit of 100 is no float32 any more: torch has a logsumexp that subtracts the "
    "largest one first.",
    difficulty=1,
    minutes=4,
    solution=z_loss,
    praise="It is the package's z-loss, for large logits too. It keeps logits small; it does not "
    "balance.",
    mistakes=_z_mistakes(),
)
def z_loss_fault(answer: Any) -> str | None:
    import torch

    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 3.0, 200.0):
        logits_TE = scale * torch.randn(24, 6, generator=generator)
        loss, wanted = answer(logits_TE.clone().requires_grad_()), z_loss(logits_TE)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            return "it must return one number, as a tensor."
        if not torch.isfinite(loss):
            return f"with logits of about {scale:g} it gives {loss.item()}: exp is too large there."
        if not torch.isclose(loss, wanted, rtol=1e-4):
            return next(
                (
                    words
                    for other, words in _z_mistakes()
                    if torch.isclose(loss, other(logits_TE), rtol=1e-4)
                ),
                f"with logits of about {scale:g} it gives {loss.item():.4g} instead of "
                f"{wanted.item():.4g}.",
            )
    if not loss.requires_grad:
        return "it carries no gradient, so nothing would be kept small."
    return None
