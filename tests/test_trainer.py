"""Training: it learns, resumes bit for bit, survives divergence, and never unpickles a file."""

import contextlib
import dataclasses
import functools
import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import moeviz.model.division
from helpers.numerics import relative
from helpers.prose import prose
from helpers.training import DENSE, MODELS, MOE, TRAIN, check_same, make, run, state_of, tiny_corpus
from moeviz.model import MoEConfig
from moeviz.model.adamw import AdamW
from moeviz.records.store import load_arrays, save_arrays
from moeviz.routing import ROUTERS
from moeviz.routing.capacity import Capacity
from moeviz.text.corpus import Corpus, load_corpus
from moeviz.text.embedded import Domain, Source
from moeviz.training import Trainer, checkpoint, config
from moeviz.training.config import (
    learning_rate_at,
    leave_a_core_free,
    resolve_device,
    resolve_precision,
)
from moeviz.training.trainer import GOOD_STATE_EVERY, NonFiniteLossError, _on_host


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("text"))


# --- learning ---


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_falls_from_a_uniform_guess(corpus, name):
    trainer = make(corpus, MODELS[name], steps=60, learning_rate=2e-2)
    results = list(trainer)
    assert len(results) == trainer.step == 60
    assert abs(results[0].loss - math.log(300)) < 1.5
    assert np.mean([r.loss for r in results[-5:]]) < results[0].loss - 2.0
    assert trainer.evaluate().loss < results[0].loss - 2.0


def test_a_step_says_what_it_did(corpus):
    """Of 128 choices in each layer, half find a slot at most: ceil(0.5 * 2 * 64 / 4) = 16 each."""
    moe = dataclasses.replace(MOE.moe, capacity=Capacity(0.5))
    trainer = make(corpus, dataclasses.replace(MOE, moe=moe))
    start = time.perf_counter()
    first, second = run(trainer, 2)
    assert 0 < trainer.seconds < time.perf_counter() - start
    assert (first.step, second.step) == (1, 2)
    assert first.load.dtype == np.int64 and first.load.max() == 16
    assert first.dropped == pytest.approx(1 - first.load.sum(1) / 128)
    assert first.router_losses.keys() == {"balance", "z"}
    curve = trainer.history.curve()
    assert 0 < curve.seconds[0] < trainer.seconds
    load = np.array([first.load, second.load])
    assert curve.load == pytest.approx(load / load.sum(-1, keepdims=True))
    dropped = 2 * (2 * 128) - load.sum()  # an expert of width 8 each, that was not computed
    assert curve.flops[-1] == 3 * (2 * 64 * MOE.flops_per_token(16) - dropped * 6 * 16 * 8)
    dense = run(make(corpus, DENSE), 1)[0]
    assert dense.load.shape == (0, 0) and dense.router_losses == {}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("clip", [1e9, 1e-3])
