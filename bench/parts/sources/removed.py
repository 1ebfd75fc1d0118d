"""Paragraphs that were left out of the sources because test questions have a passage of them.

scripts/shared_text.py writes shared_text.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TypedDict


class About(TypedDict):
    """What is known of a corpus, of all tracks."""

    found: dict[str, int]
    """Passages that it shared with each track, before paragraphs were left out."""
    removed: list[str]
    """Digests of the paragraphs that were left out."""


@cache
def known() -> dict[str, About]:
    """Return what was counted, by the name of the corpus."""
    text = files(__package__).joinpath("shared_text.json").read_text(encoding="utf-8")
    read: dict[str, About] = json.loads(text)
    return read


def digest_of(paragraph: str) -> str:
    """Return the name of a paragraph in shared_text.json."""
    return hashlib.sha256(paragraph.encode()).hexdigest()[:12]


def without_removed(name: str, paragraphs: Sequence[str]) -> list[str]:
    """Return the paragraphs of a corpus that share no passage."""
    removed = set(known().get(name, {"removed": []})["removed"])
    return [one for one in paragraphs if digest_of(one) not in removed]
