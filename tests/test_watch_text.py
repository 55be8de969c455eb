"""A trace and a dissection are what a plain forward pass does."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel, ModelConfig
from moeviz.routing import ROUTERS, Capacity, Plan
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LanguageModel(CONFIG)
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


def test_a_trace_is_what_a_forward_pass_decides(model):
    _, routes = forward(model)
    trace = trace_text(model, TOKENIZER, TEXT, meta={"seed": 1})
    assert trace.layers == (0, 2, 3) and trace.meta == {"seed": 1}
    assert list(trace.tokens) == TOKENIZER.pieces(TOKENIZER.encode(TEXT))
    T = len(trace.tokens)
    assert trace.expert.shape == trace.weight.shape == (T, 3, 3) and trace.score.shape == (T, 3, 5)
    assert (trace.expert.dtype, trace.weight.dtype, trace.score.dtype) == ("i2", "f4", "f4")
    for column, layer in enumerate(trace.layers):
        scores = routes[layer].scores
        assert relative(trace.score[:, column], scores) < 1e-6
        value, index = scores.topk(3, dim=1)  # best first, as the choices are
        assert np.array_equal(trace.expert[:, column], index)
        weight = value / value.sum(1, keepdim=True)
        assert relative(trace.weight[:, column], weight) < 1e-6
        assert np.array_equal(trace.load()[column], routes[layer].stats.load)
    assert (trace.expert[:, 0] != trace.expert[:, 1]).any()


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


SOFT = [name for name, kind in ROUTERS.items() if getattr(kind, "soft", False)]
CAPACITIES = [None, Capacity(0.5, eval_factor=0.5)]


@pytest.mark.parametrize("capacity", CAPACITIES, ids=["free", "capacity"])
@pytest.mark.parametrize("name", [name for name in ROUTERS if name not in SOFT])
def test_every_router_can_be_traced(name, capacity):
    """Each column holds the layer's weights, however many experts a token visits."""
    torch.manual_seed(0)
    moe = MoEConfig(num_experts=8, top_k=2, d_expert=16, router=name, capacity=capacity)
    model = LanguageModel(ModelConfig(d_model=32, num_layers=3, num_heads=2, moe=moe))
    text = "The cat sat on the mat. def f(x): return x + 12"
    model.eval()
    _, routes = forward(model, text)
    model.train()
    trace = trace_text(model, TOKENIZER, text)
    assert model.training
    busiest = max(
        int(route.plan.token_offsets.diff().max()) for route in routes if route is not None
    )
    assert trace.top_k == max(1, busiest)
    for column, layer in enumerate(trace.layers):
        plan = routes[layer].plan
        table = np.zeros((len(trace.tokens), trace.num_experts + 1))
        np.add.at(
            table,
            (np.arange(len(table))[:, None], trace.expert[:, column]),
            trace.weight[:, column],
        )
        assert not table[:, -1].any()  # where no expert is, no weight is
        assert relative(table[:, :-1], plan.dense_weights().detach()) < 1e-6
        assert np.array_equal(trace.load()[column], plan.load())


@pytest.mark.parametrize("name", SOFT)
def test_a_soft_router_has_no_route_to_trace(name):
    moe = MoEConfig(num_experts=4, top_k=1, d_expert=8, router=name)
    model = LanguageModel(ModelConfig(d_model=8, num_layers=1, num_heads=1, moe=moe))
    with pytest.raises(ValueError, match="a soft one and sends no token to an expert"):
        trace_text(model, TOKENIZER, TEXT)


def test_rows_by_token_fills_up_where_a_token_has_fewer():
    plan = Plan.from_rows(
        torch.tensor([2, 0, 2]),
        torch.tensor([1, 1, 0]),
        torch.tensor([0.5, 0.25, 0.75]),
        num_tokens=4,
        num_experts=2,
    )
    expert, weight = rows_by_token(plan, 4)
    assert expert.tolist() == [[1, -1], [-1, -1], [0, 1], [-1, -1]]
    assert weight.tolist() == [[0.25, 0], [0, 0], [0.75, 0.5], [0, 0]]