def test_a_step_is_that_of_adamw_on_the_loss_and_the_weighed_router_losses(corpus, name, clip):
    """Norms are not decayed, gradients are clipped, and both models see the same batches."""
    options = dict(balance_weight=0.5, z_weight=0.25, weight_decay=0.5, clip=clip)
    trainer, twin = (make(corpus, MODELS[name], **options) for _ in range(2))
    named = list(twin.model.named_parameters())
    decays = {
        0.0: [p for n, p in named if "norm" in n],
        0.5: [p for n, p in named if "norm" not in n],
    }
    groups = [{"params": params, "weight_decay": decay} for decay, params in decays.items()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for step in range(2):
        batch = corpus.batch(seed=3, step=step, batch_size=4, seq_len=16)
        tokens = torch.from_numpy(batch.tokens)
        out = twin.model(tokens[:, :-1])
        loss = -out.logits.log_softmax(-1).gather(2, tokens[:, 1:, None]).mean()
        total = loss
        for route in filter(None, out.routes):  # means over the two layers
            total = total + (0.5 * route.losses["balance"] + 0.25 * route.losses["z"]) / 2
        optimizer.zero_grad()
        total.backward()
        norm = torch.stack([p.grad.norm() for _, p in named]).norm().item()
        for _, parameter in named:
            parameter.grad *= min(1, clip / norm)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (step + 1) / 3
        optimizer.step()
        result = next(trainer)
        assert result.loss == pytest.approx(loss.item(), rel=1e-4)
        assert result.grad_norm == pytest.approx(norm, rel=1e-3)
    for taken, (_, parameter) in zip(trainer.model.parameters(), named, strict=True):
        assert relative(taken, parameter) < 1e-4


@pytest.mark.parametrize("router", [*ROUTERS, "dense"])
def test_a_batch_in_parts_learns_what_the_whole_batch_does(corpus, router):
    """Every choice, loss and balancing state of every router, and one part at a time."""
    options = {"bias": "sign"} if router == "token_choice" else {}
    moe = (
        MoEConfig(4, 2, 8, router=router, options=options, num_shared=1)
        if router != "dense"
        else None
    )
    whole, parts = (make(corpus, dataclasses.replace(MOE, moe=moe), accumulate=n) for n in (1, 3))
    rows = []
    parts.model.head.register_forward_hook(lambda head, args, out: rows.append(len(out)))
    for want, got in zip(run(whole, 3), run(parts, 3), strict=True):
        assert np.array_equal(want.load, got.load) and want.dropped.tolist() == got.dropped.tolist()
        assert got.router_losses == pytest.approx(want.router_losses, rel=1e-4)
        assert (got.loss, got.grad_norm) == pytest.approx((want.loss, want.grad_norm), rel=1e-4)
    assert max(rows) == 2 and len(rows) == 3 * 2 * 3  # parts, forward and again, steps
    for name, buffer in parts.model.named_buffers():
        assert torch.allclose(buffer, whole.model.get_buffer(name), rtol=1e-4, atol=1e-6)


def test_validation_is_measured_when_it_is_due(corpus):
    trainer = make(corpus, validate_every=4, steps=10)
    list(trainer)
    measured = trainer.history.curve()
    assert measured.step[~np.isnan(measured.validation)].tolist() == [4, 8, 10]
    assert measured.validation[-1] == trainer.evaluate().loss
    never = make(corpus, validate_every=0, steps=2)
    list(never)
    assert np.isnan(never.history.curve().validation).all()


# --- the same again ---


def test_a_seed_decides_the_run_and_nothing_else_does(corpus):
    one = make(corpus)
    first = [r.loss for r in run(one, 6)]
    torch.manual_seed(99)  # what ran before in this process must not matter
    state = torch.get_rng_state()
    again = make(corpus)
    assert [r.loss for r in run(again, 6)] == first
    assert torch.equal(torch.get_rng_state(), state)
    check_same(state_of(one), state_of(again))
    other = [r.loss for r in run(make(corpus, seed=2**32 - 1), 6)]
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name,capacity", [("dense", 400), ("moe", 400), ("moe", 4)])
def test_a_resumed_run_is_the_same_bit_for_bit(corpus, tmp_path, name, capacity):
    """With a full history too, whose last points are not yet merged."""
    path = tmp_path / "a" / "run.safetensors"
    whole, part = make(corpus, MODELS[name]), make(corpus, MODELS[name])
    whole.history.capacity = part.history.capacity = capacity
    run(whole, 12)
    run(part, 7)
    part.save(path)
    resumed = Trainer.resume(path, corpus)
    resumed.history.capacity = capacity
    assert resumed.step == 7 and resumed.seconds == part.seconds
    check_same(state_of(part), state_of(resumed))
    resumed.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    run(resumed, 5)
    check_same(state_of(whole), state_of(resumed))
    assert next(resumed, None) is None
    resumed.save(path)
    longer = Trainer.resume(path, corpus, steps=14)
    assert len(list(longer)) == 2 and longer.config.seed == TRAIN.seed


# --- divergence ---


def diverge(trainer, sentence):
    """A weight breaks, and the next step says so."""
    with torch.no_grad():
        trainer.model.head.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteLossError, match=sentence) as stop:
        next(trainer)
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(
    "broken,good", [(GOOD_STATE_EVERY + 4, GOOD_STATE_EVERY), (GOOD_STATE_EVERY, 0)]
)
def test_a_broken_weight_takes_the_run_back_to_its_last_good_state(corpus, broken, good):
    """Also just before the step at which a copy is due: a broken state is never taken for good."""
    trainer, straight = make(corpus, steps=60), make(corpus, steps=60)
    run(straight, good)
    run(trainer, broken)
    diverge(trainer, f"The loss stopped .* step {broken + 1} .*back at step {good}")
    check_same(state_of(straight), state_of(trainer))
    # It goes on as if nothing had happened.
    run(straight, 5)
    run(trainer, 5)
    check_same(state_of(straight), state_of(trainer))


