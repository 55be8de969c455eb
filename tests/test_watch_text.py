"""A trace and a dissection are what a plain forward pass does."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.routers import DISCRETE, SOFT
from moeviz.model.config import ModelConfig
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.routing import Capacity, Plan
from moeviz.text.corpus import load_corpus
from moeviz.text.tokenizer import Tokenizer
from moeviz.training.trainer import TrainConfig, Trainer
from moeviz.watch.text import MAX_TOKENS, dissect, load_model, rows_by_token, trace_text

TEXT = "def f(x):\n    return 12 + é <script>"
TOKENIZER = Tokenizer.default()
CONFIG = ModelConfig(
    d_model=12,
    num_layers=4,
    num_heads=2,
    d_ff=20,
    moe=MoEConfig(num_experts=5, top_k=3, d_expert=8),
    dense_layers=(1,),
)


def relative(a, b):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def model():
    return untrained()


def untrained(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LanguageModel(dataclasses.replace(CONFIG, **changes))
        for name, parameter in made.named_parameters():
            if name.endswith("router.weight_ED"):
                torch.nn.init.normal_(parameter, std=12**-0.5)
    return made


def forward(model, text=TEXT):
    """Inputs of each MoE layer, and the routes, of a pass of our own."""
    seen = {}
    hooks = [
        block.ffn.register_forward_hook(
            lambda _, args, out, i=i: seen.update({i: (args[0], out[0])})
        )
        for i, block in enumerate(model.blocks)
    ]
    with torch.no_grad():
        out = model(torch.from_numpy(TOKENIZER.encode(text).astype(np.int64))[None])
    for hook in hooks:
        hook.remove()
    return seen, out.routes


def slow_rows(plan, num_tokens):
    """Token by token: its rows in the order of its choices."""
    bounds = plan.token_offsets.tolist()
    top_k = max((b - a for a, b in zip(bounds, bounds[1:], strict=False)), default=0)
    expert = np.full((num_tokens, top_k), -1, dtype=np.int16)
    weight = np.zeros((num_tokens, top_k), dtype=np.float32)
    for token in range(num_tokens):
        rows = plan.inverse[bounds[token] : bounds[token + 1]].long()
        rows = rows[plan.choice[rows].argsort(stable=True)]
        expert[token, : len(rows)] = plan.expert[rows]
        weight[token, : len(rows)] = plan.weight[rows]
    return expert, weight


@pytest.mark.parametrize("rows, with_choice", [(0, True), (1, False), (40, True), (40, False)])
def test_rows_by_token_is_the_slow_loop(rows, with_choice):
    generator = torch.Generator().manual_seed(rows)
    pair_N = torch.randperm(13 * 7, generator=generator)[:rows]  # no pair twice, in any order
    plan = Plan.from_rows(
        pair_N // 7,
        pair_N % 7,
        torch.rand(rows, generator=generator),
        num_tokens=13,
        num_experts=7,
        choice_N=torch.randint(4, (rows,), generator=generator) if with_choice else None,
    )
    for got, want in zip(rows_by_token(plan, 13), slow_rows(plan, 13), strict=True):
        assert got.dtype == want.dtype and np.array_equal(got, want)


@pytest.mark.parametrize("capacity", [None, Capacity(0.5, eval_factor=0.5)], ids=str)
@pytest.mark.parametrize("name", DISCRETE)
def test_a_trace_of_any_router_is_what_a_forward_pass_decides(name, capacity):
    """Each column holds the layer's weights, however many experts a token visits."""
    torch.manual_seed(0)
    moe = MoEConfig(num_experts=8, top_k=2, d_expert=16, router=name, capacity=capacity)
    sizes = dict(d_model=32, num_layers=4, num_heads=2, dense_layers=(1,))
    model = LanguageModel(ModelConfig(**sizes, moe=moe)).eval()
    text = "The cat sat on the mat. def f(x): return x + 12"
    _, routes = forward(model, text)
    trace = trace_text(model.train(), TOKENIZER, text, meta={"seed": 1})
    assert model.training
    assert trace.layers == (0, 2, 3) and trace.meta == {"seed": 1}
    assert list(trace.tokens) == TOKENIZER.pieces(TOKENIZER.encode(text))
    assert (trace.expert.dtype, trace.weight.dtype, trace.score.dtype) == ("i2", "f4", "f4")
    routes = [route for route in routes if route is not None]
    assert trace.top_k == max(1, *(int(r.plan.token_offsets.diff().max()) for r in routes))
    for column, route in enumerate(routes):
        table = np.zeros((len(trace.tokens), trace.num_experts + 1))
        token_T1 = np.arange(len(table))[:, None]
        np.add.at(table, (token_T1, trace.expert[:, column]), trace.weight[:, column])
        assert not table[:, -1].any()  # where no expert is, no weight is
        assert relative(table[:, :-1], route.plan.dense_weights().detach()) < 1e-6
        assert relative(trace.score[:, column], route.scores.detach()) < 1e-6
        assert np.array_equal(trace.load()[column], route.plan.load())


@pytest.mark.parametrize("name", SOFT)
def test_a_soft_router_has_no_route_to_trace(name):
    moe = MoEConfig(num_experts=4, top_k=1, d_expert=8, router=name)
    model = LanguageModel(ModelConfig(d_model=8, num_layers=1, num_heads=1, moe=moe))
    with pytest.raises(ValueError, match="a soft one and sends no token to an expert"):
        trace_text(model, TOKENIZER, TEXT)


