"""What every test module needs before it is imported, and the fixtures that several share."""

import atexit
import functools
import importlib.util
import os
import shutil
import signal
import tempfile
import threading
import zlib

import pytest
import torch
from hypothesis import settings

# Triton decides when a kernel is defined, that is at the import of moeviz_kernels, whether it will
# be compiled or interpreted. No test module stands before this one, so here it can still be said;
# processes that tests start inherit it. A GPU compiles, and what the caller has set stays.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What tests keep on disk is theirs, and not the user's; workers and other processes inherit it.
if "MOEVIZ_HOME" not in os.environ:
    os.environ["MOEVIZ_HOME"] = tempfile.mkdtemp(prefix="moeviz-tests-")
    atexit.register(shutil.rmtree, os.environ["MOEVIZ_HOME"], ignore_errors=True)

# Triton has wheels for Linux. CI has it and insists.
if importlib.util.find_spec("triton") is None and not os.environ.get("CI"):
    collect_ignore_glob = ["test_kernels*.py"]

# On a busy machine an example takes as long as it takes; the rest stays, in CI too.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest.register_assert_rewrite("helpers")  # a failed check shows its values there too


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """What a test draws without a seed is the same whatever ran before it in its process; two tests
    draw different numbers, and none those of a small seed that it may set itself."""
    torch.manual_seed(zlib.crc32(f"{item.path.name} {item.name}".encode()))


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_terminal():
    """What a shell has told its background jobs to ignore, or nohup, is heard: by tests of signals,
    and by the processes that tests start."""
    defaults = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
    for name, handler in defaults.items():
        number = getattr(signal, name, None)  # not all on Windows
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def poisoned_memory():
    """New memory is full of NaN, or of the largest integer, and not of zeros as it often is by
    chance: what a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


# The kernels' tests run where nothing but torch, Triton and pytest is installed: what follows
# imports the rest when it is asked for.


@pytest.fixture
def triton_everywhere(monkeypatch):
    """The routing's own steps in Triton too, as on a GPU; a list of the shapes that they took."""
    from moeviz import backend

    calls = []

    def found(tensor, *, num_experts=1):
        calls.append(tensor.shape)
        return backend.kernels()

    monkeypatch.setattr("moeviz.ops.kernels_for", found)
    return calls


@pytest.fixture
def nothing_is_swallowed(monkeypatch, caplog):
    """ipywidgets logs what a button's callback raises and goes on; a panel logs what it did not
    expect. Either one fails the test; a test that wants it clears caplog."""
    import ipywidgets

    def loud(self, *args, **kwargs):
        for callback in list(self.callbacks):
            callback(*args, **kwargs)

    monkeypatch.setattr(ipywidgets.widgets.widget.CallbackDispatcher, "__call__", loud)
    yield
    assert not [r.getMessage() for r in caplog.get_records("call") if r.name == "moeviz"]


DISPATCHES = {}


@pytest.fixture
def dispatches_once(monkeypatch):
    """Each dispatch is computed once: the kernels are slow where they are interpreted."""
    from moeviz.experiments import dispatch

    compute = dispatch.dispatch_of

    def once(values, loaded=None):
        key = frozenset(values.items())
        if key not in DISPATCHES:
            DISPATCHES[key] = compute(values, loaded)
        return DISPATCHES[key]

    monkeypatch.setattr(dispatch, "dispatch_of", once)


@pytest.fixture(scope="session")
def loaded_reader():
    """The shipped model, loaded once for all tests that only read with it."""
    from moeviz.panels.shipped_model import Reader

    reader = Reader()
    reader.get()
    return reader


@pytest.fixture
def a_reader(monkeypatch, loaded_reader, request):
    """The loaded model for all panels; a reader without one where a test asks for `unloaded`."""
    from moeviz.panels import shipped_model

    given = shipped_model.Reader() if "unloaded" in request.fixturenames else loaded_reader
    monkeypatch.setattr(shipped_model, "READER", given)


@pytest.fixture
def unloaded():
    """Asks a_reader for a reader without a model."""


@pytest.fixture
def fresh_kernel(monkeypatch, tmp_path):
    """As a kernel begins: nothing trains, nothing is kept or predicted; the autosave's folders."""
    from helpers.live import end_of_kernel
    from moeviz.panels import Collapse, LoudAndQuiet, MemoryOrThinking, Race, Upcycling
    from moeviz.predictions import ANSWERS

    monkeypatch.setenv("MOEVIZ_HOME", str(tmp_path))
    ANSWERS.clear()
    kinds = Race, Collapse, LoudAndQuiet, MemoryOrThinking, Upcycling
    yield {kind: tmp_path / "live" / kind.kind for kind in kinds}
    for kind in kinds:
        end_of_kernel(kind)


