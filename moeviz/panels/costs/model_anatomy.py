"""Anatomy of two models, side by side, or of any config.json."""

from __future__ import annotations

import json
from typing import Any

from moeviz.checks import check_choice
from moeviz.costs import MODELS, Architecture, Model
from moeviz.panels.base import Panel
from moeviz.panels.controls import choice, slider, switch, text_box
from moeviz.pictures import Picture
from moeviz.pictures.costs.model_anatomy import PICKED, YOURS, model_anatomy
from moeviz.pictures.costs.model_parts import PARTS

# Qwen3-30B-A3B's, short enough to read and to change.
CONFIG = (
    '{"model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048, '
    '"num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, '
    '"head_dim": 128, "intermediate_size": 6144, "num_experts": 128, "num_experts_per_tok": 8, '
    '"moe_intermediate_size": 768, "tie_word_embeddings": false, '
    '"max_position_embeddings": 40960}'
)
MOST_CHARACTERS = 100_000
OPENING = ("DeepSeek-V3 / R1", "Mixtral 8x22B")


class ModelAnatomy(Panel):
    """Where the parameters of two models lie and which of them one token meets; *yours* shows a box
    and reads the config.json in it, or says why it cannot."""

    told_in_picture = True
    presets = {
        "Many small experts, few large ones": {"model": OPENING[0], "beside": OPENING[1]},
        "Dense and sparse": {"model": "GPT-3 175B", "beside": "DeepSeek-V3 / R1"},
        "Sparse in 2021 and in 2025": {"model": "Switch-C 1.6T", "beside": "Kimi K2"},
        "Your own config": {"beside": YOURS},
    }

    def __init__(self, model: str = OPENING[0], beside: str = OPENING[1]) -> None:
        for field, value in (("model", model), ("beside", beside)):
            check_choice(field, value, PICKED)
        self._read = CONFIG
        # Both models are dragged in the picture, and each part is pressed.
        super().__init__(
            {"config": text_box(CONFIG, "820px", "84px", "config.json")},
            more=[
                {"model": slider("Model", tuple(PICKED), model, "460px")},
                {"beside": slider("Beside", tuple(PICKED), beside, "460px")},
                {"part": choice("Part", [key.name for key in PARTS], "routed experts", "auto")},
                {"sheet": switch("Counts, weights, cache, sources")},
            ],
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
        part, with_sheet = self.controls["part"].value, self.controls["sheet"].value
        return self.shown(model_anatomy(models, part, with_sheet=with_sheet))

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
