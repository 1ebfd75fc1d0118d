"""Kinds of tokens by their text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.parts.fidelity.tally import KINDS

SPACES = ("Ġ", "▁", " ")
"""Marks of a space before a token: of byte-level BPE, of sentencepiece, and the space itself."""
CODE = frozenset("{}[]()<>=+-*/\\|&^%~@#$_`;:")
"""Brackets, operators and other marks of code."""


def kind_of(token: str) -> str:
    """Return the kind of a token as the vocabulary writes it.

    A digit has only digits. A word start has a space and then a letter. Code punctuation has no
    letter and no digit, and at least one of CODE.
    """
    text = token.strip("".join(SPACES))
    if text.isdigit():
        return "digit"
    if any(letter.isalnum() for letter in text):
        starts = token.startswith(SPACES) and text[:1].isalpha()
        return "word start" if starts else "other token"
    return "code punctuation" if CODE & set(text) else "other token"


def kinds_of(tokens: Iterable[int], tokenizer: Any) -> dict[int, int]:
    """Return the index in KINDS of each token id. tokenizer: of transformers."""
    ids = sorted(set(tokens))
    texts = tokenizer.convert_ids_to_tokens(ids)
    return {token: KINDS.index(kind_of(str(text))) for token, text in zip(ids, texts, strict=True)}
