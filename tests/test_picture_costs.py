"""What pictures of costs say, draw and list is what the calculators count."""

import html
import re
from pathlib import Path

import numpy as np
import pytest

from helpers.picture_cases import BILL, COUNTED, FIT, LINK, SEND, STEP, V3
from helpers.pictures import marks, parse, presses, texts, things, tips
from moeviz.costs import (
    CLAIMS,
    DEVICES,
    MODELS,
    active_parameters,
    all_to_all,
    critical_batch,
    decode_step,
    device,
    evaluate,
    fit,
    kv_cache_bytes,
    offload_bound,
    parameters,
)
from moeviz.costs.cost.quantisation import PLANS as ALL_PLANS
from moeviz.costs.laws.answers import answers, disagreement
from moeviz.costs.laws.law import Model, size
from moeviz.costs.laws.published import LAWS
from moeviz.costs.shape.terms import COMPONENTS
from moeviz.panels import hardware_choice as offered
from moeviz.pictures.costs.cache_ladder import (
    KEEPS,
    LARGE_PAIR,
    MEMORY,
    OTHERS,
    SHORT,
    SHOWN,
    SMALL_PAIR,
    cache_ladder,
    rungs,
    saved,
)
from moeviz.pictures.costs.claims import amount, claims, ladder
from moeviz.pictures.costs.decode_batch import decode_batch
from moeviz.pictures.costs.decode_curves import BATCHES, curves, remedies
from moeviz.pictures.costs.exchange import exchange, visits
from moeviz.pictures.costs.memory_fit import CONFIDENCES, CONTEXTS, PLANS, memory_fit
from moeviz.pictures.costs.model_anatomy import model_anatomy, sheet
from moeviz.pictures.costs.model_map import FAMOUS, RANGES, model_map, points, typical_share
from moeviz.pictures.costs.model_parts import PARTS, by_part, count, money
from moeviz.pictures.costs.offloading import LINKS, SHARES, Setup, offloading
from moeviz.pictures.costs.one_token import STEPS, chosen_experts, way_of
from moeviz.pictures.costs.scaling_laws import scaling_laws
from moeviz.pictures.costs.training_cost import COMPARED, bill_of, training_cost
from moeviz.pictures.svg import si, three
from moeviz.words import percent

MIXTRAL = MODELS["Mixtral 8x7B"].architecture
SOURCES = Path(__file__).parents[1] / "notebooks" / "src"


def test_every_component_has_one_part():
    listed = [name for names in PARTS.values() for name in names]
    assert sorted(listed) == sorted((*COMPONENTS, ""))
    for model in COUNTED:
        total = parameters(model.architecture)
        assert sum(by_part(total).values()) == pytest.approx(total.total)


def test_numbers_read_as_models_are_named():
    assert [count(v) for v in (671.026e9, 999.7e9, 1.571e12, 39.16e9, 12, 0)] == [
        "671B", "1T", "1.57T", "39.2B", "12", "0",
    ]  # fmt: skip
    assert (money(5.576e6), money(0.0032)) == ("$5.58M", "$0.0032")


# Models: anatomy and map.


def test_the_anatomy_says_what_was_counted():
    picture = model_anatomy([V3], "routed experts", with_sheet=True)
    bare = texts(model_anatomy([V3], "routed experts"))
    assert not [words for words in bare if "bf16" in words] and f"{V3.name}: 5.6 %." in bare
    for words in ("37.6B everything", "36.6B without the input table", "35.7B without both", "671B",
                  "70.3 kB more for each token", "bf16 1.34 TB", "counted −1.0 %"):  # fmt: skip
        assert words in picture.svg, words
    terms = {row[2]: row for row in picture.rows if row[1] != "sheet" and row[2]}
    assert terms["routed experts"][5].startswith("58 layers × 256 experts × matrices 3")
    for column, whole in ((3, parameters), (4, active_parameters)):
        listed = sum(float(row[column].replace(",", "")) for row in terms.values())
        assert listed == whole(V3.architecture).total
    assert not [words for words in texts(picture) if words.startswith("routed experts:")]
    router = " ".join(texts(model_anatomy([V3], "router")))
    assert "58 layers × d_model 7,168 × experts 256 = 106M" in router
    pasted = model_anatomy([V3.architecture], "router", with_sheet=True)
    assert "nothing is known of it here" in pasted.svg
    assert "not counted" in sheet(MODELS["Switch-C 1.6T"].architecture).no_cache
    assert sheet(MODELS["GPT-3 175B"].architecture).context_tokens == 2048, "no longer than it read"


