"""Bits per weight of storage formats, and which part of a model is kept in which."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.checks import check_choice
from moeviz.costs.shape.terms import COMPONENTS


@dataclass(frozen=True)
class Format:
    """How a weight is stored. group: weights that share one scale of scale_bits and, for formats
    that are not symmetric, one zero point of zero_bits; 0: no scale worth counting."""

    name: str
    weight_bits: float
    group: int = 0
    scale_bits: float = 0.0
    zero_bits: float = 0.0
    source: str = ""

    @property
    def bits(self) -> float:
        """Bits per weight, scales and zero points included."""
        shared = (self.scale_bits + self.zero_bits) / self.group if self.group else 0.0
        return self.weight_bits + shared


FORMATS = {
    form.name: form
    for form in (
        Format("fp32", 32),
        Format("bf16", 16),
        Format("fp16", 16),
        Format("fp8", 8, source="one scale a tensor"),
        Format("fp8_block", 8, 128 * 128, 32, source="DeepSeek-V3, 2412.19437: 128 × 128 blocks"),
        Format("mxfp8", 8, 32, 8, source="OCP Microscaling v1.0"),
        Format("int8", 8, 128, 16, source="groups of 128, a float16 scale"),
        Format("int4", 4, 128, 16, source="groups of 128, a float16 scale, symmetric"),
        Format("int4_zero", 4, 128, 16, 4, source="GPTQ, 2210.17323, groups of 128, zero points"),
        Format("int3", 3, 128, 16, source="groups of 128, a float16 scale, symmetric"),
        Format("int2", 2, 128, 16, source="groups of 128, a float16 scale, symmetric"),
        Format("int4_g32", 4, 32, 16, source="groups of 32, a float16 scale, symmetric"),
        Format("mxfp4", 4, 32, 8, source="OCP Microscaling v1.0; gpt-oss, 2508.10925"),
        Format("nvfp4", 4, 16, 8, source="an FP8 scale for 16 weights"),
        Format("nf4", 4, 64, 8 + 32 / 256, source="QLoRA, 2305.14314, scales quantised again"),
        Format("q4_k", 4.5, source="llama.cpp super-blocks of 256, scales and minima included"),
        Format("q4_k_m", 4.85, source="llama.cpp's usual mix of Q4_K and Q6_K, on average"),
        Format("q2.6", 2.6, source="mixtral-offloading, 2312.17238: HQQ mix of 2 to 4 bits"),
    )
}


@dataclass(frozen=True)
class QuantPlan:
    """A format for every component: `parts` of (component, format), `default` for the rest."""

    name: str
    default: str = "bf16"
    parts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_choice("default", self.default, FORMATS)
        for component, form in self.parts:
            check_choice("component", component, COMPONENTS)
            check_choice(component, form, FORMATS)
        named = [component for component, _ in self.parts]
        if len(named) > len(set(named)):
            raise ValueError("parts must name each component once.")

    @classmethod
    def mixed(cls, name: str, default: str = "bf16", **parts: str) -> QuantPlan:
        """QuantPlan.mixed("gpt-oss", routed_experts="mxfp4")."""
        return cls(name, default, tuple(parts.items()))

    def format(self, component: str) -> Format:
        return FORMATS[dict(self.parts).get(component, self.default)]


def _matrices(name: str, form: str) -> QuantPlan:
    """The linear layers in one format, tables, router, norms and biases in bf16."""
    layers = ("attention", "routed_experts", "shared_experts", "dense_ffn")
    return QuantPlan(name, "bf16", tuple((component, form) for component in layers))


PLANS = {
    plan.name: plan
    for plan in (
        QuantPlan("fp32", "fp32"),
        QuantPlan("bf16", "bf16"),
        QuantPlan("fp8", "fp8"),
        _matrices("fp8_block", "fp8_block"),
        _matrices("int8", "int8"),
        _matrices("int4", "int4"),
        _matrices("int4_zero", "int4_zero"),
        _matrices("nvfp4", "nvfp4"),
        QuantPlan.mixed("mxfp4_experts", routed_experts="mxfp4"),
        QuantPlan.mixed("int4_experts", routed_experts="int4"),
        QuantPlan("q4_k_m", "q4_k_m"),
        QuantPlan.mixed("q2.6_experts", "int4_zero", routed_experts="q2.6"),
    )
}


def plan_of(plan: QuantPlan | str) -> QuantPlan:
    """A plan, or the one of PLANS by its name; ValueError on an unknown name."""
    return plan if isinstance(plan, QuantPlan) else PLANS[check_choice("plan", plan, PLANS)]
