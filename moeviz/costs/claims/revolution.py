"""Claims of "The 1% FLOPs Revolution"."""

from __future__ import annotations

from moeviz.costs.claims.ledger import Article, Assumption, Outcome, holds_if, price, run_usd
from moeviz.costs.cost.compute import six_n_d_flops
from moeviz.costs.cost.money import cost_usd, device_hours
from moeviz.costs.cost.parameters import active_parameters, active_share, parameters
from moeviz.costs.known.devices import DEVICES
from moeviz.costs.known.models import MODELS
from moeviz.costs.known.models_early import SWITCH_C
from moeviz.costs.shape.terms import Term
from moeviz.words import percent

REVOLUTION = Article("revolution")
V3, SWITCH = "DeepSeek-V3 / R1", "Switch-C 1.6T"


@REVOLUTION.claim(
    "opening", "arXiv:2505.01234, uploaded on 3 May 2026",
    "month of the upload - month of the number", "arXiv's numbering: YYMM of the upload",
    Assumption("upload_year", 2026, "year", "year of the upload", 2024, 2027),
    Assumption("upload_month", 5, "month", "month of the upload", 1, 12),
    unit="months")  # fmt: skip
def arxiv_number(upload_year: float, upload_month: float) -> Outcome:
    months = 12 * (upload_year - 2025) + upload_month - 5
    terms = (Term("months between", months, "upload date - May 2025, what 2505 stands for"),)
    if not months:
        why = "number and date agree, but no such paper is found"
        return Outcome("unverifiable", why, months, terms)
    why = f"an arXiv number 2505 is of May 2025, {abs(months):g} months from the date that is given"
    return Outcome("contradicted", why, months, terms)


@REVOLUTION.claim(
    "opening", "1.6T parameters with 1 % active reach 99.3 % of a dense baseline",
    "6 FLOPs × parameters × tokens of the dense baseline, in H100 hours",
    "Kaplan et al., 2001.08361; the Pile has about 300B tokens",
    Assumption("tokens", 300e9, "tokens", "tokens that the baseline is trained on", 1e9, 1e14),
    Assumption("utilisation", 0.4, "share of peak", "share of the peak reached (MFU)", 0.05, 1),
    price(2),
    unit="H100 hours")  # fmt: skip
def dense_baseline(tokens: float, utilisation: float, usd_per_hour: float) -> Outcome:
    flops = six_n_d_flops(1.6e12, tokens)
    hours = device_hours(flops.total, DEVICES["H100 SXM"].bf16_flops_per_s, utilisation)
    usd = cost_usd(hours.total, usd_per_hour)
    why = (
        f"a dense 1.6T baseline takes {hours.total / 1e6:,.1f}M H100 hours, "
        f"${usd.total / 1e6:,.0f}M: a strange thing to train for a comparison, and nobody shows it"
    )
    return Outcome("unverifiable", why, hours.total, flops.terms + hours.terms + usd.terms)


@REVOLUTION.claim(
    "Strategic Implications, 1", "Training becomes 100 times cheaper",
    "total over active parameters of every sparse model in the table",
    "counted from each config",
    Assumption("factor", 100, "times", "the claimed saving", 1, 1000),
    stated=100, unit="times")  # fmt: skip
def hundredfold(factor: float) -> Outcome:
    shapes = {n: m.architecture for n, m in MODELS.items() if m.architecture and m.kind == "moe"}
    ratio = {n: parameters(s).total / active_parameters(s).total for n, s in shapes.items()}
    reach = [name for name, times in ratio.items() if times >= factor]
    active = active_parameters(shapes[V3])
    limit = parameters(shapes[V3]).total / (active.total - active.part("routed_experts"))
    terms = (
        Term("total over active, V3", ratio[V3], "counted"),
        Term("the same with no routed expert", limit, "total / (active - routed experts visited)"),
        Term("total over active, Switch-C", ratio[SWITCH], "counted"),
    )
    if len(reach) == len(shapes):
        return Outcome("holds", f"all {len(shapes)} sparse models reach it", ratio[V3], terms)
    reached = {0: "none reaches", 1: f"only {reach[0]} reaches" if reach else ""}.get(
        len(reach), f"{len(reach)} reach"
    )
    why = (
        f"of {len(shapes)} sparse models {reached} {factor:,.4g} times: V3 has {ratio[V3]:.1f}, "
        f"and {limit:.0f} without any routed expert (Amdahl's law), Switch-C "
        f"{ratio[SWITCH]:.0f}; and nobody shows equal quality at the hundredth of a cost"
    )
    return Outcome("inaccurate", why, ratio[V3], terms)


@REVOLUTION.claim(
    "How It Works", "Sparsity at 1.6T parameters is unprecedented",
    "parameters and active share of Switch-C, 2021", "Switch Transformers, 2101.03961, counted",
    Assumption("parameters", 1.6e12, "parameters", "parameters of the claimed model", 1e9, 1e13),
    Assumption("active_share", 0.01, "share", "share of it that a token meets", 0.0001, 1),
    stated=0.01, unit="active share")  # fmt: skip
