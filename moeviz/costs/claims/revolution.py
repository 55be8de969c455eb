"""Claims of "The 1% FLOPs Revolution"."""

from __future__ import annotations

from collections.abc import Mapping

from moeviz.costs.claims.ledger import Assumption, Claim, Outcome, holds_if, known, price
from moeviz.costs.cost.compute import six_n_d_flops
from moeviz.costs.cost.money import cost_usd, device_hours
from moeviz.costs.cost.parameters import active_parameters, active_share, parameters
from moeviz.costs.known.devices import DEVICES
from moeviz.costs.known.models import published, shape_of
from moeviz.costs.known.models_early import SWITCH_C
from moeviz.costs.shape.terms import Term

H100 = DEVICES["H100 SXM"]
UTILISATION = Assumption("utilisation", 0.4, "share of peak", "MFU of the run", 0.05, 1)


def _identifier(a: Mapping[str, float]) -> Outcome:
    months = 12 * (a["upload_year"] - 2025) + a["upload_month"] - 5
    terms = (Term("months between", months, "upload date - May 2025, what 2505 stands for"),)
    if months:
        why = (
            "an arXiv number 2505 is of May 2025, the date a year later, and no such paper is found"
        )
    else:
        why = "number and date agree, but no such paper is found"
    return Outcome("unverifiable", why, months, terms)


def _dense_baseline(a: Mapping[str, float]) -> Outcome:
    flops = six_n_d_flops(1.6e12, a["tokens"]).total
    hours = device_hours(flops, H100.bf16_flops_per_s, a["utilisation"]).total
    usd = cost_usd(hours, a["usd_per_hour"]).total
    terms = (
        Term("FLOPs of the dense baseline", flops, f"6 × 1.6e12 × {a['tokens']:.3g} tokens"),
        Term("H100 hours", hours, f"FLOPs / (989e12 × {a['utilisation']:g}) / 3600"),
        Term("USD", usd, f"hours × ${a['usd_per_hour']:g}"),
    )
    why = (
        f"a dense 1.6T baseline takes {hours / 1e6:,.1f}M H100 hours, ${usd / 1e6:,.0f}M: a "
        "strange thing to train for a comparison, and nobody shows it"
    )
    return Outcome("unverifiable", why, hours, terms)


def _hundredfold(a: Mapping[str, float]) -> Outcome:
    model = shape_of("DeepSeek-V3 / R1")
    total, active = parameters(model).total, active_parameters(model)
    ratio = total / active.total
    limit = total / (active.total - active.part("routed_experts"))
    terms = (
        Term("total over active, V3", ratio, f"{total / 1e9:.1f}B / {active.total / 1e9:.2f}B"),
        Term("with no routed expert at all", limit, "total / (active - routed experts visited)"),
    )
    if limit < a["factor"]:
        why = (
            f"even with no routed expert V3 would stop at {limit:.0f} times: attention, shared "
            "experts and head stay (Amdahl's law)"
        )
        return Outcome("contradicted", why, ratio, terms)
    why = f"V3 saves {ratio:.1f} times"
    return Outcome(holds_if(ratio >= a["factor"]), why, ratio, terms)


def _unprecedented(a: Mapping[str, float]) -> Outcome:
    total = parameters(SWITCH_C).total
    share = active_share(SWITCH_C).total
    terms = (
        Term("Switch-C, parameters", total, "counted"),
        Term("Switch-C, active share", share, "active / total"),
    )
    if share <= a["active_share"] and total >= 0.95 * a["parameters"]:
        why = f"Switch-C had {total / 1e12:.2f}T with {100 * share:.2f} % active in 2021"
        return Outcome("contradicted", why, share, terms)
    return Outcome("holds", "Switch-C (2021) was smaller or less sparse than that", share, terms)


def _inferrix(a: Mapping[str, float]) -> Outcome:
    hours = 4.2e6 / a["usd_per_hour"]
    tokens = hours * 3600 * a["tflops_per_s"] * 1e12 / (6 * 72e9)
    terms = (
        Term("device hours", hours, f"$4.2M / ${a['usd_per_hour']:g}"),
        Term("tokens", tokens, f"hours × 3600 × {a['tflops_per_s']:g} TFLOP/s / (6 × 72e9)"),
    )
    # Chinchilla's 20 tokens a parameter (2203.15556) is the least that anyone would train on.
    if tokens < 20 * 72e9:
        why = f"the money buys {tokens / 1e12:.1f}T tokens, fewer than 20 a parameter"
        return Outcome("off", why, tokens, terms)
    why = f"no trace of the model; the money buys {tokens / 1e12:.1f}T tokens, so it is plausible"
    return Outcome("unverifiable", why, tokens, terms)


def _tenfold(a: Mapping[str, float]) -> Outcome:
    usd = cost_usd(published("Llama 3.1 405B", "device_hours"), a["usd_per_hour"]).total
    ratio = usd / 4.2e6
    terms = (Term("Llama 3.1 405B, USD", usd, f"30.84M h × ${a['usd_per_hour']:g}"),)
    why = f"Llama 3.1 405B cost {ratio:.0f} times as much"
    return Outcome(holds_if(ratio >= 10), why, ratio, terms)


