"""The larger size of the live race and collapse: offered where a GPU is, and what it is."""

import math

import pytest

from helpers.live import interrupt, learners, note, play, step, steps, until, wait
from helpers.panels import LOUD, press, said
from moeviz.experiments import collapse, larger, race
from moeviz.experiments.cures import Cures
from moeviz.model import LanguageModel
from moeviz.panels import Collapse, Race, controls
from moeviz.panels.training import race as race_panel

both = pytest.mark.parametrize("kind", [Race, Collapse])
LIVE = [*LOUD, pytest.mark.usefixtures("fresh_kernel", "track", "gpu")]


@pytest.fixture
def gpu(monkeypatch):
    """As where a GPU is, with few tokens a step."""
    monkeypatch.setattr(controls, "has_gpu", lambda: True)
    monkeypatch.setattr(larger, "_sees_gpu", lambda: True)
    monkeypatch.setattr(larger, "BATCH", 2)
    monkeypatch.setattr(larger, "SEQ_LEN", 12)
    monkeypatch.setattr(larger, "HEADS", 4)


def test_both_contestants_grow_alike():
    models, train = race.race_models(16, 2), race.race_training(3)
    wide = {label: larger.enlarged(model, train)[0] for label, model in models.items()}
    assert wide["MoE"].dense_twin() == wide["dense"] and wide["dense"].d_ff == 4 * 256
    grown = larger.enlarged(models["MoE"], train)[1]
    tokens = grown.batch_size * grown.seq_len / (train.batch_size * train.seq_len)
    assert tokens == 8 and grown.seed == 3 and grown.steps == train.steps
    assert larger.size_of({"seq_len": grown.seq_len}) == larger.LARGE
    assert larger.size_of({"seq_len": train.seq_len}) == larger.SMALL


def test_the_button_counts_the_largest_model_that_it_offers():
    train = race.race_training(0)
    for models, experts in (
        (race.race_models(max(race_panel.EXPERTS), 1)["MoE"], max(race_panel.EXPERTS)),
        (collapse.collapse_model(Cures()), 16),
    ):
        counted = LanguageModel(larger.enlarged(models, train)[0]).num_parameters()
        assert larger.most_parameters(experts, 256) == counted
    assert race_panel.ACTIVE_WIDTH == race.ACTIVE_WIDTH == collapse.ACTIVE_WIDTH
    told = larger.offer(max(race_panel.EXPERTS), 256)
    most = larger.most_parameters(max(race_panel.EXPERTS), 256) * larger.BYTES_OF_A_PARAMETER
    assert told == f"large: up to {math.ceil(most / 1e9 + 0.2)} GB of the GPU"


@both
@pytest.mark.usefixtures("fresh_kernel")
def test_without_a_gpu_there_is_one_size(kind, monkeypatch):
    monkeypatch.setattr(controls, "has_gpu", lambda: False)
    panel = kind()
    assert "size" not in panel.controls
    before = panel.state
    with pytest.raises(ValueError, match="The large size needs a GPU, and there is none here"):
        panel.state = f"{before}&size=large"
    assert panel.state == before


def test_a_gpu_that_pytorch_does_not_see_is_said(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for build in (
        lambda: race.build_race(16, 2, 0, size=larger.LARGE),
        lambda: collapse.build_collapse(Cures(), 0, size=larger.LARGE),
    ):
        with pytest.raises(ValueError, match="needs a GPU that PyTorch sees; python -m moeviz doc"):
            build()


@both
@pytest.mark.usefixtures("fresh_kernel")
def test_a_state_of_the_small_size_is_that_of_a_machine_without_a_gpu(kind, gpu):
    panel = kind()
    small = panel.state
    assert "size" not in small
    panel.controls["size"].value = larger.LARGE
    large = panel.state
    assert "size=large" in large
    for state in (small, large):
        panel.state_box.value = state
        assert panel.state == state


class TestLive:
    pytestmark = LIVE

    @both
    def test_the_large_size_trains_and_goes_on_after_an_interruption(self, kind):
        panel = kind()
        panel.controls["size"].value = larger.LARGE
        stood = interrupt(panel, 2)
        again = kind()
        assert again.controls["size"].value == larger.LARGE and "was kept" in said(again)
        press(again, "step")
        wait(lambda: steps(kind) == [s + 1 for s in stood], "one step more")
        assert {run.meta["train"]["seq_len"] for run in learners(kind)} == {12}
        assert {run.meta["model"]["d_model"] for run in learners(kind)} == {32}
        again.controls["size"].value = larger.SMALL
        until(again, "Ready.")
        assert set(step(again)) == {1}
        assert {run.meta["model"]["d_model"] for run in learners(kind)} == {8}

    @both
    def test_an_interrupted_large_run_is_not_offered_without_a_gpu(self, kind, monkeypatch):
        panel = kind()
        panel.controls["size"].value = larger.LARGE
        interrupt(panel)
        monkeypatch.setattr(controls, "has_gpu", lambda: False)
        assert said(kind()).startswith("Recorded ")

    def test_a_large_run_is_named_so_and_compared_with_no_small_one(self, track):
        track.steps = track.validate_every = 2
        panel = Race()
        panel.controls["size"].value = larger.LARGE
        play(panel, 2)
        wait(lambda: note(panel).startswith("live: E = 16, K = 2, seed 0, large"), "the live race")
        until(panel, "Finished.")
        assert "Races here: E = 16, K = 2, large: " in panel.score.value
        # What luck does is measured of the small models alone.
        words = panel.drawn.summary
        assert words.startswith("At 2 steps ") and "± " not in words
        assert "how far luck alone goes here is not known" in words
