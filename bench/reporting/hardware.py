"""Patterns that hardware runs."""

from __future__ import annotations

from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

NO_HARDWARE = "no hardware"
"""Words in the label of an n:m pattern that no hardware runs."""


def hardware_limit(pattern: Pattern) -> float | None:
    """Return the most that hardware can speed up the arithmetic of a pattern. None if no hardware
    supports it.

    Sparse tensor cores have 2:4, at 2 times, and a pattern that holds 2:4, such as 1:4, runs as
    2:4. (2N-2):2N runs on them as N - 1 windows of 2:4 for every N dense ones: N/(N-1).
    """
    if pattern.beside:  # its term costs dense arithmetic
        return None
    half, odd = divmod(pattern.m, 2)
    if pattern.m in (2, 4) and 2 * pattern.n <= pattern.m:
        return 2.0
    if pattern.m < 4 or odd or pattern.n != pattern.m - 2:
        return None
    return half / (half - 1)


def pattern_label(text: str) -> str:
    """Return a pattern as tables show it. A group pattern that no hardware runs is marked."""
    try:
        pattern = Pattern.parse(text)
    except UserError:
        return text  # a name of another program's pattern
    runs = pattern.dense or pattern.unstructured or hardware_limit(pattern.base) is not None
    return text if runs else f"{text}, {NO_HARDWARE}"