def test_the_typical_share_leaves_out_what_nobody_can_check():
    for year in (2025, 2026):
        shares = {
            p.active / p.total: p for p in points() if (p.model.year, p.model.kind) == (year, "moe")
        }
        checked = [share for share, p in shares.items() if p.confidence != "unverifiable"]
        assert len(checked) < len(shares)
        assert typical_share(points(), year) == pytest.approx(np.median(checked))
    assert typical_share(points(), 2022) is None


def test_every_point_can_be_chosen_from_its_year_on_and_is_then_named():
    for point in points():
        picture = model_map(chosen=point.model.name, until=point.model.year)
        assert f">{point.model.name}</text>" in picture.svg
        assert point.confidence in picture.summary
        earlier = model_map(chosen=point.model.name, until=point.model.year - 1)
        assert "is not there" in earlier.summary


@pytest.mark.parametrize("until", [2020, 2023, 2026])
def test_no_mark_covers_another_and_the_key_has_what_is_drawn(until):
    picture = model_map(chosen="Llama 3.1 70B", until=until)
    zones = [m for m in marks(picture, "rect", "transparent") if m.get("width") == "16"]
    places = np.array([(float(m.get("x")), float(m.get("y"))) for m in zones])
    apart_PP = np.linalg.norm(places[:, None] - places, axis=2)
    assert len(places) == len(points(until=until))
    assert (apart_PP[~np.eye(len(places), dtype=bool)] > 10).all()
    kinds = {p.model.kind for p in points(until=until)}
    named = {"moe": "sparse (MoE)", "dense": "dense", "undisclosed": "undisclosed"}
    assert {*named.values()} & {*texts(picture)} == {named[kind] for kind in kinds}
    ranged = any(p.model.name == "Qwen2.5-Max" for p in points(until=until))
    assert ("range of what" in texts(picture)) == ranged, "GPT-4's is no longer than its mark"


@pytest.mark.parametrize("chosen", ["", "Kimi K2", "Switch-C 1.6T", "Qwen2.5-Max"])
def test_the_famous_are_named_whoever_is_chosen(chosen):
    names = texts(model_map(chosen=chosen), "paint-order:stroke")
    assert {*FAMOUS} <= {*names}, "with a rim, for lines run through them"


def test_confidence_is_what_is_said_of_the_sizes():
    by_name = {p.model.name: p for p in points()}
    for name, confidence in {
        "GPT-4 (rumour)": "rumour", "Qwen2.5-Max": "unverifiable", V3.name: "official",
        "Inferrix-72B (article)": "unverifiable", "Switch-C 1.6T": "official",
    }.items():  # fmt: skip
        assert by_name[name].confidence == confidence
    assert not {"Gemini 1.5 Pro", "M6-T 1T"} & set(by_name)
    for name, ((low, high), (least, most)) in RANGES.items():
        assert low <= by_name[name].total <= high and least <= by_name[name].active <= most
    assert RANGES["GPT-4 (rumour)"][0][1] == evaluate("gpt4_sizes").value


# The ledger.


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_is_judged_at_both_ends_of_what_it_assumes(name):
    for assumption in CLAIMS[name].assumptions:
        steps = ladder(assumption)
        assert assumption.value in steps and sorted(set(steps)) == list(steps)
        assert (steps[0], steps[-1]) == (assumption.low, assumption.high)
        assert max(len(amount(v, assumption.unit)) for v in steps) < 24
        if "/s" in assumption.unit:
            assert all(amount(v, assumption.unit).endswith("/s") for v in steps)
        for value in (steps[0], steps[-1]):
            verdict = evaluate(name, **{assumption.name: value}).verdict
            assert f": {verdict}; " in claims(name, {assumption.name: value}).summary


def test_the_ledgers_table_has_every_claim():
    verdicts = {row[0]: row[6] for row in claims("mla_57", {}).rows}
    assert verdicts == {name: evaluate(name).verdict for name in CLAIMS}
    for claim in CLAIMS.values():
        assert claim.where.split()[-1] in " ".join(texts(claims(claim.id, {})))
    text = (SOURCES / "09_frontier_models.md").read_text("utf-8")
    named = ("unselected_not_loaded", "cost_per_trillion", "dropping_degrades")
    numbers = re.findall(r"\(number (\d+)\)", text)
    assert numbers == [str([*CLAIMS].index(name) + 1) for name in named]


