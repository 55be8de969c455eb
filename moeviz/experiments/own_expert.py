"""An expert of one's own: what texts gain by it, and what the model forgets (2 minutes a text).

The model is the one that ships. Text n of TEXTS is learnt under seed n, STEPS steps, in these arms:
one more expert in each layer, whole or as LoRA of some rank; with other text replayed beside it or
not; and, for comparison, every weight of the model, with the same batches ("all weights").

What would make this unfair, and what is done about it
1. Text that was read: a text's gain is measured on its last fifth, which no step reads; what is
   forgotten on the reserve of the six domains. Settings are chosen on two other texts (GRID) and on
   validation text.
2. Unequal practice: all arms see the same pieces of the text in the same order, for as many steps.
   Replay adds pieces of the model's own training text to each step, so such a step costs more; the
   seconds stand beside it. "all weights" gets the replay too.
3. One rate that suits one of them: each form has its own, the one of RATES with the best score on
   GRID: the gain on the text minus the mean rise over the domains. Replay is no such choice, as
   more of it takes longer: all arms have REPLAY. The record says what less and more of it do for a
   whole expert, each amount with the best of its rates.
4. Luck: text, start of LoRA and batches change together, and all differences are paired.
5. Kinship: what is forgotten hangs on how much a text is like a domain, so each domain is kept.
6. What is no learning: a copy that has learnt nothing takes a place in the choice of the tokens
   that its original gets ("untrained copy").

Not closed: one model, of one size, and one seed for each text; five texts chosen by hand, of 2,200
tokens each, so an interval tells of texts like these; the held-out part is of the same document;
rates are chosen on two texts, ranks 1 and 16 have that of rank 4; the arms without replay have the
rate that is best with it, and would forget less at a lower one of their own (see "replay").

runs/own_expert.json; figures are {mean, sd, values} over the texts, nats per token:
    steps; texts: in the order of the values; domains: names
    grid: by form: by rate, as text, {"gain", "forgotten", "score"} over GRID; chosen
    replay: by pieces for each own piece, as text, the same of a whole expert, and the "rate" that
        is the best with it; chosen: REPLAY
    arms: by name: before, after: the loss of the text; gain; forgotten: the mean rise over the
        domains; domains: that of each; visits, elsewhere: the share of the text's and of the
        domains' tokens that visit the new expert, mean over layers (not of "all weights");
        seconds of training; bytes
    together: of two experts of rank 4 at once, over the texts the mean of their four partners:
        clash: the rise of the text's loss beside its expert alone; forgotten; alone: the mean of
        what each of the two makes the model forget; and clash_TT, of each text (rows) by partner
judged: tables of paired differences (recording.judged), by arm: "gain", after minus before; "own"
and "forgotten", the arm minus "whole"; "together": "clash"
models/own_german.safetensors: an expert of rank 4, as a friend's; traces/own_expert.safetensors: a
record for each of OPENINGS, which the panel of 14 opens on
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moeviz.checks import check_whole
from moeviz.experiments import Progress
from moeviz.experiments.killed_experts import held_out
from moeviz.experiments.own_run import SHARED, OwnRunning, expert_from, expert_values
from moeviz.experiments.quantised import by_window
from moeviz.experiments.recording import (
    collect,
    figures_over,
    judged,
    mean_sd,
    recorded_model,
    write_trained,
)
from moeviz.model.adamw import AdamW
from moeviz.model.transformer import LanguageModel
from moeviz.records.store import save_records
from moeviz.surgery.own_expert import Plugged
from moeviz.surgery.own_training import WARMUP, OwnTraining, text_loss
from moeviz.text.corpus import Batch, Corpus, load_corpus
from moeviz.text.own_texts import GRID, TEXTS, own_text
from moeviz.watch.domains import route_windows

STEPS, TOKENS = 120, 2200
WINDOWS = 64  # of each domain, for the final figures
GRID_WINDOWS = 24
WHOLE, ALL, RANK, COPY = "whole", "all weights", "rank 4", "untrained copy"
RATES = {
    WHOLE: (1e-3, 3e-3, 1e-2, 3e-2),
    RANK: (3e-3, 1e-2, 3e-2),
    ALL: (3e-4, 1e-3, 3e-3),
}
REPLAYS = (0.0, 1.0, 3.0, 6.0, 12.0)
REPLAY = 3.0  # of all arms: a step then reads four times as much text as without
# Arm -> the form whose rate it takes, its rank, and whether other text is replayed.
ARMS = {
    WHOLE: (WHOLE, None, True),
    "whole, no replay": (WHOLE, None, False),
    "rank 1": (RANK, 1, True),
    RANK: (RANK, 4, True),
    "rank 16": (RANK, 16, True),
    "rank 4, no replay": (RANK, 4, False),
    ALL: (ALL, None, True),
    COPY: (WHOLE, None, False),
}
# Name -> text, form, whether other text is replayed, whether a friend's expert is plugged in too.
OPENINGS = {
    "alone": ("notes", WHOLE, True, False),
    "without replay": ("notes", WHOLE, False, False),
    "low rank": ("log", RANK, True, False),
    "two at once": ("notes", WHOLE, True, True),
}

Figures = dict[str, Any]


def trained(
    form: str, text: str, seed: int, rate: float, replay: float, rank: int | None
) -> tuple[LanguageModel, OwnTraining, float]:
    """The model after learning a text, in one of the forms or COPY; its training, and the seconds
    of it."""
    model, tokenizer = recorded_model()
    ids = tokenizer.encode(own_text(text))[:TOKENS]
    training = OwnTraining(
        model, ids, load_corpus(), name=text, steps=STEPS, rank=rank, replay=replay,
        learning_rate=rate, seed=seed,
    )  # fmt: skip
    begun = time.perf_counter()
    if form == ALL:
        return train_all(model, training), training, time.perf_counter() - begun
    if form != COPY:
        for _ in training:
            pass
    seconds = time.perf_counter() - begun
    return Plugged(model, tokenizer).plug(training.expert()).model, training, seconds


def train_all(model: LanguageModel, training: OwnTraining) -> LanguageModel:
    """Every weight of the model learns the batches that the training would, at its rates."""
    optimizer = AdamW(model.parameters(), training.learning_rate, weight_decay=0.0)
    for step in range(training.steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / WARMUP)
            group["lr"] = training.learning_rate * warm * (1 - step / training.steps)
        ids_BS = torch.from_numpy(training.batch(step))
        optimizer.zero_grad(set_to_none=True)
        model.train()(ids_BS[:, :-1], targets_BS=ids_BS[:, 1:]).loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def tried(form: str, rate: float, replay: float, seed: int) -> Figures:
    """A setting on one of the texts of GRID: gain, and the mean rise over validation text."""
    text = list(GRID)[seed]
    corpus, base = load_corpus(), recorded_model()[0]
    windows = corpus.windows("validation", seq_len=64, windows_per_domain=GRID_WINDOWS)
    rank = 4 if form == RANK else None
    model, training, _ = trained(form, text, seed, rate, replay, rank)
    gain = text_loss(base, training.held_out) - text_loss(model, training.held_out)
    forgotten = float((by_window(model, windows) - by_window(base, windows)).mean())
    return {"gain": gain, "forgotten": forgotten, "score": gain - forgotten}


def learnt(arm: str, rate: float, replay: float, seed: int) -> Figures:
    """One arm on the text of the seed: all figures, and the expert of RANK itself."""
    form, rank, replays = ARMS[arm]
    text = list(TEXTS)[seed]
    corpus, base = load_corpus(), recorded_model()[0]
    windows = held_out(corpus, WINDOWS)
    replay = replay if replays else 0.0
    model, training, seconds = trained(
        COPY if arm == COPY else form, text, seed, rate, replay, rank
    )
    before, after = (text_loss(m, training.held_out) for m in (base, model))
    rise_D = by_window(model, windows) - by_window(base, windows)
    found = {
        "before": before, "after": after, "gain": before - after,
        "forgotten": float(rise_D.mean()), "domains": rise_D.tolist(), "seconds": seconds,
    }  # fmt: skip
    if form == ALL:
        return {"figures": found | {"bytes": 4 * model.num_parameters()}}
    expert = training.expert()
    found |= {"bytes": expert.num_bytes, **visits(model, training, windows, corpus)}
    kept = expert_values(expert) if arm == RANK else None
    return {"figures": found, "expert": kept}


def visits(
    model: LanguageModel, training: OwnTraining, windows: Batch, corpus: Corpus
) -> dict[str, float]:
    """The share of tokens that visit the last expert, mean over layers: of the held-out text, and
    of the domains."""
    ids = training.held_out
    pieces = ids[: len(ids) // 64 * 64].reshape(-1, 64)
    own = Batch(np.pad(pieces, ((0, 0), (0, 1))), np.zeros(len(pieces), np.int64))
    last = training.base.routers()[training.base.config.moe_layers[0]].num_experts
    return {
        name: float((route_windows(model, batch, corpus).expert == last).any(-1).mean())
        for name, batch in (("visits", own), ("elsewhere", windows))
    }


def together(experts: list[Figures], arms: Figures) -> Figures:
    """Two experts of RANK at once, every pair; see the head of this file. arms: figures of RANK."""
    model, tokenizer = recorded_model()
    corpus = load_corpus()
    windows = held_out(corpus, WINDOWS)
    base_D = by_window(model, windows)
    count = len(experts)
    clash_TT, forgotten_TT = np.zeros((count, count)), np.zeros((count, count))
    plugged, made = Plugged(model, tokenizer), [expert_from(one) for one in experts]
    held = [OwnTraining(model, tokenizer.encode(own_text(t))[:TOKENS], corpus).held_out
            for t in list(TEXTS)[:count]]  # fmt: skip
    for i in range(count):
        for j in range(i):
            both = plugged.plug(made[i]).plug(made[j]).model
            for one, other in ((i, j), (j, i)):
                alone = arms["after"]["values"][one]
                clash_TT[one, other] = text_loss(both, held[one]) - alone
            forgotten_TT[i, j] = forgotten_TT[j, i] = (by_window(both, windows) - base_D).mean()
    alone_T = np.array(arms["forgotten"]["values"])
    others = max(count - 1, 1)
    return {
        "clash": mean_sd((clash_TT.sum(1) / others).tolist()),
        "forgotten": mean_sd((forgotten_TT.sum(1) / others).tolist()),
        "alone": mean_sd(((alone_T + (alone_T.sum() - alone_T) / others) / 2).tolist()),
        "clash_TT": clash_TT.round(4).tolist(),
    }


def best(results: dict[str, list[Figures]]) -> Figures:
    """Of settings by name, over GRID: figures, and the one with the best mean score, chosen."""
    over = {name: figures_over(each) for name, each in results.items()}
    chosen = max(over, key=lambda name: over[name]["score"]["mean"])
    return over | {"chosen": chosen}


def tables(arms: Figures, pairs: Figures) -> dict[str, Figures]:
    """Tables of paired differences; each is corrected for all of its comparisons."""
    after = {arm: of["after"]["values"] for arm, of in arms.items()}
    rises = {arm: of["forgotten"]["values"] for arm, of in arms.items()}
    others = [arm for arm in arms if arm != WHOLE]
    clash = pairs["clash"]["values"]
    return {
        "gain": judged({arm: (after[arm], of["before"]["values"]) for arm, of in arms.items()}),
        "own": judged({arm: (after[arm], after[WHOLE]) for arm in others}),
        "forgotten": judged({arm: (rises[arm], rises[WHOLE]) for arm in others}),
        "together": judged({"clash": (clash, [0.0] * len(clash))}),
    }


def run(out: Path, meta: dict[str, Any], seeds: int, on_step: Progress) -> Figures:
    """Choose the rates, learn the first `seeds` texts in every arm; write runs/own_expert.json and
    what the panel opens on under `out`. ValueError for one seed, whose text would have no partner,
    and for more than there are texts."""
    check_whole("seeds", seeds, 2, len(TEXTS))
    part = out / "runs" / "own_expert.part"
    rates = {f"{f}; {r:g}": partial(tried, f, r, REPLAY) for f, each in RATES.items() for r in each}
    amounts = {
        f"replay {amount:g}; {r:g}": partial(tried, WHOLE, r, amount)
        for amount in REPLAYS
        for r in RATES[WHOLE]
        if amount != REPLAY
    }
    before = (len(rates) + len(amounts)) * len(GRID)
    total = before + len(ARMS) * seeds
    found = collect(part, meta, rates | amounts, len(GRID), lambda done, _: on_step(done, total))

    def over(form: str, name: str) -> Figures:
        return best({f"{rate:g}": found[f"{name}; {rate:g}"] for rate in RATES[form]})

    grid = {form: over(form, form) for form in RATES}
    by_amount = {
        f"{amount:g}": over(WHOLE, WHOLE if amount == REPLAY else f"replay {amount:g}")
        for amount in REPLAYS
    }
    replay = {
        amount: of[of["chosen"]] | {"rate": of["chosen"]} for amount, of in by_amount.items()
    } | {"chosen": f"{REPLAY:g}"}
    rate_of = {form: float(of["chosen"]) for form, of in grid.items()}
    runs = {arm: partial(learnt, arm, rate_of[form], REPLAY) for arm, (form, _, _) in ARMS.items()}
    results = collect(part, meta, runs, seeds, lambda done, _: on_step(before + done, total))
    arms = {arm: figures_over([r["figures"] for r in each]) for arm, each in results.items()}
    experts = [result["expert"] for result in results[RANK]]
    pairs = together(experts, arms[RANK])
    figures = {
        "steps": STEPS,
        "texts": list(TEXTS)[:seeds],
        "domains": list(load_corpus().domains),
        "grid": grid,
        "replay": replay,
        "arms": arms,
        "together": pairs,
        "judged": tables(arms, pairs),
    }
    write_trained(out / "runs" / "own_expert.json", meta, figures)
    shared = results[RANK][list(TEXTS).index(SHARED)]["expert"]
    write_openings(out, meta, rate_of, shared)
    return {arm: {n: f[n]["mean"] for n in ("gain", "forgotten")} for arm, f in arms.items()}


def write_openings(
    out: Path, meta: dict[str, Any], rates: dict[str, float], shared: Figures
) -> None:
    """What the panel opens on, and a friend's expert; see the head of this file."""
    friend, records = expert_from(shared), {}
    friend.save(out / "models" / f"own_{friend.name}.safetensors", meta)
    for name, (text, form, replays, beside) in OPENINGS.items():
        running = OwnRunning(*recorded_model(), load_corpus())
        rank, amount = 4 if form == RANK else None, REPLAY if replays else 0.0
        for _ in running.training(text, own_text(text), STEPS, rank, rates[form], amount):
            pass
        if beside:
            running.plug(friend)
        records[name] = running.look()
    save_records(out / "traces" / "own_expert.safetensors", records, meta)
