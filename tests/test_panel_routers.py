"""The panel of 03 and 03b, driven without a browser, and the recording that it opens on."""

import html
import re
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.live import wait
from helpers.panels import (
    LOUD,
    check_refused,
    drawn,
    everything,
    family,
    find,
    said,
)
from moeviz import panels
from moeviz.experiments import routers_on_a_text as routing
from moeviz.experiments.routers_on_a_text import Settings, every_decision, every_name, recorded
from moeviz.panels.routing.compare_routers import MAX_TOKENS
from moeviz.panels.shipped_model import READER
from moeviz.routing import ROUTERS, RouteContext, build_router
from moeviz.watch.routers import library_weights, router_for, text_tokens

pytestmark = [*LOUD, pytest.mark.usefixtures("a_reader")]
SOURCE = Path(__file__).parents[1] / "notebooks" / "src" / "03b_who_else_chooses.md"


def toggle(panel, *names):
    for name in names:
        button = panel.choice.buttons[name]
        button.value = not button.value


# The recording.


def test_every_router_has_a_label_and_is_recorded():
    decisions, meta = recorded()
    assert list(every_name()) == list(ROUTERS) == list(decisions)
    assert {n: asdict(named) for n, named in every_name().items()} == meta["names"]
    labels = [named.title for named in every_name().values()]
    assert len(set(labels)) == len(labels) and routing.OWN_NAMED.title not in labels


@pytest.mark.parametrize("top_k", routing.RECORDED)
def test_the_recording_is_what_the_shipped_model_does(loaded_reader, top_k):
    decisions, meta = recorded(top_k)
    assert list(decisions) == list(ROUTERS)
    tokens = text_tokens(*loaded_reader.get(), meta["text"], layer=meta["layer"])
    for name, one in decisions.items():
        now = routing.decision(tokens, name, Settings(top_k=top_k))
        assert one.label == now.label and one.tokens == now.tokens and one.meta == now.meta
        np.testing.assert_allclose(one.score, now.score, atol=1e-4, err_msg=name)
        # Another machine may round a near tie the other way.
        assert (one.visits == now.visits).all(1).mean() > 0.9, name
        assert one.load.sum() == pytest.approx(now.load.sum(), abs=3), name


# What the notebook says.


def test_what_03_says_of_all_routers(loaded_reader):
    model, tokenizer = loaded_reader.get()
    tokens = text_tokens(model, tokenizer, routing.TEXT, layer=2)
    by_name = dict(zip(ROUTERS, every_decision(tokens), strict=True))

    def those(condition):
        return {name for name, one in by_name.items() if condition(one)}

    assert those(lambda d: d.dropped.any()) == {"switch", "gshard", "st_moe"}
    may_pass_over = {
        "switch", "gshard", "st_moe", "expert_choice", "expert_threshold", "remoe",
        "mixture_of_depths",
    }  # fmt: skip
    assert those(lambda d: not d.visits.any(1).all()) <= may_pass_over
    shown, _ = recorded()
    assert {name for name in shown if not shown[name].visits.any(1).all()} == may_pass_over
    assert those(lambda d: d.leaks.any()) == {
        "gshard", "st_moe", "expert_choice", "base", "sinkhorn", "soft_moe", "mixture_of_tokens",
        "mixture_of_depths", "sequence_level",
    }  # fmt: skip
    assert those(lambda d: not d.causal) == those(lambda d: d.leaks.any())
    assert those(lambda d: not d.meta["learned"]) == {"hash"}
    even = those(lambda d: d.load.min() == d.load.max())
    assert even == {
        "expert_choice", "expert_threshold", "soft_moe", "mixture_of_tokens", "dense_mixture",
    }  # fmt: skip


