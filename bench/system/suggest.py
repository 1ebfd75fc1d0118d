"""Suggest known names for an unknown one."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from bench.system import terminal

DECIDES_NO_NUMBER = True

MAX_LISTED = 240
"""Largest number of characters of the known names in a sentence."""
MAX_TYPED = 80
"""Largest number of characters of user input in a sentence."""


def describe_unknown(kind: str, name: str, known: Any, also: str = "") -> str:
    """Return an error about an unknown name, with the known names that complete it, or the nearest
    ones, or else as many known names as fit.

    also: text after these names about other valid values.
    """
    name = shorten(name)
    near = [one for one in known if one.startswith(f"{name}-")][:3]
    near = near or get_close_matches(name, list(known), n=3, cutoff=0.65)
    near = near or [one for one in known if name and one.startswith(name)][:3]
    hint = f"known: {_list(list(known))}{also}"
    if near:
        hint = f"did you mean {' or '.join(near)}{also}?"
    elif not known and not also:
        hint = "none is installed"
    return f"unknown {kind} {name!r}: {hint}"


def _list(names: list[str]) -> str:
    text = ", ".join(names)
    if len(text) <= MAX_LISTED:
        return text
    shown = text[:MAX_LISTED].rpartition(",")[0]
    return f"{shown} and {len(names) - shown.count(',') - 1} more"


def shorten(value: Any) -> str:
    """Return user input for a sentence. A long text is cut in the middle."""
    try:
        text = str(value)
    except ValueError:  # Python writes no number of more digits in decimals
        text = "a number of more than 4,300 digits"
    return terminal.shorten(text, MAX_TYPED)
