"""Numbers and names as text, as tables, figures and commands print them."""

from __future__ import annotations


def ratio(value: float, low: float | None = None, high: float | None = None) -> str:
    """A ratio, with its interval if it has one."""
    return f"×{value:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def difference(value: float) -> str:
    """A difference, with its sign."""
    return _with_minus(f"{value:+.3f}")


def percent(value: float) -> str:
    """A fraction as a percentage, with one decimal."""
    return f"{hundredths(value)}%"


def points(value: float) -> str:
    """A fraction in percentage points, with one decimal."""
    return f"{hundredths(value)} pp"


def hundredths(value: float) -> str:
    """A fraction in hundredths, with one decimal."""
    return _with_minus(f"{100 * value:.1f}")


def _with_minus(number: str) -> str:
    return number.replace("-", "−")


def short_count(value: int) -> str:
    """A count in three digits: 819k, 1.23M, 7.5B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return str(value)


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.3 s, 12 s, 4 min, 1.3 h."""
    size, unit = next((x for x in ((3600, "h"), (60, "min")) if seconds >= x[0]), (1, "s"))
    value = seconds / size
    return f"{value:.2g} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def cut(text: str, length: int) -> str:
    """At most `length` letters of a text; an ellipsis says that its end is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"
