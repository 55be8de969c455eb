"""What only the exhibits of 07 do: other routings than the recorded, and experts left out live."""

import pytest
import torch

from helpers.panels import LOUD, at_ease, move, press, said
from helpers.picture_cases import make_domain_trace, make_trace
from moeviz import panels
from moeviz.text.corpus import load_corpus
from moeviz.watch.domains import route_domains
from moeviz.watch.intervene import kill

pytestmark = [*LOUD, pytest.mark.usefixtures("fresh_kernel")]


def test_likings_of_any_routing_of_domains():
    panel = panels.Specialisation(make_domain_trace())
    assert panel.sizes == (16, 32, 64) and "64 tokens of each domain" in panel.picture.value
    traces = {"one": [make_trace(tuple("abcdefgh") * 3)] * 2, "two": [make_trace()] * 4}
    panel = panels.Specialisation(traces)
    assert panel.trace.domains == ("one", "two") and panel.sizes == (16, 32)
    for of, message in (
        (make_trace(), "of must name domains: the traces of each"),
        ("owner/model", "or what watch.pretrained.load gives, got 'owner/model'"),
        ({"one": [make_trace()]}, "two are needed at least, got 1"),
        ({}, "There is no domain"),
    ):
        with pytest.raises(ValueError, match=message):
            panels.Specialisation(of)


def test_where_the_model_sends_domains_is_what_the_model_does():
    from moeviz.experiments.recording import recorded_model

    model, _ = recorded_model()
    corpus = load_corpus()
    routed = route_domains(model, corpus, sequences=2)
    windows = corpus.windows("reserve", seq_len=64, windows_per_domain=2)
    assert routed.domains == corpus.domains and routed.length.tolist() == [64] * 12
    with torch.no_grad():
        out = model(torch.from_numpy(windows.tokens[5:6, :-1]))
    for place, route in enumerate(out.routes):
        visits_TE = route.plan.dense_weights() > 0
        for token in range(64):
            chosen = set(routed.expert[5 * 64 + token, place].tolist())
            assert chosen == set(visits_TE[token].nonzero().flatten().tolist())
    assert (routed.token.reshape(12, 64) == windows.tokens[:, :-1]).all()


def test_experts_are_left_out_here_with_progress_until_it_is_stopped(monkeypatch):
    from moeviz.experiments import killed_experts

    panel = panels.KilledExperts()
    told = []
    monkeypatch.setattr(panel, "_going_on", lambda done, total: told.append(total) or done < 1)
    press(panel, "run")
    at_ease(panel)
    assert said(panel) == "Stopped: nothing was changed." and told == [24, 24]
    small = killed_experts.held_out(load_corpus(), 1)
    monkeypatch.setattr(killed_experts, "held_out", lambda corpus: small)
    monkeypatch.undo()
    monkeypatch.setattr(killed_experts, "held_out", lambda corpus: small)
    press(panel, "run")
    at_ease(panel)
    assert panel.values["figures"] == "this machine" and "computed here" in panel.picture.value
    from moeviz.experiments.recording import recorded_model

    model, _ = recorded_model()
    alone = killed_experts.losses_changed(model, small, kill(3), (1,))
    assert panel.live.after[1, 3] == pytest.approx(alone, abs=1e-5)
    move(panel, "figures", "recorded")
    assert "recorded" in panel.picture.value