# Scaling laws.


@pytest.mark.parametrize(
    ("total", "tokens", "fitted"),
    [(3e9, 60e9, {"Abnar 2025", "Krajewski 2024", "Ludziejewski 2025", "Ling 2025"}),
     (1.6e12, 300e9, set())],
)  # fmt: skip
def test_a_law_is_thick_where_it_was_fitted(total, tokens, fitted):
    picture = scaling_laws(total=total, share=0.01, tokens=tokens, granularity=8)
    thick = {
        thing.get("data-kin")
        for thing in parse(picture)[0].findall(".//*[@class='k']")
        for mark in thing
        if "stroke-width:4" in mark.get("style", "") or mark.get("r") == "2.4"
    }
    assert thick == {name.replace(" ", "_") for name in fitted}
    told = answers(Model(total, 0.01, tokens, 8))
    assert picture.summary == disagreement(told)
    assert [row[0] for row in picture.rows] == [*LAWS]
    # Beside it each law's answer, and in what it was asked for more than its runs hold.
    words = texts(picture)
    for each in told:
        name, dense, fewer, ways = words[words.index(each.law.short) :][:4]
        assert (dense, fewer) == (size(each.dense), f"{each.fewer_flops:.3g}"), name
        head, _, ways = ways.partition(": ")
        beyond, ways = each.law.beyond(each.model), ways.split(", ") if ways else []
        assert head == ("beyond its runs" if beyond else "within its runs")
        assert len(ways) == beyond.count("fitted on") and all(f"{w} " in beyond for w in ways)


# Caches and training.


def test_the_ladder_by_hand():
    ladder = {label: (total, each, ratio) for label, total, each, ratio, _ in rungs(1000, 16)}
    assert ladder["MLA, as built"] == pytest.approx((61 * 576 * 2 * 1000, 1152, 1))
    assert ladder["GQA, 8 groups"][0] == pytest.approx(61 * 2 * 8 * 128 * 2 * 1000)
    assert ladder["MHA, 128 heads, keys and values of 128"][2] == pytest.approx(56.89, abs=0.01)
    picture = cache_ladder(context=1000, bits=8, batch=4, other="8 groups")
    bytes_of = {row[0]: row[1] for row in picture.rows}
    llama = kv_cache_bytes(MODELS["Llama 3.1 405B"].architecture, 1000, bits=8)
    assert bytes_of["Llama 3.1 405B"] == f"{4 * llama.total:,.0f}"
    ratio = {row[0].removeprefix("V3's layers, "): float(row[3]) for row in picture.rows}
    for part, pixels in zip(parse(picture), (332, 172), strict=True):
        for bar in part.iterfind(".//{*}g[@data-kin]"):
            name = bar.findtext("{*}title").partition(": ")[0]
            wide = float(bar.findall("{*}rect")[1].get("width"))
            assert wide == pytest.approx(pixels * ratio[name] / 72, abs=0.05), "one axis"
    # DeepSeek-V2's table 9, from the sizes of its two pairs: 60 layers of 56 heads, 27 of 16.
    for pair, (layers, numbers, kept) in {
        LARGE_PAIR: (60, 860.2e3, 34.6e3), SMALL_PAIR: (27, 110.6e3, 15.6e3),
    }.items():  # fmt: skip
        assert pair == pytest.approx(numbers / kept, abs=0.06)
        assert kept == pytest.approx(layers * 576, abs=50)
    # DeepSeek-V2's abstract, with 6 bits of its own.
    assert "says 93.3 % less" in " ".join(texts(picture)) and f"{saved(6):.1f}" == "93.3"
    assert "With 16 bits in both it is 82.2 %." in " ".join(texts(picture))


def test_the_ladder_leads_with_what_was_never_built_and_what_is_pressed():
    kinds = {mixer.kind for name in SHOWN for _, mixer in MODELS[name].architecture.mixers()}
    assert kinds <= {*KEEPS} == {*SHORT}
    for other, words in {
        "full heads": "3.56 times smaller than with 8 groups of heads",
        "8 groups": "3.56 times smaller than with 8 groups of heads",
        "one head": "2.25 times larger than with one head",
        "Llama 3.1 405B": "7.34 times smaller than that of Llama 3.1 405B",
        "gpt-oss-120b": "1.9 times larger than that of gpt-oss-120b",
    }.items():
        picture = cache_ladder(context=131072, bits=16, batch=1, other=other)
        first, second = texts(picture)[1:3]
        assert first == "56.9 times smaller than with full heads, which nobody built,"
        assert second.startswith(words) and words in picture.summary
        assert f"MQA: {KEEPS['MQA']}" in " ".join(tips(picture))
        assert not [t for t in texts(picture) if re.match("(?!.*MLA|GPT)[A-Z]{3}", t)], "in words"
    pressed = [sets["other"] for _, sets in presses(picture) if "other" in sets]
    assert pressed == [*OTHERS]
    # Eight H100s would be full of it: 128 heads of keys of 192 and values of 128.
    most = 131072 * 61 * 128 * (192 + 128) * 2
    assert f"{si(most, 'B')} · 71.1× · {most / MEMORY:.3g} H100s" in texts(picture)