@pytest.mark.parametrize("ffn_scale", [None, 1.0])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_dissection_adds_up_to_what_the_layer_says(layer, ffn_scale):
    model = untrained(ffn_scale=ffn_scale)
    seen, routes = forward(model)
    x_TD, y_TD = seen[layer]
    ffn = model.blocks[layer].ffn
    cuts = {
        weighting: dissect(model, TOKENIZER, TEXT, layer=layer, weighting=weighting)
        for weighting in ("renormalise", "raw")
    }
    for cut in cuts.values():
        T, E, K = len(cut.tokens), 5, 3
        assert relative(cut.x, x_TD) < 1e-6
        assert relative(cut.logits, (x_TD @ ffn.router.weight_ED.T).detach()) < 1e-6
        assert relative(cut.score, routes[layer].scores) < 1e-6
        assert cut.offsets.tolist() == [int((cut.row_expert < e).sum()) for e in range(E + 1)]
        assert (np.diff(cut.row_expert) >= 0).all() and len(cut.row_token) == T * K
        table = np.zeros((T, E))
        table[cut.row_token, cut.row_expert] = cut.row_weight
        assert relative(np.take_along_axis(table, cut.expert.astype(int), 1), cut.weight) < 1e-7
        for row in range(0, T * K, 5):
            e, t = cut.row_expert[row], cut.row_token[row]
            gate, up = (ffn.w13_E2FD[e] @ x_TD[t]).chunk(2)
            want = (ffn.w2_EDF[e] @ (F.silu(gate) * up)).detach()
            if ffn_scale is not None:
                want = want * ffn.factor_P
            assert relative(cut.row_output[row], want) < 1e-5
        total = np.zeros_like(cut.y)
        np.add.at(total, cut.row_token, cut.row_weight[:, None] * cut.row_output)
        assert relative(cut.y, total) < 1e-6
    one, raw = cuts.values()
    assert relative(one.y, y_TD) < 1e-6  # as the model itself weighs
    assert np.array_equal(one.expert, raw.expert)
    chosen = np.take_along_axis(raw.score, raw.expert.astype(int), 1)
    held = chosen.sum(1, keepdims=True)  # the share of score that a token's experts hold
    assert relative(raw.weight, chosen) < 1e-6 and (held < 0.999).all()
    assert relative(one.weight, chosen / held) < 1e-6
    assert relative(raw.y, one.y * held) < 1e-5
    assert ffn.router.weighting == "renormalise" and not ffn._forward_pre_hooks


def cut_at(layer):
    def dissected(model, text):
        return dissect(model, TOKENIZER, text, layer=layer, weighting="raw")

    return dissected


def traced(model, text):
    return trace_text(model, TOKENIZER, text)


def test_shared_experts_are_no_part_of_the_stages():
    shared = untrained(moe=dataclasses.replace(CONFIG.moe, num_shared=1))
    with pytest.raises(ValueError, match="shared experts too"):
        cut_at(0)(shared, TEXT)


DENSE = LanguageModel(dataclasses.replace(CONFIG, moe=None, dense_layers=()))


@pytest.mark.parametrize(
    ("look", "text", "sentence"),
    [
        *((look, "", "The text is empty") for look in (traced, cut_at(0))),
        (traced, "\ud83d", "half of a surrogate pair"),
        (cut_at(1), TEXT, r"Layer 1 has no experts; layers \(0, 2, 3\) have"),
    ],
)
def test_what_cannot_be_looked_into_is_refused_in_one_sentence(model, look, text, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        look(model, text)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="This model is dense"):
        look(DENSE, TEXT)


def test_of_a_longer_text_the_first_tokens_are_traced_as_they_stand(model):
    whole = traced(model, "1" * MAX_TOKENS)
    longer = traced(model, "1" * MAX_TOKENS + " and more")
    assert len(longer.tokens) == MAX_TOKENS and longer.tokens == whole.tokens
    assert np.array_equal(longer.score, whole.score)


def test_an_exported_model_is_read_with_its_tokenizer_alone(tmp_path):
    draw = random.Random(0)
    text = "\n".join(" ".join(draw.choice(TEXT.split()) for _ in range(12)) for _ in range(200))
    (tmp_path / "t.txt").write_text(text)
    corpus = load_corpus(tmp_path / "t.txt")
    train = TrainConfig(steps=2, batch_size=2, seq_len=8, validate_every=0)
    trainer = Trainer(CONFIG, train, corpus)
    next(trainer)
    trainer.export(tmp_path / "model", {})
    model = load_model(tmp_path / "model", TOKENIZER)
    assert not model.training and model.config == CONFIG
    # Written in float16: three digits stay.
    want = trace_text(trainer.model, TOKENIZER, TEXT)
    got = trace_text(model, TOKENIZER, TEXT)
    assert relative(got.score, want.score) < 5e-3
    with pytest.raises(ValueError, match="trained with another tokenizer"):
        load_model(tmp_path / "model", Tokenizer.train([text], 280))
    trainer.kill(trainer.moe_layers[0], 3)
    trainer.export(tmp_path / "model", {})
    first = load_model(tmp_path / "model", TOKENIZER).routers()[trainer.moe_layers[0]]
    assert first.killed_E.nonzero().tolist() == [[3]]
    trainer.save(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="is of the kind .checkpoint.; here .model. is needed"):
        load_model(tmp_path / "checkpoint", TOKENIZER)
