"""Attention over the tokens before, and the keys and values that are kept of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cache:
    """Keys and values of the tokens already seen, per layer [B, H, S, D/H]."""

    def __init__(self, num_layers: int) -> None:
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * num_layers
        self.last_B1: Tensor | None = None  # the last token id of each sequence

    @property
    def length(self) -> int:
        return 0 if self.layers[0] is None else self.layers[0][0].shape[2]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.layers[layer]
        if seen is not None:
            key, value = torch.cat((seen[0], key), 2), torch.cat((seen[1], value), 2)
        self.layers[layer] = (key, value)
        return key, value


class Attention(nn.Module):
    """Causal multi-head attention with rotary positions (RoPE, Su et al. 2021)."""

    def __init__(self, d_model: int, num_heads: int, rope_base: float) -> None:
        super().__init__()
        self.num_heads, self.base = num_heads, rope_base
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x_BSD: Tensor, start: int, cache: Cache | None, layer: int) -> Tensor:
        batch, seq_len, d_model = x_BSD.shape
        qkv = self.qkv(x_BSD).view(batch, seq_len, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = self._rotate(query, start), self._rotate(key, start)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        # With a cache the mask is a lower-right triangle: query s sees keys 0..start+s.
        mask = None
        if start and seq_len > 1:
            mask = torch.ones(seq_len, start + seq_len, dtype=torch.bool, device=x_BSD.device)
            mask = mask.tril(diagonal=start)
        y = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=start == 0 and seq_len > 1
        )
        return self.out(y.transpose(1, 2).reshape(batch, seq_len, d_model))

    def _rotate(self, x_BHSd: Tensor, start: int) -> Tensor:
        seq_len, width = x_BHSd.shape[-2:]
        position_S = torch.arange(start, start + seq_len, device=x_BHSd.device).float()
        frequency = self.base ** (-torch.arange(0, width, 2, device=x_BHSd.device).float() / width)
        angle = position_S[:, None] * frequency
        cos, sin = angle.cos().to(x_BHSd.dtype), angle.sin().to(x_BHSd.dtype)
        a, b = x_BHSd.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