def test_what_03_and_03b_say_of_their_panels():
    decisions, _ = recorded()
    top, switch, choice, hashed = (
        decisions[name] for name in ("token_choice", "switch", "expert_choice", "hash")
    )
    assert not top.dropped.any() and len(set(top.load.tolist())) > 3
    assert switch.dropped.any() and not switch.visits[switch.dropped.any(1)].any()
    counts = choice.visits.sum(1)
    assert choice.load.min() >= choice.load.max() - 1 and {0, 2} <= set(counts.tolist())
    assert choice.leaks.mean() > 0.3
    for piece in set(hashed.tokens):
        same = np.array(hashed.tokens) == piece
        assert (hashed.visits[same] == hashed.visits[same][0]).all()


def test_the_right_answers_of_03_1_are_the_causal_routers():
    from moeviz.exercises.routing import AHEAD, CAUSAL

    assert {*AHEAD, *CAUSAL} == set(re.findall(r"`(\w+)`", SOURCE.read_text("utf-8"))) & set(
        ROUTERS
    )
    for name in (*AHEAD, *CAUSAL):
        assert build_router(name, d_model=8, num_experts=4, top_k=2).causal == (name in CAUSAL)


def test_expert_choice_can_leave_as_many_without_an_expert_as_03_2_says():
    router = build_router("expert_choice", d_model=8, num_experts=8, top_k=1)
    with torch.no_grad():
        router.weight_ED.zero_()
    out = router(torch.randn(40, 8), RouteContext(training=True))
    assert 40 - len(out.plan.token.unique()) == 35


# The panel.


def in_sight(panel):
    buttons = panel.choice.buttons.items()
    return [name for name, button in buttons if button.layout.display != "none"]


@pytest.mark.parametrize("family", sorted({named.family for named in every_name().values()}))
def test_a_family_stands_beside_top_k_and_only_its_buttons_are_in_sight(family):
    panel, other = panels.CompareRouters(family), panels.CompareRouters()
    other.choice.family.value = family
    members = [name for name, named in every_name().items() if named.family == family]
    first, *rest = panel.choice.chosen
    assert first == "token_choice" and set(rest) <= set(members) and rest
    assert set(in_sight(panel)) == {"token_choice", *members} == set(in_sight(other))
    assert everything(other) == everything(panel)


def test_of_five_routers_the_oldest_goes_and_the_last_but_one_stays():
    panel = panels.CompareRouters("experts choose")
    assert panel.choice.chosen == ("token_choice", "expert_choice")
    toggle(panel, "expert_threshold")
    before = everything(panel)
    panel.choice.family.value = "all"
    assert everything(panel) == before and set(in_sight(panel)) == set(ROUTERS)
    toggle(panel, "base", "remoe")
    assert panel.choice.chosen == ("token_choice", "expert_threshold", "base", "remoe")
    labels = panel.drawn.columns[2:]
    assert labels == ("Top-K", "Threshold", "BASE", "ReMoE")
    toggle(panel, "base", "remoe")
    before = everything(panel)
    toggle(panel, "token_choice")
    assert said(panel) == "At least 2 routers are compared; choose another one first."
    assert everything(panel) == before and panel.choice.buttons["token_choice"].value


def test_a_pressed_router_stands_beside_top_k_alone_and_pressed_again_in_its_family():
    panel = panels.CompareRouters("token choice")
    assert panel.choice.chosen == ("token_choice", "switch", "gshard")
    for hint, shown in (("larger", ("switch",)), ("family", ("switch", "noisy_topk", "gshard"))):
        (press,) = {
            m.get("data-press")
            for m in drawn(panel).iter()
            if re.match(f"Switch: .*; press to see.* {hint}", m.get("aria-label", ""))
        }
        panel.state = f"{panel.kind}?{press}"
        assert panel.choice.chosen == ("token_choice", *shown)
    panel._try("Top-K, Switch and GShard")
    assert panel.choice.chosen == ("token_choice", "switch", "gshard")


def test_a_family_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="^family must be one of token choice, .*, got 'soft moe'"):
        panels.CompareRouters("soft moe")


