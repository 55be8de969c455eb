"""A packed file that is loaded whole is the model that was packed, in every format."""

import pytest
import torch

from moeviz.costs.cost.quantisation import QuantPlan
from moeviz.experiments.packed_files import FORMS, SHIPPED, loaded
from moeviz.model import LanguageModel, MoEConfig
from moeviz.model.config import ModelConfig
from moeviz.pictures.compression.stored import told_files
from moeviz.systems.packed_model import save_packed


@pytest.mark.parametrize("form", FORMS)
def test_what_is_loaded_is_what_was_packed(form, tmp_path):
    torch.manual_seed(0)
    model = LanguageModel(
        ModelConfig(vocab_size=32, d_model=16, num_heads=2, moe=MoEConfig(4, 2, 16))
    )
    path = tmp_path / "model.safetensors"
    packed = save_packed(model, path, QuantPlan.mixed(form, SHIPPED, routed_experts=form))
    wanted = packed.model().state_dict()
    found = loaded(path).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_lines_are_those_of_the_figures():
    def file(size, loss):
        each = {"median": 0.5, "q1": 0.4, "q3": 0.6}
        return {"bytes": size, "loss": loss, "load_seconds": {"from_disk": each, "from_ram": each}}

    lines = [*told_files({"files": {"fp16": file(2_000_000, 3.0), "int4": file(1_000_000, 3.01)}})]
    assert [line.split()[2] for line in lines] == ["fp16", "int4"]
    assert "1.00 MB" in lines[1] and lines[1].endswith("loss +0.010 nats")
