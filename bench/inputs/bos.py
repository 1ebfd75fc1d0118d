"""Rule for BOS, the beginning-of-text token: which sequences begin with it.

Evaluation windows, calibration sequences and training sequences follow this rule. A model that
always saw BOS in training, such as Gemma, predicts much worse without it.
"""

from __future__ import annotations

from typing import Any, Literal

from tokenizers import Tokenizer

from methods.contract.errors import UserError

BosRule = Literal["auto", "always", "never"]
"""Setting of a run."""
Bos = Literal["", "auto", "always", "never"]
"""Rule as far as it changes the tokens. Empty: sequences have no BOS, and neither has the
tokenizer's encoding."""


def begins_with_bos(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer puts a special token before every text."""
    return tokenizer.encode("a").special_tokens_mask[:1] == [1]


def resolve_bos(rule: BosRule, *, adds: bool) -> Bos:
    """Return the rule as far as it changes the tokens. adds: the tokenizer begins every text with
    BOS."""
    if adds:
        return "never" if rule == "never" else "auto"
    return "always" if rule == "always" else ""


def count_first(bos: Bos) -> int:
    """Return how many tokens of a sequence are BOS: 1 or 0."""
    return int(bos in ("auto", "always"))


def first_tokens(tokenizer: Any, bos: Bos) -> list[int]:
    """Return the tokens at the start of each sequence: BOS, or none. Raise UserError if
    transformers' tokenizer has no BOS."""
    if bos == "auto":
        return list(tokenizer("a")["input_ids"])[:1]
    if bos != "always":
        return []
    if tokenizer.bos_token_id is None:
        raise UserError(
            "bos=always needs a BOS token, and the model's tokenizer has none: use bos=auto"
        )
    return [tokenizer.bos_token_id]


def encode(tokenizer: Any, text: str, first: list[int], **options: Any) -> Any:
    """Encode a text that is cut into sequences, which start with `first`. If that is empty, the
    tokenizer may add BOS once."""
    if first:
        options["add_special_tokens"] = False
    return tokenizer(text, **options)
