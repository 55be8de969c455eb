"""How a figure is written in a sentence, the same everywhere."""

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")  # for powers


def percent(share: float, digits: int = 0, sign: str = "") -> str:
    """A share as "12 %", with a space; sign: as in a format, such as "+z"."""
    return f"{100 * share:{sign}.{digits}f} %"
