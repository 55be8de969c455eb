"""Packed models and experts that stay in a file: the model's own output, bytes as computed."""

import dataclasses
import errno
import gc
import os
import warnings

import numpy as np
import pytest
import torch

from moeviz.costs.cost.memory import weight_bytes
from moeviz.costs.cost.quantisation import FORMATS, QuantPlan
from moeviz.costs.cost.traffic import offload_bound
from moeviz.experiments.offloaded import PACKED, computed
from moeviz.experiments.recorded import recorded_figures
from moeviz.experiments.recording import recorded_model
from moeviz.model import LanguageModel, ModelConfig, MoEConfig, architecture_of
from moeviz.pictures.costs.generation import told
from moeviz.records.caching import replay
from moeviz.routing import SoftPlan
from moeviz.systems import packed_model
from moeviz.systems.offload import ExpertFile, open_offloaded, storage_bytes
from moeviz.systems.packed_experts import PackedExperts, matrix, with_packed_experts
from moeviz.systems.packed_model import check_bytes, pack_model, quantised, save_packed
from moeviz.systems.quantisation import pack, unpack

MOE = MoEConfig(num_experts=8, top_k=2, d_expert=32, num_shared=1)
CONFIG = ModelConfig(
    vocab_size=64, d_model=32, num_layers=3, num_heads=2, d_ff=64, moe=MOE, dense_layers=(0,)
)
ODD = dataclasses.replace(CONFIG, d_model=48)
PROMPT = torch.arange(9) * 7 % 64


def plan(form):
    return QuantPlan.mixed(form, "fp32", routed_experts=form)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(CONFIG).eval()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    save_packed(model, path, plan("fp32"))
    return path


@pytest.mark.parametrize("form", ["bf16", "fp8", "int4_g32", "mxfp4"])
def test_a_packed_model_takes_the_bytes_of_the_arithmetic(model, form):
    everything = QuantPlan.mixed(
        form, "bf16", routed_experts=form, shared_experts=form, attention=form, dense_ffn=form
    )
    found = pack_model(model, everything).bytes()
    wanted = weight_bytes(architecture_of(CONFIG), everything).components
    assert found.keys() == wanted.keys()
    for component in wanted:
        # fp8 has a scale of 4 bytes for each matrix, which costs leave out.
        matrices = {"routed_experts": 32, "attention": 6, "shared_experts": 4, "dense_ffn": 2}
        scales = 4 * matrices.get(component, 0) if form == "fp8" else 0
        assert found[component] == wanted[component] + scales


def test_weights_that_were_left_as_they_were_are_noticed(model):
    packed = pack_model(model, plan("int4_g32"))
    check_bytes(packed)
    name = "blocks.1.ffn.w2_EDF#3"
    forgotten = packed.weights | {name: pack_model(model, "fp32").weights[name]}
    spoilt = packed_model.PackedModel(CONFIG, packed.plan, forgotten, {})
    with pytest.raises(ValueError, match="routed_experts in int4_g32 must take 27,648 bytes and"):
        check_bytes(spoilt)
    with pytest.raises(ValueError, match="head in fp32 must take"):
        few = {n: w for n, w in packed.weights.items() if not n.startswith("head")}
        check_bytes(packed_model.PackedModel(CONFIG, packed.plan, few, {}))


@torch.no_grad()
def test_more_bits_keep_more_of_the_model(model):
    tokens = PROMPT[None]
    exact = model(tokens).logits

    def gap(form, **options):
        return float((quantised(model, plan(form), **options)(tokens).logits - exact).abs().mean())

    assert gap("fp32") == 0
    assert 0 < gap("bf16") < gap("int4_g32")
    assert gap("int4_g32", layers=(1,)) < gap("int4_g32")


