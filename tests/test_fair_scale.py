"""At the fair scale every FFN starts as loud as a dense one, whatever its router, on real text."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from helpers.numerics import relative
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.scale import SWIGLU_SQUARE
from moeviz.model.transformer import LanguageModel
from moeviz.routing import ROUTERS, Capacity, RouteContext
from moeviz.text.corpus import load_corpus

SEEDS, STEPS = 3, 2
BAND = (0.8, 1.25)
# What these add depends on how often tokens come again, and no random text repeats itself as the
# corpus does: two mix tokens, whose mean grows with it; of null experts a frequent token that takes
# the copy counts as often as it comes.
WIDER = {"soft_moe": (0.3, 3.0), "mixture_of_tokens": (0.7, 1.6), "null_experts": (0.65, 1.5)}
RAW = MoEConfig(16, 2, 128, options={"weighting": "raw"})
CASES = {name: MoEConfig(16, 2, 128, router=name) for name in ROUTERS} | {
    "raw": RAW,
    "top-1 raw": MoEConfig(8, 1, 256, options={"weighting": "raw"}),
    "sigmoid": MoEConfig(16, 2, 128, options={"score": "sigmoid", "weighting": "raw"}),
    "too loud": MoEConfig(16, 2, 128, options={"scale": 5.0}),
    "noise": MoEConfig(16, 2, 128, options={"noise": 1.0}),
    "capacity 1": MoEConfig(16, 2, 128, capacity=Capacity(1.0)),
    "bigram": MoEConfig(16, 2, 128, router="hash", options={"variant": "bigram"}),
    "at most 3": MoEConfig(16, 2, 128, router="expert_choice", options={"max_experts": 3}),
    "shared": MoEConfig(32, 3, 64, options={"weighting": "raw"}, num_shared=1),
    "shared, sigmoid": dataclasses.replace(RAW, top_k=1, num_shared=1, shared_gate="sigmoid"),
    "shared, softmax": dataclasses.replace(RAW, top_k=1, num_shared=2, shared_gate="softmax"),
}  # fmt: skip
# A router without a gradient at its gate is only looked at here.
pytestmark = pytest.mark.filterwarnings("ignore:With top_k=1")


@functools.cache
def batch(seed, step):
    tokens = load_corpus().batch(seed=seed, step=step, batch_size=16, seq_len=64).tokens
    return torch.from_numpy(tokens)[:, :-1]


def made(config, seed=0):
    torch.manual_seed(seed)
    return LanguageModel(config)


def outputs(model, seed=0):
    """What each block's FFN adds on the first batches of training, by step and layer."""
    found = []
    hooks = [
        block.ffn.register_forward_hook(lambda _, __, out: found.append(out[0]))
        for block in model.blocks
    ]
    with torch.no_grad():
        for step in range(STEPS):
            model(batch(seed, step), generator=torch.Generator().manual_seed(step))
    for hook in hooks:
        hook.remove()
    return found


def variance(config):
    """Of what an FFN adds, over layers, batches and seeds."""
    return np.mean([
        out_TD.square().mean().item()
        for seed in range(SEEDS)
        for out_TD in outputs(made(config, seed), seed)
    ])  # fmt: skip


@functools.cache
def of_dense(ffn_scale):
    return variance(ModelConfig(ffn_scale=ffn_scale))


# Other scales are times a factor: what a router does is another matter at two layers alone.
@pytest.mark.parametrize(
    ("name", "ffn_scale"),
    [(name, 1.0) for name in CASES]
    + [(name, scale) for name in ("raw", "shared", "soft_moe") for scale in (0.25, 4.0)],
)
def test_every_router_starts_as_loud_as_the_dense_twin(name, ffn_scale):
    config = ModelConfig(moe=CASES[name], ffn_scale=ffn_scale)
    low, high = WIDER.get(name, BAND)
    assert low < variance(config) / of_dense(ffn_scale) < high
    assert of_dense(ffn_scale) == pytest.approx(ffn_scale**2 * of_dense(1.0), rel=0.1)


def test_as_the_paper_writes_it_raw_weights_are_far_too_quiet():
    assert variance(ModelConfig(moe=RAW)) < 0.03 * of_dense(1.0)
    assert variance(ModelConfig(moe=CASES["too loud"])) > 8 * of_dense(1.0)


@pytest.mark.parametrize("name", ["shared", "shared, sigmoid", "shared, softmax"])
def test_each_active_expert_adds_an_equal_share(name):
    moe = CASES[name]
    parts = []
    for seed in range(SEEDS):
        ffn = made(ModelConfig(moe=moe, ffn_scale=2.0), seed).blocks[0].ffn
        x_TD = torch.nn.functional.rms_norm(torch.randn(1024, 64), (64,))
        found, _ = ffn.parts(x_TD, RouteContext(training=True))
        parts += [[p.square().mean().item() for p in found] * ffn.factor_P.square().numpy()]
    chosen, shared = np.mean(parts, 0)
    share = 4 * SWIGLU_SQUARE / 4 / (moe.top_k + moe.num_shared)  # of 2 layers' residual: 1/4
    assert chosen == pytest.approx(share * moe.top_k, rel=0.15)
    assert shared == pytest.approx(share * moe.num_shared, rel=0.15)