def test_it_opens_with_few_controls_and_more_behind_a_button():
    panel = panels.CompareRouters()
    more, rest = find(panel, "more"), find(panel, "rest")
    assert rest.layout.display == "none"
    hidden = {name for name, control in panel.controls.items() if control in family(rest)}
    assert panel.controls.keys() - hidden == {"routers", "text", "top_k"}
    more.value = True
    assert rest.layout.display == ""


@pytest.mark.parametrize(
    ("routers", "sentence"),
    [
        ("hash", "At least 2 routers are compared"),
        ("", "At least 2 routers are compared"),
        ("hash,base,remoe,switch,gshard", "At most 4 routers fit side by side"),
        ("hash,hash", "A router can stand there only once."),
        ("hash,own", "There is no router 'own' here; there is"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(routers, sentence):
    check_refused(panels.CompareRouters(), f"compare_routers?top_k=2&routers={routers}", sentence)


def test_what_cannot_be_routed_gets_one_sentence():
    panel = panels.CompareRouters()
    panel.controls["routers"].value = "expert_prototyping,hash"
    picture = panel.picture.value
    panel.controls["top_k"].value = 3
    assert "Prototypes: top_k = 3 prototypes must divide num_experts = 8." in said(panel)
    assert panel.picture.value == picture and "unexpected" not in panel.status.value
    panel.controls["top_k"].value = 1
    assert panel.picture.value == picture and "Prototypes: top_k" not in said(panel)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("Switch runs full", "Leave tokens without an expert: Switch."),
        ("Expert choice sees the future", "See later tokens: Expert choice."),
    ],
)
def test_a_preset_shows_what_its_name_says(words, sentence):
    panel = panels.CompareRouters()
    panel._try(words)
    assert sentence in said(panel)


def test_a_long_text_is_cut_where_it_fits_and_that_is_said():
    panel = panels.CompareRouters()
    text = "one two three four five six seven eight nine ten. "
    for times in (5, 100):
        panel.controls["text"].value = text * times
        count = len(READER.get()[1].encode(text * times))
        assert f"The first {MAX_TOKENS} of {count:,} tokens." in said(panel)
        assert sum(row[0] != "" for row in panel.drawn.rows) == MAX_TOKENS


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"temperature": 2.0}, "Temperature and noise do not reach Hash."),
        ({"noise": 1.0, "mode": "outside"}, "Noise is for training."),
        ({"capacity": "1", "mode": "outside"}, "Outside training nothing is dropped."),
        ({"source": "synthetic"}, "c3: a token of cluster 3, which expert 3 suits best."),
    ],
)
def test_a_setting_that_does_nothing_is_named(values, note):
    panel = panels.CompareRouters("without learning")
    for name, value in values.items():
        panel.controls[name].value = value
    assert note in said(panel) and note in html.unescape(panel.picture.value)


def test_synthetic_tokens_do_without_a_model_that_cannot_be_loaded(unloaded, monkeypatch, tmp_path):
    monkeypatch.setattr("moeviz.panels.shipped_model.data_path", lambda *parts: tmp_path / "gone")
    panel = panels.CompareRouters()
    picture = panel.picture.value
    panel.controls["text"].value = "own"
    wait(lambda: "The small model could not be loaded" in said(panel), "the refusal")
    assert panel.picture.value == picture
    panel.controls["source"].value = "synthetic"
    assert panel.picture.value != picture and "unexpected" not in panel.status.value


# A router of one's own.


def upside_down(scores_TE):
    return torch.zeros_like(scores_TE).scatter(1, scores_TE.argmin(1, keepdim=True), 1.0)


def crowd(scores_TE):
    """Looks at all tokens: the best of each column."""
    return scores_TE * (scores_TE == scores_TE.amax(0, keepdim=True))


def facts(panel):
    return {row[1]: row[3] for row in panel.drawn.rows if row[0] == ""}


