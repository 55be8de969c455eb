"""The optimiser: torch's own to the last bit, and no compiler is imported for it."""

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.prose import prose
from moeviz.model.adamw import AdamW


def grouped(make, tensors, decay, fused):
    plain = [tensor for tensor in tensors if tensor.ndim == 1]
    rest = [tensor for tensor in tensors if tensor.ndim != 1]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": decay}]
    return make(groups, lr=1e-2, betas=(0.9, 0.95), fused=fused)


def step(optimizer, tensors, rate, seed):
    """A step of random gradients, of which some are missing, at a rate."""
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    for tensor in tensors:
        if torch.rand((), generator=generator) < 0.8:
            tensor.grad = torch.randn(tensor.shape, generator=generator)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def states(optimizer):
    kept = optimizer.state_dict()
    moments = {(i, k): v for i, of in kept["state"].items() for k, v in of.items()}
    return kept["param_groups"], moments


def assert_same(ones, others):
    assert all(map(torch.equal, ones[0], others[0]))
    (groups, moments), (other_groups, other_moments) = states(ones[1]), states(others[1])
    assert groups == other_groups and moments.keys() == other_moments.keys()
    assert all(torch.equal(moments[key], other_moments[key]) for key in moments)


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([(3,), (2, 5), (1,), (4, 1, 3)]), min_size=1, max_size=4),
    st.lists(st.floats(1e-5, 0.1), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([None, True]),  # fused: as on a GPU
    st.integers(0, 2**31),
)
def test_it_is_torchs_own_to_the_last_bit(shapes, rates, decay, fused, seed):
    torch.manual_seed(seed)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = copy.deepcopy(ours)
    pairs = [
        (tensors, grouped(make, tensors, decay, fused))
        for make, tensors in ((AdamW, ours), (torch.optim.AdamW, theirs))
    ]
    for number, rate in enumerate(rates):
        for tensors, optimizer in pairs:
            step(optimizer, tensors, rate, seed + number)
        assert_same(*pairs)
    exchanged = [copy.deepcopy(optimizer.state_dict()) for _, optimizer in reversed(pairs)]
    for (tensors, optimizer), state in zip(pairs, exchanged, strict=True):
        optimizer.load_state_dict(state)
        step(optimizer, tensors, 1e-3, seed)
    assert_same(*pairs)


def test_gradients_are_on_after_a_step_and_after_one_that_fails():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([weight])
    weight.grad = torch.ones(2)
    optimizer.step()
    assert torch.is_grad_enabled() and weight.requires_grad
    optimizer.param_groups[0]["betas"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    assert torch.is_grad_enabled()


TRAINED = """
import sys
from moeviz.app import cli
for more in (["--steps", "2"], ["--steps", "3", "--resume"]):
    assert cli.main(["train", *sys.argv[1:], *more]) == 0
print([name for name in ("torch", "torch._dynamo", "torch._inductor") if name in sys.modules])
"""


def test_training_and_resuming_import_no_compiler(tmp_path):
    (tmp_path / "text.txt").write_text(prose(1))
    options = (
        "--d-model 8 --num-layers 1 --num-heads 2 --num-experts 4 --top-k 2 --d-expert 4 "
        f"--batch-size 2 --seq-len 8 --warmup 1 --device cpu --save-every 1 "
        f"--corpus {tmp_path / 'text.txt'} --out {tmp_path / 'run'}"
    )
    command = [sys.executable, "-P", "-c", TRAINED, *options.split()]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == "['torch']"