@pytest.fixture
def track(monkeypatch, corpus):
    """All that trains in a panel small, on a text of few words; what a test may change of it."""
    from dataclasses import replace
    from types import SimpleNamespace

    from moeviz.experiments import collapse, grown_models
    from moeviz.model.config import ModelConfig
    from moeviz.model.layer import MoEConfig
    from moeviz.training.config import TrainConfig

    track, whole = SimpleNamespace(steps=10**6, validate_every=0), collapse.collapse_model

    def small(moe, num_layers, **options):
        return ModelConfig(
            vocab_size=300, d_model=8, num_layers=num_layers, num_heads=2, moe=moe, **options
        )

    def race_models(num_experts, top_k):
        experts = MoEConfig(num_experts=num_experts, top_k=top_k, d_expert=8 // top_k)
        model = small(experts, 1)
        return {"dense": model.dense_twin(), "MoE": model}

    def contestants(scale):
        raw = MoEConfig(4, 2, 4, options={"weighting": "raw"})
        model = small(raw, 1, ffn_scale=scale or None)
        return {"dense": model.dense_twin(), "MoE": model}

    def learners_of_tasks():
        model = ModelConfig(vocab_size=256, d_model=8, num_layers=1, num_heads=2, d_ff=8)
        experts = MoEConfig(num_experts=4, top_k=2, d_expert=4)
        whole = replace(model, d_ff=16)
        return {"dense": model, "MoE": replace(model, moe=experts), "dense, all parameters": whole}

    def training(seed, **options):
        return TrainConfig(
            steps=track.steps, seed=seed, seq_len=8, schedule="constant", warmup=0,
            validate_every=track.validate_every, **options,
        )  # fmt: skip

    def grown_model(experts, *, d_ff=8):
        return small(experts, 1, ffn_scale=1.0, d_ff=d_ff)

    for name, value in {
        "grown_models.load_corpus": lambda: corpus,
        "grown_models.small_model": grown_model,
        "grown_models.experts": lambda: MoEConfig(4, 2, 8),
        "grown_models.WIDTH": 8,
        "grown_models.PARENT_STEPS": 2,
        "grown_models.training": lambda rate, seed, steps, every: replace(
            training(seed, batch_size=2), steps=track.steps if every else steps
        ),
        "race.load_corpus": lambda: corpus,
        "race.race_models": race_models,
        "race.race_training": lambda seed, steps=0: training(seed, batch_size=2),
        "collapse.load_corpus": lambda: corpus,
        "collapse.collapse_model": lambda cures: small(whole(cures).moe, 2),
        "collapse.collapse_training": lambda cures, seed, steps=0: training(
            seed, batch_size=8, balance_weight=cures.aux, z_weight=cures.z
        ),
        "loud_and_quiet.load_corpus": lambda: corpus,
        "loud_and_quiet.contestants": contestants,
        "loud_and_quiet.training": lambda seed: training(seed, batch_size=2),
        "memory_or_thinking.models": learners_of_tasks,
        "memory_or_thinking.training": lambda task, rate, seed: replace(
            training(seed, batch_size=2), seq_len=task.seq_len, learning_rate=rate
        ),
    }.items():
        monkeypatch.setattr(f"moeviz.experiments.{name}", value)
    grown_models.live_parent.cache_clear()
    # Frames come fast enough that no test waits for one, and no sentence ends on a busy machine
    # before a test has read it.
    monkeypatch.setattr("moeviz.training.live.PUBLISH_SECONDS", 0.02)
    monkeypatch.setattr("moeviz.panels.live_panel.KEPT_SECONDS", float("inf"))
    return track


@pytest.fixture
def held_model(monkeypatch):
    """The shipped model is not loaded before the first event is set; and the loads begun so far."""
    from helpers.patience import PATIENCE
    from moeviz.watch.text import load_model

    held, begun = threading.Event(), []

    def slow(*args):
        begun.append(args)
        assert held.wait(PATIENCE)
        return load_model(*args)

    monkeypatch.setattr("moeviz.watch.text.load_model", slow)
    return held, begun


@pytest.fixture
def stills(monkeypatch):
    """Panels bring a still picture along, as they do while notebooks are built."""
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("MOEVIZ_STATIC", "1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text of few words, and a tokenizer trained on it."""
    from helpers.prose import prose
    from moeviz.text.corpus import load_corpus
    from moeviz.text.tokenizer import Tokenizer

    text = prose(1)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(text)
    return load_corpus(path, tokenizer=Tokenizer.train([text], 300))


@pytest.fixture
def no_tries_yet(monkeypatch):
    """Each test begins with no answer counted."""
    monkeypatch.setattr("moeviz.exercises._records", {})


@pytest.fixture(scope="session")
def labs(request, tmp_path_factory):
    """JupyterLab and Chromium, started once for all browser tests: see helpers/browser.py."""
    from helpers.browser import Labs

    if "PYTEST_XDIST_WORKER" in os.environ:  # on two cores two browsers are in each other's way
        own = [i.nodeid for i in request.session.items if i.get_closest_marker("browser")]
        assert all(nodeid.endswith("@browser") for nodeid in own), "xdist forgets its groups"
    with Labs(tmp_path_factory.mktemp("labs")) as every:
        yield every


@pytest.fixture(scope="session")
def layer_report(tmp_path_factory):
    """What `bench layer` writes of a tiny layer, made once: its tests are one xdist_group."""
    import layer
    import layer_study

    path = tmp_path_factory.mktemp("bench") / "layer_here.json"
    tiny = ["--shapes", "tiny", "--rounds", "2", "--device", "cpu", "--json", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        by_turns = functools.partial(layer_study.by_turns, turn_seconds=0.0)
        patch.setattr(layer_study, "by_turns", by_turns)
        assert layer.main(tiny) == 0
    return path