def unprecedented(**claimed: float) -> Outcome:
    total, share = parameters(SWITCH_C).total, active_share(SWITCH_C)
    verdict, why = holds_if(True), "Switch-C (2021) was smaller or less sparse than that"
    if share.total <= claimed["active_share"] and total >= 0.95 * claimed["parameters"]:
        verdict = "contradicted"
        why = f"Switch-C had {total / 1e12:.2f}T with {percent(share.total, 2)} active in 2021"
    return Outcome(verdict, why, share.total, share.terms)


@REVOLUTION.claim(
    "opening", "Inferrix-72B cost about $4.2M", "tokens that the money buys",
    "6 FLOPs × parameters × tokens",
    price(2), Assumption("tflops_per_s", 400, "TFLOP/s", "speed that a device reaches", 10, 5000),
    unit="tokens")  # fmt: skip
def inferrix_cost(usd_per_hour: float, tflops_per_s: float) -> Outcome:
    hours = 4.2e6 / usd_per_hour
    tokens = hours * 3600 * tflops_per_s * 1e12 / (6 * 72e9)
    terms = (
        Term("device hours", hours, f"$4.2M / ${usd_per_hour:g}"),
        Term("tokens", tokens, f"hours × 3600 × {tflops_per_s:g} TFLOP/s / (6 × 72e9)"),
    )
    bought = f"the money buys {tokens / 1e12:.1f}T tokens"
    # Chinchilla's 20 tokens a parameter (2203.15556) is the least that anyone would train on.
    if tokens < 20 * 72e9:
        return Outcome("inaccurate", f"{bought}, fewer than 20 a parameter", tokens, terms)
    why = f"no trace of the model; {bought}, so it is plausible"
    return Outcome("unverifiable", why, tokens, terms)


@REVOLUTION.claim(
    "opening", "Frontier models cost ten times that or more",
    "Llama 3.1 405B's hours × price / $4.2M", "Llama 3.1's model card", price(2),
    stated=10, unit="times")  # fmt: skip
def frontier_tenfold(usd_per_hour: float) -> Outcome:
    usd = run_usd("Llama 3.1 405B", usd_per_hour)
    ratio = usd.total / 4.2e6
    why = f"Llama 3.1 405B cost {ratio:.0f} times as much"
    return Outcome(holds_if(ratio >= 10), why, ratio, usd.terms)


REVOLUTION.fact(
    "gpt4_gemini_dense", "How It Works", "GPT-4 and Gemini are dense transformers",
    "what their makers and others say", "Gemini 1.5 report, 2403.05530", "contradicted",
    "Google's report calls Gemini 1.5 a sparse MoE; GPT-4 is rumoured to be one")  # fmt: skip


@REVOLUTION.claim(
    "Strategic Implications, 1", "Frontier training takes a nine- or ten-figure budget",
    "DeepSeek-V3's hours × price", "DeepSeek-V3, 2412.19437", price(2),
    stated=1e8, unit="USD")  # fmt: skip
def nine_figures(usd_per_hour: float) -> Outcome:
    usd = run_usd("DeepSeek-V3 / R1", usd_per_hour)
    if usd.total >= 1e8:
        why = "even V3's final run costs nine figures at that price"
        return Outcome("holds", why, usd.total, usd.terms)
    run = f"V3's final run cost ${usd.total / 1e6:.1f}M"
    why = f"{run}; only staff, research and machines cost more"
    return Outcome("inaccurate", why, usd.total, usd.terms)


@REVOLUTION.claim(
    "Strategic Implications, 2",
    "A cut in FLOPs translates directly into a cut in energy",
    "GLaM's energy over GPT-3's, beside their FLOPs",
    "GLaM, 2112.06905; GPT-3's 1,287 MWh: Patterson et al., 2104.10350",
    Assumption("gpt3_mwh", 1287, "MWh", "energy of GPT-3's training", 100, 10000),
    unit="times")  # fmt: skip
def flops_are_energy(gpt3_mwh: float) -> Outcome:
    ratio = 456 / gpt3_mwh
    terms = (
        Term("GLaM's training energy over GPT-3's", ratio, f"456 MWh / {gpt3_mwh:g} MWh"),
        Term("tokens, GLaM over GPT-3", 2, "600B / 300B"),
        Term("inference FLOPs, GLaM over GPT-3", 0.5, "180 / 350 GFLOPs a token"),
    )
    why = (
        f"GLaM took half the FLOPs a token on twice the tokens, as many in all, and {ratio:.2f} "
        "times the energy, on newer chips: what changed it was not fewer FLOPs"
    )
    return Outcome("inaccurate", why, ratio, terms)
