"""Weights in few bits, as a file holds them, and what they stand for: a plain reference.

numpy only. Every weight is rounded to the nearest value that its format has; nothing is calibrated.
How many weights share a scale, and of how many bits, is what costs counts (FORMATS), so that packed
bytes and arithmetic are equal; fp8 alone has a scale of 4 bytes a matrix that costs leave out. A
group lies along a row, or takes whole rows where those are shorter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from moeviz.checks import brief
from moeviz.costs.cost.quantisation import FORMATS

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Packed:
    """A matrix in a format. parts: arrays as a file holds them; shape: what they stand for."""

    form: str
    shape: tuple[int, ...]
    parts: Arrays

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())


def pack(weight: np.ndarray, form: str) -> Packed:
    """A weight, float [..., columns], in a format. ValueError for a format that nobody packs here,
    for groups that do not fit the rows, and for weights that are not finite."""
    codec = codec_of(form)
    weight = np.asarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise ValueError(f"A weight that {form} is to hold must be finite numbers.")
    group, columns = FORMATS[form].group, weight.shape[-1]
    if group and (weight.size % group or (columns % group and group % columns)):
        fitting = [n for n in CODECS if n not in WIDE and not columns % (FORMATS[n].group or 1)]
        raise ValueError(
            f"{form} packs groups of {group} weights, which rows of {columns} neither hold nor "
            f"fill evenly; {', '.join(fitting)} would."
        )
    return Packed(form, weight.shape, codec.pack(weight.reshape(-1, group or weight.size)))


def unpack(packed: Packed) -> np.ndarray:
    """What the packed parts stand for, float32 of its shape."""
    group = FORMATS[packed.form].group or int(np.prod(packed.shape))
    return codec_of(packed.form).unpack(packed.parts, group).reshape(packed.shape)


def codec_of(form: str) -> Codec:
    """How a format is packed; ValueError for one that costs can count and nobody packs here."""
    if form not in CODECS:
        raise ValueError(
            f"Weights are packed as {', '.join(CODECS)}, not as {brief(form)}: choose one of them."
        )
    return CODECS[form]


class Codec(ABC):
    """A format's way into arrays and back; rows are groups of one scale."""

    @abstractmethod
    def pack(self, weight_GN: np.ndarray) -> Arrays:
        """Groups of weights as arrays."""

    @abstractmethod
    def unpack(self, parts: Arrays, group: int) -> np.ndarray:
        """The arrays as groups of weights, float32 [G, group]."""


class Plain(Codec):
    """Each number by itself, cut to a shorter float."""

    def __init__(self, dtype: type) -> None:
        self.dtype = dtype

    def pack(self, weight_GN: np.ndarray) -> Arrays:
        return {"value": weight_GN.astype(self.dtype)}

    def unpack(self, parts: Arrays, group: int) -> np.ndarray:
        return parts["value"].astype(np.float32)


class BFloat16(Codec):
    """The upper half of a float32, rounded to even; numpy has no such type."""

    def pack(self, weight_GN: np.ndarray) -> Arrays:
        bits = weight_GN.view(np.uint32).astype(np.uint64)
        return {"value": ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)}

    def unpack(self, parts: Arrays, group: int) -> np.ndarray:
        return (parts["value"].astype(np.uint32) << 16).view(np.float32)


class Integers(Codec):
    """Whole numbers times a float16 scale. symmetric: the scale is set by the largest magnitude;
    else by the range, which holds zero, and a zero point says which code is 0."""

    def __init__(self, bits: int, symmetric: bool = True) -> None:
        self.bits, self.symmetric = bits, symmetric

    def pack(self, weight_GN: np.ndarray) -> Arrays:
        half, top = 1 << self.bits - 1, (1 << self.bits) - 1
        if self.symmetric:
            scale_G1 = _half(np.abs(weight_GN).max(1, keepdims=True) / (half - 1))
            zero_G1 = np.full_like(scale_G1, half)
        else:
            low_G1 = np.minimum(weight_GN.min(1, keepdims=True), 0)
            scale_G1 = _half((np.maximum(weight_GN.max(1, keepdims=True), 0) - low_G1) / top)
            zero_G1 = np.clip(np.rint(-low_G1 / _divisor(scale_G1)), 0, top)
        code_GN = np.clip(np.rint(weight_GN / _divisor(scale_G1)) + zero_G1, 0, top)
        parts = {"code": pack_bits(code_GN, self.bits), "scale": scale_G1.astype(np.float16)}
        return parts if self.symmetric else parts | {"zero": pack_bits(zero_G1, self.bits)}

    def unpack(self, parts: Arrays, group: int) -> np.ndarray:
        scale_G1 = parts["scale"].astype(np.float32).reshape(-1, 1)
        zero_G1: np.ndarray | int = 1 << self.bits - 1
        if not self.symmetric:
            zero_G1 = unpack_bits(parts["zero"], self.bits, len(scale_G1))[:, None]
        code_GN = unpack_bits(parts["code"], self.bits, len(scale_G1) * group)
        return (code_GN.reshape(-1, group) - zero_G1).astype(np.float32) * scale_G1


