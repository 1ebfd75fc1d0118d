"""Mixtures of corpora, such as wiki:0.5,code:0.5, for calibration and training."""

from __future__ import annotations

import math
import re
from pathlib import Path

from methods.contract.errors import UserError

PART = re.compile(r"(.+):(\d*\.?\d+)")


def shares_of(name: str) -> dict[str, float]:
    """Return the share of each corpus by its name. One corpus, or an existing file, has all.

    Raise UserError if the shares do not sum to 1, or a corpus is named twice.
    """
    found = [PART.fullmatch(part.strip()) for part in name.split(",")]
    parts = [(match[1], float(match[2])) for match in found if match]
    if len(parts) < 2 or len(parts) < len(found) or Path(name).exists():
        return {name: 1.0}
    shares = dict(parts)
    if len(shares) < len(parts):
        raise UserError(f"mixture {name} names a corpus twice: give each one share")
    total = sum(shares.values())
    if not math.isclose(total, 1.0, abs_tol=1e-6) or 0 in shares.values():
        raise UserError(
            f"the shares of mixture {name} sum to {total:g}: give positive shares that sum to 1"
        )
    return shares


def divide(shares: dict[str, float], count: int) -> dict[str, int]:
    """Return how many of `count` sequences each corpus gives. The largest remainders round up."""
    exact = {name: share * count for name, share in shares.items()}
    parts = {name: math.floor(number + 1e-9) for name, number in exact.items()}
    by_remainder = sorted(exact, key=lambda name: parts[name] - exact[name])
    for name in by_remainder[: count - sum(parts.values())]:
        parts[name] += 1
    return parts