def test_the_second_rewind_is_as_good_as_the_first(corpus, tmp_path):
    """From a step that is no multiple of GOOD_STATE_EVERY, as after a resume."""
    trainer = make(corpus, steps=60)
    run(trainer, 7)
    trainer.save(tmp_path / "run")
    trainer = Trainer.resume(tmp_path / "run", corpus)
    good = state_of(trainer)
    for _ in range(2):
        run(trainer, 3)
        diverge(trainer, "back at step 7")
        check_same(good, state_of(trainer))


def test_what_a_router_cannot_choose_by_takes_the_run_back_too(corpus):
    """Its logits stop being finite before there is a loss."""
    trainer = make(corpus)
    run(trainer, 2)
    with torch.no_grad():
        trainer.model.embedding.weight.fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match="The loss stopped .* step 3 .*back at step 0"):
        next(trainer)
    check_same(state_of(trainer), state_of(make(corpus)))


def test_a_gradient_that_is_not_finite_is_not_blamed_on_the_loss(corpus):
    trainer = make(corpus)
    run(trainer, 2)
    trainer.model.head.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFiniteLossError, match="The gradient stopped .* step 3 .*slope"):
        next(trainer)
    check_same(state_of(trainer), state_of(make(corpus)))


@pytest.mark.parametrize("name", MODELS)
def test_an_absurd_learning_rate_stops_and_a_sane_one_goes_on(corpus, name):
    trainer = make(corpus, MODELS[name], steps=60, learning_rate=1e30, warmup=0)
    with pytest.raises(NonFiniteLossError, match=r"learning rate 1e\+30"):
        list(trainer)
    check_same(state_of(trainer), state_of(make(corpus, MODELS[name])))
    trainer.config = dataclasses.replace(trainer.config, learning_rate=1e-2)
    assert all(math.isfinite(result.loss) for result in run(trainer, 5))
    assert len(trainer.history.curve()) == 5


# --- files ---


@pytest.fixture(scope="module")
def saved(corpus, tmp_path_factory):
    trainer = make(corpus)
    run(trainer, 2)
    path = tmp_path_factory.mktemp("saved") / "run.safetensors"
    trainer.save(path)
    return path


def in_model(**changes):
    return lambda arrays, header: header["model"].update(changes)


def rename(arrays, header):
    arrays["optimizer.exp_avg.tail.weight"] = arrays.pop("optimizer.exp_avg.head.weight")


VERSION = "does not fit this version of moeviz"


@pytest.mark.parametrize(
    "change,sentence",
    [
        (lambda arrays, header: arrays.pop("model.head.weight"), "fit the model that its own"),
        (in_model(d_ff=24, d_model=20), "does not fit the model that its own header"),
        (in_model(wings=2), f"{VERSION}.*wings"),
        (lambda arrays, header: header["train"].update(wings=2), f"{VERSION}.*wings"),
        (in_model(num_heads=3), "num_heads"),
        *(
            (lambda arrays, header, name=name: header.pop(name), f"{VERSION}.*{name}")
            for name in ("corpus", "model", "step")
        ),
        (lambda arrays, header: header.update(model=None), VERSION),
        (lambda arrays, header: arrays.pop("history.loss"), f"{VERSION}.*loss"),
        (rename, f"{VERSION}.*tail.weight"),
    ],
)
def test_a_header_that_does_not_fit_is_one_sentence(corpus, saved, tmp_path, change, sentence):
    arrays, header = load_arrays(saved, kind="checkpoint")
    change(arrays, header)
    save_arrays(tmp_path / "run", arrays, header, kind="checkpoint")
    with pytest.raises(ValueError, match=sentence) as refusal:
        Trainer.resume(tmp_path / "run", corpus)
    assert "\n" not in str(refusal.value)


def test_another_corpus_or_a_missing_file_is_said(corpus, saved, tmp_path):
    (tmp_path / "other.txt").write_text(prose(7, 300))
    other = load_corpus(tmp_path / "other.txt", tokenizer=corpus.tokenizer)
    with pytest.raises(ValueError, match="resume it on the text that it began with") as refusal:
        Trainer.resume(saved, other)
    for manifest in (corpus.manifest, other.manifest):
        assert f'"{manifest.corpus}" under' in str(refusal.value)
        assert manifest.fingerprint in str(refusal.value)
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no file"):
            Trainer.resume(path, corpus)


