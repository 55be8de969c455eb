"""The tuner measures the kernels as the layer calls them; its winners are chosen from then on."""

import pytest
import torch

from moeviz_kernels import configs, tune
from moeviz_kernels.configs import Gemm

SIZES = (24, 16, 8, 4, 2)  # tokens, d_model, d_expert, experts, top_k
SMALL = Gemm(16, 16, 16, 4, 2)


@pytest.fixture(autouse=True)
def restore(monkeypatch):
    monkeypatch.setattr(configs, "TUNED", {})


def on_cpu(monkeypatch, widest=256):
    """tune() as on a GPU that holds no wider blocks, with a clock that likes narrow ones."""
    asked = []

    def clock(call, **_):
        (cut, *_) = call.__defaults__
        if cut.block_n > widest:
            raise tune.LaunchError[0](300_000, 232_448, "shared memory")
        asked.append(call)
        return float(cut.block_n)

    real = tune.cases
    monkeypatch.setattr(tune, "cases", lambda *sizes: real(*sizes[:-1], "cpu"))
    monkeypatch.setattr(tune, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(tune.triton.testing, "do_bench", clock)
    return asked


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can be tuned")
def test_without_a_gpu_it_is_one_sentence(capsys):
    with pytest.raises(ValueError, match="measures on a GPU, and none is here"):
        tune.tune(*SIZES)
    names = ("--tokens", "--d-model", "--d-expert", "--experts", "--top-k")
    with pytest.raises(SystemExit) as stopped:
        tune.main([word for pair in zip(names, map(str, SIZES), strict=True) for word in pair])
    assert stopped.value.code == 2
    assert "none is here" in capsys.readouterr().err.splitlines()[-1]


def test_the_fastest_cut_is_chosen_for_any_number_of_tokens(monkeypatch):
    asked = on_cpu(monkeypatch)
    half = torch.empty(1).half()
    before = {
        key: configs.choose(key[0], half, 12, *key[1:])
        for key, _ in tune.cases(*SIZES, torch.float32, "cpu")[1]
    }
    times = tune.tune(*SIZES, dtype=torch.float32)
    assert len(times) == 6 and len(asked) == sum(map(len, times.values()))
    for (kernel, width, depth), of_cut in times.items():
        assert list(of_cut.values()) == sorted(of_cut.values())
        for rows_per_expert in (9, 14):
            cut = configs.choose(kernel, torch.empty(1), rows_per_expert, width, depth)
            assert cut == next(iter(of_cut)) and cut.block_n == 64
        key = (kernel, width, depth)
        assert configs.choose(kernel, half, 12, width, depth) == before[key]


def test_what_does_not_fit_the_chip_is_left_out(monkeypatch):
    on_cpu(monkeypatch, widest=64)
    times = tune.tune(*SIZES, dtype=torch.float32)
    assert all(cut.block_n == 64 for of_cut in times.values() for cut in of_cut)
