"""Claims of the survey article about architectures and hardware."""

from __future__ import annotations

import math

from moeviz.costs.claims.ledger import Article, Assumption, Outcome, holds_if, within
from moeviz.costs.cost.decode import critical_batch, distinct_experts
from moeviz.costs.cost.parameters import active_parameters, active_share, parameters
from moeviz.costs.cost.traffic import offload_bound
from moeviz.costs.known.devices import DEVICES
from moeviz.costs.known.models import MODELS, shape_of
from moeviz.costs.shape.terms import Term
from moeviz.words import percent

SURVEY = Article("survey")
GPT3, V3 = shape_of("GPT-3 175B"), shape_of("DeepSeek-V3 / R1")


@SURVEY.claim(
    "Introduction to Sparse Neural Networks",
    "MoE is of 1991, and most frontier models of late 2025 and 2026 are sparse",
    "sparse models of our table since a year / all of them",
    "Jacobs et al. 1991; the model table",
    Assumption("since", 2025, "year", "first year that counts", 2020, 2026),
    stated=0.5, unit="share")  # fmt: skip
def since_1991(since: float) -> Outcome:
    recent = [m for m in MODELS.values() if m.year >= since and m.confidence != "unverifiable"]
    sparse = sum(m.kind == "moe" for m in recent)
    share = sparse / len(recent)
    terms = (Term("sparse models", sparse, f"of {len(recent)} in the table since {since:g}"),)
    why = (
        f"{sparse} of the {len(recent)} models in our table, a choice of those with published "
        "sizes, are sparse; 1991 is Jacobs et al."
    )
    return Outcome(holds_if(share > 0.5), why, share, terms)


@SURVEY.claim(
    "The Dense Scaling Bottleneck",
    "GPT-3: 175B parameters, 96 layers, width 12,288, 96 heads",
    "parameters from the sizes", "GPT-3 paper, 2005.14165",
    stated=175e9, unit="parameters")  # fmt: skip
def gpt3_sizes() -> Outcome:
    total = parameters(GPT3).total
    right = holds_if(within(total, 175e9, 0.005))
    return Outcome(right, f"the sizes make {total / 1e9:.2f}B", total, parameters(GPT3).terms)


@SURVEY.claim(
    "The Dense Scaling Bottleneck",
    "A token through GPT-3 takes about 350 billion multiply-add operations",
    "one multiply-add a parameter", "counted", stated=350e9, unit="multiply-adds")  # fmt: skip
def gpt3_multiply_adds() -> Outcome:
    count = active_parameters(GPT3).total
    terms = (
        Term("multiply-adds", count, "one for each parameter"),
        Term("FLOPs", 2 * count, "two for each multiply-add"),
    )
    why = f"{count / 1e9:.1f}G multiply-adds: the {2 * count / 1e9:.0f}G are FLOPs, two for each"
    return Outcome("inaccurate", why, count, terms)


@SURVEY.claim(
    "Structural Foundations of Mixture-of-Experts",
    "Feed-forward blocks hold 70 to 80 % of a transformer's parameters",
    "FFN parameters / all", "counted", stated=0.75, unit="share")  # fmt: skip
def ffn_share() -> Outcome:
    dense, routed = ("dense_ffn", "FFN / all"), ("routed_experts", "routed experts / all")
    parts = {"GPT-3 175B": dense, "Llama 3.1 405B": dense, "Mixtral 8x7B": routed,
             "DeepSeek-V3 / R1": routed}  # fmt: skip
    counted = {name: parameters(shape_of(name)) for name in parts}
    terms = tuple(
        Term(name, counted[name].part(part) / counted[name].total, words)
        for name, (part, words) in parts.items()
    )
    gpt3, llama = terms[0].value, terms[1].value
    loosely = all(0.65 <= share <= 0.85 for share in (gpt3, llama))
    why = (
        f"loosely: {percent(gpt3)} of GPT-3, {percent(llama)} of Llama 3.1 405B; experts are "
        f"{percent(terms[2].value)} of Mixtral 8x7B and {percent(terms[3].value)} of DeepSeek-V3"
    )
    return Outcome(holds_if(loosely), why, llama, terms)


