"""Predictions of 08_hardware and 08b_many_devices."""

from __future__ import annotations

from moeviz.costs import active_parameters, device, parameters
from moeviz.costs.cost.traffic import BF16_COMBINE_BITS, FP8_DISPATCH_BITS, Copies, all_to_all
from moeviz.costs.known.models import shape_of
from moeviz.host import read_figures
from moeviz.pictures.costs.decode_curves import curves
from moeviz.pictures.costs.offloading import LINKS, Setup
from moeviz.predictions.prediction import Measured, nearest, prediction
from moeviz.records.exchanged import Exchanged
from moeviz.words import percent

GPT_OSS, V3, MIXTRAL = "gpt-oss-120b", "DeepSeek-V3 / R1", "Mixtral 8x7B"


@prediction(
    "08.fit",
    "gpt-oss-120b visits 4 of its 128 experts for each token. How much of the model must lie in "
    "memory to write text at full speed?",
    "one twentieth", "about a third", "all of it",
)  # fmt: skip
def fit() -> Measured:
    architecture = shape_of(GPT_OSS)
    every, active = parameters(architecture).total, active_parameters(architecture).total
    figure = (
        f"one token meets {active / 1e9:.1f} of {every / 1e9:.1f} billion parameters, and the next "
        "token meets others"
    )
    return Measured("all of it", figure, "nobody knows which experts the next token picks")


@prediction(
    "08.batch",
    "For one sequence, DeepSeek-V3 takes as long a step as a dense model of equal active "
    "parameters. With 16 sequences at once, how many times as long does it take?",
    "as long", "about twice", "about 7 times", "about 16 times",
)  # fmt: skip
def batch() -> Measured:
    sparse, dense = (c.steps[16] for c in curves(V3, "H200 SXM", 32, "fp8_block", 4096))
    times = sparse.seconds / dense.seconds
    options = {"as long": 1, "about twice": 2, "about 7 times": 7, "about 16 times": 16}
    figure = f"on 32 H200 with 4,096 tokens of context it takes {times:.1f} times as long"
    because = (
        f"16 sequences together ask for {sparse.distinct:.0f} of the 256 experts of a layer, and "
        "all of those weights are read; the dense model reads its weights once for everybody"
    )
    return Measured(nearest(times, options, ratio=True), figure, because)


@prediction(
    "08.exchange",
    "64 devices in 8 nodes, 8 experts a token, one BF16 copy for each expert. Now one copy goes to "
    "each node, and in FP8 on the way out. How much less traffic between nodes is that?",
    "none less", "about a quarter", "about half",
)  # fmt: skip
def exchange() -> Measured:
    def crossing(copies: Copies, bits: float) -> float:
        return all_to_all(
            shape_of(V3), tokens_per_device=128, nodes=8, devices_per_node=8, copies=copies,
            dispatch_bits=bits,
        ).between_nodes_bytes  # fmt: skip

    plain, best = crossing("expert", BF16_COMBINE_BITS), crossing("node", FP8_DISPATCH_BITS)
    saved = 1 - best / plain
    options = {"none less": 0.0, "about a quarter": 0.25, "about half": 0.5}
    figure = (
        f"for DeepSeek-V3 and 128 tokens a device the bytes between nodes fall from "
        f"{plain / 1e9:.2f} to {best / 1e9:.2f} GB, by {percent(saved)}"
    )
    because = (
        "a token that visits two experts of a node needs to cross only once, and the copy that "
        "crosses may be in FP8"
    )
    return Measured(nearest(saved, options), figure, because)


@prediction(
    "08.limit",
    "Each token chooses 2 of 8 experts, which lie in 4 processes, and a copy of it travels for "
    "each of them. Now a token may visit the experts of one process only. How many bytes does that "
    "save?",
    "almost none", "about a quarter", "about half",
)  # fmt: skip
def limit() -> Measured:
    runs = read_figures("exchanged")["runs"]
    crossed = {
        (run["copies"], run["limit"]): Exchanged.read(run).crossed.sum() / 1e6
        for run in runs
        if (run["processes"], run["tokens"], run["skew"], run["capacity"]) == (4, 512, 0.0, 0.0)
    }
    free, limited, once = (crossed[key] for key in (("expert", 0), ("expert", 1), ("device", 1)))
    saved = 1 - limited / free
    options = {"almost none": 0.0, "about a quarter": 0.25, "about half": 0.5}
    figure = (
        f"in one recorded training step the bytes go from {free:.2f} to {limited:.2f} MB, and one "
        f"copy for each process to {once:.2f} MB"
    )
    because = (
        "two copies then go to one process, where one went to each of two; only a single copy for "
        "both experts makes use of the limit"
    )
    return Measured(nearest(saved, options), figure, because)


@prediction(
    "08.offload",
    "Mixtral 8x7B in 4 bits on a T4 (16 GB): three quarters of the experts that are asked for lie "
    "in a cache on the device, the others come over PCIe 3 (16 GB/s). How many tokens a second, "
    "at most?",
    "about 1", "about 10", "about 100",
)  # fmt: skip
def offload() -> Measured:
    setup = Setup(shape_of(MIXTRAL), device("T4"), "int4")
    speed, gigabytes = setup.speed(LINKS["pcie3"], 0.75), setup.gigabytes(LINKS["pcie3"], 0.75)
    options = {"about 1": 1, "about 10": 10, "about 100": 100}
    figure = f"the bound is {speed:.1f} tokens a second"
    because = f"{gigabytes:.2f} GB come over the link for every token, at 16 GB a second"
    return Measured(nearest(speed, options, ratio=True), figure, because)
