"""A router's facts stand on its class: whoever adds one file and one line finds it everywhere."""

import importlib.util

import pytest
import torch

from helpers.live import wait
from moeviz import panels
from moeviz.app import cli
from moeviz.costs import parameters
from moeviz.experiments import router_arms, routers_on_a_text
from moeviz.model import LanguageModel, ModelConfig, MoEConfig, architecture_of
from moeviz.routing import ROUTERS, RouteContext, build_router, tables
from moeviz.watch.routers import router_for, synthetic_tokens

FILE = '''
"""A router that somebody adds."""

from moeviz.routing.token_choice import TokenChoice


class Runner(TokenChoice):
    """Every token's runner-up, with a gate of its own."""

    title = "Runner-up"
    rule = "the second best expert"
    paper = "nobody 2026"
    waits = "always"
    waits_for = "nothing at all"
'''


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The one file and the one line."""
    path = tmp_path / "runner.py"
    path.write_text(FILE)
    spec = importlib.util.spec_from_file_location("runner", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(ROUTERS, "runner", module.Runner)


def test_the_panel_offers_it_and_draws_it(added, loaded_reader):
    panel = panels.CompareRouters()
    assert panel.choice.buttons["runner"].description == "Runner-up"
    assert panel.choice.buttons["runner"].tooltip == "the second best expert"
    panel.controls["routers"].value = "token_choice,runner"
    wait(lambda: "Runner-up" in panel.picture.value, "the added router")


def test_the_overview_has_it(added):
    tokens = synthetic_tokens(16, 8, skew=1.0)
    assert "Runner-up" in [one.label for one in routers_on_a_text.every_decision(tokens)]


def test_the_contest_has_an_arm_of_it(added):
    assert router_arms.arms()["Runner-up"].experts.router == "runner"


def test_its_parameters_are_counted(added):
    moe = MoEConfig(8, 2, 8, router="runner")
    config = ModelConfig(vocab_size=50, d_model=16, num_layers=2, num_heads=2, moe=moe)
    assert parameters(architecture_of(config)).total == LanguageModel(config).num_parameters()


def test_the_command_line_trains_it(added, tmp_path, capsys):
    out = tmp_path / "run"
    small = "--d-model 16 --num-layers 1 --num-heads 2 --num-experts 4 --d-expert 8".split()
    code = cli.main(["train", "--router", "runner", "--steps", "1", "--out", str(out), *small])
    assert code == 0 and (out / "checkpoint.safetensors").is_file(), capsys.readouterr()


def test_the_tables_have_it(added):
    assert (
        "| token choice | `runner` | the second best expert | nobody 2026 | no |"
        in tables.families()
    )
    assert "| `runner` | always | nothing at all |" in tables.waiting()


@pytest.mark.parametrize("path", tables.TABLES)
def test_the_tables_that_are_written_are_those_of_now(path):
    text = path.read_text(encoding="utf-8")
    assert text.count(tables.START) == 1 and tables.END in text
    assert tables.renewed(text, tables.TABLES[path]()) == text, "python -m moeviz.routing.tables"


def test_a_class_without_facts_goes_by_its_name_and_its_docstring(monkeypatch):
    class Plain(ROUTERS["token_choice"]):
        """What it does.

        And more of it."""

    monkeypatch.setitem(ROUTERS, "plain", Plain)
    named = routers_on_a_text.every_name()["plain"]
    assert (named.title, named.rule) == ("plain", "What it does.")


# What the classes say, against what they do.


@pytest.mark.parametrize("name", ROUTERS)
def test_facts_are_complete_and_those_of_the_router_as_it_is_built(name):
    router = ROUTERS[name]
    assert vars(router)["title"] and vars(router)["rule"] and router.family != "your own"
    number = router.paper.rpartition(", ")[2]
    assert router.paper and (not number[:4].isdigit() or number in router.__doc__)
    made = build_router(name, d_model=8, num_experts=8, top_k=2)
    assert (made.causal, made.substitute) == (router.causal, router.substitute)
    assert bool(router.waits_for) == (router.waits != "never")
    if router.matrices is not None:
        assert sum(p.numel() for p in made.parameters()) == router.matrices * 8 * 8


@pytest.mark.parametrize(
    "name", [name for name in ROUTERS if ROUTERS[name].default_gate is not None]
)
@pytest.mark.parametrize("factor", [None, 1.0])
def test_a_router_scores_by_the_given_gate_under_any_limit(name, factor):
    """The limit of places is one more router around it, or two: switch has one of its own."""
    from moeviz.routing import Capacity

    tokens = synthetic_tokens(32, 8, skew=1.0)
    capacity = None if factor is None else Capacity(factor)
    made = router_for(tokens, name, top_k=2, capacity=capacity)
    assert torch.equal(made.gate_matrix(), tokens.gate_ED)
    out = made(tokens.x_TD, RouteContext(sequence=tokens.context.sequence))
    assert out.scores.shape == (32, 8)
