"""Sizes that the host computes for each launch. Triton's own functions of these names, which its
kernels call too, take microseconds on the host: as long as a tenth of a launch."""


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is not below n >= 1."""
    return 1 << (n - 1).bit_length()
