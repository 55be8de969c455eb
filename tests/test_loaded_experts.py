"""Experts in a file that a text's choice loads: what is asked, held and read, text by text."""

import json

import pytest
import torch

from moeviz.experiments import loaded_experts
from moeviz.experiments.loaded_experts import BY_TEXT, BY_TOKEN
from moeviz.experiments.trained_apart import Lengths
from moeviz.records.models_as_experts import SEEN

TEXTS = 6
SETTINGS = loaded_experts.SETTINGS[:3]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The experiment's own file, after a few steps of training, with a router that knows."""
    out = tmp_path_factory.mktemp("loaded")
    (out / "runs").mkdir()
    whole = loaded_experts.train_apart

    def trained(rate, seed, _):
        apart = whole(rate, seed, Lengths(1, 1, 6))
        corpus = loaded_experts.load_corpus()
        starts = [corpus.tokens(domain, "reserve")[:2000] for domain in SEEN]
        table_VD = torch.zeros(2048, 64)
        for m, ids in enumerate(starts):  # which domain a token is of, more or less
            table_VD[:, m] = torch.bincount(torch.from_numpy(ids.astype("int64")), minlength=2048)
        apart.router.table_VD = table_VD / table_VD.sum(1, keepdim=True).clamp(min=1)
        with torch.no_grad():
            apart.router.weight_MD.zero_()
            apart.router.weight_MD[:, :3] = 10 * torch.eye(3)
            apart.router.bias_M.zero_()
        return apart

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded_experts, "train_apart", trained)
        patch.setattr(loaded_experts, "TEXTS", TEXTS)
        patch.setattr(loaded_experts, "REPEATS", 1)
        patch.setattr(loaded_experts, "SEQ_LEN", 20)
        patch.setattr(loaded_experts, "READS", 3)
        patch.setattr(loaded_experts, "SETTINGS", SETTINGS)
        patch.setattr(loaded_experts, "TUNED_STEPS", 1)
        told = loaded_experts.run(out, {"command": "a test"}, 1, lambda *at: None)
    figures = json.loads((out / "runs" / "loaded_experts.json").read_text())
    return figures | {"told": told}


def test_what_a_text_loads_is_what_its_topic_asks_for(recorded):
    runs = {(run["way"], run["form"], run["stream"]): run for run in recorded["runs"]}
    assert set(runs) == {
        (way, form, stream)
        for way, form in SETTINGS
        for stream in ("one topic", "changing", "gathered")
    }
    layers = 2
    for (way, form, stream), run in runs.items():
        assert run["same"], "what is read from the file is what the model in memory computes"
        assert run["asked"] == TEXTS * recorded["tokens"] * layers
        assert run["loads"] == run["asked"] - run["hits"] == sum(run["by_text"])
        assert run["bytes_read"] == run["loads"] * recorded["expert_bytes"][form]
        domains = recorded["streams"][stream]
        if way == BY_TEXT:
            new = [i == 0 or domain != domains[i - 1] for i, domain in enumerate(domains)]
            assert run["by_text"] == [layers * changed for changed in new], stream
    assert sorted(recorded["streams"]["changing"]) == sorted(recorded["streams"]["gathered"])
    changing = (runs[way, "fp32", "changing"]["loads"] for way in (BY_TEXT, BY_TOKEN))
    assert next(changing) < next(changing), "a choice for every token loads more"


def test_an_expert_is_a_part_of_a_model(recorded):
    ffns = 2 * recorded["expert_bytes"]["fp32"]
    assert ffns == 4 * 2 * 3 * 64 * 256
    assert recorded["model_bytes"] > 3 * ffns
    assert recorded["expert_bytes"]["int4"] < recorded["expert_bytes"]["fp32"] / 6
    assert set(recorded["expert_ms"]) == {"fp32", "int4"}