@pytest.mark.parametrize("policy,slots", [("lru", 2), ("lfu", 3), ("next_layer", 4), ("lru", 8)])
def test_the_output_is_the_models(model, path, policy, slots):
    offloaded = open_offloaded(path, slots, policy)
    torch.testing.assert_close(
        offloaded.model(PROMPT[None]).logits, model(PROMPT[None]).logits, atol=1e-5, rtol=1e-4
    )
    with torch.no_grad():
        offloaded = open_offloaded(path, slots, policy)
        written = offloaded.model.generate(PROMPT, 12, temperature=0)
    assert torch.equal(written, model.generate(PROMPT, 12, temperature=0))
    assert all(len(layer.bank) <= slots for layer in offloaded.layers)

    # What was measured is what a replay of the same choices computes.
    routes = model(written[None, :-1]).routes[1:]
    expert = np.stack([r.plan.expert[r.plan.inverse.long()].view(-1, 2).numpy() for r in routes], 1)
    found = replay(expert, 8, slots, policy)
    assert offloaded.asked == expert.size
    assert (offloaded.hits, offloaded.loads) == (found.hits.sum(), found.loads.sum())


@pytest.mark.parametrize("form", ["fp32", "int8", "int4_g32", "mxfp4"])
def test_the_bytes_read_are_those_of_the_arithmetic(model, tmp_path, form):
    wide = MoEConfig(num_experts=8, top_k=2, d_expert=64)
    config = ModelConfig(vocab_size=64, d_model=64, num_layers=2, num_heads=2, moe=wide)
    torch.manual_seed(0)
    model = LanguageModel(config).eval()
    save_packed(model, tmp_path / "m.safetensors", plan(form))
    offloaded = open_offloaded(tmp_path / "m.safetensors", 3)
    offloaded.model(PROMPT[None])
    bound = offload_bound(
        architecture_of(config), 1e9, plan=plan(form), hit_rate=offloaded.hits / offloaded.asked
    )
    assert offloaded.file.bytes_read == pytest.approx(bound.bytes.total * len(PROMPT))
    # And the model computes with what the format keeps.
    kept = quantised(model, plan(form))
    torch.testing.assert_close(
        offloaded.model(PROMPT[None]).logits, kept(PROMPT[None]).logits, atol=1e-5, rtol=1e-4
    )


