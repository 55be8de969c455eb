"""Accelerators by their dense peaks; many tables print the 2:4 sparse peak, twice as high."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from moeviz.checks import check_choice, check_number

Confidence = Literal["official", "estimate", "rumour", "unverifiable"]
Compute = Literal["bf16", "fp8", "fp4"]


@dataclass(frozen=True)
class Device:
    """One device. bf16_flops_per_s: dense, bf16 or fp16; fp8_, fp4_: None where it has none.
    link_bytes_per_s: to its neighbours, one direction; host_bytes_per_s: from the host's memory,
    one direction; storage_bytes_per_s: from its own flash or disk; watts: TDP; usd_per_hour: lowest
    and highest price seen in May 2026.

    confidence: of the speeds and sizes; a price is an estimate.
    """

    name: str
    memory_bytes: float
    bytes_per_s: float
    bf16_flops_per_s: float
    fp8_flops_per_s: float | None = None
    fp4_flops_per_s: float | None = None
    link_bytes_per_s: float | None = None
    host_bytes_per_s: float | None = None
    storage_bytes_per_s: float | None = None
    watts: float | None = None
    usd_per_hour: tuple[float, float] | None = None
    source: str = ""
    confidence: Confidence = "official"
    note: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float" or (field.type == "float | None" and value is not None):
                check_number(field.name, value, open_low=True)
        if self.usd_per_hour is not None:
            low, high = self.usd_per_hour
            check_number("usd_per_hour", low)
            check_number("usd_per_hour", high, low)
        check_choice("confidence", self.confidence, get_args(Confidence))

    def flops_per_s(self, compute: Compute = "bf16") -> float:
        """Dense peak; ValueError where the device does not compute in that format."""
        check_choice("compute", compute, get_args(Compute))
        peak = getattr(self, f"{compute}_flops_per_s")
        if peak is None:
            raise ValueError(f"compute must be a format that {self.name} has, got {compute!r}.")
        return peak

    def ridge(self, compute: Compute = "bf16") -> float:
        """FLOPs per byte at which memory and arithmetic take equally long."""
        return self.flops_per_s(compute) / self.bytes_per_s


GB, TERA = 1e9, 1e12


def _device(
    name: str, memory: float, bandwidth: float, bf16: float, fp8: float | None, fp4: float | None,
    link: float | None, host: float | None, *rest: Any, storage: float | None = None,
    **options: Any,
) -> Device:  # fmt: skip
    """Sizes in GB, speeds in GB/s and TFLOP/s; rest: watts, price, source."""
    values = (memory, bandwidth, bf16, fp8, fp4, link, host, storage)
    units = (GB, GB, TERA, TERA, TERA, GB, GB, GB)
    sizes: Any = (v if v is None else v * unit for v, unit in zip(values, units, strict=True))
    return Device(name, *sizes, *rest, **options)


_AIC = "aiconfigurator system files (github.com/ai-dynamo/aiconfigurator)"
_PRICE = "prices: mercatus-ai and aimultiple, May 2026"
_PI = (
    "raspberrypi.com: LPDDR4X-4267, PCIe 2.0 x1, and Broadcom's bus of 32 bits; 0.3 TFLOP/s from "
    "4 cores × 2.4 GHz × 32 FP16 operations a cycle"
)
DEVICES = {
    device.name: device
    for device in (
        _device("T4", 16, 320, 65, None, None, None, 16, 70, (0.07, 0.35),
                "NVIDIA T4 datasheet; topcpu.net", note="fp16 only: no bf16, no FP8"),
        _device("L4", 24, 300, 121, 242, None, None, 32, 72, (0.4, 0.8), _AIC),
        _device("A100-80G SXM", 80, 2039, 312, None, None, 300, 32, 400, (0.8, 3.0),
                f"{_AIC}; {_PRICE}"),
        _device("H100 SXM", 80, 3350, 989, 1979, None, 450, 64, 700, (1.99, 5.0),
                f"{_AIC}; {_PRICE}, median 2.95"),
        _device("H800 SXM", 80, 3350, 989, 1979, None, 200, 64, 700, (2.0, 2.0),
                "H100 die with NVLink cut to 400 GB/s both ways",
                note="$2/h is DeepSeek's own assumption; DeepEP: ~160 GB/s NVLink usable, 50 "
                "GB/s InfiniBand"),
        _device("H200 SXM", 141, 4800, 989, 1979, None, 450, 64, 700, (2.5, 7.0),
                f"{_AIC}; {_PRICE}"),
        _device("B200 SXM", 180, 7700, 2250, 4500, 9000, 900, 128, 1000, (3.5, 7.0), _AIC),
        _device("MI300X", 192, 5300, 1307, 2615, None, 448, 64, 750, (1.71, 1.85),
                "AMD CDNA 3 figures", note="2,615 TFLOP/s is FP8; some tables print it as FP16"),
        _device("RTX 4090", 24, 1008, 165, 330, None, None, 32, 450, (0.17, 0.40),
                "NVIDIA Ada whitepaper figures, float32 accumulation"),
        _device("Apple M3 Ultra", 512, 819, 57, None, None, None, None, 295, None,
                "gpuhunter.io", confidence="estimate", note="unified memory, fp16"),
        _device("Apple M4 Max", 128, 546, 34, None, None, None, None, None, None,
                "bandwidth: Apple; 34 TFLOP/s estimated", confidence="estimate"),
        _device("Laptop CPU, DDR5-5600 x2", 32, 89.6, 1.0, None, None, None, None, 45, None,
                "2 channels × 8 bytes × 5.6 GT/s; 1 TFLOP/s by order of magnitude",
                confidence="estimate", storage=7),
        _device("Raspberry Pi 5, 8 GB", 8, 17.1, 0.3, None, None, None, None, 12, None, _PI,
                confidence="estimate", storage=0.5),
        _device("Raspberry Pi 5, 16 GB", 16, 17.1, 0.3, None, None, None, None, 12, None, _PI,
                confidence="estimate", storage=0.5),
        _device("Phone, Snapdragon 8 Elite", 12, 84.8, 3.0, None, None, None, None, None, None,
                "Qualcomm: LPDDR5X at 5,300 MHz, 4 × 16 bits; Samsung: UFS 4.0 reads 4.2 GB/s; "
                "3 TFLOP/s by order of magnitude", confidence="estimate", storage=4.2),
        _device("Laptop CPU, DDR4-3200 x2", 8, 51.2, 0.5, None, None, None, None, 15, None,
                "2 channels × 8 bytes × 3.2 GT/s; disk: PCIe 3.0 x4; 0.5 TFLOP/s by order of "
                "magnitude", confidence="estimate", storage=3.5),
        _device("MacBook Air M4", 16, 120, 8, None, None, None, None, None, None,
                "Apple: 16 GB, 120 GB/s; disk and 8 TFLOP/s estimated", confidence="estimate",
                storage=3),
    )
}  # fmt: skip


def device(name: str) -> Device:
    """One of DEVICES; ValueError on an unknown name."""
    return DEVICES[check_choice("device", name, DEVICES)]