def test_v3s_bill_gives_back_its_published_hours():
    picture = training_cost(**BILL)
    assert "2.67M hours" in picture.summary and "$5.34M" in picture.summary
    assert "2.79M hours of H800 SXM (official)" in training_cost(**BILL, beside="published").svg
    assert "2.06 GWh" in training_cost(**BILL, beside="power").svg
    llama = f"{V3.name}: $5.34M. Llama 3.1 405B: 9.87 times as much."
    assert llama in texts(picture), "the dearest, on the same tokens"
    assumed = {k: v for k, v in BILL.items() if k != "chosen"}
    assert bill_of(V3.name, **assumed).device_hours == pytest.approx(2.664e6, rel=0.01)
    llama = bill_of("Llama 3.1 405B", **assumed | dict(tokens=15.6e12, mfu=0.35))
    assert llama.device_hours == pytest.approx(30.84e6, rel=0.01), "as the notebook says"


def test_a_bar_moves_with_what_all_models_share():
    def bar(**options):
        shapes = marks(training_cost(**BILL | options), "rect")
        return max(float(m.get("width")) for m in shapes if m.get("height") == "15")

    longest = bar()
    assert bar(usd_per_hour=1) == pytest.approx(longest / 2, abs=0.1)
    assert bar(mfu=0.3) > longest > bar(tokens=8e12)


def test_where_the_flops_go_is_drawn_at_one_width_for_all():
    picture = training_cost(**BILL)
    for name in COMPARED:
        rows = [m for m in things(picture, name.replace(" ", "_")) if "," in m.findtext("{*}title")]
        rows = [m for m in rows if " %" in m.findtext("{*}title")]
        wide = [float(m.find("{*}rect").get("width")) for m in rows]
        assert sum(wide) == pytest.approx(170, abs=0.1)
        part = max(range(len(rows)), key=wide.__getitem__)
        told = float(re.search(r"([\d.]+) %", rows[part].findtext("{*}title"))[1])
        assert wide[part] == pytest.approx(1.7 * told, abs=0.1), "to be read, of each"


# Hardware.


def test_the_fit_says_what_the_calculator_says():
    model = MODELS["gpt-oss-120b"].architecture
    room = fit(model, device("H100 SXM"), context_tokens=32768, batch=8, plan="mxfp4_experts")
    summary = memory_fit(**FIT).summary
    assert f"weights {room.weights.total / 1e9:.1f} GB" in summary
    assert f"{room.free_bytes / 1e9:.1f} GB stay free; at most {room.max_batch} seq" in summary
    assert f"In MXFP4 experts it does: {room.free_bytes / 1e9:.1f} GB stay free." in texts(
        memory_fit(**FIT)
    )
    assert "In BF16 it does not: 163.4 GB are missing." in texts(
        memory_fit(**FIT | {"plan": "bf16"})
    )
    summary = memory_fit(**FIT | {"plan": "bf16"}).summary
    assert "does not fit: 163.4 GB are missing, and not even one" in summary
    long = memory_fit(**FIT | {"model_name": "Mixtral 8x7B", "context": 131072}).summary
    assert "made for 32,768 tokens at most" in long


