"""wiki-mini: 95 English Wikipedia articles as plain prose, and two zero-shot tasks made from its
test articles.

Both are part of this package. The README.md beside them says how they were made, and gives their
licence.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from methods.contract.errors import UserError

FOLDER = Path(str(resources.files("bench"))) / "assets" / "wiki-mini"
ARTICLES = FOLDER / "articles.json.xz"
"""JSON list of [split, title, text], compressed."""
SHA256 = "89c65ec886ed6290ccb75a75d52179f6ae4b19b9acb110adf3f7bbc6cb0a632b"
"""Digest of ARTICLES."""
VERSION = "dfb07cbee75b"
"""Digest of the articles in keys of records. Change it if a text changes."""
SPLITS = ("train", "validation", "test")

TASKS = {"wiki_continuation": 400, "wiki_lastword": 400}
"""Number of questions of each task. FOLDER has its YAML and its questions."""
TASK_VERSION = "1.0"
TASKS_DIGEST = "a924eedf3486"
"""Digest of the questions in keys of records. Change it if a question changes."""


class Article(NamedTuple):
    """An article: one line for each paragraph and heading."""

    title: str
    text: str


def articles(split: str) -> list[Article]:
    """Return the articles of a split, in the order of the dump. Raise UserError if the package's
    file is damaged."""
    return _read_articles()[split]


@cache
def _read_articles() -> dict[str, list[Article]]:
    content = ARTICLES.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise UserError(
            f"{ARTICLES} has sha256 {found[:12]}…, not {SHA256[:12]}…: install cast-bench again"
        )
    splits: dict[str, list[Article]] = {split: [] for split in SPLITS}
    for split, title, text in json.loads(lzma.decompress(content)):
        splits[split].append(Article(title, text))
    return splits