def test_ones_own_router_stands_beside_top_k_and_is_probed():
    panel = panels.CompareRouters(own=crowd)
    assert panel.choice.chosen == ("token_choice", "own") and panel.controls["top_k"].value == 2
    assert panel.drawn.columns[3] == "Yours"
    assert facts(panel)["sees later tokens"].startswith("yes")
    panel = panels.CompareRouters(own=upside_down)
    assert facts(panel)["sees later tokens"] == "no"
    panel.controls["capacity"].value = "0.5"
    assert facts(panel)["dropped"] != "nothing"


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (lambda s: 1 / 0, "Yours: Your router raised ZeroDivisionError: division by zero."),
        (lambda s: s[:, :2], "must return a tensor of weights [34, 8]"),
        (lambda s: None, "it returned a NoneType."),
        (lambda s: s.argmax(1), "it returned [34]."),
        (lambda s: s.long(), "must return weights that are floats of 0 or more."),
        (lambda s: s - 0.5, "must return weights that are floats of 0 or more."),
        (lambda s: s * float("nan"), "must return weights that are floats of 0 or more."),
    ],
)
def test_a_rule_that_does_not_work_gets_one_sentence(rule, sentence):
    panel = panels.CompareRouters(own=rule)
    assert sentence in said(panel) and "unexpected" not in panel.status.value
    panel.controls["routers"].value = "token_choice,hash"
    assert sentence not in said(panel) and panel.picture.value.startswith("<div")


def test_the_real_layer_runs_a_router_of_ones_own(loaded_reader):
    model, tokenizer = loaded_reader.get()
    tokens = text_tokens(model, tokenizer, routing.TEXT, layer=2)
    layer = model.blocks[2].ffn
    trained = layer.router

    def top_two(scores_TE):
        best_TK, expert_TK = scores_TE.topk(2)
        weight_TK = best_TK / best_TK.sum(-1, keepdim=True)
        return torch.zeros_like(scores_TE).scatter(1, expert_TK, weight_TK)

    context = RouteContext()
    wanted, _ = layer(tokens.x_TD, context)
    try:
        layer.router = router_for(tokens, top_two, top_k=2)
        found, route = layer(tokens.x_TD, context)
    finally:
        layer.router = trained
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert len(route.plan.token) == 2 * len(tokens.pieces)


def test_a_move_costs_well_under_100_ms():
    panel = panels.CompareRouters()
    panel.controls["routers"].value = "gshard,base,sinkhorn,expert_choice"
    panel.controls["noise"].value = 0.1
    costs = []
    for step in range(2, 16):
        begun = time.thread_time()
        panel.controls["noise"].value = step / 10
        costs.append(time.thread_time() - begun)
    assert min(costs) < 0.1  # what else a test machine does only adds to it


# A rule step by step.


def test_the_steps_of_a_rule_are_the_very_matrices_that_a_cell_computed():
    scores_TE = torch.randn(3, 4, requires_grad=True)
    panel = panels.RuleSteps(
        {"scores": scores_TE, "softmax": scores_TE.softmax(-1)}, ["a", "b", "c"]
    )
    back, onwards = find(panel, "back"), find(panel, "next")
    back.click()
    assert panel.values == {"step": 1} and said(panel) == "Step 1 of 2: scores."
    for _ in range(2):
        onwards.click()
    assert panel.values == {"step": 2} and "All tokens have the same sum." in said(panel)
    shown = [[float(v) for v in row[1:5]] for row in panel.drawn.rows[:3]]
    np.testing.assert_allclose(shown, scores_TE.softmax(-1).detach(), atol=6e-4)


@pytest.mark.usefixtures("stills")
def test_where_no_kernel_runs_the_last_step_of_a_rule_is_shown(monkeypatch):
    panel, shown = panels.RuleSteps(), []
    monkeypatch.setattr(
        "moeviz.panels.base.with_still", lambda picture, bundle: shown.append(picture) or bundle
    )
    before = everything(panel)
    panel._repr_mimebundle_()
    assert (
        shown[0].summary.startswith("Step 7 of 7: tokens, round 3.") and everything(panel) == before
    )


