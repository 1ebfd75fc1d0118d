"""Numbers and names as text, as tables, figures and commands print them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

EXACT_DIGITS = 12
"""Significant digits of a number without an interval. The rest of a float is the rounding of its
processor."""

INTERVAL_DIGITS = 4
"""Significant digits of an interval's half width that are kept: the two that it supports, and two
for text to round."""


def rounded(
    value: float, low: float | None = None, high: float | None = None
) -> tuple[float, float | None, float | None]:
    """Round a value and its interval to INTERVAL_DIGITS significant digits of the interval's half
    width."""
    value = _exact(value)
    if low is None or high is None:
        return value, low, high
    low, high = _exact(low), _exact(high)
    half = _exact((high - low) / 2)
    if not 0 < half < math.inf:
        return value, low, high
    decimals = INTERVAL_DIGITS - 1 - math.floor(math.log10(half))
    return round(value, decimals), round(low, decimals), round(high, decimals)


def _exact(value: float) -> float:
    return float(f"{value:.{EXACT_DIGITS}g}")


def quantity(
    number: Callable[[float], str],
    unit: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Format a value with its interval if it has one, and the unit once: 2.2 pp (−1.2 to 7.3)."""
    text = number(value) + unit
    if low is None or high is None:
        return text
    return f"{text} ({number(low)} to {number(high)})"


def bits_per_byte(value: float, low: float, high: float) -> str:
    """Format a change of bits per byte: 0.51 (0.40 to 0.62)."""
    return quantity(
        lambda number: _with_minus(f"{round(number, 2) + 0.0:.2f}"), "", value, low, high
    )


def ratio(value: float, low: float | None = None, high: float | None = None) -> str:
    """Format a ratio: ×1.002 (1.000 to 1.004)."""
    return "×" + quantity(_four_digits, "", value, low, high)


def hundredths(value: float) -> str:
    """Format a fraction in hundredths, with one decimal, and from 1,000 on without decimals."""
    digits = 0 if abs(value) >= 10 else 1
    # + 0.0: no minus before a zero.
    return _with_minus(f"{round(100 * value, digits) + 0.0:,.{digits}f}")


def _four_digits(value: float) -> str:
    """Format a number with three decimals, or with fewer if it is large: 1.002, 84.69, 10,995."""
    return f"{value:,.{max(3 - math.floor(math.log10(max(value, 1))), 0)}f}"


def _with_minus(number: str) -> str:
    return number.replace("-", "−")


difference = partial(quantity, lambda x: _with_minus(f"{x:+.3f}"), "")
percent = partial(quantity, hundredths, "%")
points = partial(quantity, hundredths, " pp")


def short_count(value: int) -> str:
    """Format a count in three digits: 819k, 1.23M, 7.5B."""
    # 999,936 is 1M, not 1e+03k.
    short = float(f"{value:.3g}")
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if short >= size:
            return f"{short / size:g}{letter}"
    return str(value)


def duration(seconds: float) -> str:
    """Write seconds for people: 0.3 s, 12 s, 4 min, 1.3 h, 5.3 days, 12 years."""
    day = 86400
    units = (
        (730 * day, 365 * day, "years"),
        (2 * day, day, "days"),
        (3600, 3600, "h"),
        (60, 60, "min"),
        (0, 1, "s"),
    )
    size, unit = next((size, unit) for least, size, unit in units if seconds >= least)
    value = seconds / size
    if value < 10:
        return f"{value:.2g} {unit}"
    return f"{value:,.0f} {unit}"


def cut(text: str, length: int) -> str:
    """Cut a text to `length` letters. An ellipsis replaces its end, but for short last words, such
    as a pattern."""
    if len(text) <= length:
        return text
    last = text[-(length // 3) :]
    tail = last[last.index(" ") :] if " " in last else ""
    return text[: length - 1 - len(tail)] + "…" + tail


def clock_time(seconds: float) -> str:
    """Return the time of day `seconds` from now, with the date if that is another day."""
    now = time.time()
    end = time.localtime(now + seconds)
    today = time.localtime(now)
    same_day = (end.tm_year, end.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M", end)
