"""A decoder-only transformer: pre-norm, rotary positions, SwiGLU; any block's FFN dense or MoE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeviz.checks import LARGEST_SEED, check_number, check_whole
from moeviz.model.attention import Attention, Cache
from moeviz.model.config import ModelConfig
from moeviz.model.division import Division
from moeviz.model.layer import DenseFFN, MoEFFN
from moeviz.model.scale import fix_scales
from moeviz.ops import can_look
from moeviz.routing import BaseRouter, RouteContext, RouterOut


@dataclass(frozen=True)
class ModelOut:
    """logits: float [B, S, V]; routes: one RouterOut per block, None for a dense one."""

    logits: Tensor
    routes: tuple[RouterOut | None, ...]


@dataclass(frozen=True)
class LossOut:
    """loss: nats of each token that is worked on here, float [B, S]; routes: as in ModelOut."""

    loss: Tensor
    routes: tuple[RouterOut | None, ...]


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    division = Division()

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.attention = Attention(config.d_model, config.num_heads, config.rope_base)
        self.ffn_norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.ffn: nn.Module
        if config.is_moe(layer):
            assert config.moe is not None
            self.ffn = MoEFFN(config.d_model, config.moe)
        else:
            self.ffn = DenseFFN(config.d_model, config.d_ff, config.ffn_scale)

    def forward(
        self, x_BSD: Tensor, context: RouteContext, start: int, cache: Cache | None
    ) -> tuple[Tensor, RouterOut | None]:
        def attend(x_bSD: Tensor, _: int) -> tuple[Tensor]:
            return (x_bSD + self.attention(self.attention_norm(x_bSD), start, cache, self.layer),)

        # A cache grows by all sequences at once.
        pieces = self.division.in_pieces(attend, x_BSD) if cache is None else attend(x_BSD, 0)
        x_BSD = pieces[0]
        y_TD, route = self.ffn(self.ffn_norm(x_BSD).flatten(0, 1), context)
        return x_BSD + y_TD.view_as(x_BSD), route


class LanguageModel(nn.Module):
    """Token ids [B, S] to next-token logits [B, S, V], with every block's routing beside them."""

    division = Division()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.normal_(self.head.weight, std=config.d_model**-0.5)
        # Each block adds twice to the residual stream: scaling the additions by 1/sqrt(2L) keeps
        # its variance from growing with depth (GPT-2, Radford et al. 2019).
        scale = (2 * config.num_layers) ** -0.5
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("attention.out.weight", "w2_DF", "w2_EDF")):
                weight.data.mul_(scale)
        if config.ffn_scale is not None:
            ffns = [self.blocks[layer].ffn for layer in config.moe_layers]
            fix_scales(self, ffns, config.vocab_size, config.ffn_scale)

    def routers(self) -> dict[int, BaseRouter]:
        """The router of each block that has experts, by the block's number."""
        return {layer: self.blocks[layer].ffn.router for layer in self.config.moe_layers}

    def forward(
        self,
        tokens_BS: Tensor,
        *,
        cache: Cache | None = None,
        generator: torch.Generator | None = None,
        targets_BS: Tensor | None = None,
        padding: int = 0,
    ) -> ModelOut | LossOut:
        """generator: the source of the routers' noise. With a cache, tokens_BS go on from the
        tokens already in it. targets_BS: then the loss of each comes back, not the logits.
        padding: so many last sequences fill the batch up and count for nothing. ValueError on an id
        outside the vocabulary."""
        batch, seq_len = tokens_BS.shape
        if can_look(tokens_BS) and tokens_BS.numel():
            low, high = (int(index) for index in tokens_BS.aminmax())
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(
                    f"Token ids must lie in 0..{self.config.vocab_size - 1}, the vocabulary, got "
                    f"{low if low < 0 else high}."
                )
        start = cache.length if cache is not None else 0
        rows_B = torch.arange(batch, device=tokens_BS.device)
        columns_S = torch.arange(start, start + seq_len, device=tokens_BS.device)
        before_B1 = tokens_BS.new_full((batch, 1), -1)
        if cache is not None:
            before_B1 = before_B1 if cache.last_B1 is None else cache.last_B1
            cache.last_B1 = tokens_BS[:, -1:]
        context = RouteContext(
            token_ids=tokens_BS.flatten(),
            previous_ids=torch.cat((before_B1, tokens_BS[:, :-1]), dim=1).flatten(),
            sequence=rows_B[:, None].expand(batch, seq_len).flatten(),
            position=columns_S.expand(batch, seq_len).flatten(),
            mask=(rows_B < batch - padding).repeat_interleave(seq_len) if padding else None,
            training=self.training,
            generator=generator,
        )
        x_BSD = self.embedding(self.division.own_rows(tokens_BS))
        routes: list[RouterOut | None] = []
        for block in self.blocks:
            x_BSD, route = block(x_BSD, context, start, cache)
            routes.append(route)
        if targets_BS is None:
            return ModelOut(self.head(self.norm(x_BSD)), tuple(routes))
        own_BS = self.division.own_rows(targets_BS)

        def loss(x_bSD: Tensor, row: int) -> tuple[Tensor]:
            return (token_loss(self.head(self.norm(x_bSD)), own_BS[row : row + len(x_bSD)]),)

        (loss_BS,) = self.division.in_pieces(loss, x_BSD)
        return LossOut(loss_BS, tuple(routes))

    @torch.no_grad()
    def generate(
        self, prompt_S: Tensor, num_tokens: int, *, temperature: float = 1.0, seed: int = 0
    ) -> Tensor:
        """The prompt and num_tokens more, int64 [S + num_tokens], with a key-value cache.

        temperature 0 takes the likeliest token. A router that is causal outside training alone
        decides by its stated substitute. Raises ValueError on an empty prompt, and for a router
        that has none: it would have to see tokens that do not exist yet.
        """
        if prompt_S.numel() == 0:
            raise ValueError("The prompt is empty; give at least one token to go on from.")
        check_whole("num_tokens", num_tokens, low=0)
        check_number("temperature", temperature)
        check_whole("seed", seed, low=0, high=LARGEST_SEED)
        for router in self.routers().values():
            if why := router.cannot_generate():
                assert self.config.moe is not None
                raise ValueError(f"The router {self.config.moe.router!r} cannot generate: {why}.")
        generator = torch.Generator().manual_seed(seed)
        cache = Cache(self.config.num_layers)
        tokens, fresh = prompt_S.clone(), prompt_S
        with self.evaluating():
            for _ in range(num_tokens):
                logits_V = self(fresh[None], cache=cache).logits[0, -1].float().cpu()
                if temperature == 0:
                    fresh = logits_V.argmax()[None]
                else:
                    probability_V = (logits_V / temperature).softmax(-1)
                    fresh = torch.multinomial(probability_V, 1, generator=generator)
                fresh = fresh.to(tokens)
                tokens = torch.cat((tokens, fresh))
        return tokens

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """In evaluation mode within, and afterwards in the mode that it was in."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def load_arrays(self, arrays: dict[str, np.ndarray], path: str | Path) -> None:
        """Take the parameters of a checkpoint's arrays ("model.<name>"); ValueError, naming the
        path, where they do not fit."""
        state = {k.removeprefix("model."): v for k, v in arrays.items() if k.startswith("model.")}
        want = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        if {name: value.shape for name, value in state.items()} != want:
            raise ValueError(f"{path} does not fit the model that its own header describes.")
        self.load_state_dict({name: torch.from_numpy(v.copy()) for name, v in state.items()})

    def num_parameters(self) -> int:
        """Of the whole model, experts in other processes included."""
        elsewhere = (self.blocks[n].ffn.num_parameters_elsewhere() for n in self.config.moe_layers)
        return sum(parameter.numel() for parameter in self.parameters()) + sum(elsewhere)

    def num_active_parameters(self) -> int:
        """Parameters that one token uses: everything but the experts it does not visit."""
        idle = (self.blocks[n].ffn.num_idle_parameters() for n in self.config.moe_layers)
        return self.num_parameters() - sum(idle)


def token_loss(logits_BSV: Tensor, targets_BS: Tensor) -> Tensor:
    """Nats of each token, at least in float32."""
    logits_BSV = logits_BSV.to(torch.promote_types(logits_BSV.dtype, torch.float32))
    target_T = targets_BS.flatten()
    loss_T = F.cross_entropy(logits_BSV.flatten(0, 1), target_T, reduction="none")
    return loss_T.view_as(targets_BS)
