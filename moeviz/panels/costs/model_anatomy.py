"""Anatomy of two models, side by side, or of any config.json."""

from __future__ import annotations

import json
from typing import Any

from moeviz.checks import check_choice
from moeviz.costs import MODELS, Architecture, Model
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, text_box
from moeviz.pictures import Picture
from moeviz.pictures.costs.model_anatomy import model_anatomy
from moeviz.pictures.costs.model_parts import PARTS

YOURS = "yours"
# What a button says, and the model that it stands for.
CHOICES = (
    ("GPT-3", "GPT-3 175B"),
    ("Llama 405B", "Llama 3.1 405B"),
    ("Switch-C", "Switch-C 1.6T"),
    ("GLaM", "GLaM 64B/64E"),
    ("Mixtral", "Mixtral 8x22B"),
    ("DeepSeek-V3", "DeepSeek-V3 / R1"),
    ("Kimi K2", "Kimi K2"),
    ("gpt-oss", "gpt-oss-120b"),
    ("Qwen3", "Qwen3-235B-A22B"),
    ("Llama 4", "Llama 4 Maverick"),
    ("GLM-5.2", "GLM-5.2"),
    ("DeepSeek-V4", "DeepSeek-V4-Pro"),
    ("yours", YOURS),
)
# Qwen3-30B-A3B's, short enough to read and to change.
CONFIG = (
    '{"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048, '
    '"num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, '
    '"head_dim": 128, "intermediate_size": 6144, "num_experts": 128, "num_experts_per_tok": 8, '
    '"moe_intermediate_size": 768, "tie_word_embeddings": false, '
    '"max_position_embeddings": 40960}'
)
MOST_CHARACTERS = 100_000


class ModelAnatomy(Panel):
    """Where the parameters of two models lie and which of them one token meets; *yours* shows a box
    and reads the config.json in it, or says why it cannot."""

    presets = {
        "Dense and sparse": {"model": "GPT-3 175B", "beside": "DeepSeek-V3 / R1"},
        "Sparse in 2021 and in 2025": {"model": "Switch-C 1.6T", "beside": "Kimi K2"},
        "Your own config": {"beside": YOURS},
    }

    def __init__(self, model: str = "DeepSeek-V3 / R1", beside: str = "Mixtral 8x22B") -> None:
        names = [name for _, name in CHOICES]
        for field, value in (("model", model), ("beside", beside)):
            check_choice(field, value, names)
        self._read = CONFIG
        super().__init__(
            {"model": choice("Model", CHOICES, model, "auto")},
            {"beside": choice("Beside", CHOICES, beside, "auto")},
            {"config": text_box(CONFIG, "820px", "84px", "config.json")},
            # Each part has bars and a line in the picture, which are pressed.
            more=[{"part": choice("Part", [key.name for key in PARTS], "routed experts", "auto")}],
        )

    def changed(self) -> None:
        """A config that is pasted is shown at once, beside the model."""
        if self._quiet:
            return
        text = self.controls["config"].value
        if text != self._read and YOURS not in self._chosen():
            self.set_controls({"beside": YOURS})
        self._read = text
        self.refresh()

    def state_values(self) -> dict[str, Any]:
        """Without the config where it is not shown: it is long."""
        values = self.values
        if YOURS not in self._chosen():
            del values["config"]
        return values

    def _chosen(self) -> tuple[str, str]:
        return self.controls["model"].value, self.controls["beside"].value

    def draw(self) -> Picture | None:
        shown = YOURS in self._chosen()
        self.controls["config"].layout.display = None if shown else "none"
        # One model beside itself is one model.
        models = [self._model(name) for name in dict.fromkeys(self._chosen())]
        return self.shown(model_anatomy(models, self.controls["part"].value))

    def _model(self, name: str) -> Model | Architecture:
        return read_config(self.controls["config"].value) if name == YOURS else MODELS[name]


def read_config(text: str) -> Architecture:
    """The architecture of a pasted config.json; ValueError, one sentence, where it is none or where
    something in it is not known."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"A config.json has at most {MOST_CHARACTERS:,} characters here.")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"This is no JSON, line {error.lineno}: {error.msg}.") from None
    except RecursionError:
        raise ValueError("This is no config.json: it is nested too deeply.") from None
    except ValueError:
        raise ValueError("This is no config.json: a number in it is too long.") from None
    return Architecture.from_hf(config)
