"""Claims of the survey article about frontier models and what they cost."""

from __future__ import annotations

from collections.abc import Mapping

from moeviz.costs.claims.ledger import Assumption, Claim, Outcome, holds_if, known, price, within
from moeviz.costs.cost.money import cost_usd
from moeviz.costs.cost.parameters import active_share
from moeviz.costs.known.models import MODELS, published, shape_of
from moeviz.costs.shape.terms import Term

LLAMA, V3 = "Llama 3.1 405B", "DeepSeek-V3 / R1"
GPT4 = (
    Assumption("experts", 16, "experts", "of GPT-4, rumoured", 1, 1024),
    Assumption("expert_parameters", 111e9, "parameters", "of one, rumoured", 1e9, 1e12),
    Assumption("shared_parameters", 55e9, "parameters", "of attention, rumoured", 0, 1e12),
)


def _run_usd(name: str, usd_per_hour: float) -> float:
    return cost_usd(published(name, "device_hours"), usd_per_hour).total


def _sizes(name: str, total: float, active: float):
    """Whether a model's counted parameters are what the article prints."""

    def test(_: Mapping[str, float]) -> Outcome:
        found = MODELS[name].compare()
        right = within(found.total, total, 0.005) and within(found.active, active, 0.02)
        why = f"counted {found.total / 1e9:.2f}B, of which {found.active / 1e9:.2f}B are active"
        terms = (
            Term("parameters", found.total, "counted"),
            Term("active", found.active, f"counted, {MODELS[name].convention}"),
        )
        return Outcome(holds_if(right), why, found.total, terms)

    return test


def _gpt4_sum(a: Mapping[str, float]) -> Outcome:
    experts = a["experts"] * a["expert_parameters"]
    active = 2 * a["expert_parameters"] + a["shared_parameters"]
    total = experts + a["shared_parameters"]
    terms = (
        Term("experts", experts, f"{a['experts']:g} × {a['expert_parameters']:.3g}"),
        Term("shared", a["shared_parameters"], "as rumoured"),
        Term("active", active, "2 experts + shared"),
    )
    fits = within(experts, 1.78e12, 0.05) and within(active, 280e9, 0.05)
    why = f"a rumour: {experts / 1e12:.2f}T in experts, {active / 1e9:.0f}B active" + (
        ", which agrees with itself" if fits else ", which does not agree with 1.8T and 280B"
    )
    return Outcome("unverifiable", why, total, terms)


def _gpt4_flops(a: Mapping[str, float]) -> Outcome:
    active = 2 * a["expert_parameters"] + a["shared_parameters"]
    total = a["experts"] * a["expert_parameters"] + a["shared_parameters"]
    terms = (
        Term("FLOPs a token", 2 * active, "2 × active"),
        Term("dense FLOPs a token", 2 * total, "2 × all"),
    )
    why = f"2 × {active / 1e9:.0f}B active are {2 * active / 1e9:.0f} GFLOP a token: off by 1,000"
    return Outcome("off", why, 2 * active, terms)


def _v3_structure(_: Mapping[str, float]) -> Outcome:
    model = shape_of(V3)
    moe, share = model.moe, active_share(model).total
    right = (moe.num_experts, moe.shared_experts, moe.top_k, len(model.layers)) == (256, 1, 8, 61)
    verdict = holds_if(right and share < 0.06)
    return Outcome(verdict, f"{100 * share:.1f} % active", share,
                   (Term("active share", share, "active / all"),))  # fmt: skip


def _mla(a: Mapping[str, float]) -> Outcome:
    baseline = 2 * a["baseline_groups"] * a["baseline_width"]
    ratio = baseline / (512 + 64)
    words = f"2 × {a['baseline_groups']:g} groups × {a['baseline_width']:g}"
    terms = (
        Term("baseline's elements a token and layer", baseline, words),
        Term("V3's", 576, "latent 512 + rotary key 64"),
    )
    why = (
        f"{ratio:.1f} times against {a['baseline_groups']:g} key heads of {a['baseline_width']:g}; "
        "that model was never built: V2's own pair measured 24.9, and GQA with 8 groups is 3.6"
    )
    return Outcome(holds_if(within(ratio, 57, 0.02)), why, ratio, terms)


def _v3_cost(a: Mapping[str, float]) -> Outcome:
    usd = _run_usd(V3, a["usd_per_hour"])
    terms = (Term("USD", usd, f"2.788M h × ${a['usd_per_hour']:g}"),)
    verdict = holds_if(within(usd, 5.6e6, 0.02))
    return Outcome(verdict, f"${usd / 1e6:.2f}M; the price is an assumption", usd, terms)