def test_the_step_is_the_calculators_and_ends_where_the_memory_does():
    sparse, dense = curves(V3.name, "H200 SXM", 32, "fp8_block", 4096)
    chip, values = device("H200 SXM"), dict(context_tokens=4096, plan="fp8_block", devices=32)
    for batch in (1, 64, 4096):
        assert sparse.steps[batch] == decode_step(V3.architecture, chip, batch=batch, **values)
    assert list(sparse.steps) == [b for b in BATCHES if b <= sparse.max_batch] != list(BATCHES)
    ratio = [sparse.steps[b].seconds / dense.steps[b].seconds for b in sparse.steps]
    assert ratio[0] == pytest.approx(1, abs=0.02) == ratio[-1] and max(ratio) > 10
    assert dense.steps[64].distinct == 0
    summary = decode_batch(**STEP).summary
    critical = critical_batch(chip, V3.architecture, weight_bits=8).total
    assert "222.4 of 256 experts" in summary and "10.81 times as long as the dense" in summary
    marked = {f"critical batch, sparse: {critical:,.0f}", "critical batch, dense: 103"}
    assert marked < {*texts(decode_batch(**STEP, critical=True))}
    assert not marked & {*texts(decode_batch(**STEP))}
    assert {"waits for memory", "waits for arithmetic", "the memory is full"} < {
        *texts(decode_batch(**STEP))
    }
    assert "10.81 times as long as the twin" in texts(decode_batch(**STEP, shown="speed"))
    # The ground turns where the sparse model does, between two batches.
    (turn,) = (float(m.get("x")) for m in marks(decode_batch(**STEP), "rect", "#e69f00"))
    before, after = (
        next(b for b, step in list(sparse.steps.items())[::way] if step.bound == bound)
        for way, bound in ((-1, "memory"), (1, "compute"))
    )
    spots = {b: float(things(decode_batch(**STEP), f"b{b}")[2].find("{*}circle").get("cx"))
             for b in (before, after)}  # fmt: skip
    assert spots[before] < turn < spots[after] and after == 2 * before
    assert "does not fit" in decode_batch(**STEP | {"batch": 16384}).summary
    assert "even one" in decode_batch(**STEP | {"devices": 1}).summary


def test_where_neither_fits_it_is_said_what_would():
    (more,) = remedies(V3.name, "H200 SXM", 1, "fp8_block", 4096)
    assert more.values == {"devices": 8}
    shape = MODELS["Kimi K2"].architecture
    for name, devices in (("T4", 1), ("H100 SXM", 1), ("H100 SXM", 8), ("B200 SXM", 8)):
        for way in remedies("Kimi K2", name, devices, "bf16", 131072):
            values = {"devices": devices, "plan": "bf16", **way.values}
            assert fit(shape, device(name), context_tokens=131072, **values).fits
            assert way.words[1:] in decode_batch(
                **STEP | dict(model_name="Kimi K2", device_name=name, devices=devices,
                              plan="bf16", context=131072)
            ).summary  # fmt: skip


def test_the_memory_stays_in_its_place_whatever_is_asked_of_it():
    shown = [memory_fit(**FIT | dict(context=c, model_name=m)) for c in (512, 131072)
             for m in ("gpt-oss-120b", "Llama 3.1 405B")]  # fmt: skip
    assert len({marks(picture, "line", "stroke-width:2")[0].get("x1") for picture in shown}) == 1
    assert len({marks(picture, "line", "stroke-width:2")[1].get("y1") for picture in shown}) == 1
    dragged = [sets["context"] for _, sets in presses(shown[0]) if "context" in sets]
    assert dragged == [str(c) for c in CONTEXTS]


@pytest.mark.parametrize("change", [{}, {"batch": 1}, dict(batch=32), dict(plan="bf16")])
def test_the_longest_context_that_is_told_is_the_one_that_fits(change):
    values = FIT | change
    told = [words for words in texts(memory_fit(**values)) if words.startswith(("✔ up", "✘ not"))]
    rest = {k: v for k, v in values.items() if k not in ("model_name", "device_name", "context")}
    shape, chip = MODELS[values["model_name"]].architecture, device(values["device_name"])

    def fits(tokens):
        return fit(shape, chip, context_tokens=tokens, **rest).fits

    longest = int(re.sub(r"\D", "", told[0]) or 0)
    assert fits(longest) if longest else not fits(CONTEXTS[0])
    assert longest == CONTEXTS[-1] or not fits(max(int(1.1 * longest) + 1, CONTEXTS[0]))


@pytest.mark.parametrize("plan", PLANS)
def test_the_twin_has_the_same_active_weights_and_bits(plan):
    """At batch 1 it moves as many bytes but for the router's."""
    for name in ("Mixtral 8x7B", "gpt-oss-120b", V3.name):
        sparse, dense = curves(name, "B200 SXM", 64, plan, 128)
        assert sparse.steps[1].seconds == pytest.approx(dense.steps[1].seconds, rel=0.02)


