"""Recordings of models as experts, and of experts that a text loads, with known effects."""

import numpy as np

from helpers.recorded_routers import PROVENANCE
from moeviz.experiments import models_measured, one_set
from moeviz.experiments.models_as_experts import control_steps
from moeviz.records.models_as_experts import (
    ARMS,
    NO_EXPERTS,
    PROMPT,
    SEEN,
    TOLD,
    UNSEEN,
    MixedText,
)

BASE_LOSS = (4.0, 4.4, 1.8, 6.0, 5.5, 5.0)  # of the dense control by domain
TEXT = "def mean(values):\n    return sum(values)"


def made_text(words=TEXT, seed=0):
    """Three models on a text: the first knows it best, and the router leans to it."""
    shown = words.replace("\n", "⏎").replace("\t", "⇥").split(" ")  # as a tokenizer's pieces are
    tokens = tuple(piece for word in shown for piece in (word, "·"))
    loss_MS = np.random.default_rng(seed).uniform(1, 9, (3, len(tokens) - 1))
    loss_MS[0] /= 3
    return MixedText(tokens, loss_MS, np.array([0.7, 0.25, 0.05]), np.array([0.98, 0.02, 0.0]))


def made_models(seeds=5, *, above=None, one_set_gain=0.02, right=(0.8, 0.9)):
    """above: by how much an arm's losses lie above those of the dense control; one_set_gain: by how
    much each contestant of one_set is below the one before; right: who picks rightly how often, the
    router and the prompt's loss."""
    above = above or {}
    rng = np.random.default_rng(1)
    runs = []
    for _ in range(seeds):
        noise = rng.normal(0, 0.004, len(BASE_LOSS))
        loss = {
            name: [
                base + above.get(name, 0.0) + shared + rng.normal(0, 0.003)
                for base, shared in zip(BASE_LOSS, noise, strict=True)
            ]
            for name in ARMS
        }
        loss[TOLD] = loss[TOLD][: len(SEEN)]
        shares = np.tile([[0.8], [0.15], [0.05]], (1, 6))
        runs.append(
            {
                "loss": loss,
                "matrix": np.full((3, 6), 5.0).tolist(),
                "picked": shares.tolist(),
                "by_prompt": shares.tolist(),
                "right": dict(zip(("picked", "by_prompt"), right, strict=True)),
                "texts": {"Python": {"text": TEXT} | made_text().to_json()},
            }
        )
    sets = {
        f"one set, {name}": [
            {"loss": 3.0 - one_set_gain * place + rng.normal(0, 0.002)}
            | ({} if name == NO_EXPERTS else {"experts_a_text": 2.0 if "set" in name else 11.5})
            for _ in range(seeds)
        ]
        for place, name in enumerate(one_set.contestants())
    }
    return {
        "provenance": PROVENANCE,
        "seeds": list(range(seeds)),
        "prompt": PROMPT,
        "seen": SEEN,
        "unseen": UNSEEN,
        "steps": {"start": 200, "apart": 300, "together": 200} | control_steps(),
        "rates": {
            stage: {"chosen": 8e-3, "at_edge": False}
            for stage in ("apart", "one dense model", "one MoE", "together")
        },
        **models_measured.summary(runs),
        "one_set": one_set.summary(sets),
    }


def made_loads(texts=12):
    """A router that always knows the domain, and one for which every tenth token changes."""
    order = [SEEN[t % 3] for t in range(texts)]
    streams = {"one topic": ["python"] * texts, "changing": order, "gathered": sorted(order)}
    runs = []
    for way in ("text", "token"):
        for form in ("fp32", "int4"):
            for name, domains in streams.items():
                new = [2 * (not t or domains[t - 1] != d) for t, d in enumerate(domains)]
                loads = new if way == "text" else [13 - t for t in range(texts)]
                size = 196_608 if form == "fp32" else 26_000
                runs.append(
                    {
                        "way": way, "form": form, "stream": name, "asked": 128 * texts,
                        "hits": 128 * texts - sum(loads), "loads": sum(loads), "by_text": loads,
                        "bytes_read": size * sum(loads), "storage_bytes": None, "same": True,
                        "ms_a_text": {"median": 20.0, "q1": 19.0, "q3": 22.5},
                    }
                )  # fmt: skip
    return {
        "provenance": PROVENANCE, "prompt": PROMPT, "tokens": 64, "texts": texts, "load": [0.1] * 3,
        "expert_bytes": {"fp32": 196_608.0, "int4": 26_000.0}, "model_bytes": 1_574_144,
        "expert_ms": {form: {"median": 0.4, "q1": 0.3, "q3": 0.5} for form in ("fp32", "int4")},
        "in_memory_ms": {way: {"median": 9.0, "q1": 9.0, "q3": 9.0} for way in ("text", "token")},
        "streams": streams, "runs": runs,
    }  # fmt: skip