@SURVEY.claim(
    "The Dense Scaling Bottleneck", "Training a massive dense model draws tens of megawatts",
    "devices × watts × what the building adds (PUE)", "Llama 3.1's card: 16,000 H100 at 700 W",
    Assumption("devices", 16000, "devices", "devices in the cluster", 1, 1e6),
    Assumption("watts", 700, "W", "power of one device", 10, 2000),
    Assumption("pue", 1.0, "", "power usage effectiveness", 1, 3),
    stated=10e6, unit="watts")  # fmt: skip
def tens_of_megawatts(devices: float, watts: float, pue: float) -> Outcome:
    power = devices * watts * pue
    words = f"{devices:,.0f} devices × {watts:g} W × PUE {pue:g}"
    why = f"{power / 1e6:,.4g} MW for {devices:,.0f} of {watts:g} W, without the rest of a server"
    return Outcome(holds_if(power >= 10e6), why, power, (Term("watts", power, words),))


@SURVEY.claim(
    "Token Choice Routing and Load Imbalance",
    "Capacity is tokens / experts × capacity factor",
    "assignments / experts × factor", "GShard, 2006.16668",
    Assumption("top_k", 2, "experts", "experts that a token visits", 1, 64),
    Assumption("capacity_factor", 1.25, "", "capacity factor", 0.1, 16),
    unit="tokens")  # fmt: skip
def capacity_formula(top_k: float, capacity_factor: float) -> Outcome:
    claimed = 4096 / 64 * capacity_factor
    needed = top_k * claimed
    terms = (
        Term("claimed capacity", claimed, "4096 tokens / 64 experts × factor"),
        Term("capacity", needed, f"{top_k:g} choices × the same"),
    )
    if top_k == 1:
        return Outcome("holds", "with one expert a token there is one assignment", needed, terms)
    why = f"right for top-1 alone: with top-{top_k:g} there are {top_k:g} assignments a token"
    return Outcome("inaccurate", why, needed, terms)


SURVEY.fact(
    "overprovisioning", "Token Choice Routing and Load Imbalance",
    "Token choice over-provisions capacity 2 to 8 times; Expert Choice is of NeurIPS 2022",
    "what the authors write", "Zhou et al. 2022, 2202.09368", "unverifiable",
    "the year is right; the factor was not read in the paper itself")  # fmt: skip


@SURVEY.claim(
    "Structural Foundations of Mixture-of-Experts",
    "Experts that are not selected are not loaded",
    "how many experts a batch touches when each token picks its own at random", "even routing",
    Assumption("batch", 32, "tokens", "tokens decoded together", 1, 4096),
    stated=8, unit="experts of V3")  # fmt: skip
def unselected_not_loaded(batch: float) -> Outcome:
    experts = V3.moe.num_experts
    touched = distinct_experts(experts, V3.moe.top_k, batch)
    verdict, why = holds_if(True), "one token loads its own experts alone"
    if batch != 1:
        verdict = "inaccurate"
        why = f"a batch of {batch:g} tokens loads {touched.total:.0f} of V3's {experts} experts"
    return Outcome(verdict, why, touched.total, touched.terms)


@SURVEY.claim(
    "The Memory Bandwidth Bottleneck", "As little as 2 to 5 % of parameters are active",
    "active parameters / all parameters", "counted", stated=0.02, unit="share")  # fmt: skip
def few_percent_active() -> Outcome:
    names = ("Kimi K2", "DeepSeek-V4-Pro", "Llama 4 Maverick", "gpt-oss-120b", "Qwen3-Next-80B-A3B")
    terms = tuple(Term(name, active_share(shape_of(name)).total, "active / all") for name in names)
    least = min(term.value for term in terms)
    inside = all(0.02 <= term.value <= 0.05 for term in terms)
    why = f"from {percent(least, 1)} of Kimi K2 and V4-Pro to 4.9 % of gpt-oss-120b"
    return Outcome(holds_if(inside), why, least, terms)


@SURVEY.claim(
    "The Memory Bandwidth Bottleneck",
    "Dense models are bound by compute, sparse ones almost only by memory",
    "the batch, beside the one from which arithmetic takes longer than reading the weights",
    "roofline of an H100",
    Assumption("batch", 32, "tokens", "tokens in one step", 1, 1e5),
    unit="tokens a step")  # fmt: skip
