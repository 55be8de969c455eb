"""Models of `experiment upcycling`: a dense parent, what begins with it, and its live run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from moeviz.experiments import Progress
from moeviz.experiments.recorded import recorded_figures
from moeviz.experiments.recording import small_model
from moeviz.model.layer import MoEConfig
from moeviz.model.transformer import LanguageModel
from moeviz.records.growth import COPIES, DENSE, DROP, LEARNERS, SCRATCH, WAY, WAYS
from moeviz.surgery.upcycle import upcycled
from moeviz.text.corpus import load_corpus
from moeviz.training.config import TrainConfig
from moeviz.training.grown import GrownTrainer

EXPERTS, TOP_K, WIDTH = 8, 2, 128
PARENT, PARENT_STEPS, STEPS = "parent", 400, 800
# Two rates to begin with; one of two is an end of its grid, so that the next one is tried too.
FROM_NOTHING, FROM_TRAINED = (4e-3, 8e-3), (1e-3, 2e-3)
OWN_RATE = {  # the arms of which each has a grid
    DENSE: FROM_TRAINED, COPIES: FROM_TRAINED, DROP: FROM_TRAINED, SCRATCH: FROM_NOTHING,
}  # fmt: skip
GRID_SEEDS = (1000, 1001)  # of no final run
WINDOWS = 44  # of a domain, for a loss
LIVE_STEPS, LIVE_EVERY = 300, 25


def experts() -> MoEConfig:
    return MoEConfig(EXPERTS, TOP_K, WIDTH)


def training(rate: float, seed: int, steps: int, every: int) -> TrainConfig:
    return TrainConfig(
        steps=steps, learning_rate=rate, schedule="constant", seed=seed, validate_every=every
    )


# The parent, and what begins with it.


def parent_seed(seed: int) -> int:
    """Whose batches no arm of this seed sees."""
    return 10_000 + seed


def parent_trainer(rate: float, seed: int) -> GrownTrainer:
    config = training(rate, parent_seed(seed), PARENT_STEPS, 0)
    return GrownTrainer(small_model(None, d_ff=WIDTH), config, load_corpus())


def flops_before() -> float:
    """FLOPs that the parent's training took."""
    config = small_model(None, d_ff=WIDTH)
    train = training(1.0, 0, PARENT_STEPS, 0)
    per_step = 3 * config.flops_per_token(train.seq_len) * train.batch_size * train.seq_len
    return PARENT_STEPS * per_step


def grow(
    parent: LanguageModel, way: dict[str, float], config: TrainConfig, name: str = ""
) -> GrownTrainer:
    """A sparse model grown from the parent in this way (arguments of surgery.upcycle)."""
    model = upcycled(parent, experts(), seed=config.seed, **way)
    trainer = GrownTrainer(model.config, config, load_corpus())
    trainer.begin_from(model, flops_before())
    trainer.notes[WAY] = name
    return trainer


def go_on(parent: LanguageModel, config: TrainConfig) -> GrownTrainer:
    """The parent, trained further as it is."""
    trainer = GrownTrainer(parent.config, config, load_corpus())
    trainer.begin_from(parent, flops_before())
    return trainer


def from_scratch(config: TrainConfig) -> GrownTrainer:
    """The same sparse model without a parent."""
    return GrownTrainer(small_model(experts()), config, load_corpus())


@lru_cache(maxsize=1)
def train_parent(rate: float, seed: int) -> GrownTrainer:
    """A trained parent; it is kept, for all that begins with it."""
    trainer = parent_trainer(rate, seed)
    for _ in trainer:
        pass
    return trainer


def steps_of_equal_compute(step: int) -> tuple[int, int]:
    """Beside a grown model's step: at which step the dense model has spent as much since growing,
    and the one from scratch as much as the parent and the grown model together."""
    dense, sparse = small_model(None, d_ff=WIDTH), small_model(experts())
    ratio = dense.flops_per_token(64) / sparse.flops_per_token(64)
    return round(step / ratio), round(step + PARENT_STEPS * ratio)


# Rates.


def final_loss(trainer: GrownTrainer) -> float:
    """The validation loss at the end."""
    for _ in trainer:
        pass
    return trainer.evaluate(WINDOWS).loss


def try_parent(rate: float, seed: int) -> float:
    return final_loss(parent_trainer(rate, GRID_SEEDS[seed]))


def steps_of(arm: str) -> int:
    """The steps of an arm's whole run; the one from scratch takes the parent's compute too."""
    return steps_of_equal_compute(STEPS)[1] if arm == SCRATCH else STEPS


def try_arm(arm: str, parent_rate: float, rate: float, seed: int) -> float:
    """What a rate leads to, for one of OWN_RATE, at the end of its run."""
    config = training(rate, GRID_SEEDS[seed], steps_of(arm), 0)
    if arm == SCRATCH:
        return final_loss(from_scratch(config))
    parent = train_parent(parent_rate, GRID_SEEDS[seed]).model
    return final_loss(go_on(parent, config) if arm == DENSE else grow(parent, WAYS[arm], config))


# The live run.


def live_rates() -> dict[str, float]:
    """Those that the recording chose, or the higher one that a grid begins with."""
    recorded = recorded_figures("upcycling")
    if recorded is None:
        return {PARENT: FROM_NOTHING[1]} | {arm: grid[1] for arm, grid in OWN_RATE.items()}
    return {arm: found["chosen"] for arm, found in recorded["rates"].items()}


@lru_cache(maxsize=2)
def live_parent(seed: int) -> GrownTrainer:
    """The parent of a live run, not yet trained; once it is, it is kept for the next run."""
    return parent_trainer(live_rates()[PARENT], seed)


def build(name: str, seed: int, on_step: Progress) -> dict[str, GrownTrainer]:
    """The three learners of a live run: the parent that goes on, the sparse model from scratch,
    for as many FLOPs as the parent and the grown one take together, and what grew from the parent
    in this way of WAYS. on_step is told how far the parent's training is."""
    way = WAYS[name]
    parent = live_parent(seed)
    for result in parent:
        on_step(result.step, PARENT_STEPS)
    rates = live_rates()
    rate = rates[DROP if "drop" in way else COPIES]
    learners = (
        go_on(parent.model, training(rates[DENSE], seed, LIVE_STEPS, LIVE_EVERY)),
        from_scratch(
            training(rates[SCRATCH], seed, steps_of_equal_compute(LIVE_STEPS)[1], LIVE_EVERY)
        ),
        grow(parent.model, way, training(rate, seed, LIVE_STEPS, LIVE_EVERY), name),
    )
    return dict(zip(LEARNERS, learners, strict=True))


def resume(folder: Path, name: str, seed: int) -> dict[str, GrownTrainer]:
    """The learners as an interrupted run left them; none where one is not of this run."""
    found: dict[str, GrownTrainer] = {}
    for label in LEARNERS:
        try:
            kept = GrownTrainer.resume(folder / f"{label}.safetensors", load_corpus())
        except (OSError, ValueError):
            return {}
        if kept.config.seed != seed or kept.notes.get(WAY, name) != name:
            return {}
        found[label] = kept
    return found