def test_a_file_that_was_dropped_from_memory_is_read_again(path):
    file = ExpertFile(path, from_disk=True)
    if not file.drop_from_memory():
        pytest.skip("This system cannot be asked to forget a file.")
    first, before = file.expert(1, 3), storage_bytes()
    assert all(torch.equal(a, b) for a, b in zip(first, file.expert(1, 3), strict=True))
    # A file system in memory reads nothing from a disk; where one is read, it is the whole expert.
    assert before is None or storage_bytes() - before in (0, *range(file.bytes_read // 2, 2**20))


def test_a_file_is_closed_with_its_object(path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        ExpertFile(path)
        gc.collect()
    assert [str(warning.message) for warning in told] == []


@pytest.mark.parametrize(
    "form,product,rows,columns",
    [("int8", "kernel", 64, 128), ("int8", "kernel", 256, 64), ("int4", "kernel", 64, 128),
     ("int4", "kernel", 256, 64), ("int4", "kernel", 32, 256), ("int4_g32", "unpacked", 7, 96),
     ("fp32", "kernel", 7, 9)],
)  # fmt: skip
def test_a_packed_matrix_multiplies_as_what_it_stands_for(form, product, rows, columns):
    rng = np.random.default_rng(rows + columns)
    packed = pack(rng.normal(size=(rows, columns)), form)
    found = matrix(packed, product)
    for count in (1, 5):
        x_nK = torch.from_numpy(rng.normal(size=(count, columns)).astype(np.float32))
        wanted = x_nK.double() @ torch.from_numpy(unpack(packed)).double().T
        torch.testing.assert_close(found(x_nK).double(), wanted, rtol=1e-4, atol=1e-4)
    bits, scales = FORMATS[form].weight_bits, 0
    if product == "kernel" and form != "fp32":
        scales = {"int8": 4, "int4": 8}[form] * rows * max(columns // 128, 1)
    elif form != "fp32":
        scales = 2 * rows * columns / 32
    assert found.nbytes == rows * columns * bits / 8 + scales


@pytest.mark.parametrize("way", PACKED, ids="-".join)
def test_a_model_of_packed_experts_is_the_rounded_model(way):
    model, _ = recorded_model()
    copy, taken = with_packed_experts(model, plan(way[0]), way[1])
    kept = quantised(model, plan(way[0]))
    torch.testing.assert_close(
        copy(PROMPT[None]).logits, kept(PROMPT[None]).logits, atol=1e-4, rtol=1e-4
    )
    assert taken == computed(model, *way)
    assert all(copy.blocks[layer].ffn.w2_EDF.is_meta for layer in model.config.moe_layers)


def test_what_no_kernel_multiplies_is_said():
    wide = pack(np.ones((4, 256)), "int8")
    with pytest.raises(ValueError, match="one scale a row, and a row of 256 weights has 2 here"):
        matrix(wide, "kernel")
    with pytest.raises(ValueError, match="product='kernel', must be one of fp32, int8, int4, got"):
        matrix(pack(np.ones((4, 32)), "mxfp4"), "kernel")
    with pytest.raises(ValueError, match="product must be one of unpacked, kernel, got 'x'"):
        matrix(wide, "x")
    soft = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="A soft router mixes tokens"):
        PackedExperts([]).experts(PROMPT, SoftPlan(soft, soft), soft, soft, "auto")


def test_a_damaged_expert_is_refused_when_it_is_read(model, path, tmp_path):
    data = bytearray(path.read_bytes())
    spoilt = tmp_path / "spoilt.safetensors"
    w2 = model.blocks[2].ffn.w2_EDF[5].detach().numpy().tobytes()
    data[data.index(w2) + 17] ^= 4
    spoilt.write_bytes(data)
    offloaded = open_offloaded(spoilt, 2)
    offloaded.file.expert(1, 5)
    with pytest.raises(ValueError, match=r"is damaged: experts.0002.00005 does not fit its check"):
        offloaded.file.expert(2, 5)
    spoilt.write_bytes(data[:-40])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        open_offloaded(spoilt, 2)


def test_a_full_disk_leaves_what_was_there(model, path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"Could not save .* \(No space left on device\)"):
        save_packed(model, path, plan("int4_g32"))
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda p: open_offloaded(p, 1), "slots must be at least top_k = 2, the experts that one"),
        (lambda p: open_offloaded(p, 3, "belady"), "policy must be one of lru, lfu, next_layer"),
        (lambda p: open_offloaded(p.parent / "x", 3), "There is no file"),
        (lambda p: save_packed(LanguageModel(CONFIG), p, plan("nf4")), "not as 'nf4'"),
        (lambda p: save_packed(LanguageModel(ODD), p, plan("int4")), "int4 packs groups of 128"),
        (lambda p: save_packed(LanguageModel(ModelConfig()), p, "bf16"), "A dense model has no"),
    ],
)
def test_what_cannot_be_done_is_said(path, call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call(path)


def test_the_recorded_runs_agree_with_the_arithmetic():
    """Bytes to the last one; more slots load less; every run wrote what the model writes."""
    recorded = recorded_figures("offloaded")
    experts = recorded["expert_bytes"]
    for run in recorded["runs"]:
        assert run["same"] and run["bytes_read"] == run["computed"]
        assert run["bytes_read"] == run["loads"] * experts[run["form"]]
        assert run["hits"] + run["loads"] == run["asked"]
    for each in recorded["packed"]:
        assert each["same"] and each["bytes"] == each["computed"]
    whole = {r["slots"]: r["loads"] for r in recorded["runs"] if r["form"] == "fp32"}
    assert sorted(whole.values(), reverse=True) == [whole[slots] for slots in sorted(whole)]
    assert experts["int4"] < experts["int8"] / 1.9 and experts["int8"] < experts["fp32"] / 3.9


def test_a_recording_of_a_busy_machine_says_so():
    recorded = recorded_figures("offloaded")
    for load, says in ((0.9, False), (11.7, True)):
        words = told(recorded | {"load": [load] * 3})
        assert f"on a machine of load {load}." in words
        assert ("other ratios may be found on a quiet one" in words) is says
