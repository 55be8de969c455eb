"""Claims of the two shorter articles."""

from __future__ import annotations

from moeviz.costs.claims.ledger import Article, Assumption, Outcome, holds_if, price, within
from moeviz.costs.cost.compute import forward_flops_per_token
from moeviz.costs.cost.decode import decode_step
from moeviz.costs.cost.memory import weight_bytes
from moeviz.costs.cost.money import cost_usd, device_hours
from moeviz.costs.cost.parameters import active_parameters, active_share
from moeviz.costs.known.devices import DEVICES
from moeviz.costs.known.models import shape_of
from moeviz.costs.known.models_early import SWITCH_C
from moeviz.costs.shape.terms import Term
from moeviz.words import percent

BEACON, MARKET = Article("beacon"), Article("market")
GPT3 = shape_of("GPT-3 175B")


@BEACON.claim(
    "third paragraph", "A single pass through GPT-3 costs roughly $2.5M",
    "FLOPs of a pass / (an A100's peak × the share of it that is reached) × price",
    "counted from GPT-3's sizes",
    Assumption("tokens", 2048, "tokens", "tokens that pass through", 1, 1e14),
    Assumption("utilisation", 0.3, "share of peak", "share of the peak reached (MFU)", 0.01, 1),
    price(1.5, "price of an A100 hour"),
    stated=2.5e6, unit="USD")  # fmt: skip
def gpt3_pass_cost(tokens: float, utilisation: float, usd_per_hour: float) -> Outcome:
    flops = forward_flops_per_token(GPT3, min(int(tokens), GPT3.positions)).total * tokens
    hours = device_hours(flops, DEVICES["A100-80G SXM"].bf16_flops_per_s, utilisation)
    usd = cost_usd(hours.total, usd_per_hour).total
    terms = (Term("FLOPs", flops, f"forward FLOPs a token × {tokens:,.0f} tokens"), *hours.terms)
    if within(usd, 2.5e6, 0.5):
        return Outcome("holds", f"${usd:,.0f} for {tokens:.3g} tokens", usd, terms)
    dollars = f"{usd:,.0f}" if usd >= 1 else f"{usd:.2g}"
    why = f"a pass over {tokens:,.0f} tokens costs ${dollars}"
    if usd < 1e6:
        why += "; millions are what the training cost"
    return Outcome("contradicted", why, usd, terms)


@BEACON.claim(
    "third paragraph",
    "Switch Transformer matches a dense 1.6T model at 10 % of the compute per token",
    "active share of Switch-C; its FLOPs over T5-XXL's",
    "Switch Transformers, 2101.03961, table 9",
    Assumption("t5_xxl_flops", 6.3e12, "FLOPs", "FLOPs of T5-XXL for one sequence", 1e12, 1e14),
    stated=0.1, unit="share")  # fmt: skip
def switch_tenth(t5_xxl_flops: float) -> Outcome:
    share, of_t5 = active_share(SWITCH_C), 890e9 / t5_xxl_flops
    formula = f"890e9 / {t5_xxl_flops:.3g}"
    terms = (*share.terms, Term("its FLOPs a sequence over T5-XXL's", of_t5, formula))
    why = (
        f"it was compared with T5-XXL, 11B parameters, at {percent(of_t5)} of its FLOPs; of its "
        f"own 1.6T a token uses {percent(share.total, 2)}, and no dense 1.6T model exists"
    )
    return Outcome("contradicted", why, share.total, terms)


BEACON.fact(
    "tenth_for_nine_tenths", "second paragraph",
    "Models use 10 % of their parameters for 90 % of tasks", "nothing to compute", "none",
    "unverifiable", "no source is given and none is found")  # fmt: skip
BEACON.fact(
    "activation_beacon", "second paragraph",
    "An activation beacon identifies the experts for an input", "what the name stands for",
    "Activation Beacon, 2401.03462", "contradicted",
    "Activation Beacon compresses the key-value cache; routers choose experts")  # fmt: skip