@pytest.mark.parametrize(
    ("steps", "tokens", "sentence"),
    [
        ({"a": torch.zeros(3)}, None, "Step 'a' must be a matrix [T, N], got [3]."),
        ({"a": torch.zeros(0, 2)}, None, "Step 'a' must be a matrix [T, N], got [0, 2]."),
        ({"a": torch.full((1, 1), -torch.inf)}, None, "Step 'a' must hold finite numbers"),
        ({"a": torch.zeros(2, 2)}, "abc", "a row for each of the 3 tokens; 'a' has 2."),
    ],
)
def test_steps_that_cannot_be_shown_are_refused(steps, tokens, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        panels.RuleSteps(steps, tokens)


def test_a_part_of_the_recorded_text_is_routed_as_in_the_whole():
    whole, part = routing.first_tokens(24), routing.first_tokens(12, after=12)
    assert part.pieces == whole.pieces[12:] and torch.equal(part.x_TD, whole.x_TD[12:])
    wanted = library_weights(whole, "token_choice")[12:]
    torch.testing.assert_close(library_weights(part, "token_choice"), wanted)
    assert (wanted > 0).sum(1).tolist() == [2] * 12


def test_the_first_and_the_last_step_of_ones_own_rule_are_gone_to():
    panel = panels.RuleSteps({"scores": torch.eye(2), "a": torch.eye(2), "best": torch.eye(2)})
    assert panel.presets == {"scores": {"step": 1}, "best": {"step": 3}}
    assert panels.RuleSteps.presets == panels.RuleSteps().presets


def two_best(logits_TE):
    score_TE = logits_TE.softmax(-1)
    return {"logits": logits_TE, "best": score_TE * (score_TE >= score_TE.topk(2).values[:, -1:])}


def test_a_dragged_score_has_the_steps_made_again_and_others_stay_as_they_were_changed():
    given_TE = torch.tensor([[3.0, 2.0, 1.0], [0.0, 5.0, 4.0]])
    panel = panels.RuleSteps(two_best, "ab", of=given_TE)
    before = panel.state
    for (t, n), value in (((0, 2), 9.0), ((1, 0), 6.0)):
        given_TE[t, n] = value
        (press,) = {
            m.get("data-press") for m in drawn(panel).iter()
            if m.get("aria-label", "").startswith(f"{'ab'[t]}, expert {n}: ")
        }  # fmt: skip
        panel.state = f"{panel.kind}?{press}"  # the cell is pressed
        scores = panel.controls["scores"]
        *others, last = scores.value.split("; ")
        assert last.startswith(f"{t},{n}: ")
        scores.value = "; ".join([*others, f"{t},{n}: {value}"])
    for step, wanted_TE in enumerate(two_best(given_TE).values(), 1):
        panel.controls["step"].value = step
        shown = [[float(v) for v in row[1:4]] for row in panel.drawn.rows[:2]]
        np.testing.assert_allclose(shown, wanted_TE, atol=6e-4)
    panel.state = before
    assert panel.drawn.rows[0][1:4] == ("3.000", "2.000", "1.000"), "the table itself is as given"


@pytest.mark.parametrize("words", ["best", "0,9: 1", "9,0: 1", "0,0: x", "0: 1"])
def test_scores_that_cannot_be_read_are_refused_in_one_sentence(words):
    panel = panels.RuleSteps()
    panel.controls["scores"].value = words
    assert f"with rows to 4 and columns to 3; got '{words}'." in said(panel)
    panel = panels.RuleSteps(lambda t: {"a": t, "b": t.log()}, of=torch.ones(2, 2))
    panel.controls["scores"].value = "0,0: 0"
    assert "The rule fails on these scores: Step 'b' must hold finite numbers" in said(panel)
