"""Real checkpoints' families: what is recorded of their routing is what they compute."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from helpers.hf_families import BY_SUM, FAMILIES, SIGMOID, SOFTMAX, tiny
from helpers.live import wait
from helpers.panels import move, said
from moeviz import panels
from moeviz.app import cli
from moeviz.records.routes import Trace
from moeviz.text.tokenizer import Tokenizer
from moeviz.watch import pretrained
from moeviz.watch.pretrained import Pretrained, checkpoint
from moeviz.watch.pretrained.capture import Captured, read, sites, watched
from moeviz.watch.pretrained.rule import rule_of
from moeviz.watch.pretrained.tracing import capture, rule_of_layer
from moeviz.watch.text import MAX_TOKENS

transformers = pytest.importorskip("transformers", minversion="5.10")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the families' own code

TEXT = "Tokens walk to their experts; 12 of them → two."


def reader(model):
    return model.get_encoder() if model.config.is_encoder_decoder else model


def run(model, ids_S):
    layers = sites(reader(model))
    with watched(layers), torch.no_grad():
        reader(model)(input_ids=ids_S[None], use_cache=False)
    return layers


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_captured_as_it_computes(model_type):
    model = tiny(model_type)
    ids_S = torch.randint(3, 60, (14,), generator=torch.Generator().manual_seed(1))
    layers = run(model, ids_S)
    assert layers
    for site in layers:
        found = read(site)
        assert found.error < 1e-5
        served_TK = found.expert_TK >= 0
        assert found.expert_TK.shape[0] == 14 and served_TK.any()
        rule, score_TE = rule_of(found.logits_TE, found.expert_TK, found.weight_TK)
        assert score_TE.sum(-1).allclose(torch.ones(14), atol=1e-4)
        assert int(found.expert_TK.max()) < score_TE.shape[1]
        if FAMILIES[model_type] is not None:
            assert str(rule) == FAMILIES[model_type]


def test_a_full_expert_leaves_tokens_without_one():
    """Switch's capacity of 3 cannot seat 14 tokens that all want the same expert."""
    model = tiny("switch_transformers")
    (site,) = run(model, torch.full((14,), 7))
    assert (read(site).expert_TK >= 0).sum() < 14


def test_a_correction_of_the_scores_is_told():
    model = tiny("deepseek_v3")
    site = run(model, torch.arange(3, 43))[0]
    found = read(site)
    assert rule_of(found.logits_TE, found.expert_TK, found.weight_TK)[0].by_score < 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3", "jetmoe"])
def test_in_16_bits_rule_and_proof_hold(model_type, dtype):
    ids_S = torch.randint(3, 60, (40,), generator=torch.Generator().manual_seed(1))
    model = tiny(model_type).to(dtype)
    for found in capture(Pretrained("tiny", model_type, model, None, 0, None), ids_S):
        rule, _ = rule_of(found.logits_TE, found.expert_TK, found.weight_TK)
        assert str(rule) == FAMILIES[model_type]


def test_a_token_that_is_wrong_is_not_hidden_by_one_that_is_large():
    """In real models the first token's output is a thousand times as large as the others'."""
    y_TD = torch.ones(3, 4) * torch.tensor([[1e4], [1.0], [1.0]])
    again_TD = y_TD * torch.tensor([[1.0], [1.0], [0.5]])
    found = Captured(
        layer=0, x_TD=y_TD, logits_TE=None, expert_TK=torch.zeros(3, 1), weight_TK=torch.ones(3, 1),
        y_TD=y_TD, again_TD=again_TD, part_KTD=[], factor_TK=torch.ones(3, 1),
    )  # fmt: skip
    assert found.error == pytest.approx(0.5)


LOGITS = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("logits_TE", "score", "renormalised", "scale", "says"),
    [
        (LOGITS[:1], torch.sigmoid, True, 1.0, SIGMOID + BY_SUM),
        (LOGITS[:1], lambda x: x.softmax(-1), True, 1.0, SOFTMAX + BY_SUM),
        (LOGITS[:1], torch.sigmoid, True, 2.5, "a rule that these tokens do not tell"),
        (LOGITS[:1].expand(9, 8), torch.sigmoid, True, 2.5, "a rule that these tokens do not tell"),
        (LOGITS, torch.sigmoid, True, 2.5, SIGMOID + BY_SUM + ", times 2.5"),
    ],
)
def test_a_rule_is_told_where_the_tokens_tell_it(logits_TE, score, renormalised, scale, says):
    weight_TK, expert_TK = score(logits_TE).topk(2)
    weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True) * scale
    assert str(rule_of(logits_TE, expert_TK, weight_TK)[0]) == says