def test_the_exchange_adds_up():
    traffic = all_to_all(V3.architecture, tokens_per_device=128, nodes=8, devices_per_node=8,
                         copies="node", node_limit=4)  # fmt: skip
    summary = exchange(**SEND | dict(copies="node", node_limit=4, fp8=True)).summary
    assert f"{traffic.between_nodes_bytes / 1e6:.0f} MB between" in summary
    assert "66 % less" in summary
    assert f"at least {traffic.seconds(160e9, 50e9) * 1e6:.0f} µs on H800s" in summary
    assert [row[1] for row in exchange(**SEND).rows] == [d // 8 for d in range(64)]
    # One node has nothing to send to another, and a limit beyond the nodes is none.
    alone = exchange(**SEND | dict(nodes=1))
    assert "0 B between" in alone.summary and "between nodes" not in texts(alone)
    assert "For the links inside a node: " in texts(alone)[1]
    assert any("1 node × 8 devices, 128 tokens on each" in words for words in texts(alone))
    stays = [
        sum("mv-hatch" in m.get("fill", "") for m in marks(exchange(**SEND, **how), "rect"))
        for how in ({"skew": 1.0}, {"table": True}, {"skew": 1.0, "table": True})
    ]
    assert stays[0] < 64 > stays[1], "the table on demand; of even bytes a sentence says all"
    assert stays[2] >= 64, "a device and itself"
    even = all_to_all(V3.architecture, tokens_per_device=128, nodes=8, devices_per_node=8,
                      copies="expert", dispatch_bits=16)  # fmt: skip
    one = f"Every device sends every other device {si(even.total_bytes[0][1], 'B')}."
    assert one in texts(exchange(**SEND, table=True)) and one in exchange(**SEND).summary
    assert exchange(**SEND | dict(nodes=4, node_limit=4)) == exchange(**SEND | dict(nodes=4))


def test_the_link_that_all_wait_for_is_the_slower_one_and_the_busiest_device_is_named():
    # Between nodes at first; with one copy a node and few nodes the links inside are as busy.
    for how, nodes, each in (("expert", 8, 8), ("node", 2, 8), ("node", 8, 4)):
        traffic = all_to_all(V3.architecture, tokens_per_device=128, nodes=nodes,
                             devices_per_node=each, copies=how, dispatch_bits=16)  # fmt: skip
        near, far = traffic.seconds(160e9, 1e30), traffic.seconds(1e30, 50e9)
        link = "between nodes" if far > near else "inside a node"
        picture = exchange(**SEND | dict(copies=how, nodes=nodes, devices_per_node=each))
        assert texts(picture)[1].startswith(f"For the links {link}: at least ")
        assert f"wait for the links {link}, " in picture.summary
    skewed = exchange(**SEND | dict(nodes=4, devices_per_node=4), skew=1.0)
    times = re.search(r"gets most, ([\d.]+) times", skewed.summary)[1]
    assert f"busiest: {times}×" in texts(skewed)
    bars = np.array([float(m.get("width")) for m in marks(skewed, "rect", "#cc79a7")])
    received = [sum(_bytes(row[i]) for i in (4, 5)) for row in skewed.rows]
    assert bars == pytest.approx(bars.max() * np.array(received) / max(received), rel=0.02)
    assert not marks(exchange(**SEND), "rect", "#cc79a7"), "all get as much"


def _bytes(words):
    number, unit = words.split(" ")
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


@pytest.mark.parametrize("how", ["expert", "device", "node"])
@pytest.mark.parametrize("limit", [None, 2])
def test_one_tokens_way_is_on_average_what_all_tokens_send(how, limit):
    nodes, each = 4, 4
    traffic = all_to_all(V3.architecture, tokens_per_device=1, nodes=nodes, devices_per_node=each,
                         copies=how, node_limit=limit)  # fmt: skip
    moe, seeds = V3.architecture.moe, range(300)
    sent = []
    for seed in seeds:
        experts = chosen_experts(moe, nodes, limit, None, seed)
        assert len({*experts}) == moe.top_k
        way = way_of(experts, moe.num_experts, nodes, each, how, seed % 16)
        assert way.experts.total() == moe.top_k
        for crossing in (True, False):
            out, back = way.copies(len(STEPS) - 1, crossing=crossing)
            assert out == back
        sent.append([way.copies(len(STEPS) - 1, crossing=c)[0] for c in (True, False)])
    copy = traffic.devices * (traffic.dispatch_bytes_per_copy + traffic.combine_bytes_per_copy)
    expected = np.array([traffic.between_nodes_bytes, traffic.within_node_bytes]) / copy
    error = np.std(sent, axis=0) / len(seeds) ** 0.5
    assert (np.abs(np.mean(sent, axis=0) - expected) < 4 * error + 1e-9).all()


def test_copies_travel_from_where_their_line_begins_and_only_in_their_step():
    first, crossing, home = (exchange(**SEND | dict(step=s)).svg for s in (0, 1, 5))
    assert 'class="a"' not in first
    assert crossing.count('class="a"') == home.count('class="a"') > 0
    assert {"step": "1"} in [sets for _, sets in presses(exchange(**SEND))]
    summaries = [exchange(**SEND | dict(step=step)).summary for step in range(len(STEPS))]
    assert len({*summaries}) == len(STEPS), "a screen reader hears each step"


@pytest.mark.parametrize("how", ["expert", "device", "node"])
def test_copies_stay_until_the_experts_compute_and_lie_inside_their_device(how):
    lie = [0, 0, 0, 0, 0, 0]
    for step in range(len(STEPS)):
        picture = exchange(**SEND | dict(copies=how, step=step))
        boxes = [m for m in marks(picture, "rect") if m.get("rx") == "4"]
        spans = [(float(m.get("x")), float(m.get("x")) + float(m.get("width"))) for m in boxes]
        last = max(float(m.get("y")) for m in boxes) + 22  # under it stands the key
        circles = [m for m in marks(picture, "circle") if float(m.get("cy")) < last]
        centres = [float(m.get("cx")) for m in circles]
        assert all(any(a <= x - 6 and x + 6 <= b for a, b in spans) for x in centres)
        lie[step] = len(centres) - 1  # the token itself
    choose, cross, spread, compute, _, back = lie
    assert choose == compute == 0 and 0 < cross <= spread and back > 0


def test_a_pressed_device_is_the_one_that_sends():
    picture = exchange(**SEND, skew=1.0, step=1, source=9)
    pressed = [sets["source"] for _, sets in presses(picture) if "source" in sets]
    assert pressed[:64] == [str(d) for d in range(64)]
    lines = [tip for tip in tips(picture) if " to device" in tip]
    assert lines and all(tip.startswith("device 1 of node 1 to device") for tip in lines)


@pytest.mark.parametrize("skew", [0.1, 1.0, 2.0])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (128, 4), (256, 8)])
def test_skewed_visits_are_shares_of_tokens(experts, top_k, skew):
    share_E, other_E = (np.array(visits(experts, top_k, skew, seed)) for seed in (0, 1))
    assert share_E.sum() == pytest.approx(top_k) and 0 < share_E.min() < share_E.max() <= 1
    assert (other_E != share_E).any() and np.allclose(np.sort(other_E), np.sort(share_E))
    assert visits(experts, top_k, 0.0, 5) is None


