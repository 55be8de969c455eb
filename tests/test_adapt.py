"""surgery.adapt and surgery.lora: few trained numbers, a model that stays, files that fit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moeviz.model import LanguageModel, ModelConfig, MoEConfig
from moeviz.records.store import save_arrays
from moeviz.surgery.adapt import (
    KIND,
    WAYS,
    AdapterTraining,
    adapted,
    important,
    load_adapter,
    rank_of_size,
    targets_of,
)
from moeviz.surgery.added_experts import fingerprint
from moeviz.surgery.lora import Target, changed, num_trained, packed, start, unpacked
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch.text import rows_by_token

TEXT = np.tile(np.arange(40, 90), 8)  # 400 tokens, easily learnt
TOKENIZER = Tokenizer.default()


def small(moe=True, seed=0, **experts):
    torch.manual_seed(seed)
    config = MoEConfig(**{"num_experts": 6, "top_k": 2, "d_expert": 12} | experts)
    return LanguageModel(
        ModelConfig(
            d_model=16, num_layers=2, num_heads=2, d_ff=24, moe=config if moe else None,
            ffn_scale=1.0,
        )
    ).eval()  # fmt: skip


def trained(model, way="experts", **options):
    training = AdapterTraining(
        model, TEXT, TOKENIZER, way, **{"rank": 2, "steps": 8, "learning_rate": 0.03} | options
    )
    return list(training), training.adapter()


@torch.no_grad()
def logits(model):
    return model(torch.from_numpy(TEXT[None, :30])).logits


@pytest.mark.parametrize("way", WAYS)
def test_it_learns_the_text_and_changes_no_more_than_it_names(way):
    model, experts = small(), ((0, 3), (1,))
    before, said = fingerprint(model), logits(model)
    losses, adapter = trained(model, way, experts=experts)
    assert losses[-1] < losses[0] - 0.01
    assert fingerprint(model) == before and torch.equal(logits(model), said)
    new = adapted(model, adapter)
    assert not torch.equal(logits(new), said)
    moved = {n for n, v in new.state_dict().items() if not torch.equal(v, model.state_dict()[n])}
    assert moved and moved <= {target.tensor for target in adapter.targets}
    if way in ("experts", "whole"):
        for layer, of_layer in enumerate(experts):
            w2, old = (m.blocks[layer].ffn.w2_EDF for m in (new, model))
            apart = (w2 != old).flatten(1).any(1)
            assert apart.nonzero().flatten().tolist() == list(of_layer)


@pytest.mark.parametrize("way", WAYS)
def test_before_the_first_step_the_model_is_as_it_was(way):
    """B = 0, so W + B A is W to the last bit."""
    model = small()
    adapter = AdapterTraining(model, TEXT, TOKENIZER, way).adapter()
    assert torch.equal(logits(adapted(model, adapter)), logits(model))


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(4, 6), st.integers(4, 7), st.integers(0, 99)
)
@settings(max_examples=20, deadline=None)
def test_a_change_and_its_gradient_are_those_of_numpy(chosen, rank, rows, columns, seed):
    """W_e + B_e A_e of the experts alone; dA = B^T dW and dB = dW A^T."""
    rng = np.random.default_rng(seed)
    bank, experts = rng.normal(size=(4, rows, columns)), tuple(rng.permutation(4)[:chosen].tolist())
    target, weights = Target("w", rank, experts), {"w": torch.from_numpy(bank)}
    a, b = (rng.normal(size=(chosen, *s)) for s in ((rank, columns), (rows, rank)))
    parts = {f"w/{n}": torch.from_numpy(v).requires_grad_() for n, v in (("a", a), ("b", b))}
    upstream = rng.normal(size=bank.shape)
    new = changed(weights, [target], parts)["w"]
    (new * torch.from_numpy(upstream)).sum().backward()
    want = bank.copy()
    for place, expert in enumerate(experts):
        want[expert] += b[place] @ a[place]
        np.testing.assert_allclose(parts["w/a"].grad[place], b[place].T @ upstream[expert])
        np.testing.assert_allclose(parts["w/b"].grad[place], upstream[expert] @ a[place].T)
    np.testing.assert_allclose(new.detach(), want)
    assert num_trained(weights, [target]) == a.size + b.size


def test_one_change_for_all_experts_is_the_same_for_each():
    weights = {"w": torch.randn(3, 5, 4)}
    parts = start(weights, [Target("w", 2)], seed=0)
    parts["w/b"] = torch.randn(5, 2)
    moved = changed(weights, [Target("w", 2)], parts)["w"] - weights["w"]
    torch.testing.assert_close(moved, (parts["w/b"] @ parts["w/a"]).expand(3, 5, 4))


def test_equal_size_is_a_matter_of_ranks():
    model = small()
    state = model.state_dict()
    wanted = num_trained(state, targets_of(model, "experts", rank=4, experts=((0, 1, 2), (4,))))
    assert wanted == 4 * 4 * (16 + 24 + 12 + 16)
    for way in ("experts", "attention", "dense"):
        rank = rank_of_size(model, way, wanted)
        near = [
            abs(num_trained(state, targets_of(model, way, rank=r)) - wanted)
            for r in (rank - 1, rank, rank + 1)
            if 1 <= r <= 12
        ]
        assert min(near) == abs(num_trained(state, targets_of(model, way, rank=rank)) - wanted)


@pytest.mark.parametrize("score", ["gate", "token"])
def test_what_matters_is_read_off_the_routes_of_the_text(score):
    """By hand: sums of the weights, or of ones, over the text's sequences of 64 tokens."""
    model, top_p = small(), 0.6
    with torch.no_grad():
        out = model(torch.from_numpy(TEXT[:384].reshape(6, 64)))
    for layer, found in enumerate(important(model, TEXT, score=score, top_p=top_p)):
        expert, weight = rows_by_token(out.routes[layer].plan, 384)
        share = np.zeros(6)
        for e, w in zip(expert.ravel(), weight.ravel(), strict=True):
            share[e] += w if score == "gate" else 1
        share /= share.sum()
        order = sorted(range(6), key=lambda e: -share[e])
        fewest = next(n for n in range(1, 7) if share[order[:n]].sum() >= top_p)
        assert found == tuple(order[:fewest])


