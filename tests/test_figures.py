"""Figures for print draw the recorded numbers."""

import numpy as np
import pytest

from moeviz.host import data_path
from moeviz.pictures.figures import race_curves
from moeviz.records.runs import load_snapshots

RECORDED = load_snapshots(data_path("runs", "race.safetensors"))[0]


@pytest.mark.parametrize("axis", ["step", "flops"])
def test_the_lines_are_the_means_over_seeds(axis):
    figure = race_curves(RECORDED, axis)
    (axes,) = figure.axes
    for label, line in zip(("dense", "MoE"), axes.get_lines(), strict=False):
        curves = [s.curve for s in RECORDED if s.label == label]
        measured = ~np.isnan(curves[0].validation)
        np.testing.assert_allclose(line.get_xdata(), getattr(curves[0], axis)[measured])
        mean = np.mean([c.validation[measured] for c in curves], axis=0)
        np.testing.assert_allclose(line.get_ydata(), mean)
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["dense", "MoE"]
    assert "nats" in axes.get_ylabel() and axes.get_xlabel()


def test_it_can_be_saved_for_a_paper(tmp_path):
    race_curves(RECORDED).savefig(tmp_path / "race.pdf")
    assert (tmp_path / "race.pdf").read_bytes().startswith(b"%PDF")


def test_no_other_axis():
    with pytest.raises(ValueError, match="axis must be 'step' or 'flops', got 'seconds'"):
        race_curves(RECORDED, "seconds")