def test_of_equal_scores_any_may_be_chosen():
    """Frequent in 16 bits; it is no sign of a bias."""
    logits_TE = torch.tensor([[2.0, 1, 1, 0]])
    for expert_TK in (torch.tensor([[0, 1]]), torch.tensor([[0, 2]])):
        weight_TK = logits_TE.softmax(-1).gather(1, expert_TK)
        assert rule_of(logits_TE, expert_TK, weight_TK)[0].by_score == 1


def test_a_scale_that_the_layer_applies_is_a_part_of_its_rule():
    """Most families' routers scale the weights; of some the block scales the experts' sum."""
    model = tiny("laguna")
    for module in model.modules():
        if hasattr(module, "routed_scaling_factor"):
            module.routed_scaling_factor = 2.5
    real = Pretrained("tiny", "laguna", model, None, 0, None)
    for found in capture(real, torch.arange(3, 43)):
        rule = str(rule_of_layer(found)[0])
        assert rule == FAMILIES["laguna"] + ", and the experts' sum times 2.5"


# Loading.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole tiny checkpoint with moeviz's own tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = Tokenizer.default()
    tokenizer.save(folder / "tokenizer.json")
    config = transformers.MixtralConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size="100KB")
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json")
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_a_checkpoint_is_loaded_and_traced(folder):
    real = pretrained.load(folder)
    assert real.num_parameters == real.counted
    trace = pretrained.trace(real, TEXT)
    assert isinstance(trace, Trace) and trace.layers == (0, 1) and trace.num_experts == 4
    own = Tokenizer.default()
    assert list(trace.tokens) == own.pieces(own.encode(TEXT))
    np.testing.assert_allclose(trace.weight.sum(-1), 1, rtol=1e-5)
    best = np.argsort(-trace.score, axis=-1)[..., :2]
    assert (np.sort(best) == np.sort(trace.expert)).all()
    assert max(trace.meta["errors"]) < 1e-5 and trace.meta["by_score"] == [1, 1]
    long = pretrained.trace(real, 99 * TEXT)
    assert len(long.tokens) == MAX_TOKENS
    assert f"the first 512 of {len(own.encode(99 * TEXT)):,} tokens" in pretrained.describe(long)


def test_a_text_is_read_as_the_model_alone_reads_it(folder):
    """The hooks change nothing."""
    real = pretrained.load(folder)
    ids_S = real.encode(TEXT)
    before = real.run(ids_S).logits
    with watched(sites(real.model)):
        within = real.run(ids_S).logits
    assert torch.equal(before, within) and torch.equal(before, real.run(ids_S).logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in real.model.modules())


SIZES = dict(
    vocab_size=Tokenizer.default().vocab_size, hidden_size=16, intermediate_size=24,
    moe_intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    head_dim=8, num_experts=4, num_experts_per_tok=2, pad_token_id=0,
)  # fmt: skip
SEES = dict(hidden_size=16, intermediate_size=24, depth=1, num_heads=2, out_hidden_size=16)
SEES_AND_READS = {
    "Gemma4": (
        dict(
            enable_moe_block=True, top_k_experts=2, vocab_size_per_layer_input=64,
            hidden_size_per_layer_input=0,
        ),
        None,
    ),
    "Qwen3VLMoe": ({}, SEES),
}  # fmt: skip


@pytest.mark.parametrize("family", SEES_AND_READS)
def test_a_model_that_sees_and_reads_is_traced(family, tmp_path):
    """Its language model alone is often no class of the library's."""
    text, vision = SEES_AND_READS[family]
    config = getattr(transformers, f"{family}Config")(
        text_config=SIZES | text, vision_config=vision
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    model.save_pretrained(tmp_path)
    Tokenizer.default().save(tmp_path / "tokenizer.json")
    trace = pretrained.trace(pretrained.load(tmp_path), TEXT)
    assert trace.layers == (0, 1) and trace.num_experts == 4 and max(trace.meta["errors"]) < 1e-5


def rewrite(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def dense(path):
    transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    ).save_pretrained(path)


def lose(pattern):
    def damage(path):
        for file in sorted(path.glob(pattern))[:1]:
            file.unlink()

    return damage


def own_code(path):
    rewrite(path, model_type="mine", auto_map={"AutoConfig": "mine.Config"})


def cut(path):
    file = sorted(path.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-9])


