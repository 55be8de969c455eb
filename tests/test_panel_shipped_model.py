"""The shipped model is loaded once, and stays the same for every panel."""

import pytest

from moeviz.panels.shipped_model import Reader


def test_a_loaded_model_is_neither_built_again_nor_swapped_and_a_failure_is_tried_again(
    monkeypatch,
):
    reader = Reader()
    with monkeypatch.context() as patch:
        patch.setattr("moeviz.panels.shipped_model.data_path", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            reader.get()
        assert reader.failed
    model, _ = reader.get()
    assert not reader.failed and reader.get()[0] is model
