"""Whole models as experts: M dense models that learned apart, put together.

1. experts: the models' FFNs become the experts of one MoE, all else is averaged, and a router must
   then be trained (Branch-Train-MiX, Sukhbaatar et al. 2024, 2403.07816)
2. whole models: a router weighs them for a text by its first tokens, and their probabilities are
   added up by these weights (Branch-Train-Merge, Li et al. 2022, 2208.03306); or the best is picked
3. one model of averaged weights ("model soup", Wortsman et al. 2022, 2203.05482)

Models of other shapes can be mixed as whole models alone, and only where they share a tokenizer:
probabilities of other tokens cannot be added up.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moeviz.checks import check_whole
from moeviz.model.adamw import AdamW
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing.hashing import Hash
from moeviz.surgery.calibration import AT_ONCE

# --- one model out of several ---------------------------------------------------------------------


def check_vocabulary(models: Sequence[LanguageModel]) -> None:
    """ValueError for fewer than two models, and for models of several vocabularies."""
    if len(models) < 2:
        raise ValueError(f"Give at least two models to put together, got {len(models)}.")
    sizes = [model.config.vocab_size for model in models]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"The models know {', '.join(f'{size:,}' for size in sizes)} tokens, so their "
            "tokenizers differ; only models of one tokenizer can be put together."
        )


def check_alike(models: Sequence[LanguageModel]) -> None:
    """ValueError as check_vocabulary, for models with experts, and for models of several shapes."""
    check_vocabulary(models)
    if any(model.config.moe_layers for model in models):
        raise ValueError("A model has experts of its own already; give dense models.")
    first = models[0].config.to_dict()
    for model in models[1:]:
        for name, value in model.config.to_dict().items():
            if value != first[name]:
                raise ValueError(
                    f"The models have other shapes: {name} is {first[name]} here and {value} "
                    "there; weights are put together where shapes are equal, whole models "
                    "wherever the tokenizer is."
                )


@torch.no_grad()
def average(models: Sequence[LanguageModel]) -> LanguageModel:
    """A dense model whose every weight is the mean of the models' own. ValueError as
    check_alike."""
    check_alike(models)
    averaged = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    averaged.load_state_dict(
        {name: _mean([state[name] for state in states]) for name in averaged.state_dict()}
    )
    return averaged


def _mean(values: Sequence[Tensor]) -> Tensor:
    """In float64: the mean of equal numbers is then that number, to the last bit."""
    return torch.stack(list(values)).double().mean(0).to(values[0].dtype)


@torch.no_grad()
def as_experts(
    models: Sequence[LanguageModel],
    *,
    top_k: int = 2,
    router: str = "token_choice",
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> LanguageModel:
    """An MoE of which expert m of every layer is the FFN of model m; attention, norms, embedding
    and head are averaged, and the router is new, drawn by `seed`. Where the weights of a token's
    experts sum to 1, equal models give the model back. ValueError as check_alike, and for a router
    that cannot be built so."""
    check_alike(models)
    first = models[0].config
    moe = MoEConfig(len(models), top_k, first.d_ff, router=router, options=options or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mixed = LanguageModel(dataclasses.replace(first, moe=moe))
    state, mean = mixed.state_dict(), average(models).state_dict()
    state |= {name: value for name, value in mean.items() if name in state}
    for layer in mixed.config.moe_layers:
        ffns, name = [model.blocks[layer].ffn for model in models], f"blocks.{layer}.ffn."
        state[name + "w13_E2FD"] = torch.stack([ffn.w13_2FD for ffn in ffns])
        state[name + "w2_EDF"] = torch.stack([ffn.w2_DF for ffn in ffns])
        if first.ffn_scale is not None:  # as loud as they are, whatever the new router starts with
            state[name + "factor_P"] = torch.tensor([float(first.ffn_scale)])
    mixed.load_state_dict(state)
    return mixed.to(next(models[0].parameters())).train(models[0].training)


@torch.no_grad()
def send_all_to(model: LanguageModel, expert: int) -> None:
    """Let every token visit this one expert of each layer, from now on: one set of experts for a
    text. ValueError for a router that is no table of token ids, and for an expert that is not
    there."""
    for router in model.routers().values():
        if not isinstance(router, Hash) or router.top_k > 1:
            raise ValueError(
                "Only a table of token ids can send all tokens to one expert; build the model by "
                "as_experts(models, router='hash', top_k=1)."
            )
        check_whole("expert", expert, 0, router.num_experts - 1)
        router.table_VK.fill_(expert)


# --- whole models ---------------------------------------------------------------------------------


class TextRouter(nn.Module):
    """How much each of M models counts for a text, by its first tokens alone.

    1. x_B = the mean embedding of the first tokens; the embeddings are given and stay
    2. log_weight_BM = log softmax(x_B W^T + b); W and b begin at 0: all models alike
    """

    table_VD: Tensor

    def __init__(self, table_VD: Tensor, num_models: int) -> None:
        super().__init__()
        check_whole("num_models", num_models, low=2)
        self.register_buffer("table_VD", table_VD.detach().clone())
        self.weight_MD = nn.Parameter(torch.zeros(num_models, table_VD.shape[1]))
        self.bias_M = nn.Parameter(torch.zeros(num_models))

    def forward(self, prompt_BP: Tensor) -> Tensor:
        """log_weight_BM for the first tokens of B texts. ValueError where there are none."""
        if prompt_BP.shape[1] == 0:
            raise ValueError("A router of texts needs at least one token of each, got none.")
        mean_BD = self.table_VD[prompt_BP].mean(1)
        return (mean_BD @ self.weight_MD.T + self.bias_M).log_softmax(-1)


def train_text_router(router: TextRouter, prompt_BP: Tensor, loss_MBS: Tensor) -> list[float]:
    """Train it on what the models lose after each prompt, loss_MBS, and on no name of a domain: by
    300 steps of AdamW on all texts at once, at a rate that falls from 0.05 to 0 in a straight line.
    Returns the mixture's loss at each step, nats per token."""
    steps, learning_rate = 300, 0.05
    optimizer = AdamW(router.parameters(), lr=learning_rate, weight_decay=0.0)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        loss = mixed_loss(loss_MBS, router(prompt_BP)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def token_losses(model: LanguageModel, ids_BS: Tensor) -> Tensor:
    """Nats of every token but the first: float [B, S], of ids int64 [B, S + 1]."""
    with model.evaluating():
        parts = [model(ids[:, :-1], targets_BS=ids[:, 1:]).loss for ids in ids_BS.split(AT_ONCE)]
    return torch.cat(parts)


def mixed_loss(loss_MBS: Tensor, log_weight_BM: Tensor) -> Tensor:
    """What the mixture loses at each token, [B, S]: -log sum_m w_m exp(-loss_m). With one weight of
    1 this is that model's loss, to the last bit."""
    return -torch.logsumexp(log_weight_BM.T[:, :, None] - loss_MBS, dim=0)


def by_prompt_loss(loss_MBP: Tensor) -> Tensor:
    """log_weight_BM by what each model loses on the prompt: the probability of each model to have
    written it, where all are as likely beforehand (Branch-Train-Merge). Nothing is trained."""
    return (-loss_MBP.sum(-1)).log_softmax(0).T


def best_alone(log_weight_BM: Tensor) -> Tensor:
    """The same with all weight on the model that has most of it."""
    best_B1 = log_weight_BM.argmax(-1, keepdim=True)
    return torch.full_like(log_weight_BM, -torch.inf).scatter(1, best_B1, 0.0)