class Floats(Codec):
    """Small floats of a table times a scale: float32 for a whole matrix, or for each group a power
    of two, whose exponent is a byte (OCP Microscaling v1.0)."""

    def __init__(self, exponent_bits: int, mantissa_bits: int, largest: float, micro: bool) -> None:
        self.bits, self.largest, self.micro = 1 + exponent_bits + mantissa_bits, largest, micro
        self.value_C = _small_floats(exponent_bits, mantissa_bits, largest)

    def pack(self, weight_GN: np.ndarray) -> Arrays:
        most_G1 = np.abs(weight_GN).max(1, keepdims=True)
        if self.micro:
            # The largest weight gets the largest exponent that the table has.
            exponent = np.frexp(most_G1)[1] - np.frexp(self.largest)[1]
            stored = np.where(most_G1 > 0, np.clip(exponent + 127, 0, 254), 0).astype(np.uint8)
            scale_G1 = _power_of_two(stored)
        else:
            stored = scale_G1 = (most_G1 / self.largest).astype(np.float32)
        size_GN = np.abs(weight_GN) / _divisor(scale_G1)
        between = (self.value_C[1:] + self.value_C[:-1]) / 2
        code_GN = np.searchsorted(between, size_GN)
        # Half way: the even code, as floats round.
        tie = (code_GN < len(between)) & (between[code_GN.clip(max=len(between) - 1)] == size_GN)
        code_GN += tie & (code_GN % 2 == 1)
        code_GN |= np.signbit(weight_GN).astype(np.int64) << self.bits - 1
        return {"code": pack_bits(code_GN, self.bits), "scale": stored}

    def unpack(self, parts: Arrays, group: int) -> np.ndarray:
        scale = parts["scale"].reshape(-1, 1)
        scale_G1 = _power_of_two(scale) if self.micro else scale
        code_GN = unpack_bits(parts["code"], self.bits, len(scale) * group).reshape(-1, group)
        sign_bit = 1 << self.bits - 1
        value_GN = self.value_C[code_GN & sign_bit - 1]
        return np.where(code_GN & sign_bit, -value_GN, value_GN) * scale_G1


def pack_bits(code: np.ndarray, bits: int) -> np.ndarray:
    """Codes of so many bits end to end, the lowest bit first, uint8."""
    code_N1 = code.astype(np.uint8).reshape(-1, 1)
    return np.packbits(code_N1 >> np.arange(bits, dtype=np.uint8) & 1, bitorder="little")


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` codes, int64 [count]."""
    bit_N = np.unpackbits(packed, count=count * bits, bitorder="little")
    return bit_N.reshape(-1, bits) @ (1 << np.arange(bits))


def _half(scale: np.ndarray) -> np.ndarray:
    """What float16 keeps of a scale, as float32."""
    return np.minimum(scale, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)


def _divisor(scale: np.ndarray) -> np.ndarray:
    """The scale, 1 where it is 0: a group of zeros."""
    return np.where(scale > 0, scale, np.float32(1))


def _power_of_two(stored: np.ndarray) -> np.ndarray:
    return np.ldexp(np.float32(1), stored.astype(np.int32) - 127)


def _small_floats(exponent_bits: int, mantissa_bits: int, largest: float) -> np.ndarray:
    """The values of all codes without a sign, in their order, up to the largest."""
    code = np.arange(1 << exponent_bits + mantissa_bits)
    exponent, mantissa = divmod(code, 1 << mantissa_bits)
    bias = (1 << exponent_bits - 1) - 1
    fraction = mantissa / (1 << mantissa_bits) + (exponent > 0)
    value = np.ldexp(fraction, np.maximum(exponent, 1) - bias).astype(np.float32)
    return value[value <= largest]


CODECS: dict[str, Codec] = {
    "fp32": Plain(np.float32),
    "bf16": BFloat16(),
    "fp16": Plain(np.float16),
    "fp8": Floats(4, 3, 448.0, micro=False),
    "int8": Integers(8),
    "int4": Integers(4),
    "int4_zero": Integers(4, symmetric=False),
    "int4_g32": Integers(4),
    "mxfp4": Floats(2, 1, 6.0, micro=True),
    "int3": Integers(3),
    "int2": Integers(2),
}
WIDE = ("fp32", "bf16", "fp16")
