"""Published models: their sizes make their published parameter counts, or a reason is recorded."""

import pytest

from moeviz.costs import MODELS, Architecture, Model, active_parameters, model, parameters
from moeviz.costs.known.catalogue import Figure
from moeviz.costs.known.models_2024 import V2_LITE, V3
from moeviz.costs.shape.terms import COMPONENTS

SIZED = [m.name for m in MODELS.values() if m.architecture is not None]
# Billions of parameters: all; active by convention all, without input table, without both tables.
# Counted independently of this package, by closed forms or on transformers' meta device.
COUNTED = {
    "GPT-3 175B": (174.604, 174.604, 174.604, 173.962),
    "Llama 3.1 405B": (405.853, 405.853, 403.752, 401.651),
    "Switch-C 1.6T": (1571.309, 1.728, 1.728, 1.661),
    "Switch-XXL 395B": (394.675, 11.148, 11.016, 10.885),
    "GLaM 64B/64E": (1161.756, 96.604, 96.604, 94.507),
    "Mixtral 8x7B": (46.703, 12.880, 12.749, 12.618),
    "Mixtral 8x22B": (140.621, 39.152, 38.955, 38.759),
    "DeepSeek-V2-Lite": (15.706, 2.661, 2.451, 2.242),
    "DeepSeek-V2": (235.741, 21.376, 20.852, 20.327),
    "DeepSeek-V3 / R1": (671.026, 37.552, 36.626, 35.699),
    "DeepSeek-V3.2": (671.878, 38.404, 37.477, 36.550),
    "DeepSeek-V4-Flash": (284.332, 13.800, 13.270, 12.740),
    "DeepSeek-V4-Pro": (1572.997, 49.779, 48.852, 47.925),
    "Qwen1.5-MoE-A2.7B": (14.316, 2.689, 2.378, 2.067),
    "Qwen2-57B-A14B": (57.409, 14.249, 13.705, 13.160),
    "Qwen3-30B-A3B": (30.532, 3.353, 3.042, 2.731),
    "Qwen3-235B-A22B": (235.094, 22.191, 21.568, 20.946),
    "Qwen3-Next-80B-A3B": (79.674, 3.875, 3.564, 3.253),
    "Qwen3.5-397B-A17B": (396.346, 17.349, 16.332, 15.315),
    "OLMoE-1B-7B": (6.919, 1.282, 1.179, 1.076),
    "gpt-oss-120b": (116.829, 5.712, 5.133, 4.554),
    "gpt-oss-20b": (20.915, 4.187, 3.608, 3.029),
    "Grok-1": (315.685, 83.757, 83.757, 82.951),
    "Llama 4 Maverick": (400.712, 17.185, 16.150, 15.116),
    "GLM-5.2": (743.377, 41.251, 40.299, 39.348),
    "MiniMax-M2": (228.690, 11.031, 10.416, 9.801),
}


def agrees(comparison):
    """Within what print rounds; beyond it a reason must be recorded."""
    total, active = comparison.total_error or 0, comparison.active_error or 0
    return abs(total) <= 0.005 and abs(active) <= 0.02


def test_a_model_is_reproduced_or_says_why_not():
    """A reason excuses rounding in print, never a wrong shape."""
    found = {name: model(name).compare() for name in SIZED}
    off = {name for name in SIZED if not agrees(found[name])}
    assert off == {m.name for m in MODELS.values() if m.reason}
    assert len(off) <= len(SIZED) / 3
    assert all(abs(c.total_error or 0) < 0.035 for c in found.values())
    assert all(abs(c.active_error or 0) < 0.09 for c in found.values())


@pytest.mark.parametrize(("name", "counted"), COUNTED.items())
def test_counts_agree_with_independent_ones(name, counted):
    architecture = model(name).architecture
    conventions = ("all", "ex_input_embedding", "ex_embeddings")
    found = [parameters(architecture).total]
    found += [active_parameters(architecture, convention).total for convention in conventions]
    assert [value / 1e9 for value in found] == pytest.approx(counted, abs=1.1e-3)


@pytest.mark.parametrize("name", SIZED)
def test_terms_and_components_make_the_total(name):
    for result in (
        parameters(model(name).architecture),
        active_parameters(model(name).architecture),
    ):
        assert result.unit == "parameters"
        assert sum(result.components.values()) == sum(t.value for t in result.terms) == result.total
        assert set(result.components) <= set(COMPONENTS)
        assert all(t.label and t.formula and t.value > 0 for t in result.terms)


@pytest.mark.parametrize("name", SIZED)
def test_a_formula_multiplies_out_to_its_value(name):
    for term in parameters(model(name).architecture).terms:
        product = 1
        for factor in term.formula.split(" × "):
            numbers = [w.replace(",", "") for w in factor.split()]
            numbers = [int(w) for w in numbers if w.isdigit()]
            product *= numbers[-1] if factor[-1].isdigit() else numbers[0]
        assert product == term.value, term


def test_a_model_is_trusted_as_far_as_its_weakest_figure():
    words = ("GPT-4 (rumour)", "Inferrix-72B (article)", "Mixtral 8x7B")
    assert [MODELS[w].confidence for w in words] == ["rumour", "unverifiable", "official"]


def test_the_switch_papers_table_cannot_be_right():
    """64 experts, as it prints them, make 201B; the released 128 make the 395B it also prints."""
    from moeviz.costs.known.models_early import t5
    from moeviz.costs.shape.feedforward import FFN, MoE

    halved = t5("Switch-XXL", 4096, 64, 24, (FFN(10240), MoE(64, 1, 10240)), tied=False)
    assert parameters(halved).total / 395e9 == pytest.approx(0.51, abs=0.005)


def test_names_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match=r"model must be one of GPT-3 175B, .* got 'GPT-5'\."):
        model("GPT-5")
    with pytest.raises(ValueError, match="sizes of Gemini 1.5 Pro are not public"):
        model("Gemini 1.5 Pro").compare()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(kind="sparse"), "kind must be one of dense, moe, undisclosed"),
        (dict(year=1950), "year must be a whole number of at least 1991"),
        (dict(convention="most"), "convention must be one of"),
        (dict(architecture=Architecture.from_hf(V3)), "sizes must say where"),
    ],
)
def test_an_entry_without_what_it_needs_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Model(**{**dict(name="x", year=2025, maker="y", kind="moe"), **change})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, "paper"), "value must be a finite number above 0, got -1.0"),
        ((1.0, ""), "source must be given"),
        ((1.0, "paper", "sure"), "confidence must be one of official, estimate, rumour"),
    ],
)
def test_a_figure_without_source_or_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Figure(*arguments)


def test_conventions_differ_by_the_tables_alone():
    lite = Architecture.from_hf(V2_LITE)
    table = 102400 * 2048
    all_of_it = active_parameters(lite).total
    assert all_of_it - active_parameters(lite, "ex_input_embedding").total == table
    assert all_of_it - active_parameters(lite, "ex_embeddings").total == 2 * table
    with pytest.raises(ValueError, match="convention must be one of all, ex_input_embedding"):
        active_parameters(lite, "vendor")
