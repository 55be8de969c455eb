"""Claims of the two shorter articles."""

from __future__ import annotations

from collections.abc import Mapping

from moeviz.costs.claims.ledger import Assumption, Claim, Outcome, Verdict, known, price, within
from moeviz.costs.cost.compute import forward_flops_per_token
from moeviz.costs.cost.money import cost_usd, device_hours
from moeviz.costs.cost.parameters import active_parameters, parameters
from moeviz.costs.known.devices import DEVICES
from moeviz.costs.known.models import shape_of
from moeviz.costs.known.models_early import GPT3, SWITCH_C
from moeviz.costs.shape.terms import Term


def _one_pass(a: Mapping[str, float]) -> Outcome:
    tokens = a["tokens"]
    flops = forward_flops_per_token(GPT3, min(int(tokens), GPT3.positions)).total * tokens
    peak = DEVICES["A100-80G SXM"].bf16_flops_per_s
    hours = device_hours(flops, peak, a["utilisation"]).total
    usd = cost_usd(hours, a["usd_per_hour"]).total
    terms = (
        Term("FLOPs", flops, f"forward FLOPs a token × {tokens:,.0f} tokens"),
        Term("A100 hours", hours, f"FLOPs / (312e12 × {a['utilisation']:g}) / 3600"),
    )
    if within(usd, 2.5e6, 0.5):
        return Outcome("holds", f"${usd:,.0f} for {tokens:.3g} tokens", usd, terms)
    why = f"a pass over {tokens:,.0f} tokens costs ${usd:.2g}; millions are what the training cost"
    return Outcome("contradicted", why, usd, terms)


def _switch_tenth(a: Mapping[str, float]) -> Outcome:
    share = active_parameters(SWITCH_C).total / parameters(SWITCH_C).total
    of_t5 = 890e9 / a["t5_xxl_flops"]
    terms = (
        Term("active share of Switch-C", share, "active / total"),
        Term("its FLOPs a sequence over T5-XXL's", of_t5, f"890e9 / {a['t5_xxl_flops']:.3g}"),
    )
    why = (
        f"it was compared with T5-XXL, 11B parameters, at {100 * of_t5:.0f} % of its FLOPs; of its "
        f"own 1.6T a token uses {100 * share:.2f} %, and no dense 1.6T model exists"
    )
    return Outcome("contradicted", why, share, terms)


def _routing_cost(a: Mapping[str, float]) -> Outcome:
    names = ("Mixtral 8x7B", "DeepSeek-V3 / R1", "Kimi K2", "Switch-C 1.6T")
    active = {name: active_parameters(shape_of(name)) for name in names}
    shares = {name: met.part("router") / met.total for name, met in active.items()}
    terms = tuple(Term(name, share, "router / active") for name, share in shares.items())
    largest = max(share for name, share in shares.items() if name != "Switch-C 1.6T")
    why = (
        "routing is one matrix product a token and layer, chosen anew for each token: "
        f"{100 * shares['Mixtral 8x7B']:.3f} % of Mixtral's active parameters, "
        f"{100 * shares['Kimi K2']:.1f} % of Kimi K2's, {100 * shares['Switch-C 1.6T']:.1f} % of "
        "Switch-C's with its 2,048 experts"
    )
    verdict: Verdict = "holds" if largest >= a["bottleneck_share"] else "contradicted"
    return Outcome(verdict, why, largest, terms)


SHORT = (
    Claim(
        "gpt3_pass_cost", "beacon", "third paragraph",
        "A single pass through GPT-3 costs roughly $2.5M",
        "forward FLOPs / (A100 peak × MFU) × price", _one_pass, "counted from GPT-3's sizes",
        stated=2.5e6, unit="USD",
        assumptions=(
            Assumption("tokens", 2048, "tokens", "what passes through", 1, 1e14),
            Assumption("utilisation", 0.3, "share of peak", "MFU", 0.01, 1),
            price(1.5, "price of an A100 hour"),
        ),
    ),
    Claim(
        "switch_tenth", "beacon", "third paragraph",
        "Switch Transformer matches a dense 1.6T model at 10 % of the compute per token",
        "active share of Switch-C; its FLOPs over T5-XXL's", _switch_tenth,
        "Switch Transformers, 2101.03961, table 9", stated=0.1, unit="share",
        assumptions=(
            Assumption("t5_xxl_flops", 6.3e12, "FLOPs", "T5-XXL, a sequence", 1e12, 1e14),
        ),
    ),
    Claim(
        "tenth_for_nine_tenths", "beacon", "second paragraph",
        "Models use 10 % of their parameters for 90 % of tasks",
        "none", known("unverifiable", "no source is given and none is found"), "none",
    ),
    Claim(
        "activation_beacon", "beacon", "second paragraph",
        "An activation beacon identifies the experts for an input",
        "what the name stands for",
        known("contradicted", "Activation Beacon compresses the key-value cache; routers choose "
              "experts"),
        "Activation Beacon, 2401.03462",
    ),
    Claim(
        "routing_bottleneck", "beacon", "second and fourth paragraph",
        "MoE routing is layer-specific, not input-dependent, and a complex decision tree that can "
        "negate the benefits",
        "router parameters / active parameters", _routing_cost, "counted", unit="share",
        assumptions=(
            Assumption("bottleneck_share", 0.1, "share", "from which routing counts as one", 0, 1),
        ),
    ),
    Claim(
        "gemini15", "market", "What Happened and Why It Matters",
        "Gemini 1.5 Pro is MoE, takes 1M tokens and is on par with 1.0 Ultra with less compute",
        "what its report says",
        known("holds", "the report says so, and no sizes"), "Gemini 1.5 report, 2403.05530",
    ),
    Claim(
        "m6t_google", "market", "What Happened and Why It Matters",
        "M6-T is research by Google", "who wrote it",
        known("contradicted", "M6-T is Alibaba's: over 1T parameters on 480 V100"),
        "M6-T, 2105.15082",
    ),
    Claim(
        "v3_mla_fp8", "market", "What Happened and Why It Matters",
        "DeepSeek-V3 combines latent attention and FP8 training",
        "what its report says", known("holds", "the config has the one, the report the other"),
        "DeepSeek-V3, 2412.19437",
    ),
)  # fmt: skip
