"""Patterns that hardware runs."""

from __future__ import annotations

from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

NO_HARDWARE = "no hardware"
"""Words in the label of an n:m pattern that no hardware runs."""
HALF = Pattern.parse("2:4")
"""Pattern of sparse tensor cores with operands of 8 or 16 bits."""
HALF_OF_PAIRS = Pattern.parse("pairs:4:8")
"""Pattern of sparse tensor cores with operands of 4 bits."""
FOUR_BIT_OPERANDS = "w4a4"
"""End of the names of quantizers whose weights and inputs both have 4 bits."""


def hardware_limit(pattern: Pattern, quantizer: str = "none") -> float | None:
    """Return the most that hardware can speed up the arithmetic of a pattern. None if no hardware
    supports it.

    Sparse tensor cores have 2:4 for operands of 8 or 16 bits, at 2 times, and a pattern that holds
    2:4, such as 1:4, runs as 2:4. So does pairs:4:8, with the inputs of each eight in the order 0 2
    4 6 1 3 5 7. (2N-2):2N runs on them as N - 1 windows of 2:4 for every N dense ones: N/(N-1).

    If both operands have 4 bits, the cores have pairs:4:8, at 2 times, and no 2:4: PTX ISA 9.1,
    9.7.14.6.1 (`mma.sp` with s4, u4 and e2m1) and 9.7.16.10.8 (`tcgen05.mma.sp` with mxf4 and
    mxf4nvf4). Weights of 4 bits alone are multiplied as 16-bit floats. 2:4 in e2m1 runs as an 8-bit
    format (f8f6f4), which is no faster than dense 4 bits.
    """
    if pattern.beside:  # its term costs dense arithmetic
        return None
    if pattern.implies(HALF_OF_PAIRS):
        return 2.0
    if quantizer.partition(":")[0].endswith(FOUR_BIT_OPERANDS):
        return None
    if pattern.implies(HALF):
        return 2.0
    half, odd = divmod(pattern.m, 2)
    if pattern.unit > 1 or pattern.m < 4 or odd or pattern.n != pattern.m - 2:
        return None
    return half / (half - 1)


def pattern_label(text: str, quantizer: str = "none") -> str:
    """Return a pattern as tables show it. A group pattern that no hardware runs with a quantizer is
    marked."""
    try:
        pattern = Pattern.parse(text)
    except UserError:
        return text  # a name of another program's pattern
    runs = pattern.dense or pattern.unstructured
    if runs or hardware_limit(pattern.base, quantizer) is not None:
        return text
    return f"{text}, {NO_HARDWARE}"
