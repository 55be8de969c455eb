"""Claims of the survey article about frontier models and what they cost."""

from __future__ import annotations

from moeviz.costs.claims.ledger import (
    Article,
    Assumption,
    Outcome,
    holds_if,
    price,
    run_usd,
    within,
)
from moeviz.costs.cost.parameters import active_share, parameters
from moeviz.costs.known.models import MODELS, published, shape_of
from moeviz.costs.shape.terms import Term
from moeviz.words import percent

FRONTIER = Article("survey")
LLAMA, V3 = "Llama 3.1 405B", "DeepSeek-V3 / R1"
GPT4 = (
    Assumption("experts", 16, "experts", "experts of GPT-4, rumoured", 1, 1024),
    Assumption(
        "expert_parameters", 111e9, "parameters", "parameters of one expert, rumoured", 1e9, 1e12
    ),
    Assumption(
        "shared_parameters", 55e9, "parameters", "parameters of attention, rumoured", 0, 1e12
    ),
)


@FRONTIER.claim(
    "The GPT-4 Paradigm Shift",
    "GPT-4: 1.76 to 1.8T in 16 experts of 111B, top-2, 55B shared, 280B active",
    "16 × 111B; 2 × 111B + 55B", "SemiAnalysis, as copied; never confirmed", *GPT4,
    stated=1.8e12, unit="parameters")  # fmt: skip
def gpt4_sizes(experts: float, expert_parameters: float, shared_parameters: float) -> Outcome:
    routed = experts * expert_parameters
    active = 2 * expert_parameters + shared_parameters
    terms = (
        Term("experts", routed, f"{experts:g} × {expert_parameters:.3g}"),
        Term("shared", shared_parameters, "as rumoured"),
        Term("active", active, "2 experts + shared"),
    )
    fits = within(routed, 1.78e12, 0.05) and within(active, 280e9, 0.05)
    why = f"a rumour: {routed / 1e12:.2f}T in experts, {active / 1e9:.0f}B active" + (
        ". This agrees with itself" if fits else ". The rumour itself says 1.8T and 280B"
    )
    return Outcome("unverifiable", why, routed + shared_parameters, terms)


@FRONTIER.claim(
    "The GPT-4 Paradigm Shift",
    "A pass through GPT-4 takes 560 TFLOPs instead of a dense 3,700",
    "2 × active parameters", "the same rumour", *GPT4, stated=560e12, unit="FLOPs")  # fmt: skip
def gpt4_flops(experts: float, expert_parameters: float, shared_parameters: float) -> Outcome:
    active = 2 * expert_parameters + shared_parameters
    total = experts * expert_parameters + shared_parameters
    terms = (
        Term("FLOPs a token", 2 * active, "2 × active"),
        Term("dense FLOPs a token", 2 * total, "2 × all"),
    )
    times = float(f"{560e12 / (2 * active):.2g}")
    why = (
        f"2 × {active / 1e9:.0f}B active are {2 * active / 1e9:.0f} GFLOP a token: {times:,.0f} "
        "times less"
    )
    return Outcome("inaccurate", why, 2 * active, terms)


def counted(name: str, total: float, active: float) -> Outcome:
    """Whether a model's counted parameters are what the article prints."""
    ours = MODELS[name].compare()
    right = within(ours.total, total, 0.005) and within(ours.active, active, 0.02)
    why = f"counted {ours.total / 1e9:.2f}B, of which {ours.active / 1e9:.2f}B are active"
    share = active_share(shape_of(name), MODELS[name].convention)
    return Outcome(holds_if(right), why, ours.total, share.terms)


@FRONTIER.claim(
    "The Mixtral Open-Weights Architecture",
    "Mixtral 8x22B: 141B, 39B active, 56 layers, 8 experts, top-2, 65,536 tokens",
    "parameters from the config", "config.json", stated=141e9, unit="parameters")  # fmt: skip
def mixtral_8x22b() -> Outcome:
    return counted("Mixtral 8x22B", 141e9, 39e9)


@FRONTIER.claim(
    "DeepSeek-V3 and Extreme Sparsity", "DeepSeek-V3: 671B parameters, 37B active",
    "parameters from the config", "config.json", stated=671e9, unit="parameters")  # fmt: skip
def v3_sizes() -> Outcome:
    return counted(V3, 671e9, 37e9)