def _llama_sizes(a: Mapping[str, float]) -> Outcome:
    found = MODELS[LLAMA].compare()
    days = published(LLAMA, "device_hours") / a["devices"] / 24
    terms = (
        Term("parameters", found.total, "counted"),
        Term("days of training", days, f"30.84M h / {a['devices']:,.0f} devices / 24"),
    )
    right = within(found.total, 405e9, 0.005) and 30 <= days <= 180
    why = f"counted {found.total / 1e9:.2f}B; the hours are {days:.0f} days of that cluster"
    return Outcome(holds_if(right), why, found.total, terms)


def _llama_cost(a: Mapping[str, float]) -> Outcome:
    low = _run_usd(LLAMA, a["usd_per_hour_low"])
    high = _run_usd(LLAMA, a["usd_per_hour_high"])
    terms = (
        Term("lower", low, f"30.84M h × ${a['usd_per_hour_low']:g}"),
        Term("upper", high, f"30.84M h × ${a['usd_per_hour_high']:g}"),
    )
    right = within(low, 92.4e6, 0.01) and within(high, 123.2e6, 0.01)
    why = f"${low / 1e6:.1f}M to ${high / 1e6:.1f}M; at the $2 that V3 is priced at, $61.7M"
    return Outcome(holds_if(right), why, low, terms)


def _per_trillion(a: Mapping[str, float]) -> Outcome:
    sparse = _run_usd(V3, a["v3_usd_per_hour"]) / published(V3, "tokens") * 1e12
    dense = _run_usd(LLAMA, a["llama_usd_per_hour"]) / published(LLAMA, "tokens") * 1e12
    ratio = dense / sparse
    terms = (
        Term("V3, USD a trillion tokens", sparse, "hours × price / 14.8"),
        Term("Llama, USD a trillion tokens", dense, "hours × price / 15.6"),
    )
    right = within(sparse, 378e3, 0.02) and (5.93e6 * 0.98 <= dense <= 7.90e6 * 1.02)
    mixed = a["v3_usd_per_hour"] != a["llama_usd_per_hour"]
    why = f"{ratio:.1f} times apart" + (
        f", of which {a['llama_usd_per_hour'] / a['v3_usd_per_hour']:.2g} are two different prices"
        if mixed
        else " at one price for both"
    )
    return Outcome(holds_if(right), why, ratio, terms)


def _fewer_hours(_: Mapping[str, float]) -> Outcome:
    ratio = published(LLAMA, "device_hours") / published(V3, "device_hours")
    terms = (Term("hours, Llama over V3", ratio, "30.84M / 2.788M"),)
    return Outcome(holds_if(ratio >= 10), f"{ratio:.2f} times", ratio, terms)


def _v3_context(_: Mapping[str, float]) -> Outcome:
    longest = shape_of(V3).context_tokens or 0
    verdict = holds_if(longest == 160 * 1024)
    why = f"the config allows {longest:,}, 160 × 1,024; 131,072 are served"
    return Outcome(verdict, why, longest)


def _max_sizes(_: Mapping[str, float]) -> Outcome:
    terms = tuple(
        Term(f"{name}, all", MODELS[name].compare().total, "counted")
        for name in ("DeepSeek-V2", "Qwen2-57B-A14B")
    )
    why = (
        "the maker gives no sizes; 236B is DeepSeek-V2's total, and 57B with 64 experts and top-8 "
        "is Qwen2-57B-A14B, whose total 57B is: two models taken for one"
    )
    return Outcome("unverifiable", why, terms[1].value, terms)