def test_a_saved_adapter_does_what_the_trained_one_does(tmp_path):
    model = small()
    _, adapter = trained(model, experts=((2,), (0, 5)))
    path = tmp_path / "adapter.safetensors"
    adapter.save(path)
    back = load_adapter(path, model, TOKENIZER)
    assert back.arrays.keys() == adapter.arrays.keys()
    assert all(np.array_equal(back.arrays[name], array) for name, array in adapter.arrays.items())
    torch.testing.assert_close(logits(adapted(model, back)), logits(adapted(model, adapter)))
    assert back.way == "experts" and back.targets == adapter.targets
    assert 0 < path.stat().st_size - adapter.num_bytes < 3000


class OtherTokenizer:
    sha256 = "0" * 64


def test_a_file_that_does_not_fit_is_refused_in_a_sentence(tmp_path):
    model = small()
    _, adapter = trained(model)
    path = tmp_path / "adapter.safetensors"
    adapter.save(path)
    other = small(seed=1)
    with pytest.raises(ValueError, match="trained on another model"):
        load_adapter(path, other, TOKENIZER)
    with pytest.raises(ValueError, match="trained on another model"):
        adapted(other, adapter)
    with pytest.raises(ValueError, match="another tokenizer"):
        load_adapter(path, model, OtherTokenizer())
    header = {"way": adapter.way, "base": adapter.base, "tokenizer": adapter.tokenizer}
    names = [target.tensor for target in adapter.targets]
    for targets, refusal in (
        ([[n, 3, [*range(6)]] for n in names], "of the rank and the experts that it names"),
        ([[n, 2, [0, 1]] for n in names], "of the rank and the experts that it names"),
        ([[n, 99, [*range(6)]] for n in names], "cannot be used: rank must be"),
        ([[n, 2, [0, 1, 2, 3, 4, 6]] for n in names], r"experts must lie in 0\.\.5"),
        ([["no such tensor", 2, None]], "does not fit this version"),
    ):
        save_arrays(path, adapter.arrays, header | {"targets": targets}, kind=KIND)
        with pytest.raises(ValueError, match=refusal):
            load_adapter(path, model, TOKENIZER)
    save_arrays(path, adapter.arrays, header, kind="own expert")
    with pytest.raises(ValueError, match="of the kind 'own expert'"):
        load_adapter(path, model, TOKENIZER)
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_adapter(path, model, TOKENIZER)
    with pytest.raises(FileNotFoundError):
        load_adapter(tmp_path / "none", model, TOKENIZER)


@pytest.mark.parametrize(
    ("model", "options", "refusal"),
    [
        (dict(moe=False), {}, "dense: it has no experts"),
        (dict(router="soft_moe"), {}, "soft one"),
        ({}, {"way": "lora"}, "way must be one of"),
        ({}, {"rank": 0}, "rank must be a whole number"),
        ({}, {"rank": 13}, "at most 12"),
        ({}, {"experts": ((0,),)}, "each of the 2 MoE layers, got 1"),
        ({}, {"experts": ((0,), (6,))}, r"0\.\.5, got \(6,\)"),
        ({}, {"experts": ((0, 0), (1,))}, r"different numbers of 0\.\.5"),
        ({}, {"experts": ((), ())}, "name one at least"),
        ({}, {"steps": 0}, "steps must be"),
        ({}, {"learning_rate": 0.0}, "learning_rate must be"),
    ],
)
def test_what_cannot_be_trained_is_refused(model, options, refusal):
    with pytest.raises(ValueError, match=refusal):
        AdapterTraining(small(**model), TEXT, TOKENIZER, **options)


