"""Predictions of 07_specialisation."""

from __future__ import annotations

from functools import cache

import numpy as np

from moeviz.experiments import cures
from moeviz.experiments.recorded import recorded_records, recorded_trace
from moeviz.pictures.over_seeds import gap_words
from moeviz.predictions.prediction import OPEN, Measured, nearest, prediction, recorded_run
from moeviz.records.compare import compare
from moeviz.records.domain_look import from_tokens, sampled
from moeviz.records.killed import Killed
from moeviz.records.routes import DomainTrace
from moeviz.records.specialists import EFFECT, domain_lift, lift_beside_null
from moeviz.words import percent

LAYER, FEW = 2, 64  # the layer that 07 opens on, and tokens of each domain
EARLY = 100  # steps
BATCH, SEQUENCE = "balancing loss 0.1", "balancing loss 0.1 per sequence"


@cache
def _trace() -> DomainTrace:
    return recorded_trace(DomainTrace, "domains")


@prediction(
    "07.noise",
    "From 64 tokens of each of six domains, some domains use an expert 1.5 times as much as the "
    "domains do in the mean, or more. Then the domains are dealt out to the sequences anew, by "
    "lot. How many such likings are there then?",
    "none", "about half", "all of them",
)  # fmt: skip
def noise() -> Measured:
    (few,) = sampled(_trace(), LAYER, (FEW,))
    share = few.by_chance / max(few.likings, 1)
    real_DE = lift_beside_null(*_trace().labelled(LAYER)).found()
    few_DE = domain_lift(_trace().sample(FEW).load(LAYER)) >= EFFECT
    option = nearest(share, {"none": 0.0, "about half": 0.5, "all of them": 1.0})
    figure = (
        f"in layer {LAYER} there are {few.likings} likings, of which the whole text confirms "
        f"{int((few_DE & real_DE).sum())}, and {few.by_chance:.1f} after a shuffle, the mean of "
        "many"
    )
    because = (
        "64 tokens are one sequence of each domain, and a shuffle of six sequences only swaps "
        "their names: so small a sample cannot tell a domain from a sequence"
    )
    if option == "none":
        because = "the domains differ much more than sequences of one domain do"
    return Measured(option, figure, because)


@prediction(
    "07.tokens",
    "Suppose that a token's experts depended on the token alone, and not on the text around it. "
    "How much of what the experts tell of the domain would be left?",
    "next to nothing", "about a third", "about two thirds", "all of it",
)  # fmt: skip
def token_ids() -> Measured:
    trace = _trace()
    shares = [from_tokens(trace, place).explained for place in range(len(trace.layers))]
    options = {
        "next to nothing": 0.0, "about a third": 1 / 3, "about two thirds": 2 / 3, "all of it": 1.0
    }  # fmt: skip
    option = nearest(float(np.mean(shares)), options)
    figure = (
        f"{percent(float(np.mean(shares)))} is left in the mean over layers, "
        f"{percent(shares[0])} in the first and {percent(shares[-1])} in the last one"
    )
    because = "most likely domains have words of their own, and a word goes far to choose experts"
    if option == "next to nothing":
        because = "the same token goes to other experts in another text"
    return Measured(option, figure, because)


YES, MIDDLE, LEAST = "yes, most of all", "no, somewhere in the middle", "no, least of all"


@prediction(
    "07.load",
    "Each expert of layer 1 is left out in turn. Is the busiest one missed most?",
    YES, MIDDLE, LEAST,
)  # fmt: skip
def load() -> Measured:
    killed, place = recorded_records(Killed, "killed")["healthy"], 1
    load_E, cost_E = killed.load[place].mean(0), killed.cost[place].mean(-1)
    busiest, missed = int(load_E.argmax()), int(cost_E.argmax())
    below = int((cost_E < cost_E[busiest]).sum())
    # Neighbours in the order of worth differ by less than their noise: a rank would be luck.
    option = nearest(below / (len(load_E) - 1), {YES: 1.0, MIDDLE: 0.5, LEAST: 0.0})
    figure = (
        f"without expert {busiest}, which has {percent(load_E[busiest], 1)} of the load, the loss "
        f"rises by {cost_E[busiest]:.3f} nats per token; without expert {missed}, which has "
        f"{percent(load_E[missed], 1)}, by {cost_E[missed]:.3f}"
    )
    because = "load counts tokens, and worth is what each of them would lose"
    return Measured(option, figure, because)