# --- how it trains ---


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    config = dataclasses.replace(TRAIN, steps=110, warmup=10, learning_rate=2.0)
    flat = dataclasses.replace(config, schedule="constant")
    steps = (0, 4, 9, 10, 35, 60, 110, 10**6)
    falling = [0.2, 1.0, 2.0, 2.0, 0.2 + 0.9 * (1 + math.sqrt(0.5)), 1.1, 0.2, 0.2]
    assert [learning_rate_at(step, config) for step in steps] == pytest.approx(falling)
    assert [learning_rate_at(step, flat) for step in steps] == pytest.approx([0.2, 1.0] + [2.0] * 6)
    assert learning_rate_at(0, dataclasses.replace(config, warmup=0)) == 2.0


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_learning_rate_starts_anew_as_often_as_asked_for(warmup):
    """After the warm-up as torch's own schedule, and at its peak after each restart."""
    config = dataclasses.replace(
        TRAIN, steps=110, warmup=warmup, learning_rate=2.0, schedule="restarts", restart_every=25
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 25, eta_min=0.2)
    for step in range(warmup, 110):
        assert learning_rate_at(step, config) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    assert [learning_rate_at(warmup + 25 * i, config) for i in range(4)] == [2.0] * 4
    assert learning_rate_at(warmup + 24, config) < 0.21


@pytest.mark.parametrize("backend", ["grouped", "reference"])
def test_bfloat16_autocast_trains_and_reaches_the_experts(corpus, backend, monkeypatch):
    seen, apply = [], moeviz.model.division.apply_experts
    monkeypatch.setattr(
        moeviz.model.division,
        "apply_experts",
        lambda x, *a, **k: seen.append(x.dtype) or apply(x, *a, **k),
    )
    model = dataclasses.replace(MOE, moe=dataclasses.replace(MOE.moe, backend=backend))
    trainer = make(corpus, model, precision="bfloat16")
    results = run(trainer, 12)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert results[0].loss == pytest.approx(run(make(corpus, model), 1)[0].loss, rel=1e-2)
    assert results[-1].loss < results[0].loss - 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_compiled_training_is_the_same_to_rounding(corpus, name, monkeypatch, tmp_path):
    # torch's cache hands code for one ATEN_CPU_CAPABILITY to a process with another (torch 2.13).
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain = [r.loss for r in run(make(corpus, MODELS[name]), 4)]
    compiled = [r.loss for r in run(make(corpus, MODELS[name], compile=True), 4)]
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_nothing_is_compiled_unless_it_is_asked_for(corpus, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: pytest.fail("compiled"))
    run(make(corpus), 1)


def test_a_model_marked_for_compiling_is_traced(corpus, monkeypatch):
    """Without a C++ compiler: Dynamo follows the model, the MoE layers stay as they are."""
    plain = [r.loss for r in run(make(corpus), 3)]
    calls, real = [], torch.compile

    def count(graph, _):
        calls.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=count))
    assert [r.loss for r in run(make(corpus, compile=True), 3)] == pytest.approx(plain, rel=1e-5)
    assert calls


