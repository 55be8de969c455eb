"""The training benchmark runs, is complete, and times things that compute the same; the numbers
themselves are never asserted."""

import importlib.util
import json

import pytest
import torch

import training

PEERS = ["transformers Mixtral grouped_mm", "transformers Mixtral eager"]


def expected_contenders():
    found = ["moeviz grouped", "moeviz reference"]
    found += PEERS if importlib.util.find_spec("transformers") else []
    return [*found, "naive loop over W[e]", "dense, equal active FLOPs"]


def tiny(tmp_path, *more):
    path = tmp_path / "results" / "training.json"
    tiny = ["--experts", "8", "--tokens", "16", "--rounds", "1", "--threads", "1"]
    code = training.main([*tiny, "--json", str(path), *more])
    return code, json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    code, report = tiny(tmp_path_factory.mktemp("bench"))
    assert code == 0
    return report


def test_table_names_every_contender(report):
    text = training.table(report["cases"][0])
    assert "T=16 D=256 F=256 E=8 K=2" in text
    rows = text.splitlines()[2:]
    for name, row in zip(expected_contenders(), rows, strict=True):
        assert row.startswith(name)
    assert len({len(row) for row in rows}) == 1  # aligned


def test_contenders_agree(report):
    (case,) = report["cases"]
    errors = {name: r["relative_error"] for name, r in case["contenders"].items()}
    assert errors.pop("dense, equal active FLOPs") is None
    assert list(errors) == expected_contenders()[:-1]
    assert all(0 < error < 1e-5 for error in errors.values()), errors
    assert case["agree"]


def test_json_is_complete(report, tmp_path):
    assert {"command", "commit", "date", "device", "python", "versions"} <= set(
        report["provenance"]
    )
    assert str(tmp_path.parent) not in json.dumps(report)
    assert "transformers" in report["provenance"]["versions"]
    assert {"load_average_before", "load_average_after", "threads"} <= set(report)
    (case,) = report["cases"]
    assert list(case["contenders"]) == expected_contenders()
    for name, result in case["contenders"].items():
        for key in ("wall_ms", "cpu_ms", "wall_ratio", "cpu_ratio"):
            assert set(result[key]) == {"median", "min", "max"}, (name, key)
        assert result["steps_per_second"] > 0, name


def test_goes_on_without_transformers(monkeypatch, tmp_path, capsys):
    def missing(moe, implementation):
        raise ImportError("No module named 'transformers'")

    monkeypatch.setattr(training, "mixtral_block", missing)
    code, report = tiny(tmp_path)
    assert code == 0
    assert "make bench" in capsys.readouterr().out
    assert not set(PEERS) & set(report["cases"][0]["contenders"])


def test_says_so_when_a_contender_computes_something_else(monkeypatch, tmp_path, capsys):
    original = training.NaiveMoE.forward
    monkeypatch.setattr(training.NaiveMoE, "forward", lambda self, x: 1.01 * original(self, x))
    code, report = tiny(tmp_path)
    assert code == 1
    assert not report["cases"][0]["agree"]
    assert "do not compute the same" in capsys.readouterr().out


def test_leaves_the_number_of_threads_as_it_was(tmp_path):
    before = torch.get_num_threads()
    tiny(tmp_path, "--threads", str(before + 1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "arguments", [["--experts", "7"], ["--experts", "8,x"], ["--rounds", "0"], ["--tokens", "0"]]
)
def test_refuses_what_it_cannot_run(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        training.main([*arguments, "--json", str(tmp_path / "x.json")])
    assert arguments[0] in capsys.readouterr().err
