"""A model of ours as a Hugging Face checkpoint: the same logits and routing, or a refusal."""

import json

import numpy as np
import pytest
import torch

from helpers.numerics import relative
from moeviz.app import cli
from moeviz.costs import Architecture, parameters
from moeviz.host import data_path
from moeviz.model import LanguageModel, ModelConfig, MoEConfig
from moeviz.model.export import FORMATS, write_checkpoint
from moeviz.routing import Capacity
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch import pretrained
from moeviz.watch.text import load_model, trace_text

transformers = pytest.importorskip("transformers")

SIZES = dict(d_model=16, num_layers=2, num_heads=2, d_ff=24)
SHIPPED = data_path("models", "start_here.safetensors")
TEXT = "def f(x):\n    return x  # naïve café, 北京, 🙂 e\u0301\t{[12]}"
RAW = dict(weighting="raw")
SIGMOID = dict(score="sigmoid")
# Of each format: the router's name and options, and what else the model has.
HOLDS = {
    "mixtral": [
        ("token_choice", dict(temperature=0.5, noise=1.0), {}),
        ("token_choice", {}, dict(ffn_scale=1.0, rope_base=500.0, num_heads=1)),
        ("noisy_topk", {}, {}),
        ("gshard", {}, {}),
        ("token_choice", {}, dict(capacity=Capacity(0.5, priority="choice"))),
    ],
    "olmoe": [
        ("token_choice", {}, dict(ffn_scale=1.0)),
        ("token_choice", RAW, dict(num_heads=4, rope_base=500.0)),
        ("switch", {}, {}),
    ],
    "qwen3_moe": [
        ("token_choice", {}, dict(dense_layers=(1,), ffn_scale=1.0)),
        ("token_choice", RAW, dict(num_heads=1, rope_base=500.0)),
        ("deepseek_v2", dict(num_groups=2, top_groups=2), {}),
    ],
    "deepseek_v3": [
        ("deepseek_v3", dict(num_groups=4, top_groups=2), dict(num_shared=2, ffn_scale=1.0)),
        ("token_choice", SIGMOID | RAW, dict(num_heads=4, rope_base=500.0)),
        ("quantile_balanced", {}, dict(dense_layers=(0,), num_heads=1)),
    ],
}
OF_MOE = ("num_shared", "shared_gate", "capacity")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.default()


def built(tokenizer, router="token_choice", options=None, **more):
    """A model whose every number is drawn: norms, gates and biases would start alike."""
    moe = {name: more.pop(name) for name in OF_MOE if name in more}
    sizes = dict(num_experts=8, top_k=3, d_expert=8, router=router, options=options or {})
    shape = dict(vocab_size=tokenizer.vocab_size) | SIZES | more
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = LanguageModel(ModelConfig(**shape, moe=MoEConfig(**sizes | moe))).eval()
        for name, value in model.state_dict().items():
            if "norm" in name:
                value.add_(0.3 * torch.randn(value.shape))
            elif name.endswith(("weight_ED", "bias_E")):
                value.copy_(0.5 * torch.randn(value.shape))
    return model


def loaded(folder):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert {name: len(found) for name, found in info.items() if found} == {}
    assert model.dtype == torch.float32
    return model


def routed(model, ids_BS):
    """Its logits, and the weight of each expert for each token by layer, [T, E], 0 for others."""
    weights = []

    def record(module, args):
        _, expert_TK, weight_TK = args
        weight_TE = torch.zeros(len(expert_TK), module.num_experts)
        weights.append(weight_TE.scatter(1, expert_TK, weight_TK))

    for name, module in model.named_modules():
        if name.endswith(".experts"):
            module.register_forward_pre_hook(record)
    with torch.no_grad():
        return model(ids_BS).logits, weights


def check_same(ours, folder):
    """Its checkpoint loads, computes the same by the same routing, and is counted right."""
    theirs = loaded(folder)
    ids_BS = torch.randint(
        ours.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1)
    )
    logits, weights = routed(theirs, ids_BS)
    with torch.no_grad():
        out = ours(ids_BS)
    assert relative(logits, out.logits) < 1e-5
    plans = [route.plan for route in out.routes if route is not None]
    assert len(plans) == len(weights)
    for plan, weight_TE in zip(plans, weights, strict=True):
        wanted_TE = plan.dense_weights()
        assert torch.equal(weight_TE > 0, wanted_TE > 0)
        assert float((weight_TE - wanted_TE).abs().max()) < 5e-6  # trained logits round that far
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    counted = parameters(Architecture.from_hf(config)).total
    assert counted == sum(value.numel() for value in theirs.parameters())