def test_a_text_too_short_is_refused():
    with pytest.raises(ValueError, match="The text has 100 tokens"):
        AdapterTraining(small(), TEXT[:100], TOKENIZER)
    with pytest.raises(ValueError, match="The text has 100 tokens"):
        important(small(), TEXT[:100])
    with pytest.raises(ValueError, match="score must be one of gate, token"):
        important(small(), TEXT, score="load")


# PEFT as an oracle.


def test_packed_matrices_come_back_and_refuse_what_does_not_fit():
    a, b = torch.randn(5, 2, 7), torch.randn(5, 3, 2)
    a_back, b_back = unpacked(*packed(a, b), 5)
    assert torch.equal(a_back, a) and torch.equal(b_back, b)
    lora_A, lora_B = packed(a, b)
    with pytest.raises(ValueError, match="multiple of the 4 experts, got 10 and 10"):
        unpacked(lora_A, lora_B, 4)
    with pytest.raises(ValueError, match="got 8 and 10"):
        unpacked(lora_A[:8], lora_B, 5)


def test_output_and_gradient_are_those_of_peft():
    """PEFT wraps our layer's banks, [E, out, in], by `target_parameters`. Its own matrices, read by
    `unpacked`, give the layer's output and gradients through `changed`; read with the orders mixed
    up they do not."""
    peft = pytest.importorskip("peft")
    rank, names = 3, ("w13_E2FD", "w2_EDF")
    model = small(num_experts=4).double()
    ffn = model.blocks[0].ffn
    weights = {name: getattr(ffn, name).detach().clone() for name in names}
    x_TD = torch.randn(20, 16, dtype=torch.float64)
    plan = ffn.router(x_TD, context := context_of(20)).plan
    upstream_TD = torch.randn(20, 16, dtype=torch.float64)

    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_parameters=list(names))
    wrapped = peft.get_peft_model(Holder(ffn), config)
    loras = {n: p for n, p in wrapped.named_parameters() if "lora_" in n}
    assert len(loras) == 4
    with torch.no_grad():
        for value in loras.values():
            value.normal_()
    y_TD = wrapped(x_TD, context)
    (y_TD * upstream_TD).sum().backward()

    by_shape = {
        (kind, tuple(value.shape)): value for n, value in loras.items()
        for kind in ("lora_A", "lora_B") if kind in n
    }  # fmt: skip
    pairs = {
        "w13_E2FD": (by_shape["lora_A", (12, 16)], by_shape["lora_B", (24, 12)]),
        "w2_EDF": (by_shape["lora_A", (12, 12)], by_shape["lora_B", (16, 12)]),
    }
    targets = [Target(name, rank, (0, 1, 2, 3)) for name in names]

    def output(read):
        parts = {}
        for name, (lora_A, lora_B) in pairs.items():
            a, b = read(lora_A.detach(), lora_B.detach(), 4)
            parts |= {f"{name}/a": a.clone().requires_grad_(), f"{name}/b": b.clone()
                      .requires_grad_()}  # fmt: skip
        new = changed(weights, targets, parts)
        return parts, ffn_output(x_TD, plan, new, ffn.factor_P[0])

    parts, own_TD = output(unpacked)
    torch.testing.assert_close(own_TD, y_TD)
    (own_TD * upstream_TD).sum().backward()
    for name, (lora_A, lora_B) in pairs.items():
        a, b = unpacked(lora_A.grad, lora_B.grad, 4)
        torch.testing.assert_close(parts[f"{name}/a"].grad, a)
        torch.testing.assert_close(parts[f"{name}/b"].grad, b)

    def mixed_up(lora_A, lora_B, experts):
        """The trap: the expert slowest in both."""
        b = lora_B.reshape(len(lora_B), experts, -1).permute(1, 0, 2)
        return unpacked(lora_A, lora_B, experts)[0], b

    assert (output(mixed_up)[1] - y_TD).abs().max() > 0.1 * y_TD.abs().max()


class Holder(torch.nn.Module):
    """PEFT adapts the parameters of modules *within* a model."""

    def __init__(self, ffn):
        super().__init__()
        self.ffn = ffn

    def forward(self, x_TD, context):
        return self.ffn(x_TD, context)[0]


def context_of(tokens):
    from moeviz.routing import RouteContext

    return RouteContext(token_ids=torch.zeros(tokens, dtype=torch.long))


def ffn_output(x_TD, plan, weights, factor):
    from moeviz.model.experts import reference_experts

    return factor * reference_experts(x_TD, plan, weights["w13_E2FD"], weights["w2_EDF"])