@FRONTIER.claim(
    "DeepSeek-V3 and Extreme Sparsity",
    "DeepSeek-V3: below 6 % active, 256 routed and 1 shared expert, top-8, 61 layers",
    "active parameters / all parameters", "config.json", stated=0.06, unit="share")  # fmt: skip
def v3_structure() -> Outcome:
    model = shape_of(V3)
    moe, share = model.moe, active_share(model)
    right = (moe.num_experts, moe.shared_experts, moe.top_k, len(model.layers)) == (256, 1, 8, 61)
    verdict, why = holds_if(right and share.total < 0.06), f"{percent(share.total, 1)} active"
    return Outcome(verdict, why, share.total, share.terms)


@FRONTIER.claim(
    "DeepSeek-V3 and Extreme Sparsity",
    "Latent attention cuts the key-value cache by a factor of 57",
    "numbers that full heads keep of a token / the 512 + 64 of latent attention",
    "DeepSeek-V2, 2405.04434, table 9",
    Assumption("baseline_groups", 128, "heads", "key heads of the baseline", 1, 256),
    Assumption("baseline_width", 128, "", "width of the baseline's keys and values", 1, 1024),
    stated=57, unit="times")  # fmt: skip
def mla_57(baseline_groups: float, baseline_width: float) -> Outcome:
    baseline = 2 * baseline_groups * baseline_width
    ratio = baseline / (512 + 64)
    words = f"2 × {baseline_groups:g} groups × {baseline_width:g}"
    terms = (
        Term("baseline's elements a token and layer", baseline, words),
        Term("V3's", 576, "latent 512 + rotary key 64"),
    )
    heads = f"{baseline_groups:g} key head{'s' * (baseline_groups != 1)} of {baseline_width:g}"
    built = ", of which no model is published" * (baseline_groups >= 128)
    why = (
        f"{ratio:.1f} times against {heads}{built}; in V2's large pair it is 24.9, and against GQA "
        "with 8 groups 3.6"
    )
    return Outcome(holds_if(within(ratio, 57, 0.02)), why, ratio, terms)


@FRONTIER.claim(
    "DeepSeek-V3 and Extreme Sparsity, table",
    "DeepSeek-V3: 2.788M H800 hours, 14.8T tokens, about $5.6M",
    "hours × price", "DeepSeek-V3, 2412.19437", price(2), stated=5.6e6, unit="USD")  # fmt: skip
def v3_cost(usd_per_hour: float) -> Outcome:
    usd = run_usd(V3, usd_per_hour)
    why = f"${usd.total / 1e6:.2f}M; the price is an assumption"
    return Outcome(holds_if(within(usd.total, 5.6e6, 0.02)), why, usd.total, usd.terms)


@FRONTIER.claim(
    "Qwen2.5-Max", "Qwen2.5-Max: 236B parameters, 57B active, 64 experts, top-8",
    "the totals of two other models", "Qwen's announcement gives none",
    stated=57e9, unit="parameters")  # fmt: skip
def qwen25_max_sizes() -> Outcome:
    terms = tuple(
        Term(f"{name}, all", parameters(shape_of(name)).total, "counted")
        for name in ("DeepSeek-V2", "Qwen2-57B-A14B")
    )
    why = (
        "the maker gives no sizes; 236B is DeepSeek-V2's total, and 57B with 64 experts and top-8 "
        "is Qwen2-57B-A14B, whose total 57B is: two models taken for one"
    )
    return Outcome("unverifiable", why, terms[1].value, terms)


FRONTIER.fact(
    "qwen25_max_cost", "Qwen2.5-Max, table",
    "Qwen2.5-Max: 128K context, about $12M, up to 40 % faster than dense", "nothing to compute",
    "none", "unverifiable", "no primary source; the API offered 32K")  # fmt: skip
FRONTIER.fact(
    "qwen25_max_tokens", "Qwen2.5-Max", "Qwen2.5-Max was trained on over 20T tokens",
    "what its maker says", "Qwen's announcement", "holds", "the announcement says so")  # fmt: skip


@FRONTIER.claim(
    "The Efficiency Frontier",
    "Llama 3.1 405B: 126 layers, 128 heads, width 16,384, 15.6T tokens, 30.8M H100 hours on 16,000",
    "parameters from the config; hours / devices", "Llama 3.1's model card",
    Assumption("devices", 16000, "devices", "devices in the cluster", 1, 1e6),
    stated=405e9, unit="parameters")  # fmt: skip