@prediction(
    "07.settled",
    "A model like the shipped one trains for 1,200 steps. What share of each token's final experts "
    "does it already choose after 100 steps?",
    "a quarter, as by chance", "about half", "about three quarters", "nearly all",
)  # fmt: skip
def settled() -> Measured:
    recorded = recorded_run("saturation")
    place = recorded["checkpoints"].index(EARLY)
    layers = [layer[place] for layer in recorded["settled"]]
    share = float(np.mean([layer["mean"] for layer in layers]))
    chance = float(np.mean([layer[place]["mean"] for layer in recorded["chance"]]))
    options = {
        "a quarter, as by chance": 0.25, "about half": 0.5, "about three quarters": 0.75,
        "nearly all": 1.0,
    }  # fmt: skip
    figure = (
        f"{percent(share)} in the mean over layers and {len(layers[0]['values'])} seeds, "
        f"{percent(layers[0]['mean'])} in the first layer and {percent(layers[-1]['mean'])} in the "
        f"last; {percent(chance)} would by chance"
    )
    because = "most likely a router learns early what it reads of the token alone"
    if share < 0.4:
        because = "most likely the layers below go on to learn, and change what a router reads"
    return Measured(nearest(share, options), figure, because)


@prediction(
    "07.scope",
    "A balancing loss asks for an even load: in each batch, or in each single sequence. What does "
    "the second one do to how much experts tell of the domain?",
    "it rises", OPEN, "it falls",
)  # fmt: skip
def scope() -> Measured:
    values = {arm: cures.recorded()["arms"][arm]["domain_information"]["values"]
              for arm in (BATCH, SEQUENCE)}  # fmt: skip
    gap = compare(values[SEQUENCE], values[BATCH])
    option = OPEN if gap.p >= 0.05 else "it falls" if gap.mean < 0 else "it rises"
    means = [percent(float(np.mean(values[arm])), 1) for arm in (BATCH, SEQUENCE)]
    figure = (
        f"experts tell {means[0]} of the domain with the batch's scope and {means[1]} with the "
        f"sequence's, {gap_words(gap, 'of the whole')}"
    )
    because = "each sequence is of one domain and has to use all experts evenly"
    if option != "it falls":
        because = "the loss is too weak, or the seeds are too few, to show it"
    return Measured(option, figure, because)


LOADS, LOSSES, TURNS = (
    "the load of each expert",
    "the loss of each domain",
    "the loss with each expert left out in turn",
)


@prediction(
    "07.view",
    "One expert of one layer writes the opposite of what it learned. Which figures tell which "
    "expert it is?",
    LOADS, LOSSES, TURNS,
)  # fmt: skip
def view() -> Measured:
    killed = recorded_records(Killed, "killed")
    fault = recorded_run("specialisation")["sabotaged"]
    place, (expert,) = killed["healthy"].layers.index(fault["layer"]), fault["experts"]
    least = np.unravel_index(killed["sabotaged"].cost.mean(-1).argmin(), (3, 8))
    shift = np.abs(killed["sabotaged"].load[place] - killed["healthy"].load[place]).max()
    rise = killed["sabotaged"].before.mean() - killed["healthy"].before.mean()
    option = TURNS if least == (place, expert) else LOADS if shift > 0 else LOSSES
    figure = (
        f"the loss is {rise:.3f} nats per token higher, the loads of its layer differ by at most "
        f"{percent(float(shift), 1)}, and leaving expert {expert} out changes the loss by "
        f"{killed['sabotaged'].cost[place, expert].mean():+.3f}"
    )
    because = "the router still sends it the same tokens, and only the loss hears what it says"
    return Measured(option, figure, because)
