"""Places that hold a constant, by which a norm that our models do not have changes nothing.

Some formats put an RMSNorm, y = w x / rms(x), where ours have none. It cannot be left out, but it
can be made to multiply by a constant. Beside the real numbers stand as many further places. Half of
these, a quarter of all, always hold PAD, given by a bias. Then rms(x) = PAD / 2 whatever the real
numbers are: they are so much smaller that they do not reach the last bit of a float32. The weight
PAD / 2 undoes the division for the real numbers, and the weight 0 takes the further places away
again. So such a checkpoint is wider than the model, and computes the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moeviz.model.attention import Attention
from moeviz.model.export.parts import heads_of

PAD = 2.0**20  # a power of two: neither the division nor what undoes it rounds


def widened_attention(attention: Attention) -> dict[str, Tensor]:
    """The attention with heads of twice the width, 2d, for a format that norms queries and keys.

    A head's numbers come in two halves, of which a rotation turns each a with its b. They are laid
    out as [a, d/2 further places, b, d/2 further places], so that a and b are d apart: the format
    turns the numbers that are half of its width apart. The norms' weights are those of one head.
    """
    heads, d = attention.num_heads, attention.qkv.in_features // attention.num_heads
    pad_2d = torch.zeros(2, d)
    pad_2d[0, d // 2 :] = PAD
    real_2d = torch.zeros(2, d)
    real_2d[:, : d // 2] = PAD / 2
    zero = torch.zeros(2 * heads * d)
    tensors = {}
    for name, heads_HdD in zip("qkv", heads_of(attention), strict=True):
        tensors[f"{name}_proj.weight"] = _with_places(heads_HdD)
        tensors[f"{name}_proj.bias"] = zero if name == "v" else pad_2d.flatten().repeat(heads)
    out_HdD = attention.out.weight.T.unflatten(0, (heads, d))
    return {
        **tensors,
        "o_proj.weight": _with_places(out_HdD).T,
        "o_proj.bias": torch.zeros(attention.out.out_features),
        # The format divides scores by sqrt(2d), and ours by sqrt(d).
        "q_norm.weight": real_2d.flatten() * 2**0.5,
        "k_norm.weight": real_2d.flatten(),
    }


def _with_places(heads_HdD: Tensor) -> Tensor:
    """Rows for the further places behind each half of a head: [H * 2d, D]."""
    halves = heads_HdD.unflatten(1, (2, -1))
    return F.pad(halves, (0, 0, 0, halves.shape[2])).flatten(0, 2)
