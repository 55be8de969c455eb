"""Predictions of 11_compression."""

from __future__ import annotations

from moeviz.costs import device
from moeviz.pictures.costs.edge import candidate
from moeviz.predictions.prediction import Measured, nearest, prediction

PI, SPARSE, DENSE = "Raspberry Pi 5, 16 GB", "DeepSeek-V2-Lite", "Llama 3.1 8B"


@prediction(
    "11.edge",
    "A Raspberry Pi 5 with 16 GB, weights in about 5 bits. Beside a dense model of 8 billion "
    "parameters: how fast may a sparse one of 16 billion write, which uses 2.7 billion for a "
    "token?",
    "half as fast", "as fast", "three times as fast",
)  # fmt: skip
def edge() -> Measured:
    sparse, dense = (candidate(name, device(PI), "q4_k_m", 4096) for name in (SPARSE, DENSE))
    assert sparse.speed is not None and dense.speed is not None  # both fit
    times = sparse.speed / dense.speed
    options = {"half as fast": 0.5, "as fast": 1.0, "three times as fast": 3.0}
    figure = (
        f"at most {sparse.speed:.1f} tokens a second ({SPARSE}, {sparse.bytes / 1e9:.1f} GB) "
        f"beside {dense.speed:.1f} ({DENSE}, {dense.bytes / 1e9:.1f} GB)"
    )
    because = (
        "for each token the weights that it meets are read once, at 17.1 GB a second, and the "
        f"sparse model reads {sparse.active / 1e9:.1f} billion of them; the rest must only have "
        "room"
    )
    return Measured(nearest(times, options, ratio=True), figure, because)