def llama_sizes(devices: float) -> Outcome:
    total = parameters(shape_of(LLAMA)).total
    days = published(LLAMA, "device_hours") / devices / 24
    terms = (
        Term("parameters", total, "counted"),
        Term("days of training", days, f"30.84M h / {devices:,.0f} devices / 24"),
    )
    right = within(total, 405e9, 0.005) and 30 <= days <= 180
    why = f"counted {total / 1e9:.2f}B; the hours are {days:,.0f} days of that cluster"
    return Outcome(holds_if(right), why, total, terms)


@FRONTIER.claim(
    "The Efficiency Frontier", "Llama 3.1 405B cost $92.4M to $123.2M", "hours × $3 and × $4",
    "Llama 3.1's model card", price(3, "lower price", "usd_per_hour_low", 20),
    price(4, "upper price", "usd_per_hour_high", 20), stated=92.4e6, unit="USD")  # fmt: skip
def llama_cost(usd_per_hour_low: float, usd_per_hour_high: float) -> Outcome:
    low, high = run_usd(LLAMA, usd_per_hour_low), run_usd(LLAMA, usd_per_hour_high)
    right = within(low.total, 92.4e6, 0.01) and within(high.total, 123.2e6, 0.01)
    why = (
        f"${low.total / 1e6:.1f}M to ${high.total / 1e6:.1f}M; at the $2 that V3 is priced at, "
        "$61.7M"
    )
    return Outcome(holds_if(right), why, low.total, low.terms + high.terms)


@FRONTIER.claim(
    "The Efficiency Frontier",
    "V3 cost $378,000 a trillion tokens, Llama 3.1 405B $5.93M to $7.90M",
    "hours × price / tokens, one over the other", "both cards",
    price(2, "price for V3", "v3_usd_per_hour", 20),
    price(3, "price for Llama", "llama_usd_per_hour", 20), stated=15.7, unit="times")  # fmt: skip
def cost_per_trillion(v3_usd_per_hour: float, llama_usd_per_hour: float) -> Outcome:
    sparse = run_usd(V3, v3_usd_per_hour).total / published(V3, "tokens") * 1e12
    dense = run_usd(LLAMA, llama_usd_per_hour).total / published(LLAMA, "tokens") * 1e12
    ratio, prices = dense / sparse, llama_usd_per_hour / v3_usd_per_hour
    terms = (
        Term("V3, USD a trillion tokens", sparse, "hours × price / 14.8"),
        Term("Llama, USD a trillion tokens", dense, "hours × price / 15.6"),
    )
    right = within(sparse, 378e3, 0.02) and (5.93e6 * 0.98 <= dense <= 7.90e6 * 1.02)
    mixed = v3_usd_per_hour != llama_usd_per_hour
    of = f", of which {prices:.2g} are two different prices" if mixed else " at one price for both"
    return Outcome(holds_if(right), f"{ratio:.1f} times apart{of}", ratio, terms)


@FRONTIER.claim(
    "The Efficiency Frontier", "V3 took an order of magnitude fewer hours than Llama",
    "Llama's hours / V3's hours", "both cards", stated=10, unit="times")  # fmt: skip
def order_of_magnitude() -> Outcome:
    ratio = published(LLAMA, "device_hours") / published(V3, "device_hours")
    terms = (Term("hours, Llama over V3", ratio, "30.84M / 2.788M"),)
    return Outcome(holds_if(ratio >= 10), f"{ratio:.2f} times", ratio, terms)


@FRONTIER.claim(
    "The Efficiency Frontier, table", "DeepSeek-V3's context is 131,072 tokens, at most 160K",
    "the longest context that the config allows", "config.json",
    stated=163840, unit="tokens")  # fmt: skip
def v3_context() -> Outcome:
    longest = shape_of(V3).context_tokens or 0
    why = f"the config allows {longest:,}, 160 × 1,024; 131,072 are served"
    return Outcome(holds_if(longest == 160 * 1024), why, longest)


FRONTIER.fact(
    "dsmoe_half", "Future Trajectories in Sparse Computation",
    "DS-MoE matches dense 7B models with half the parameters", "what its abstract says",
    "Dense Training, Sparse Inference, 2404.05567", "contradicted",
    "on par with a dense model of equal size, with 30 to 40 % of it active")  # fmt: skip
