"""Claims about experts chosen for a whole input, models as experts, and experts that are loaded for
a topic, which recorded runs of small models test."""

from __future__ import annotations

from typing import Any

from moeviz.costs.claims.ledger import Assumption, Outcome, Verdict, holds_if
from moeviz.costs.claims.measured import difference, interval, of_run
from moeviz.costs.claims.short import BEACON, MARKET
from moeviz.costs.shape.terms import Term
from moeviz.words import percent

MODELS, LOADED = "data/runs/models_as_experts.json", "data/runs/loaded_experts.json"
MIXED, DENSE = "whole models, mixed by the router", "one dense model on everything"
PROMPT, TOKEN = "one set, by the prompt", "token by token"


@BEACON.claim(
    "second paragraph",
    "Experts chosen for a whole input, and not layer by layer for each token, cost no accuracy",
    "loss of one set of experts by the prompt minus that of a choice for every token",
    f"{MODELS}: two layers of 16 experts, top-2, 500 steps",
    Assumption("harmless", 0.02, "nats", "loss difference that counts as none", 0.001, 1),
    unit="nats")  # fmt: skip
@of_run("models_as_experts")
def experts_for_an_input(figures: dict[str, Any], harmless: float) -> Outcome:
    arms = figures["one_set"]["arms"]
    one, each = (arms[name]["loss"] for name in (PROMPT, TOKEN))
    gap = difference(one["values"], each["values"])
    terms = (
        Term("one set, by the first 16 tokens", one["mean"], "loss after them, mean of seeds"),
        Term("a choice for every token", each["mean"], "loss after them, mean of seeds"),
    )
    met = arms[TOKEN]["experts_a_text"]["mean"]
    why = (
        f"in our small model the loss differs by {gap.mean:+z.3f} nats per token "
        f"({interval(gap)}); a text of 64 tokens then meets 2 experts of a layer and not {met:.1f}"
    )
    if gap.low <= harmless < gap.high:
        return Outcome("unverifiable", why, gap.mean, terms)
    return Outcome(holds_if(gap.high <= harmless), why, gap.mean, terms)


@MARKET.claim(
    "What Comes Next",
    "Models as experts of a larger system (meta-MoE) are yet more specialised AI",
    "loss of three models mixed by a router minus that of one model that learned everything",
    f"{MODELS}: dense models of two layers, one for each of three domains",
    unit="nats")  # fmt: skip
@of_run("models_as_experts")
def models_as_experts(figures: dict[str, Any]) -> Outcome:
    mixed, dense = (figures["arms"][name] for name in (MIXED, DENSE))
    gap = difference(mixed["seen"]["values"], dense["seen"]["values"])
    terms = (
        Term("three models, mixed", mixed["seen"]["mean"], "mean of seeds, nats per token"),
        Term("one model", dense["seen"]["mean"], "mean of seeds, nats per token"),
        Term("FLOPs of an answer", mixed["answer"], "over those of the one model"),
    )
    why = (
        f"three small dense models under a router end {gap.mean:+z.3f} nats per token from one "
        f"that learned all three domains ({interval(gap)}), for {mixed['answer']:.3g} times the "
        "FLOPs of an answer; models that are MoE themselves were not tried"
    )
    verdict: Verdict = "unverifiable"
    if gap.high < 0 or gap.low > 0:
        verdict = holds_if(gap.high < 0)
    return Outcome(verdict, why, gap.mean, terms)


@BEACON.claim(
    "fifth paragraph", "A device loads a tiny expert for the topic at hand",
    "bytes of a topic's experts / those of a whole model; loads while the topic stays",
    f"{LOADED}: two layers of three experts in a file, room for one of each layer",
    Assumption("tiny", 0.3, "share", "share of a model's bytes that counts as tiny", 0.01, 1),
    unit="share")  # fmt: skip
@of_run("loaded_experts")
def tiny_expert_loaded(figures: dict[str, Any], tiny: float) -> Outcome:
    runs = {(run["way"], run["form"], run["stream"]): run for run in figures["runs"]}
    stays, changes = (runs["text", "fp32", stream] for stream in ("one topic", "changing"))
    layers = stays["by_text"][0]
    share = layers * figures["expert_bytes"]["fp32"] / figures["model_bytes"]
    terms = (
        Term("a topic's experts / a whole model", share, "bytes, both in fp32"),
        Term("loads in one topic", stays["loads"], f"{figures['texts']} texts"),
        Term("loads where it changes", changes["loads"], "as many texts"),
    )
    why = (
        f"in our small model a topic's experts are {percent(share)} of a model's bytes and are "
        f"loaded {stays['loads'] / layers:.3g} times in {figures['texts']} texts of one topic, "
        f"{changes['loads'] / layers:.3g} times where it changes; all else stays in memory, and "
        "what a battery feels was not measured"
    )
    return Outcome(holds_if(share <= tiny), why, share, terms)