def _budget(a: Mapping[str, float]) -> Outcome:
    usd = cost_usd(published("DeepSeek-V3 / R1", "device_hours"), a["usd_per_hour"]).total
    terms = (Term("DeepSeek-V3's final run", usd, f"2.788M h × ${a['usd_per_hour']:g}"),)
    if usd < 1e8:
        why = f"V3's final run cost ${usd / 1e6:.1f}M; only staff, research and machines cost more"
        return Outcome("off", why, usd, terms)
    return Outcome("holds", "even V3's final run costs nine figures at that price", usd, terms)


def _energy(a: Mapping[str, float]) -> Outcome:
    ratio = 456 / a["gpt3_mwh"]
    terms = (
        Term("GLaM's training energy over GPT-3's", ratio, f"456 MWh / {a['gpt3_mwh']:g} MWh"),
        Term("tokens, GLaM over GPT-3", 2, "600B / 300B"),
        Term("inference FLOPs, GLaM over GPT-3", 0.5, "180 / 350 GFLOPs a token"),
    )
    why = (
        f"half the FLOPs a token on twice the tokens took {ratio:.2f} of the energy, on newer "
        "chips: bytes and network do not shrink with FLOPs"
    )
    return Outcome("off", why, ratio, terms)


REVOLUTION = (
    Claim(
        "arxiv_number", "revolution", "opening",
        "arXiv:2505.01234, uploaded on 3 May 2026",
        "month of the upload - month of the number", _identifier,
        "arXiv's numbering: YYMM of the upload", unit="months",
        assumptions=(
            Assumption("upload_year", 2026, "year", "year of the upload", 2024, 2027),
            Assumption("upload_month", 5, "month", "month of the upload", 1, 12),
        ),
    ),
    Claim(
        "dense_baseline", "revolution", "opening",
        "1.6T parameters with 1 % active reach 99.3 % of a dense baseline",
        "6 N D of the dense baseline, in H100 hours", _dense_baseline,
        "Kaplan et al., 2001.08361; the Pile has about 300B tokens", unit="H100 hours",
        assumptions=(
            Assumption("tokens", 300e9, "tokens", "what the baseline is trained on", 1e9, 1e14),
            UTILISATION, price(2),
        ),
    ),
    Claim(
        "hundredfold", "revolution", "Strategic Implications, 1",
        "Training becomes 100 times cheaper",
        "total over active parameters of DeepSeek-V3, against the claimed factor", _hundredfold,
        "counted from V3's config.json", stated=100, unit="times",
        assumptions=(Assumption("factor", 100, "times", "the claimed saving", 1, 1000),),
    ),
    Claim(
        "unprecedented", "revolution", "How It Works",
        "Sparsity at 1.6T parameters is unprecedented",
        "parameters and active share of Switch-C, 2021", _unprecedented,
        "Switch Transformers, 2101.03961, counted", stated=0.01, unit="active share",
        assumptions=(
            Assumption("parameters", 1.6e12, "parameters", "of the claimed model", 1e9, 1e13),
            Assumption("active_share", 0.01, "share", "of the claimed model", 0.0001, 1),
        ),
    ),
    Claim(
        "inferrix_cost", "revolution", "opening",
        "Inferrix-72B cost about $4.2M",
        "tokens that the money buys", _inferrix, "6 N D", unit="tokens",
        assumptions=(
            price(2),
            Assumption("tflops_per_s", 400, "TFLOP/s", "reached by a device", 10, 5000),
        ),
    ),
    Claim(
        "frontier_tenfold", "revolution", "opening",
        "Frontier models cost ten times that or more",
        "Llama 3.1 405B's hours × price / $4.2M", _tenfold, "Llama 3.1's model card", stated=10,
        unit="times", assumptions=(price(2),),
    ),
    Claim(
        "gpt4_gemini_dense", "revolution", "How It Works",
        "GPT-4 and Gemini are dense transformers",
        "what their makers and others say", known(
            "contradicted",
            "Google's report calls Gemini 1.5 a sparse MoE; GPT-4 is rumoured to be one",
        ),
        "Gemini 1.5 report, 2403.05530",
    ),
    Claim(
        "nine_figures", "revolution", "Strategic Implications, 1",
        "Frontier training takes a nine- or ten-figure budget",
        "DeepSeek-V3's hours × price", _budget, "DeepSeek-V3, 2412.19437", stated=1e8, unit="USD",
        assumptions=(price(2),),
    ),
    Claim(
        "flops_are_energy", "revolution", "Strategic Implications, 2",
        "A cut in FLOPs translates directly into a cut in energy",
        "GLaM's energy over GPT-3's, beside their FLOPs", _energy,
        "GLaM, 2112.06905; GPT-3's 1,287 MWh: Patterson et al., 2104.10350", unit="times",
        assumptions=(
            Assumption("gpt3_mwh", 1287, "MWh", "energy of GPT-3's training", 100, 10000),
        ),
    ),
)  # fmt: skip