WRONG = {
    "restart_every": 0, "accumulate": 17,
    "steps": 0, "batch_size": 0, "seq_len": -3, "warmup": -1, "validate_every": 0.5, "seed": 2**32,
    "learning_rate": 0.0, "clip": math.inf, "weight_decay": -0.1, "balance_weight": "1",
    "z_weight": -1, "cv_weight": -1, "schedule": "linear", "precision": "fp8", "compile": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_impossible_training_is_one_sentence(name):
    with pytest.raises(ValueError, match=f"{name} must be .*, got {WRONG[name]!r}") as refusal:
        dataclasses.replace(TRAIN, **{name: WRONG[name]})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change,sentence",
    [
        (
            dict(model=dataclasses.replace(MOE, vocab_size=299)),
            "vocab_size 299 is smaller than the",
        ),
        (dict(device="cuda:77"), "'cuda:77' is not available here"),
        (dict(device="toaster"), "'toaster' is not available here"),
        (dict(precision="float16", device="cpu"), "float16 training needs a GPU"),
        (dict(seq_len=100_000), "seq_len=100000 must be from 1"),
    ],
)
def test_a_trainer_refuses_what_does_not_fit_together(corpus, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(corpus, **change)


def test_a_text_too_short_to_train_on_is_refused_before_the_first_step(corpus):
    """Though what is held out is long enough."""
    domain = Domain("brief", ("Ten bytes.",), "made up", held_out=(prose(1, 300),))
    with pytest.raises(ValueError, match='seq_len=16 .* the train text of "brief"'):
        make(Corpus(Source("tiny", (domain,)), corpus.tokenizer))


def test_each_loss_of_a_router_has_its_weight_and_one_that_the_router_weighs_itself_has_1():
    train = dataclasses.replace(TRAIN, balance_weight=0.5, z_weight=0.25, cv_weight=0.125)
    names = ("balance", "z", "importance", "load", "l1")
    assert [train.weight_of(name) for name in names] == [0.5, 0.25, 0.125, 0.125, 1]


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 3), (5, 4), (64, 4)])
def test_a_core_stays_free_and_no_more_than_four_work(monkeypatch, cores, threads):
    taken = []
    monkeypatch.setattr(config, "cores", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    leave_a_core_free()
    assert taken == [threads]


def test_auto_takes_what_the_machine_has():
    for name, dtype in (("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")):
        assert resolve_precision(name, torch.device("cpu")) == getattr(torch, dtype)
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_a_gpu_trains_in_the_half_precision_that_it_computes_in(monkeypatch, capability, dtype):
    """Colab's T4 is a 7.5: torch calls bfloat16 supported there, for it can emulate it."""
    major, minor = capability
    properties = SimpleNamespace(major=major, minor=minor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert torch.cuda.is_bf16_supported()
    assert resolve_precision("auto", torch.device("cuda")) == getattr(torch, dtype)


# --- float16, whose gradients are scaled; on a CPU, where no one would want it ---


@pytest.fixture
def in_float16(monkeypatch):
    monkeypatch.setattr(checkpoint, "resolve_precision", lambda *_: torch.float16)


def overflow_once(trainer):
    """The next step's gradient is infinite."""
    handle = trainer.model.head.weight.register_hook(lambda gradient: gradient * math.inf)
    result = next(trainer)
    handle.remove()
    return result


def test_float16_learns_and_an_overflow_costs_one_step(corpus, in_float16):
    trainer = make(corpus, steps=40, learning_rate=2e-2)
    first = next(trainer)
    with torch.autocast("cpu", dtype=torch.float16):
        logits = make(corpus).model(torch.zeros(1, 4, dtype=torch.int64)).logits
    assert logits.dtype == torch.float16
    before, scale = state_of(trainer), trainer.scaler.get_scale()
    assert not math.isfinite(overflow_once(trainer).grad_norm)
    after = state_of(trainer)
    kept = [name for name in before if not name.startswith("curve.")]
    check_same({name: before[name] for name in kept}, {name: after[name] for name in kept})
    assert trainer.scaler.get_scale() == scale / 2 and trainer.step == 2
    assert list(trainer)[-1].loss < first.loss - 1.0


@pytest.mark.parametrize("fused", [False, True])  # as on a GPU: it skips the overflow itself
@pytest.mark.parametrize("steps", [0, 3])
def test_float16_resumes_bit_for_bit_with_its_scale(
    steps, fused, corpus, in_float16, tmp_path, monkeypatch
):
    optimiser = functools.partial(AdamW, fused=fused)
    monkeypatch.setattr(checkpoint, "adamw", lambda groups, *_: optimiser(groups, lr=1e-3))
    whole, part = make(corpus), make(corpus)
    for trainer in (whole, part):
        run(trainer, steps)
        overflow_once(trainer)
    part.save(tmp_path / "run")
    resumed = Trainer.resume(tmp_path / "run", corpus)
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()
    assert resumed.scaler.get_scale() != make(corpus).scaler.get_scale()
    run(whole, 4)
    run(resumed, 4)
    check_same(state_of(whole), state_of(resumed))


def test_a_run_in_float32_goes_on_in_float16(corpus, saved, in_float16):
    resumed = Trainer.resume(saved, corpus)
    assert resumed.scaler.get_scale() == make(corpus).scaler.get_scale()
    assert math.isfinite(next(resumed).loss)


def test_float16_goes_on_after_it_diverged(corpus, in_float16):
    trainer = make(corpus)
    run(trainer, 2)
    diverge(trainer, "The loss stopped")
    assert math.isfinite(next(trainer).loss)


# --- one look at the device's numbers in a step ---


class Looks(TorchDispatchMode):
    """How often a number is read out of a tensor."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name() == "aten::_local_scalar_dense"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "router", ["token_choice", "expert_choice", "soft_moe", "remoe", "mixture_of_depths"]
)
def test_a_step_says_the_same_numbers_as_each_tensor_by_itself(corpus, router, monkeypatch):
    """To the last bit, and by one copy: each would make a GPU wait."""
    moe = dataclasses.replace(MOE.moe, router=router, capacity=None)
    adamw = checkpoint.adamw  # a GPU's: the CPU's usual one reads its number of steps
    monkeypatch.setattr(checkpoint, "adamw", lambda g, lr, _: adamw(g, lr, torch.device("cuda")))
    trainer = make(corpus, dataclasses.replace(MOE, moe=moe))
    outs, copies, cpu, looks, loss = [], [], torch.Tensor.cpu, Looks(), trainer._loss
    trainer.model.register_forward_hook(lambda model, args, out: outs.append(out))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: copies.append(t.shape) or cpu(t))
    with contextlib.ExitStack() as after_the_forward_pass:  # which of some routers waits anyway

        def watched(*given):
            out = loss(*given)
            after_the_forward_pass.enter_context(looks)
            return out

        monkeypatch.setattr(trainer, "_loss", watched)
        result = next(trainer)
    assert len(copies) == 1 and looks.count == 0
    stats = [route.stats for route in outs[0].routes]
    assert result.load.dtype == np.int64 and result.load.tolist() == [
        s.load.tolist() for s in stats
    ]
    assert result.entropy.tolist() == [s.entropy.item() for s in stats]
    lost = [1 - s.load.sum() / s.demand.sum().clamp(min=1) for s in stats]
    assert result.dropped.tolist() == [share.item() for share in lost]
    for name, value in result.router_losses.items():
        means = torch.stack([route.losses[name] for route in outs[0].routes]).mean()
        assert value == means.item()


class OnMps:
    """What a step may ask of a number on a Mac's GPU: not for float64, which is not there."""

    device = torch.device("mps")

    def __init__(self, value):
        self.value, self.shape = value, value.shape

    def detach(self):
        return self

    def flatten(self):
        return OnMps(self.value.flatten())

    def cpu(self):
        return self.value


def test_a_step_needs_no_float64_of_a_macs_gpu():
    columns = {"losses": [torch.tensor(0.1)], "load": [torch.tensor([1, 2]), torch.tensor([3, 4])]}
    moved = {name: [OnMps(value) for value in values] for name, values in columns.items()}
    for name, array in _on_host(columns).items():
        assert np.array_equal(_on_host(moved)[name], array) and array.dtype == np.float64


def test_a_gpus_fused_optimiser_takes_the_same_steps_and_resumes(corpus, monkeypatch, tmp_path):
    """Here on the CPU, which has one too, asked for as a GPU's is."""
    plain = make(corpus)
    assert plain.optimizer.defaults["fused"] is None
    adamw = checkpoint.adamw
    monkeypatch.setattr(checkpoint, "adamw", lambda g, lr, _: adamw(g, lr, torch.device("cuda")))
    fused = make(corpus)
    assert fused.optimizer.defaults["fused"]
    run(plain, 4)
    run(fused, 4)
    for one, other in zip(plain.model.parameters(), fused.model.parameters(), strict=True):
        assert relative(other, one) < 1e-4
    fused.save(tmp_path / "run")
    resumed = Trainer.resume(tmp_path / "run", corpus)
    run(fused, 4)
    run(resumed, 4)
    check_same(state_of(fused), state_of(resumed))


def test_a_snapshot_is_independent_of_what_comes_after(corpus):
    trainer = make(corpus)
    assert trainer.snapshot("moe").tokens_per_second == 0
    run(trainer, 3)
    shot = trainer.snapshot("moe")
    loss = shot.curve.loss.copy()
    run(trainer, 3)
    assert shot.step == 3 and np.array_equal(shot.curve.loss, loss)
    assert shot.label == "moe" and shot.total_steps == 12
    assert shot.tokens_per_second == pytest.approx(3 * 4 * 16 / shot.seconds)
    assert shot.parameters > shot.active_parameters > 0
    assert json.loads(json.dumps(shot.meta))["corpus"] == corpus.manifest.fingerprint
