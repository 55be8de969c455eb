"""The shipped model is loaded once, and stays the same for every panel."""

import threading

from moeviz.panels.shipped_model import Reader


def test_a_loaded_model_is_neither_built_again_nor_swapped():
    reader = Reader()
    models = []
    for _ in range(3):
        done = threading.Event()
        reader.load(done.set)
        assert done.wait(60) and not reader.error
        models.append(reader.model)
    assert models[0] is not None and all(model is models[0] for model in models)


def test_a_failure_is_told_and_the_next_call_tries_again(monkeypatch):
    reader, done = Reader(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr("moeviz.panels.shipped_model.data_path", lambda *_: 1 / 0)
        reader.load(done.set)
        assert done.wait(60) and reader.model is None and "broke" in reader.error
    done.clear()
    reader.load(done.set)
    assert done.wait(60) and reader.model is not None and not reader.error