FRONTIER = (
    Claim(
        "gpt4_sizes", "survey", "The GPT-4 Paradigm Shift",
        "GPT-4: 1.76 to 1.8T in 16 experts of 111B, top-2, 55B shared, 280B active",
        "16 × 111B; 2 × 111B + 55B", _gpt4_sum, "SemiAnalysis, as copied; never confirmed",
        stated=1.8e12, unit="parameters", assumptions=GPT4,
    ),
    Claim(
        "gpt4_flops", "survey", "The GPT-4 Paradigm Shift",
        "A pass through GPT-4 takes 560 TFLOPs instead of a dense 3,700",
        "2 × active parameters", _gpt4_flops, "the same rumour", stated=560e12, unit="FLOPs",
        assumptions=GPT4,
    ),
    Claim(
        "mixtral_8x22b", "survey", "The Mixtral Open-Weights Architecture",
        "Mixtral 8x22B: 141B, 39B active, 56 layers, 8 experts, top-2, 65,536 tokens",
        "parameters from the config", _sizes("Mixtral 8x22B", 141e9, 39e9), "config.json",
        stated=141e9, unit="parameters",
    ),
    Claim(
        "v3_sizes", "survey", "DeepSeek-V3 and Extreme Sparsity",
        "DeepSeek-V3: 671B parameters, 37B active",
        "parameters from the config", _sizes("DeepSeek-V3 / R1", 671e9, 37e9), "config.json",
        stated=671e9, unit="parameters",
    ),
    Claim(
        "v3_structure", "survey", "DeepSeek-V3 and Extreme Sparsity",
        "DeepSeek-V3: below 6 % active, 256 routed and 1 shared expert, top-8, 61 layers",
        "active / all", _v3_structure, "config.json", stated=0.06, unit="share",
    ),
    Claim(
        "mla_57", "survey", "DeepSeek-V3 and Extreme Sparsity",
        "Latent attention cuts the key-value cache by a factor of 57",
        "elements of the baseline / (512 + 64)", _mla, "DeepSeek-V2, 2405.04434, table 9",
        stated=57, unit="times",
        assumptions=(
            Assumption("baseline_groups", 128, "heads", "key heads of the baseline", 1, 256),
            Assumption("baseline_width", 128, "", "of its keys and values", 1, 1024),
        ),
    ),
    Claim(
        "v3_cost", "survey", "DeepSeek-V3 and Extreme Sparsity, table",
        "DeepSeek-V3: 2.788M H800 hours, 14.8T tokens, about $5.6M",
        "hours × price", _v3_cost, "DeepSeek-V3, 2412.19437", stated=5.6e6, unit="USD",
        assumptions=(price(2),),
    ),
    Claim(
        "qwen25_max_sizes", "survey", "Qwen2.5-Max",
        "Qwen2.5-Max: 236B parameters, 57B active, 64 experts, top-8",
        "the totals of two other models", _max_sizes, "Qwen's announcement gives none",
        stated=57e9, unit="parameters",
    ),
    Claim(
        "qwen25_max_cost", "survey", "Qwen2.5-Max, table",
        "Qwen2.5-Max: 128K context, about $12M, up to 40 % faster than dense", "none",
        known("unverifiable", "no primary source; the API offered 32K"), "none",
    ),
    Claim(
        "qwen25_max_tokens", "survey", "Qwen2.5-Max",
        "Qwen2.5-Max was trained on over 20T tokens",
        "what its maker says", known("holds", "the announcement says so"), "Qwen's announcement",
    ),
    Claim(
        "llama_sizes", "survey", "The Efficiency Frontier",
        "Llama 3.1 405B: 126 layers, 128 heads, width 16,384, 15.6T tokens, 30.8M H100 hours on "
        "16,000",
        "parameters from the config; hours / devices", _llama_sizes, "Llama 3.1's model card",
        stated=405e9, unit="parameters",
        assumptions=(Assumption("devices", 16000, "devices", "in the cluster", 1, 1e6),),
    ),
    Claim(
        "llama_cost", "survey", "The Efficiency Frontier",
        "Llama 3.1 405B cost $92.4M to $123.2M", "hours × $3 and × $4",
        _llama_cost, "Llama 3.1's model card", stated=92.4e6, unit="USD",
        assumptions=(
            Assumption("usd_per_hour_low", 3, "USD/h", "lower price", 0.1, 20),
            Assumption("usd_per_hour_high", 4, "USD/h", "upper price", 0.1, 20),
        ),
    ),
    Claim(
        "cost_per_trillion", "survey", "The Efficiency Frontier",
        "V3 cost $378,000 a trillion tokens, Llama 3.1 405B $5.93M to $7.90M",
        "hours × price / tokens, one over the other", _per_trillion, "both cards",
        stated=15.7, unit="times",
        assumptions=(
            Assumption("v3_usd_per_hour", 2, "USD/h", "price for V3", 0.1, 20),
            Assumption("llama_usd_per_hour", 3, "USD/h", "price for Llama", 0.1, 20),
        ),
    ),
    Claim(
        "order_of_magnitude", "survey", "The Efficiency Frontier",
        "V3 took an order of magnitude fewer hours than Llama",
        "hours over hours", _fewer_hours, "both cards", stated=10, unit="times",
    ),
    Claim(
        "v3_context", "survey", "The Efficiency Frontier, table",
        "DeepSeek-V3's context is 131,072 tokens, at most 160K",
        "max_position_embeddings", _v3_context, "config.json", stated=163840, unit="tokens",
    ),
    Claim(
        "dsmoe_half", "survey", "Future Trajectories in Sparse Computation",
        "DS-MoE matches dense 7B models with half the parameters",
        "what its abstract says",
        known("contradicted",
              "on par with a dense model of equal size, with 30 to 40 % of it active"),
        "Dense Training, Sparse Inference, 2404.05567",
    ),
)  # fmt: skip
