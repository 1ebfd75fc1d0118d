"""Suggest known names for an unknown one."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any


def describe_unknown(kind: str, name: str, known: Any) -> str:
    """An error sentence for an unknown name, with the nearest known names, or all of them."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return f"unknown {kind} {name!r}: {hint}"