# Shared experts of no width, in a format that always has some.
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("name", "router", "options", "more"),
    [(name, *case) for name, cases in HOLDS.items() for case in cases],
)
def test_a_checkpoint_computes_what_the_model_does(
    tmp_path, tokenizer, name, router, options, more
):
    model = built(tokenizer, router, options, **more)
    write_checkpoint(model, tokenizer, name, tmp_path / "out")
    check_same(model, tmp_path / "out")


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "qwen3_moe"])
def test_the_shipped_model_goes_through_the_command(tmp_path, capsys, tokenizer, name):
    out = tmp_path / "there" / name
    assert cli.main(["export", "--format", name, str(SHIPPED), str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    check_same(load_model(SHIPPED, tokenizer), out)
    ids = transformers.AutoTokenizer.from_pretrained(out)(TEXT)["input_ids"]
    assert ids == tokenizer.encode(TEXT).tolist()
    assert [path.name for path in out.parent.iterdir()] == [name]  # nothing was left beside it


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_that_our_words_do_not_end_a_text(tmp_path, tokenizer, name):
    router = "token_choice" if FORMATS[name].score == "softmax" else "quantile_balanced"
    write_checkpoint(built(tokenizer, router), tokenizer, name, tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert [config.bos_token_id, config.eos_token_id, config.pad_token_id] == [None] * 3
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words(TEXT)["input_ids"] == tokenizer.encode(TEXT).tolist()
    assert words.decode(tokenizer.encode(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("name", "router", "options", "more", "names"),
    [
        ("llama", "token_choice", {}, {}, "mixtral, olmoe, qwen3_moe, deepseek_v3"),
        ("mixtral", "token_choice", RAW, {}, "olmoe or qwen3_moe"),
        ("mixtral", "deepseek_v3", {}, {}, "deepseek_v3"),
        ("deepseek_v3", "token_choice", {}, {}, "mixtral or olmoe or qwen3_moe"),
        ("olmoe", "token_choice", dict(scale=2.0), {}, "scale"),
        ("olmoe", "token_choice", dict(bias="sign"), {}, "bias"),
        ("qwen3_moe", "deepseek_v2", {}, {}, "groups"),
        ("qwen3_moe", "hash", {}, {}, "token_choice, noisy_topk"),
        ("qwen3_moe", "expert_choice", {}, {}, "token_choice, noisy_topk"),
        ("mixtral", "token_choice", {}, dict(dense_layers=(0,)), "qwen3_moe or deepseek_v3"),
        ("olmoe", "token_choice", {}, dict(dense_layers=(0, 1)), "This model is dense"),
        ("deepseek_v3", "quantile_balanced", {}, dict(dense_layers=(1,)), "qwen3_moe"),
        ("mixtral", "token_choice", {}, dict(num_shared=1), "num_shared"),
        (
            "deepseek_v3", "quantile_balanced", {}, dict(num_shared=1, shared_gate="sigmoid"),
            "shared_gate='one'",
        ),
        ("mixtral", "token_choice", {}, dict(capacity=Capacity(2.0, 2.0)), "eval_factor"),
        ("deepseek_v3", "token_choice", SIGMOID | dict(num_groups=4, top_groups=2), {}, "top2"),
        (
            "deepseek_v3", "token_choice",
            SIGMOID | dict(num_groups=8, top_groups=4, group_score="top2"), {}, "two experts",
        ),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused(
    tmp_path, tokenizer, name, router, options, more, names
):
    if router == "hash":
        options = dict(vocab_size=tokenizer.vocab_size)
    model = built(tokenizer, router, options, **more)
    with pytest.raises(ValueError, match=names):
        write_checkpoint(model, tokenizer, name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_numbers_of_another_type_are_written_as_float32(tmp_path, tokenizer, dtype):
    """Scaled and laid out after the change of type, not before."""
    ours = built(tokenizer, ffn_scale=1.0).to(dtype)
    write_checkpoint(ours, tokenizer, "olmoe", tmp_path / "out")
    check_same(ours.float(), tmp_path / "out")


def test_a_model_that_is_no_whole_model_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="has 2,048 pieces, and the model's vocabulary 64; give"):
        write_checkpoint(built(tokenizer, vocab_size=64), tokenizer, "mixtral", tmp_path / "out")
    model = built(tokenizer)
    model.head.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite, the first in lm_head.weight"):
        write_checkpoint(model, tokenizer, "mixtral", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_router_that_was_changed_is_refused(tmp_path, tokenizer):
    model = built(tokenizer)
    model.routers()[1].kill(3)
    with pytest.raises(ValueError, match="Expert 3 was killed"):
        write_checkpoint(model, tokenizer, "mixtral", tmp_path / "out")
    model = built(tokenizer)
    model.routers()[0].weight = lambda chosen_TK: chosen_TK
    with pytest.raises(ValueError, match="more than"):
        write_checkpoint(model, tokenizer, "mixtral", tmp_path / "out")


def test_a_folder_that_is_in_use_stays_as_it_is(tmp_path, capsys, monkeypatch, tokenizer):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("mine")
    for run, out, says in (
        (SHIPPED, "used", "not an empty folder"),
        (SHIPPED, "used/mine", "not an empty folder"),
        (SHIPPED, "used/mine/below", "Could not write"),
        (tmp_path, "new", "model.safetensors"),
    ):
        command = ["export", "--format", "mixtral", str(run), str(tmp_path / out)]
        assert cli.main(command) == 2
        assert says in capsys.readouterr().err

    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tokenizer, "save", full)
    with pytest.raises(OSError, match="free some space"):
        write_checkpoint(built(tokenizer), tokenizer, "mixtral", tmp_path / "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "mine"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HOLDS)
def test_what_is_written_is_traced_as_a_real_checkpoint(name, tokenizer, tmp_path):
    """The whole way of a real model's routing: folder, weights, capture, proof, record."""
    router, options, more = HOLDS[name][0]
    ours = built(tokenizer, router, options, **more)
    write_checkpoint(ours, tokenizer, name, tmp_path / name)
    real = pretrained.load(tmp_path / name)
    assert real.num_parameters == real.counted
    theirs, own = pretrained.trace(real, TEXT), trace_text(ours, tokenizer, TEXT)
    assert theirs.tokens == own.tokens and theirs.layers == own.layers
    assert (np.diff(theirs.weight) <= 0).all(), "a first choice stands first"
    by_expert = [np.argsort(trace.expert, axis=-1) for trace in (theirs, own)]
    for column, rtol in (("expert", 0), ("weight", 1e-4)):
        there, here = (
            np.take_along_axis(getattr(trace, column), order, -1)
            for trace, order in zip((theirs, own), by_expert, strict=True)
        )
        np.testing.assert_allclose(there, here, rtol=rtol)