def dense_compute_bound(batch: float) -> Outcome:
    shapes = map(shape_of, ("GPT-3 175B", "Mixtral 8x7B"))
    dense, sparse = (critical_batch(DEVICES["H100 SXM"], shape).total for shape in shapes)
    terms = (
        Term("tokens a step from which dense is bound by compute", dense, "H100 peak / bandwidth"),
        Term("the same for Mixtral's experts", sparse, "× experts 8 / choices 2"),
    )
    if dense <= batch < sparse:
        return Outcome("holds", "true between the two batches", dense, terms)
    both = "memory" if batch < dense else "compute"
    why = (
        f"with a batch of {batch:,.0f} both are bound by {both}: dense models turn at "
        f"{dense:,.0f}, Mixtral's experts at {sparse:,.0f}"
    )
    return Outcome("contradicted", why, dense, terms)


@SURVEY.claim(
    "The Memory Bandwidth Bottleneck", "All weights must stay in the accelerators' memory",
    "host bandwidth / bytes of the experts of a token", "KTransformers, DeepseekR1_V3 tutorial",
    Assumption("host_gb_per_s", 307.2, "GB/s", "bandwidth of the host's memory", 1, 2000),
    unit="tokens/s")  # fmt: skip
def all_in_vram(host_gb_per_s: float) -> Outcome:
    bound = offload_bound(V3, host_gb_per_s * 1e9, plan="q4_k_m")
    rate = bound.tokens_per_s
    terms = (*bound.bytes.terms, Term("tokens/s at most", rate, "host bandwidth / bytes"))
    if rate < 1:
        return Outcome("holds", f"{rate:.2f} tokens/s at most is no use", rate, terms)
    why = (
        f"the article itself speaks of offloading: from host memory V3 runs at up to {rate:.0f} "
        "tokens/s, 8.7 measured at 307 GB/s, with 14 GB on the GPU and 382 GB beside it"
    )
    return Outcome("inaccurate", why, rate, terms)


@SURVEY.claim(
    "The Memory Bandwidth Bottleneck", "141B parameters need multiple devices",
    "parameters × bits / 8 / memory", "counted",
    Assumption("bits", 16, "bits", "bits of one weight", 1, 32),
    Assumption("device_gb", 80, "GB", "memory of one device", 1, 1000),
    unit="devices")  # fmt: skip
def many_devices_141b(bits: float, device_gb: float) -> Outcome:
    size = parameters(shape_of("Mixtral 8x22B")).total * bits / 8
    devices = math.ceil(size / (device_gb * 1e9))
    words = f"140.6e9 parameters × {bits:g} bits / 8"
    terms = (Term("bytes", size, words), Term("devices", devices, f"of {device_gb:g} GB"))
    if devices > 1:
        return Outcome("holds", f"{size / 1e9:.0f} GB take {devices} devices", devices, terms)
    left = device_gb - size / 1e9
    why = f"{size / 1e9:.0f} GB fit one device and leave {left:.0f} GB for a cache"
    return Outcome("inaccurate", why, devices, terms)


@SURVEY.claim(
    "Granularity and the Shared Expert Paradigm",
    "256 small experts instead of 8 massive ones cost no extra compute",
    "experts of a token × their width, before and after; the router's share",
    "DeepSeek-V3's config",
    Assumption("coarse_top_k", 1, "experts", "coarse experts that a token visits", 1, 8),
    Assumption("coarse_width", 8 * 2048, "", "width of a coarse expert", 1, 1e6),
    unit="share")  # fmt: skip
def fine_grained_is_free(coarse_top_k: float, coarse_width: float) -> Outcome:
    active, width = active_parameters(V3), V3.moe.top_k * V3.moe.expert_width
    share = active.part("router") / active.total
    terms = (
        Term("width that a token visits", width, "top_k × expert width"),
        Term("router's share of active parameters", share, "router / active"),
    )
    if coarse_top_k * coarse_width < 0.9 * width:
        why = f"a width of {coarse_top_k * coarse_width:,.0f} is less work than V3's {width:,}"
        return Outcome("inaccurate", why, share, terms)
    why = f"as long as top_k × width stays: the larger router takes {percent(share, 2)} of V3"
    return Outcome("holds", why, share, terms)
