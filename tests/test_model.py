"""The language model: cached decoding, generation, cost, causality, and impossible sizes."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers.numerics import relative
from moeviz.model.attention import Cache
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import Capacity, RouteContext

MOE = MoEConfig(num_experts=5, top_k=2, d_expert=6)
DENSE_CONFIG = ModelConfig(vocab_size=37, d_model=12, num_layers=3, num_heads=3, d_ff=20)
MOE_CONFIG = dataclasses.replace(DENSE_CONFIG, moe=MOE)
MIXED_CONFIG = dataclasses.replace(MOE_CONFIG, dense_layers=(0, 2))
CONFIGS = {"dense": DENSE_CONFIG, "moe": MOE_CONFIG, "mixed": MIXED_CONFIG}


def build(config, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LanguageModel(config).eval()
        # Routers start small; at unit scale their choices are spread and a wrong one shows.
        for name, parameter in model.named_parameters():
            if name.endswith("router.weight_ED"):
                torch.nn.init.normal_(parameter)
    return model


def text(*shape, seed=0, vocab=37):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


MODELS = {name: build(config) for name, config in CONFIGS.items()}


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(CONFIGS)),
    pieces=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    batch=st.integers(1, 3),
)
def test_cached_decoding_equals_the_full_forward_however_it_is_cut(name, pieces, batch):
    """In chunks of any size, logits and routing are the same: later tokens change nothing."""
    model, tokens_BS = MODELS[name], text(batch, sum(pieces))
    with torch.no_grad():
        full = model(tokens_BS)
        cache, start, logits = Cache(model.config.num_layers), 0, []
        for length in pieces:
            assert cache.length == start
            part = model(tokens_BS[:, start : start + length], cache=cache)
            logits.append(part.logits)
            for whole, here in zip(full.routes, part.routes, strict=True):
                assert (whole is None) == (here is None)
                if whole is not None:
                    scores = whole.scores.view(batch, sum(pieces), -1)[:, start : start + length]
                    assert relative(here.scores.view_as(scores), scores) < 1e-5
            start += length
    assert relative(torch.cat(logits, 1), full.logits) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_earlier_tokens_and_their_order_do_matter(name):
    model, tokens_BS = MODELS[name], text(1, 9)
    swapped = tokens_BS[:, [1, 0, *range(2, 9)]]
    assert tokens_BS[0, 0] != tokens_BS[0, 1]
    with torch.no_grad():
        assert relative(model(swapped).logits[:, -1], model(tokens_BS).logits[:, -1]) > 1e-3


def test_sequences_of_a_batch_do_not_see_one_another():
    model, tokens_BS = MODELS["moe"], text(3, 8)
    with torch.no_grad():
        alone = model(tokens_BS[1:2]).logits
        assert relative(model(tokens_BS).logits[1:2], alone) < 1e-5


# --- generation ---


@pytest.mark.parametrize("name", CONFIGS)
def test_generation_is_decided_by_its_seed(name):
    model, prompt = MODELS[name], text(4)
    state = torch.get_rng_state()
    runs = [model.generate(prompt, 20, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert runs[0].shape == (24,) and runs[0].dtype == torch.int64
    assert torch.equal(runs[0][:4], prompt)
    assert torch.equal(prompt, text(4)) and torch.equal(model.generate(prompt, 0), prompt)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_generation_takes_the_likeliest_token_of_a_full_forward(name):
    model = MODELS[name]
    out = model.generate(text(3), 12, temperature=0.0, seed=1)
    assert torch.equal(out, model.generate(text(3), 12, temperature=0.0, seed=2))
    with torch.no_grad():
        logits_SV = model(out[None]).logits[0]
    assert torch.equal(logits_SV[2:-1].argmax(-1), out[3:])


def test_generation_samples_the_softmax_of_the_logits():
    """Frequencies of the first token over many seeds against its probabilities."""
    model, prompt = MODELS["dense"], text(2)
    drawn = torch.stack(
        [model.generate(prompt, 1, temperature=0.7, seed=s)[-1] for s in range(900)]
    )
    with torch.no_grad():
        probability_V = (model(prompt[None]).logits[0, -1] / 0.7).softmax(-1)
    share_V = drawn.bincount(minlength=37) / 900
    # Half the summed difference; 900 draws of 37 tokens stay near 0.06.
    assert (share_V - probability_V).abs().sum() / 2 < 0.12
    assert (drawn == probability_V.argmax()).float().mean() < 0.9


def test_what_cannot_be_generated_is_refused():
    model = build(MOE_CONFIG)
    with pytest.raises(ValueError, match="prompt is empty"):
        model.generate(torch.empty(0, dtype=torch.int64), 3)
    for temperature in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="temperature must be a finite number of at least 0"):
            model.generate(text(3), 3, temperature=temperature)
    with pytest.raises(ValueError, match="num_tokens must be a whole number of at least 0, got -3"):
        model.generate(text(3), -3)
    with pytest.raises(ValueError, match=r"Token ids must lie in 0\.\.\d+, the vocabulary, got -1"):
        model.generate(torch.tensor([1, -1]), 3)
    model.blocks[1].ffn.router.causal = False
    with pytest.raises(ValueError, match="'token_choice' cannot generate: it is not causal"):
        model.generate(text(3), 3)


def test_generating_leaves_the_mode_as_it_was():
    model = build(MOE_CONFIG)
    for training in (True, False):
        model.train(training)
        model.generate(text(3), 2)
        assert all(module.training == training for module in model.modules())


# --- cost ---


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seq_len", [1, 13])
def test_flops_are_those_that_torch_counts(name, seq_len):
    """Exactly, but for attention: torch counts all S keys for each query, we count those that the
    causal mask lets it see, (S + 1) / 2 in the mean. 4 D FLOPs are spent on each."""
    config = CONFIGS[name]
    if config.moe is not None:
        config = dataclasses.replace(config, moe=dataclasses.replace(MOE, backend="reference"))
    model, tokens_BS = build(config), text(2, seq_len)
    # The fused CPU kernel has no count; the plain one is made of matrix products.
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model(tokens_BS)
    unmasked = 4 * config.d_model * (seq_len - (seq_len + 1) / 2) * config.num_layers
    want = config.flops_per_token(seq_len) + unmasked
    assert counter.get_total_flops() == want * tokens_BS.numel()


def test_the_dense_twin_has_the_same_active_parameters_but_for_the_router():
    twin = MOE_CONFIG.dense_twin()
    assert twin.moe is None and twin.d_ff == 12
    routers = MOE_CONFIG.num_layers * MOE.num_experts * MOE_CONFIG.d_model
    active = MODELS["moe"].num_active_parameters()
    assert active - routers == build(twin).num_parameters() == build(twin).num_active_parameters()
    shared = dataclasses.replace(MOE_CONFIG, moe=dataclasses.replace(MOE, num_shared=1))
    assert shared.dense_twin().d_ff == 18
    # The same in FLOPs: 2 for each of the router's parameters.
    assert MOE_CONFIG.flops_per_token(9) - 2 * routers == twin.flops_per_token(9)
    with pytest.raises(ValueError, match="dense model has no dense twin"):
        twin.dense_twin()


@pytest.mark.parametrize("name", CONFIGS)
def test_active_parameters_are_those_that_one_token_uses(name):
    """A parameter of the blocks or the head is used where one token's loss has a gradient on it:
    with K = 2 of 5 experts, three of five stay zero."""
    model = build(CONFIGS[name])
    x_TD = torch.randn(1, 1, 12, generator=torch.Generator().manual_seed(1))
    used = model.embedding.weight.numel()
    for block in model.blocks:
        y, _ = block(x_TD, RouteContext(), 0, None)
        y.square().sum().backward()
        for parameter in block.parameters():
            rows = parameter.grad.flatten(1) if parameter.ndim == 3 else parameter.grad[None]
            used += sum(row.numel() for row in rows if row.any())
    used += model.head.weight.numel() + model.norm.weight.numel()
    assert used == model.num_active_parameters()


# --- configuration ---


@pytest.mark.parametrize(
    "change,sentence",
    [
        (dict(vocab_size=0), "vocab_size must be a whole number of at least 1, got 0"),
        (dict(num_layers=0), "num_layers must be a whole number of at least 1"),
        (dict(num_heads=0), "num_heads must be a whole number of at least 1"),
        (dict(d_ff=-1), "d_ff must be a whole number of at least 1"),
        (dict(d_model=13), "d_model must be a multiple of num_heads, got 13 and 3"),
        (dict(d_model=9), "even head width, got d_model / num_heads = 3"),
        (dict(dense_layers=(3,)), r"dense_layers must lie in 0\.\.2"),
        (dict(dense_layers=(-1,)), r"dense_layers must lie in 0\.\.2"),
    ],
)
def test_impossible_sizes_are_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        dataclasses.replace(DENSE_CONFIG, **change)
    assert "\n" not in str(refusal.value)


def test_a_config_comes_back_from_json():
    limited = dataclasses.replace(
        MOE, options={"weighting": "raw"}, capacity=Capacity(1.5, priority="batch")
    )
    for config in (*CONFIGS.values(), dataclasses.replace(MIXED_CONFIG, moe=limited)):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_start_is_of_unit_scale_at_every_depth():
    """The residual stream keeps its size, and the first loss is near that of a uniform guess."""
    config = ModelConfig(vocab_size=100, d_model=64, num_layers=6, moe=MoEConfig(8, 2, 32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LanguageModel(config)
    tokens = text(4, 33, vocab=100)
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, out: sizes.append(out[0].std().item()))
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    assert all(0.8 < size < 2.0 for size in sizes), sizes
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - torch.tensor(100.0).log().item()) < 1.0
