"""How a model learns: settings, the trainer, checkpoints, live runs."""

from moeviz.training.config import TrainConfig
from moeviz.training.live import LiveRun
from moeviz.training.trainer import Trainer

__all__ = ["LiveRun", "TrainConfig", "Trainer"]