@BEACON.claim(
    "second and fourth paragraph",
    "MoE routing is layer-specific, not input-dependent, and a complex decision tree that can "
    "negate the benefits", "router parameters / active parameters", "counted",
    Assumption("bottleneck_share", 0.1, "share", "share that counts as a bottleneck", 0, 1),
    unit="share")  # fmt: skip
def routing_bottleneck(bottleneck_share: float) -> Outcome:
    names = ("Mixtral 8x7B", "DeepSeek-V3 / R1", "Kimi K2", "Switch-C 1.6T")
    active = {name: active_parameters(shape_of(name)) for name in names}
    shares = {name: met.part("router") / met.total for name, met in active.items()}
    terms = tuple(Term(name, share, "router / active") for name, share in shares.items())
    largest = max(share for name, share in shares.items() if name != "Switch-C 1.6T")
    why = (
        "routing is one matrix product a token and layer, chosen anew for each token: "
        f"{percent(shares['Mixtral 8x7B'], 3)} of Mixtral's active parameters, "
        f"{percent(shares['Kimi K2'], 1)} of Kimi K2's, {percent(shares['Switch-C 1.6T'], 1)} of "
        "Switch-C's with its 2,048 experts"
    )
    return Outcome("holds" if largest >= bottleneck_share else "contradicted", why, largest, terms)


@BEACON.claim(
    "fifth paragraph", "Lightweight sparse models run on a smartphone without the cloud",
    "bytes / memory that an app may fill; bandwidth / bytes read for a token",
    "Snapdragon 8 Elite: 12 GB, 84.8 GB/s; experts at 4 bits, all else at 16",
    Assumption("share", 0.5, "share", "share of the memory that an app may fill", 0.05, 1),
    Assumption("wanted", 10, "tokens/s", "speed that counts as running", 0.1, 1000),
    unit="tokens/s")  # fmt: skip
def on_a_phone(share: float, wanted: float) -> Outcome:
    phone = DEVICES["Phone, Snapdragon 8 Elite"]
    small, large = shape_of("OLMoE-1B-7B"), shape_of("Qwen3-30B-A3B")
    sizes = [weight_bytes(shape, "int4_experts").total for shape in (small, large)]
    room = phone.memory_bytes * share
    step = decode_step(small, phone, batch=1, context_tokens=4096, plan="int4_experts")
    rate = step.tokens_per_s
    terms = (
        Term("bytes of OLMoE-1B-7B", sizes[0], "experts at 4 bits, all else at 16"),
        Term("bytes of Qwen3-30B-A3B", sizes[1], "the same"),
        Term("memory for an app", room, f"{percent(share)} of {phone.memory_bytes / 1e9:g} GB"),
        Term("tokens/s of OLMoE-1B-7B at most", rate, "bandwidth / bytes of a token"),
    )
    why = (
        f"OLMoE-1B-7B takes {sizes[0] / 1e9:.1f} of {room / 1e9:.1f} GB and writes {rate:.0f} "
        f"tokens/s at most; Qwen3-30B-A3B takes {sizes[1] / 1e9:.1f} GB: sparse is light to read, "
        "not to hold"
    )
    return Outcome(holds_if(sizes[0] <= room and rate >= wanted), why, rate, terms)


MARKET.fact(
    "gemini15", "What Happened and Why It Matters",
    "Gemini 1.5 Pro is MoE, takes 1M tokens and is on par with 1.0 Ultra with less compute",
    "what its report says", "Gemini 1.5 report, 2403.05530", "holds",
    "the report says so, and no sizes")  # fmt: skip
MARKET.fact(
    "m6t_google", "What Happened and Why It Matters", "M6-T is research by Google",
    "who wrote it", "M6-T, 2105.15082", "contradicted",
    "M6-T is Alibaba's: over 1T parameters on 480 V100")  # fmt: skip
MARKET.fact(
    "v3_mla_fp8", "What Happened and Why It Matters",
    "DeepSeek-V3 combines latent attention and FP8 training", "what its report says",
    "DeepSeek-V3, 2412.19437", "holds", "the config has the one, the report the other")  # fmt: skip
