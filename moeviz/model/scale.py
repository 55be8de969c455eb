"""Fair scale: every FFN of a comparison starts with outputs of one variance.

The rule, one for all routers: when a model is built it reads a sample of random text, and each FFN
is multiplied from then on by the fixed factor that brings the variance of its output there to
`ffn_scale**2` times a plain dense FFN's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SEQUENCES, LENGTH, SEED = 16, 64, 0
REPEATED = 0.55  # of the tokens of a sequence are one of its earlier tokens again
# E[(silu(g) u)^2] of independent standard normal g and u: what a unit of a dense FFN starts with.
SWIGLU_SQUARE = 0.355776


def sample_text(vocab_size: int) -> Tensor:
    """Random ids int64 [SEQUENCES, LENGTH], of which some repeat an earlier one (Simon 1955): real
    text repeats itself about as much, and routers that mix tokens are louder where it does."""
    shape = (SEQUENCES, LENGTH)
    generator = torch.Generator("cpu").manual_seed(SEED)
    ids_BS = torch.randint(vocab_size, shape, generator=generator, device="cpu")
    repeats_BS = torch.rand(shape, generator=generator, device="cpu") < REPEATED
    place_BS = torch.rand(shape, generator=generator, device="cpu")
    for s in range(1, LENGTH):
        again_B1 = ids_BS.gather(1, (place_BS[:, s, None] * s).long())
        ids_BS[:, s] = torch.where(repeats_BS[:, s], again_B1[:, 0], ids_BS[:, s])
    return ids_BS


@torch.no_grad()
def fix_scales(
    model: nn.Module, ffns: Sequence[nn.Module], vocab_size: int, ffn_scale: float
) -> None:
    """Fix the scale of a model's MoE layers, first to last, each by what reaches it where the ones
    before it have their factors already. The process's random numbers stay as they are."""
    hooks = [
        ffn.register_forward_pre_hook(lambda ffn, args: ffn.fix_scale(ffn_scale, *args))
        for ffn in ffns
    ]
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        generator = torch.Generator(device).manual_seed(SEED)
        model(sample_text(vocab_size).to(device), generator=generator)
    for hook in hooks:
        hook.remove()


def factors_for(parts: Sequence[Tensor], targets: Sequence[float]) -> Tensor:
    """The factor that gives each part of an output its target as mean square, float32 [P].
    ValueError for a part that is zero everywhere."""
    squares = torch.stack([part.float().square().mean() for part in parts])
    if not bool((squares > 0).all()):
        raise ValueError(
            "A layer's experts add nothing at the start, so no factor gives them a scale; leave "
            "ffn_scale out, or change the router's options."
        )
    return (squares.new_tensor(targets) / squares).sqrt()