def rewrite_weights(file, change):
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def quantised(path):
    """Experts' scales of which the configuration says nothing."""
    name = "model.layers.0.block_sparse_moe.experts.0.w1.weight_scale_inv"
    index = path / "model.safetensors.index.json"
    shards = json.loads(index.read_text())
    file = sorted(path.glob("*.safetensors"))[0]
    shards["weight_map"][name] = file.name
    index.write_text(json.dumps(shards))
    rewrite_weights(file, lambda tensors: tensors | {name: torch.ones(1)})


def pickled(path):
    for file in path.glob("*.safetensors*"):
        file.unlink()
    (path / "pytorch_model.bin").write_bytes(b"not to be read")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (dense, "is a dense model, or a family whose experts moeviz does not know"),
        (lose("model-*.safetensors"), "The weights of .* cannot be loaded"),
        (lose("config.json"), "There is no checkpoint .* that can be read"),
        (lose("tokenizer*.json"), "has no tokenizer that can be read"),
        (own_code, r"needs Python code of its own \(trust_remote_code\)"),
        (cut, "The weights of .* cannot be loaded"),
        (pickled, "The weights of .* cannot be loaded"),
        (lambda path: rewrite(path, num_hidden_layers=3), "weights of .* are missing"),
        (lambda path: rewrite(path, intermediate_size=32), "weights of .* missing or of another"),
        (quantised, "1 of the weights of .* have no place in the MoE layers"),
        (lambda path: rewrite(path, model_type="doge"), "finds experts by product keys"),
        (lambda path: rewrite(path, model_type="t9000"), "There is no checkpoint"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_sentence(damage, message, copy):
    damage(copy)
    with pytest.raises(ValueError, match=message) as refused:
        pretrained.load(copy)
    sentence = str(refused.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 600


@pytest.mark.parametrize("name", ["nowhere/at/all", "./nowhere", "file"])
def test_a_folder_that_is_none_is_no_name_on_the_hub(name, folder):
    name = str(folder / "config.json") if name == "file" else name
    with pytest.raises(ValueError, match="^There is no folder '.*'; give a folder with"):
        pretrained.load(name)


def test_what_the_files_hold_beyond_the_model_is_told(copy):
    rewrite(copy, num_hidden_layers=1)
    trace = pretrained.trace(pretrained.load(copy), TEXT)
    assert "The files hold 9 tensors more" in pretrained.describe(trace)


def infinite(path):
    for file in path.glob("*.safetensors"):
        rewrite_weights(file, lambda tensors: {n: v * torch.inf for n, v in tensors.items()})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (infinite, "Layer 0 of .* gives numbers that are not finite"),
        (lambda path: rewrite(path, num_experts_per_tok=5), "cannot read the text: selected index"),
        (lambda path: rewrite(path, num_experts_per_tok=0), "Layer 0 chooses 0 experts a token"),
    ],
)
def test_a_model_that_cannot_read_is_refused_in_one_sentence(damage, message, copy):
    damage(copy)
    with pytest.raises(ValueError, match=message):
        pretrained.trace(pretrained.load(copy), TEXT)


def test_a_tokenizer_of_another_model_is_refused(folder):
    real = pretrained.load(folder)
    real.model.resize_token_embeddings(40)
    with pytest.raises(ValueError, match="and the model knows 40: they do not belong together"):
        pretrained.trace(real, TEXT)