def test_the_square_of_a_swiglu_unit_is_its_integral():
    g = np.linspace(-12, 12, 200_001)
    density = np.exp(-(g**2) / 2) / np.sqrt(2 * np.pi)
    assert np.trapezoid((g / (1 + np.exp(-g))) ** 2 * density, g) == pytest.approx(
        SWIGLU_SQUARE, abs=1e-6
    )


@pytest.mark.parametrize("name", [*ROUTERS, "shared"])
def test_nothing_but_the_factor_is_changed(name):
    """Weights, router state and the random numbers that come next are those of a model without."""
    plain, after = made(ModelConfig(moe=CASES[name])), torch.rand(3)
    fair, then = made(ModelConfig(moe=CASES[name], ffn_scale=1.0)), torch.rand(3)
    assert torch.equal(after, then)
    state, fair_state = plain.state_dict(), fair.state_dict()
    assert all(torch.equal(value, fair_state.pop(key)) for key, value in state.items())
    assert [*fair_state] == [f"blocks.{layer}.ffn.factor_P" for layer in (0, 1)]
    assert fair.num_parameters() == plain.num_parameters()
    want_TD, *_ = outputs(plain)
    got_TD, *_ = outputs(fair)
    if name != "shared":
        assert relative(got_TD, fair.blocks[0].ffn.factor_P * want_TD) < 1e-5


def test_the_gradient_is_that_of_the_product():
    ffn = made(ModelConfig(moe=RAW, ffn_scale=1.0)).blocks[0].ffn
    x_TD, up_TD = torch.randn(2, 40, 64)

    def gradients(factor_P):
        ffn.factor_P = factor_P
        y_TD, _ = ffn(x_TD, RouteContext())
        return torch.autograd.grad(y_TD, [*ffn.parameters()], up_TD)

    factor_P = ffn.factor_P
    fair = gradients(factor_P)
    for got, want in zip(fair, gradients(None), strict=True):
        assert relative(got, factor_P * want) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_factor_stays_in_float32_and_the_output_does_not(dtype):
    model = made(ModelConfig(moe=CASES["shared"], ffn_scale=1.0))
    ffn = model.blocks[1].ffn
    before_P = ffn.factor_P.clone()
    model.to(dtype)
    assert ffn.factor_P.dtype == torch.float32 and torch.equal(ffn.factor_P, before_P)
    assert ffn(torch.randn(8, 64, dtype=dtype), RouteContext())[0].dtype == dtype


def test_a_checkpoint_brings_its_factors():
    config = ModelConfig(moe=RAW, ffn_scale=1.0)
    saved, other = made(config), made(config, seed=1)
    assert not torch.equal(other.blocks[0].ffn.factor_P, saved.blocks[0].ffn.factor_P)
    arrays = {f"model.{name}": value.numpy() for name, value in saved.state_dict().items()}
    other.load_arrays(arrays, "checkpoint")
    assert all(map(torch.equal, outputs(other), outputs(saved)))


def test_the_twin_has_the_scale_and_a_file_from_before_has_none():
    config = ModelConfig(moe=RAW, ffn_scale=2.0)
    assert config.dense_twin().ffn_scale == 2.0
    assert ModelConfig.from_dict(config.to_dict()) == config
    before = ModelConfig(moe=RAW).to_dict()
    del before["ffn_scale"]
    assert ModelConfig.from_dict(before) == ModelConfig(moe=RAW)


@pytest.mark.parametrize("ffn_scale", [0, -1.0, float("inf"), "1"])
def test_a_scale_that_cannot_be_is_refused(ffn_scale):
    with pytest.raises(ValueError, match="ffn_scale must be a finite number above 0, got"):
        ModelConfig(ffn_scale=ffn_scale)


def test_a_layer_that_adds_nothing_has_no_scale(monkeypatch):
    class Silent(ROUTERS["token_choice"]):
        def weight(self, chosen_TK):
            return chosen_TK * 0

    monkeypatch.setitem(ROUTERS, "silent", Silent)
    quiet = MoEConfig(4, 2, 8, router="silent")
    with pytest.raises(ValueError, match="add nothing at the start.*leave ffn_scale out"):
        LanguageModel(ModelConfig(moe=quiet, ffn_scale=1.0))
    LanguageModel(dataclasses.replace(ModelConfig(moe=quiet), num_layers=1))
