"""Limits that a row of a leaderboard must meet: their flags, sliders and sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.reporting.facts import Bound, Facts
from bench.reporting.words import hundredths, quantity
from methods.contract.errors import UserError


@dataclass(frozen=True)
class Limits:
    """The limits that a row must meet. None: no limit. Loss and worst drop are fractions."""

    max_mb: float | None = None
    max_bits: float | None = None
    max_loss: float | None = None
    max_worst_drop: float | None = None
    min_speedup: float | None = None
    budget_tokens: int | None = None


@dataclass(frozen=True)
class Limit:
    """A limit that can be set."""

    name: str
    noun: str
    sentence: str
    bound: Callable[[Facts], Bound | None]
    """Reads what is limited from a row's facts."""
    excess: Callable[[float, float], float]
    """Says by how much a value is over its limit (value, limit), on a scale that all limits share.
    At most 0: met."""
    number: Callable[[float], str]
    unit: str
    example: str
    label: str
    """Name of the page's slider."""
    stops: tuple[str, ...]
    """Values at which the slider stops, from strict to lax. Behind the last, the limit is off."""

    def text(self, value: float, low: float | None = None, high: float | None = None) -> str:
        """Format a value with its unit, and with its interval if it has one."""
        return quantity(self.number, self.unit, value, low, high)

    def given(self, value: float) -> str:
        """Format the limit itself with up to 15 digits, which a float keeps."""
        return f"{value / FORMS[self.name][2]:,.15g}{self.unit}"


def _share(value: float, limit: float) -> float:
    if limit:
        return value / limit - 1
    return math.inf if value > 0 else 0.0


def _exact(value: float | None) -> Bound | None:
    return None if value is None else Bound(value)


def _stops(numbers: str, unit: str = "") -> tuple[str, ...]:
    return tuple(number + unit for number in numbers.split())


LIMITS = (
    Limit(
        "max_mb",
        "size of the model",
        "at most {}",
        lambda f: _exact(None if f.bytes is None else f.bytes / 1e6),
        _share,
        "{:,.4g}".format,
        " MB",
        "100MB",
        "Most bytes of the model",
        _stops(
            "0.5 1 2 5 10 20 50 75 100 125 150 200 250 300 400 500 750 1000 2000 5000 10000", "MB"
        ),
    ),
    Limit(
        "max_bits",
        "bits per weight",
        "at most {} bits per weight",
        lambda f: _exact(f.bits),
        _share,
        "{:.4g}".format,
        "",
        "5",
        "Most bits per weight",
        _stops("2 2.5 3 3.25 3.5 4 4.25 4.5 5 5.5 6 8 8.5 9 10 12 16 17"),
    ),
    Limit(
        "max_loss",
        "loss",
        "a loss of at most {}",
        lambda f: f.loss,
        lambda v, x: (1 + v) / (1 + x) - 1,
        hundredths,
        "%",
        "3%",
        "Most loss",
        _stops("0 0.5 1 2 3 5 7.5 10 15 20 30 40 50 75 100 150 200 300 400 500 1000", "%"),
    ),
    Limit(
        "max_worst_drop",
        "worst task's drop",
        "a worst task that loses at most {}",
        lambda f: f.drop,
        lambda v, x: v - x,
        hundredths,
        " pp",
        "5pp",
        "Worst task loses at most",
        _stops("0 1 2 3 4 5 7.5 10 15 20 30", "pp"),
    ),
    Limit(
        "min_speedup",
        "speedup",
        "a measured speedup of at least {}",
        lambda f: f.speedup,
        lambda v, x: x / v - 1,
        "{:.2f}".format,
        "×",
        "1.2",
        "Least speedup",
        _stops("3 2 1.75 1.5 1.4 1.3 1.2 1.1 1"),
    ),
    Limit(
        "budget_tokens",
        "tokens to make",
        "at most {} tokens to make",
        lambda f: _exact(f.tokens),
        _share,
        "{:,.0f}".format,
        "",
        "2M",
        "Most tokens to make",
        _stops("0 10k 20k 50k 100k 200k 500k 1M 2M 5M 10M 100M 1B 10B"),
    ),
)
"""All limits, in the order of the flags."""

FORMS = {
    "max_mb": (r"(\d+(?:\.\d+)?) ?(?:MB)?", "a number of MB", 1.0),
    "max_bits": (r"(\d+(?:\.\d+)?)", "a number of at least 0", 1.0),
    "max_loss": (r"(\d+(?:\.\d+)?)%", "a percentage", 0.01),
    "max_worst_drop": (r"(\d+(?:\.\d+)?) ?pp", "percentage points", 0.01),
    "min_speedup": (r"(\d+(?:\.\d+)?)[x×]?", "a number above 0", 1.0),
    "budget_tokens": (r"(\d+(?:\.\d+)?)([kMB]?)", "a number of tokens", 1.0),
}
"""The form of each limit's text, its name in an error, and the factor of its number."""
MAX_DIGITS = 17
"""Longest number of a limit, in characters."""
SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}


def parse_limits(**texts: str | None) -> Limits:
    """Read limits from a user's texts, by the names of the fields. Raise UserError if a text has
    another form."""
    given: dict[str, Any] = {}
    for limit in LIMITS:
        text = texts.get(limit.name)
        if text is not None:
            given[limit.name] = parse_limit(limit, text)
    return Limits(**given)


def parse_limit(limit: Limit, text: str) -> float | int:
    """Read the text of one limit. Raise UserError if it has another form."""
    form, words, scale = FORMS[limit.name]
    match = re.fullmatch(form, text.strip())
    is_valid = match is not None and len(match[1]) <= MAX_DIGITS
    is_zero = match is not None and float(match[1]) == 0
    if match is None or not is_valid or (is_zero and limit.name == "min_speedup"):
        flag = limit.name.replace("_", "-")
        raise UserError(f"invalid --{flag} {text!r}: must be {words}, for example {limit.example}")
    value = float(match[1]) * scale
    if limit.name == "budget_tokens":
        return round(value * SUFFIXES[match[2]])
    return value


def given_limits(limits: Limits) -> list[tuple[Limit, float]]:
    """Return the limits that are set, with their values."""
    pairs = [(limit, getattr(limits, limit.name)) for limit in LIMITS]
    return [(limit, value) for limit, value in pairs if value is not None]


def describe_limits(limits: Limits) -> str:
    """Say the limits in words, as the object of a sentence."""
    parts = [limit.sentence.format(limit.given(value)) for limit, value in given_limits(limits)]
    if not parts:
        return "all limits, because none is set"
    return "these limits: " + ", ".join(parts)
