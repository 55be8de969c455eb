"""AdamW as torch has it, without torch's compiler, which its own first step imports."""

from __future__ import annotations

import inspect

import torch

_OWN = torch.optim.AdamW


class AdamW(_OWN):
    """torch.optim.AdamW, the same to the last bit, where the optimiser itself is not compiled.

    torch's own methods are wrapped in what torch.compile must know of them; that imports
    torch._dynamo, which takes a second of every process that trains."""

    add_param_group = inspect.unwrap(_OWN.add_param_group)
    zero_grad = inspect.unwrap(_OWN.zero_grad)
    state_dict = inspect.unwrap(_OWN.state_dict)
    load_state_dict = inspect.unwrap(_OWN.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(_OWN.step))