@pytest.mark.parametrize("weighting", ["renormalise", "raw"])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_dissection_adds_up_to_what_the_layer_says(model, layer, weighting):
    seen, routes = forward(model)
    x_TD, y_TD = seen[layer]
    cut = dissect(model, TOKENIZER, TEXT, layer=layer, weighting=weighting)
    ffn = model.blocks[layer].ffn
    T, E, K = len(cut.tokens), 5, 3
    assert relative(cut.x, x_TD) < 1e-6
    assert relative(cut.logits, (x_TD @ ffn.router.weight_ED.T).detach()) < 1e-6
    assert relative(cut.score, routes[layer].scores) < 1e-6
    assert cut.offsets.tolist() == [int((cut.row_expert < e).sum()) for e in range(E + 1)]
    assert (np.diff(cut.row_expert) >= 0).all() and len(cut.row_token) == T * K

    table = np.zeros((T, E))
    table[cut.row_token, cut.row_expert] = cut.row_weight
    assert relative(np.take_along_axis(table, cut.expert.astype(int), 1), cut.weight) < 1e-7
    chosen = np.take_along_axis(cut.score, cut.expert.astype(int), 1)
    if weighting == "raw":
        assert relative(cut.weight, chosen) < 1e-6 and (cut.weight.sum(1) < 0.999).all()
    else:
        assert relative(cut.weight, chosen / chosen.sum(1, keepdims=True)) < 1e-6

    for row in range(0, T * K, 5):
        e, t = cut.row_expert[row], cut.row_token[row]
        gate, up = (ffn.w13_E2FD[e] @ x_TD[t]).chunk(2)
        want = (ffn.w2_EDF[e] @ (F.silu(gate) * up)).detach()
        assert relative(cut.row_output[row], want) < 1e-5
    total = np.zeros_like(cut.y)
    np.add.at(total, cut.row_token, cut.row_weight[:, None] * cut.row_output)
    assert relative(cut.y, total) < 1e-6
    if weighting == "renormalise":  # as the model itself weighs
        assert relative(cut.y, y_TD) < 1e-6


def test_the_switch_changes_the_weights_and_leaves_the_model_as_it_was(model):
    before = trace_text(model, TOKENIZER, TEXT)
    one, other = (
        dissect(model, TOKENIZER, TEXT, layer=2, weighting=w) for w in ("renormalise", "raw")
    )
    assert np.array_equal(one.expert, other.expert)
    # Each token's output is shorter by the share of score that its experts hold.
    held = np.take_along_axis(one.score, one.expert.astype(int), 1).sum(1)
    assert relative(other.y, one.y * held[:, None]) < 1e-5
    assert model.blocks[2].ffn.router.weighting == "renormalise"
    assert not model.blocks[2].ffn._forward_pre_hooks
    after = trace_text(model, TOKENIZER, TEXT)
    assert np.array_equal(before.weight, after.weight)


def test_texts_that_cannot_be_traced_are_refused_in_one_sentence(model):
    def both(text):
        yield lambda: trace_text(model, TOKENIZER, text)
        yield lambda: dissect(model, TOKENIZER, text, layer=0, weighting="raw")

    for text, sentence in (
        ("", "The text is empty"),
        ("1" * (MAX_TOKENS + 1), f"has {MAX_TOKENS + 1} tokens; at most {MAX_TOKENS} fit"),
        ("\ud83d", "half of a surrogate pair"),
    ):
        for attempt in both(text):
            with pytest.raises(ValueError, match=sentence) as refusal:
                attempt()
            assert "\n" not in str(refusal.value)
    assert len(trace_text(model, TOKENIZER, "1" * MAX_TOKENS).tokens) == MAX_TOKENS


def test_a_layer_without_experts_is_refused(model):
    with pytest.raises(ValueError, match=r"Layer 1 has no experts; layers \(0, 2, 3\) have"):
        dissect(model, TOKENIZER, TEXT, layer=1, weighting="raw")
    dense = LanguageModel(dataclasses.replace(CONFIG, moe=None, dense_layers=()))
    for attempt in (
        lambda: trace_text(dense, TOKENIZER, TEXT),
        lambda: dissect(dense, TOKENIZER, TEXT, layer=0, weighting="raw"),
    ):
        with pytest.raises(ValueError, match="This model is dense"):
            attempt()


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
    trainer.save(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="is of the kind .checkpoint.; here .model. is needed"):
        load_model(tmp_path / "checkpoint", TOKENIZER)