def test_a_link_bounds_until_the_devices_memory_does():
    setup, link, host = Setup(MIXTRAL, device("T4"), "int4"), LINKS["pcie3"], LINKS["host"]
    bound = offload_bound(MIXTRAL, link.bytes_per_s, plan="int4").tokens_per_s
    own = sum(
        count * ALL_PLANS["int4"].format(part).bits / 8
        for part, count in active_parameters(MIXTRAL, "ex_input_embedding").components.items()
    )
    at_hit = [setup.speed(link, hit) for hit in (0.0, 0.5, 1.0)]
    assert at_hit == pytest.approx([bound, 2 * bound, setup.chip.bytes_per_s / own])
    assert len({setup.speed(host, hit) for hit in (0, 0.5, 1)}) == 1
    assert 0.6 < setup.even_hit_rate < 0.7
    assert Setup(MIXTRAL, device("B200 SXM"), "int4").even_hit_rate == 1.0
    assert Setup(MODELS["Kimi K2"].architecture, device("T4"), "bf16").even_hit_rate == 0.0
    summary = offloading(**LINK | {"model_name": "Kimi K2", "plan": "bf16"}).summary
    assert summary.startswith("Even without its experts the model takes")
    roomy = offloading(**LINK | {"device_name": "B200 SXM", "hit": 5})
    assert roomy.summary.startswith("All experts lie in the memory of B200 SXM")
    assert "every hit rate is 100 %." in " ".join(texts(roomy))
    for hit, limit in ((0, "the link"), (50, "the link"), (100, "the device's own memory")):
        speed = three(setup.speed(link, hit / 100))
        drawn = texts(offloading(**LINK | {"hit": hit}))
        assert f"At most {speed} tokens/s: {limit} limits it." in drawn
        assert {f"{speed} tokens/s at most", f"{link.label}: {speed}"} < {*drawn}
    assert setup.limit(host, 0.5) == "the host's memory"
    chosen = [sets["link"] for _, sets in presses(offloading(**LINK)) if "link" in sets]
    assert chosen == [*LINKS]
    assert "every hit rate" not in offloading(**LINK).svg


