"""The sentences of DenseThenSparse and Hybrids, on made-up recordings with known effects."""

import pytest

from helpers.comparisons import made_dense_training, made_hybrids
from helpers.pictures import texts
from moeviz.pictures.training.dense_then_sparse import dense_then_sparse, told_information
from moeviz.pictures.training.hybrids import hybrids, told, told_layer


@pytest.mark.parametrize(
    ("gain", "words"),
    [((0.03, 0.02, 0.0), "layer 0 ends 0.030 nats per token below one without. Layer 1 "
      "and layer 2 are shown to bring less."),
     ((0.0, 0.03, 0.03), "brings less is open."),
     ((0.0, 0.0, -0.03), "is open"),
     ((-0.05, -0.03, -0.03), "nats per token above one without.")],
)  # fmt: skip
def test_a_layer_is_said_to_bring_most_where_the_recording_shows_it(gain, words):
    recorded = made_hybrids(gain=gain, luck=0.001)
    assert words in told_layer(recorded)
    if gain == (0.0, 0.03, 0.03):
        assert "Layer 0 is shown to bring less." in told_layer(recorded)


@pytest.mark.parametrize(("seeds", "open_"), [(1, True), (5, False)])
def test_chosen_layers_are_told_beside_the_dense_model(seeds, open_):
    recorded = made_hybrids(seeds, luck=0.001)
    words = told(recorded, "0 1")
    assert ("is open" in words) == open_ and ("0.050 nats per token below" in words) != open_
    assert "set beside it" in told(recorded, "none")
    shown = " ".join(texts(hybrids(recorded, (0, 1))))
    assert "A token of the chosen model meets 0.46 M parameters." in shown


def test_what_the_information_loss_costs_and_saves_follows_the_verdicts():
    recorded = made_dense_training(5, luck=0.001)
    # With all experts both lose nothing; each halving of K costs the sure gate 0.19 less.
    assert "not told apart (+0.000) where all answer" in told_information(recorded, 4)
    assert "0.380 below where 4 answer." in told_information(recorded, 4)
    assert "0.760 below where 1 answers." in told_information(recorded, 1)
    assert "below" not in told_information(recorded, 16)
    assert "below" not in told_information(made_dense_training(1), 4)  # one seed shows nothing
    for gap in recorded["information"].values():
        gap["verdict"] = "higher"
    assert "0.380 above where 4" in told_information(recorded, 4)


def test_a_line_of_each_model_is_drawn_up_to_the_edge():
    recorded = made_dense_training(3)
    recorded["minus_dense"]["narrow, 0, raw, 1"]["mean"] = 7.0
    picture = dense_then_sparse(recorded, "narrow, 0", 1, "raw")
    assert "7.000 nats per token above the dense twin" in picture.summary
    assert "7" not in [word for word in texts(picture) if word.isdigit()]  # no tick there
