"""A pasted config.json that is wrong in any way gives an answer or one short sentence."""

import json
import math
import random
from collections import Counter

import pytest

from helpers.mutants import bounded, mutated, searches
from moeviz.costs import Architecture
from moeviz.costs.known.models_2024 import DBRX
from moeviz.costs.known.models_2025 import QWEN35, ULTRA, V4_FLASH
from moeviz.costs.read_hf.fields import STRUCTURAL
from moeviz.costs.read_hf.read import MODEL_TYPES
from moeviz.panels.costs.model_anatomy import CONFIG, read_config
from moeviz.pictures.costs.model_anatomy import model_anatomy, sheet

transformers = pytest.importorskip("transformers")

LONGEST = 600  # characters of a sentence: 500 of them where it lists every model type


def defaults(model_type):
    config = transformers.AutoConfig.for_model(model_type).to_dict()
    return json.loads(json.dumps(config, default=str))


def bases():
    kinds = [defaults(t) for t in MODEL_TYPES if t in transformers.CONFIG_MAPPING]
    nested = {"model_type": "outer", "text_config": QWEN35}
    return [*kinds, DBRX, QWEN35, ULTRA, V4_FLASH, nested, json.loads(CONFIG)]


@searches(2_000, 20_000)  # a thousand a second
def test_a_mutated_config_is_answered_or_refused_in_one_short_sentence(count):
    rng, outcomes, known = random.Random(count), Counter(), bases()
    for _ in range(count):
        text = json.dumps(mutated(rng.choice(known), sorted(STRUCTURAL), rng))
        with bounded(seconds=20, gigabytes=1):
            try:
                architecture = read_config(text)
                model_anatomy([architecture], "attention")
            except ValueError as error:
                sentence = str(error)
                assert sentence.endswith(".") and "\n" not in sentence, sentence
                assert len(sentence) < LONGEST, sentence
                outcomes["refused"] += 1
            else:
                counted = sheet(architecture)
                assert 0 < counted.active["all"] <= counted.total < math.inf
                outcomes["answered"] += 1
    print(dict(outcomes))
    assert min(outcomes["answered"], outcomes["refused"]) > count / 10, outcomes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 10**400}, "vocab_size must be a whole number of at least 1 and at most"),
        ({"num_experts": "x" * 90_000}, "num_experts must be a whole .*, got 'xxx.*xxx'"),
        ({"mlp_only_layers": [47.0] * 9_000}, "mlp_only_layers must hold layers in 0..47, got"),
        ({"n_shared_experts": list(range(9_000))}, "n_shared_experts = .* is not understood"),
        ({"model_type": "y" * 90_000}, "model_type 'yyy.*yyy' is not known"),
        ({"model_type": "nemotron_h", "layers_block_type": 5}, "layers_block_type must be a list"),
        ({"model_type": "llama4_text", "moe_layers": True, "interleave_moe_layer_step": 1},
         "moe_layers must hold layers in"),
    ],
)  # fmt: skip
def test_a_value_beyond_all_limits_is_named_and_cut_short(change, message):
    with bounded(seconds=20, gigabytes=1), pytest.raises(ValueError, match=message) as refused:
        Architecture.from_hf({**json.loads(CONFIG), **change})
    assert len(str(refused.value)) < LONGEST


def test_more_layers_in_a_pattern_than_any_model_has_are_refused():
    with pytest.raises(ValueError, match="num_hidden_layers must be .* at most 10000, got 10001"):
        Architecture.from_hf(
            {**ULTRA, "num_hidden_layers": None, "hybrid_override_pattern": "M" * 10_001}
        )


def test_a_number_too_long_for_python_is_refused_in_our_words():
    with pytest.raises(ValueError, match="This is no config.json: a number in it is too long"):
        read_config(CONFIG.replace("151936", "1" * 5_000))