def test_the_device_is_named_with_its_source():
    for draw, setting in ((memory_fit, FIT), (decode_batch, STEP), (offloading, LINK)):
        for name in offered.DEVICES.values():
            svg = html.unescape(draw(**setting | {"device_name": name}).svg)
            assert f"{name}, {CONFIDENCES[DEVICES[name].confidence]}: " in svg
            assert "prices" not in svg


@pytest.mark.parametrize(
    ("draw", "values", "change", "sentence"),
    [
        (memory_fit, FIT, "Qwen2.5-Max", "The sizes of Qwen2.5-Max are not public"),
        (decode_batch, STEP, "Llama 3.1 8B", "Llama 3.1 8B has no experts"),
    ],
)
def test_a_model_that_cannot_be_drawn_is_refused(draw, values, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw(**values | {"model_name": change})


def told_reached():
    """What published figures of offloaded experts are of their bounds."""
    published = (
        (3.0, "Mixtral 8x7B", 256e9, "bf16", 0.0),
        (2.1, "Mixtral 8x7B", 12e9, "q2.6_experts", 0.5),
        (8.7, V3.name, 307.2e9, "q4_k_m", 0.0),
        (10.0, "Kimi K2", 307.2e9, "q4_k_m", 0.0),
    )
    shares = [
        speed / offload_bound(
            MODELS[name].architecture, link, plan=plan, hit_rate=hit
        ).tokens_per_s
        for speed, name, link, plan, hit in published
    ]  # fmt: skip
    return f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"


def test_the_band_is_what_was_published():
    assert told_reached() == SHARES
    assert f"measured systems: {SHARES} of it" in texts(offloading(**LINK))


def test_the_text_quotes_what_is_computed():
    text = " ".join(" ".join(p.read_text("utf-8").split()) for p in SOURCES.glob("08*.md"))
    less = SEND | {"fp8": True}
    limited = less | {"copies": "node", "node_limit": 4}
    gpt_oss = parameters(MODELS["gpt-oss-120b"].architecture)
    for summary, *figures in (
        (memory_fit(**FIT | {"plan": "bf16"}).summary, "233.7 GB"),
        (memory_fit(**FIT).summary, "65.2 GB", "5.0 GB"),
        (exchange(**SEND).summary, "1.64 GB", "514 µs"),
        (exchange(**less).summary, "1.25 GB"),
        (exchange(**less | {"copies": "node"}).summary, "825 MB"),
        (exchange(**limited).summary, "565 MB", "177 µs"),
        (offloading(**LINK).summary, "5.81 GB", "2.75 tokens/s"),
        (offloading(**LINK | {"hit": 50}).summary, "5.5"),
        (told_reached(), "26 to 42 %"),
        (percent(gpt_oss.part("routed_experts") / gpt_oss.total), "98 %"),
        (percent(1 - LINKS["pcie3"].bytes_per_s / LINKS["host"].bytes_per_s), "82 %"),
    ):
        assert all(figure in text and figure in summary for figure in figures), summary
    long, _ = curves(V3.name, "H200 SXM", 32, "fp8_block", 131072)
    assert {step.bound for step in long.steps.values()} == {"memory"}
    sparse, dense = curves(V3.name, "H200 SXM", 32, "fp8_block", 4096)
    ratio = {b: sparse.steps[b].seconds / dense.steps[b].seconds for b in sparse.steps}
    assert max(ratio.values()) == ratio[64] == pytest.approx(10.8, abs=0.05)
    turns = next(b for b, step in sparse.steps.items() if step.bound == "compute")
    assert turns == 2048
    for curve in (sparse, dense):
        assert curve.steps[1].seconds * 1e3 == pytest.approx(0.25, abs=0.005)
    setup = Setup(MIXTRAL, device("T4"), "int4")
    below, above = (setup.speed(LINKS["pcie3"], hit) for hit in (0.8, 0.85))
    assert below < setup.speed(LINKS["host"], 0) < above
