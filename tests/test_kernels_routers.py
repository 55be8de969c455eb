"""Every router that makes a Plan, in a whole model on the Triton kernels: a training step and
generation give what the plain loop over experts gives. And which routers wait for the host."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.kernels import DEVICE
from helpers.numerics import relative
from helpers.routers import DISCRETE
from moeviz.model.attention import Cache
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import ROUTERS

VOCAB = 61


def choices(name):
    """What MoEConfig must be told of a router."""
    options = {"vocab_size": VOCAB} if name == "hash" else {}
    return dict(top_k=1 if name in ("switch", "mixture_of_depths") else 2, options=options)


# A router that is causal needs no substitute to generate.
GENERATING = [name for name in DISCRETE if ROUTERS[name].causal or ROUTERS[name].substitute]


def model_of(name, backend, device=DEVICE):
    """The same weights for every backend. Routers at unit scale, which as they start hardly tell
    one token from another, and experts loud enough to decide what is said."""
    moe = MoEConfig(4, d_expert=8, router=name, backend=backend, **choices(name))
    config = ModelConfig(VOCAB, d_model=16, num_layers=1, num_heads=2, d_ff=16, moe=moe)
    torch.manual_seed(0)
    model = LanguageModel(config)
    with torch.no_grad():
        for block in model.blocks:
            block.ffn.w2_EDF.mul_(4)
            for values in block.ffn.router.parameters():
                values.normal_()
            if name == "expert_threshold":
                block.ffn.router.threshold_E.fill_(1 / 4)
    return model if device == "cpu" else model.to(device)  # a fake one cannot be moved


def batch(device=DEVICE):
    return torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(1)).to(device)


def train_step(model):
    """The loss with the routers' own, every gradient, and the plans."""
    device = model.head.weight.device
    tokens_BS, noise = batch(device), torch.Generator(device).manual_seed(2)
    out = model.train()(tokens_BS[:, :-1], generator=noise)
    loss = F.cross_entropy(out.logits.flatten(0, 1), tokens_BS[:, 1:].flatten())
    loss = loss + sum(value for route in out.routes for value in route.losses.values())
    loss.backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    return loss.detach(), gradients, [route.plan for route in out.routes]


@pytest.mark.parametrize("name", DISCRETE)
def test_a_training_step_on_the_kernels_is_that_of_the_reference(name, request):
    want_loss, want, want_plans = train_step(model_of(name, "reference"))
    launches = request.getfixturevalue("triton_everywhere")
    got_loss, got, got_plans = train_step(model_of(name, "triton"))
    assert launches  # the routing's own steps ran on kernels too
    for ours, theirs in zip(got_plans, want_plans, strict=True):
        for name, values in vars(theirs).items():
            assert getattr(ours, name).dtype == values.dtype, name
            assert relative(getattr(ours, name), values) < 1e-5, name
    assert relative(got_loss, want_loss) < 1e-5
    for key, theirs in want.items():
        assert (got[key] is None) == (theirs is None), key
        if theirs is not None:
            assert relative(got[key], theirs) < 1e-5, key
    of_experts = [value for key, value in want.items() if key.endswith(("w13_E2FD", "w2_EDF"))]
    assert len(of_experts) == 2 and all(value.norm() > 0 for value in of_experts)


@pytest.mark.parametrize("name", GENERATING)
def test_greedy_generation_on_the_kernels_says_what_the_reference_says(name, request):
    """A prompt, and a token alone after it."""

    def said_by(backend):
        model, logits = model_of(name, backend), []
        model.head.register_forward_hook(lambda *call: logits.append(call[2][0, -1]))
        return model.generate(batch()[0, :4], 2, temperature=0), torch.stack(logits)

    want, want_logits = said_by("reference")
    launches = request.getfixturevalue("triton_everywhere")
    got, got_logits = said_by("triton")
    assert torch.equal(got, want) and launches
    assert len(got_logits) == 2 and relative(got_logits, want_logits) < 1e-5


# Who makes a GPU wait for the host in training and outside of it. A fake tensor has a shape and no
# values: whatever asks for a value, or for a size that depends on one, raises.
ALWAYS = (True, False)
WAITS = {"never": (), "in training": (True,), "always": ALWAYS}


@pytest.mark.skipif(DEVICE == "cuda", reason="fake tensors say the same on every machine")
@pytest.mark.parametrize("training", ALWAYS, ids=["train", "eval"])
@pytest.mark.parametrize("name", DISCRETE)
def test_who_waits_for_the_host(name, training, triton_everywhere, monkeypatch):
    looking = (
        "routing.base",
        "routing.plan",
        "routing.hashing",
        "model.experts",
        "model.transformer",
    )
    for module in looking:  # as on a GPU, where values are not checked
        monkeypatch.setattr(f"moeviz.{module}.can_look", lambda tensor: False)
    monkeypatch.setattr("moeviz.model.experts.resolve_backend", lambda *_: "triton")

    @torch.no_grad()
    def generate(model):  # all but taking the likeliest token, which the host does
        cache = Cache(1)
        for piece_BS in batch("cpu")[:1].split((8, 1), dim=1):
            model.eval()(piece_BS, cache=cache)

    def run():
        with FakeTensorMode():
            (train_step if training else generate)(model_of(name, "triton", "cpu"))

    if training in WAITS[ROUTERS[name].waits]:
        asked = r"^aten\.(nonzero|_unique2|_local_scalar_dense)\.|^\.numpy\(\) is not supported"
        with pytest.raises(RuntimeError, match=asked):
            run()
    else:
        run()
        assert triton_everywhere