def test_a_text_begins_with_the_mark_that_its_tokenizer_puts_there(copy):
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    first = next(piece for piece, n in tokenizer["model"]["vocab"].items() if n == 5)
    mark, text = (
        {"SpecialToken": {"id": first, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    )
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [mark, text], "pair": [mark, text],
        "special_tokens": {first: {"id": first, "ids": [5], "tokens": [first]}},
    }  # fmt: skip
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    real = pretrained.load(copy)
    own = Tokenizer.default().encode(TEXT).tolist()
    assert real.encode(TEXT).tolist() == [5, *own]
    with pytest.raises(ValueError, match="The text is empty"):
        real.encode("")


@pytest.mark.parametrize(
    ("vocabulary", "shown"),
    [(["▁caf", "é", "Ġ", "<0x0A>"], " café"), (["Ġcaf", "Ã©", "Ġ"], " café")],
)
def test_pieces_are_those_of_their_kind_of_tokenizer(vocabulary, shown):
    """Maltese has the letter by which byte-level vocabularies write a space."""

    class Words:
        get_vocab = staticmethod(lambda: {word: n for n, word in enumerate(vocabulary)})
        convert_ids_to_tokens = staticmethod(lambda ids: [vocabulary[n] for n in ids])

    real = Pretrained("", "", None, Words, 0, None)
    assert "".join(real.pieces(torch.tensor([0, 1]))).replace("·", " ") == shown


def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(ValueError, match="The device 'gpu' cannot be used"):
        pretrained.load(folder, device="gpu")


def test_too_little_memory_is_said_before_anything_is_loaded(folder, monkeypatch):
    with monkeypatch.context() as busy:
        busy.setattr(checkpoint, "free_memory_bytes", lambda: 8e4)
        with pytest.raises(ValueError, match=r"GB, of which 0\.1 MB are free: no real MoE"):
            pretrained.load(folder)
    monkeypatch.setattr(checkpoint, "memory_bytes", lambda: 8e4)
    with pytest.raises(ValueError, match="needs 0.3 MB for its weights in float32, and this"):
        pretrained.load(folder)
    monkeypatch.setattr(checkpoint, "SMALLER", {"small/one": 1e4})
    with pytest.raises(ValueError, match="small/one would fit"):
        pretrained.load(folder)


def test_without_transformers_the_way_to_it_is_named(folder, monkeypatch):
    for version, has in ((None, "it has none"), ("4.57.1", "it has 4.57.1")):
        monkeypatch.setattr(checkpoint, "package_version", lambda _, version=version: version)
        with pytest.raises(ValueError, match=re.escape(has)) as refused:
            pretrained.load(folder)
        assert 'pip install "moeviz[models]"' in str(refused.value)


def test_a_routing_that_is_not_the_models_is_not_shown(folder, monkeypatch):
    real = pretrained.load(folder)
    block = real.model.model.layers[1].mlp.experts
    other = lambda x_TD, expert_TK, weight_TK: type(block).forward(  # noqa: E731
        block, x_TD, expert_TK.flip(-1), weight_TK
    )
    monkeypatch.setattr(block, "forward", other)
    refusal = "Layer 1 of .*: the recorded experts and weights give another output"
    with pytest.raises(ValueError, match=refusal):
        pretrained.trace(real, TEXT)
    for panel in (panels.RouteText(real), panels.InsideLayer(real)):
        assert re.match(refusal, said(panel)) and panel.picture.value == ""


def test_an_empty_text_is_refused(folder):
    with pytest.raises(ValueError, match="The text is empty"):
        pretrained.trace(pretrained.load(folder), "")


# On the screen.


def test_a_panel_reads_any_text_with_a_real_model_and_shows_the_proof(folder):
    panel = panels.RouteText(pretrained.load(folder))
    for view in ("probabilities", "load", "text"):
        move(panel, "view", view)
        assert f"read by {folder.name}" in panel.picture.value
    assert "the layer's output differs from the model's own by" in said(panel)
    before = panel.picture.value
    panel.controls["text"].value = "12 + 7 = 19"
    wait(lambda: panel.picture.value != before, "the picture of the other text")
    count = len(Tokenizer.default().encode("12 + 7 = 19"))
    assert f"{count} tokens, 4 experts" in said(panel)
    panel.controls["layer"].value = 0
    assert "Layer 0:" in said(panel)
    panel.controls["text"].value = "a b " * 600
    wait(lambda: "Only the first 512 of" in said(panel), "the length of a long text")
    panel.controls["text"].value = ""
    wait(lambda: said(panel) == "The text is empty; type a few words.", "the refusal")


def test_a_real_layer_is_taken_apart_and_its_rows_give_its_output(folder):
    real = pretrained.load(folder)
    trace = pretrained.trace(real, TEXT)
    for place, number in enumerate(pretrained.layers_of(real)):
        layer = pretrained.dissect(real, TEXT, layer=number)
        assert (layer.expert == trace.expert[:, place]).all() and layer.tokens == trace.tokens
        y_TD = np.zeros_like(layer.y)
        np.add.at(y_TD, layer.row_token, layer.row_weight[:, None] * layer.row_output)
        np.testing.assert_allclose(y_TD, layer.y, rtol=1e-4, atol=1e-6)
        assert (np.diff(layer.offsets) == np.bincount(layer.expert.ravel(), minlength=4)).all()
    with pytest.raises(ValueError, match=r"^Layer 7 has no experts; layers \[0, 1\] have\.$"):
        pretrained.dissect(real, TEXT, layer=7)
    panel = panels.InsideLayer(real)
    assert "the layer's output differs from the model's own by" in said(panel)
    assert "weighting" not in panel.controls
    assert f"read by {folder.name}, layer 1" in panel.picture.value
    panel.state = "inside_layer?stage=combine&layer=0&text=12 + 7 = 19"
    wait(lambda: "Done again in numpy" in said(panel), "the other layer")
    assert "differs from the model's own by" in said(panel)


def test_other_rules_are_put_on_a_real_models_own_scores(folder, copy):
    real = pretrained.load(folder)
    rewrite(copy, num_experts_per_tok=3)
    assert panels.CompareRouters(of=pretrained.load(copy)).controls["top_k"].value == 3
    panel = panels.CompareRouters(of=real, state="compare_routers?top_k=2&layer=1")
    wait(lambda: panel.drawn and "These are rules on the scores of" in said(panel), "the routers")
    tokens, given = pretrained.router_tokens(real, TEXT, layer=1)
    best_TK = (tokens.x_TD @ tokens.gate_ED.T).topk(2).indices.sort(-1).values
    trace = pretrained.trace(real, TEXT)
    assert (best_TK.numpy() == np.sort(trace.expert[:, 1])).all() and given == len(trace.tokens)
    (router,) = [site.router for site in sites(real.model) if site.layer == 1]
    hook = router.register_forward_hook(lambda _, args, out: (out[0] ** 2, *out[1:]))
    with pytest.raises(ValueError, match="are not one matrix times the token, so no other rule"):
        pretrained.router_tokens(real, TEXT, layer=1)
    hook.remove()


def test_a_panel_refuses_what_is_no_source_in_one_sentence():
    for make in (
        panels.RouteText, panels.InsideLayer, panels.Specialisation,
        lambda of: panels.CompareRouters(of=of),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="what watch.pretrained.load gives, got 'owner/model'"):
            make("owner/model")


def test_a_record_is_shown_with_its_own_text_alone(folder, tmp_path):
    pretrained.trace(pretrained.load(folder), TEXT).save(tmp_path / "trace.safetensors")
    panel = panels.RouteText(Trace.load_file(tmp_path / "trace.safetensors"))
    assert panel.controls["text"].disabled and "4 experts" in said(panel)
    for make in (panels.InsideLayer, lambda of: panels.CompareRouters(of=of)):
        with pytest.raises(ValueError, match="got a Trace: it says whom each token visits"):
            make(panel.of)


# From a terminal.


def test_the_command_writes_a_record_and_says_what_was_seen(folder, tmp_path, capsys):
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    out = tmp_path / "trace.safetensors"
    command = ["trace", "--model", str(folder), "--text", str(tmp_path / "my.txt")]
    assert cli.main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for sentence in (
        "2 MoE layers, 4 experts, 2 a token.",
        "parameters, as many as the calculator counts from its configuration.",
        "Weights: softmax over all experts, the chosen divided by their sum.",
        "largest relative error is",
        f"panels.RouteText(Trace.load_file({str(out)!r}))",
    ):
        assert sentence in printed
    assert Trace.load_file(out).layers == (0, 1)

    (tmp_path / "my.txt").write_bytes(b"")
    assert cli.main([*command, "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert "my.txt is empty; write" in printed.err and not printed.out, "nothing is loaded for it"
    (tmp_path / "my.txt").write_bytes(b"\xff\xfe")
    assert cli.main([*command, "--out", str(out)]) == 2
    assert "is not text in UTF-8" in capsys.readouterr().err
    (tmp_path / "my.txt").unlink()
    assert cli.main([*command, "--out", str(out)]) == 2
    assert "my.txt cannot be read (No such file or directory)" in capsys.readouterr().err
