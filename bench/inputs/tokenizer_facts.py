"""A model's tokenizer as planning sees it: read once, without transformers.

The library runs in a process with bounds, because it ends the process in which memory runs out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.inputs.bos import begins_with_bos
from bench.system import digests
from bench.system.bounded import OutOfBounds, call_bounded
from methods.contract.errors import UserError
from methods.model.safe_files import read_object

MAX_SPECIAL_TOKENS = 2
"""Number of special tokens that known tokenizers add to a text."""
MAX_GROWTH = 16
"""Largest number of tokens for each byte of a text. A byte of known models is at most one token."""
TOKENIZER_BYTES, TOKENIZER_SECONDS = 2**30, 60
"""Memory and processor time to read a tokenizer. The largest take a fifth of the memory, and a few
seconds."""
BYTES_PER_BYTE, BYTES_PER_SECOND = 1000, 50_000
"""Memory to encode a byte of text, and bytes to encode in a second. Both are generous."""
PROBE = "".join(map(chr, range(32, 127)))
"""Text whose number of tokens shows whether a tokenizer makes texts longer."""
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
"""Files and folders with chat templates, besides tokenizer_config.json."""

_known: dict[str, TokenizerFacts] = {}
"""Facts of each file that this process has read, by content. Plans of several specs share them."""


@dataclass(frozen=True)
class TokenizerFacts:
    """The tokenizer of a model folder."""

    path: Path
    """tokenizer.json, whether it exists or not."""
    exists: bool
    """True if there is a tokenizer.json."""
    begins_with_bos: bool
    """True if the file puts a special token before every text."""
    lacks_template: bool = False
    """True if there is no chat template. False if the files cannot be read."""
    last: int = 0
    """Largest token of the vocabulary."""
    _counts: dict[bytes, int] = field(default_factory=dict, repr=False)
    """Numbers of tokens by digest of the text. Several measures and plans count the same text."""

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, without truncation. tokenizer.json must exist."""
        encoded = text.encode()
        name = hashlib.sha256(encoded).digest()
        if name not in self._counts:
            self._counts[name] = ask(self.path, lambda known: _count(known, text), len(encoded))
        return self._counts[name]

    def require_fit(self, rows: int) -> None:
        """Refuse more tokens than rows of the embedding."""
        if self.exists and self.last >= rows:
            raise UserError(
                f"{self.path} has tokens up to {self.last}, and the model's embedding {rows} rows: "
                "use the model's own tokenizer"
            )


def read_tokenizer_facts(folder: Path) -> TokenizerFacts:
    """Read the tokenizer of a model folder. Raise UserError if tokenizer.json is damaged, or gives
    a text other tokens than the model was trained on."""
    path = folder / "tokenizer.json"
    facts = TokenizerFacts(path=path, exists=False, begins_with_bos=False)
    if path.exists():
        content = digests.of_file(path)
        if content not in _known:
            _known[content] = TokenizerFacts(path=path, exists=True, **ask(path, _read_facts))
        facts = _known[content]
    return replace(facts, path=path, lacks_template=_lacks_template(folder))


def ask(path: Path, question: Callable[[Tokenizer], Any], size: int = 0) -> Any:
    """Return the answer of a function of a tokenizer, which must be JSON.

    path: tokenizer.json. size: bytes of the text that the function encodes. Raise UserError if the
    file is damaged, or takes too much memory or time.
    """
    try:
        return call_bounded(
            lambda: question(Tokenizer.from_file(str(path))),
            TOKENIZER_BYTES + BYTES_PER_BYTE * size,
            TOKENIZER_SECONDS + size // BYTES_PER_SECOND,
        )
    except OutOfBounds as fault:
        raise UserError(f"cannot use {path} ({fault}): download or write it again") from None


def _read_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the facts of a tokenizer. Raise ValueError for one whose tokens are random, padded or
    far more than the text."""
    if getattr(tokenizer.model, "dropout", None):
        raise ValueError(
            f"BPE dropout of {tokenizer.model.dropout} gives random tokens, so set it to null"
        )
    padding = tokenizer.padding or {}
    if padding.get("length") or padding.get("pad_to_multiple_of"):
        raise ValueError("it pads every text, so set padding to null")
    if _count(tokenizer, PROBE) > MAX_GROWTH * len(PROBE):
        raise ValueError(f"it makes more than {MAX_GROWTH} tokens of a character")
    vocabulary = tokenizer.get_vocab(with_added_tokens=False).values()
    return {"begins_with_bos": begins_with_bos(tokenizer), "last": max(vocabulary, default=0)}


def _count(tokenizer: Tokenizer, text: str) -> int:
    tokenizer.no_truncation()  # some files turn it on
    return len(tokenizer.encode(text).ids)


def _lacks_template(folder: Path) -> bool:
    """Return whether a folder has no chat template. Refuse sentencepiece that samples."""
    try:
        config = read_object(folder, "tokenizer_config.json")
    except (ValueError, OSError):
        return False
    if config is not None and config.get("sp_model_kwargs"):
        raise UserError(
            f"tokenizer_config.json in {folder} has sp_model_kwargs, which can give a text random "
            "tokens: delete them"
        )
    if config is None or config.get("chat_template"):
        return False
    return not any((folder / name).exists() for name in TEMPLATES)


def read_vocabulary(tokenizer_json: Path) -> dict[str, int]:
    """Return the number of each token. Raise UserError if the file is damaged."""
    found: dict[str, int] = ask(tokenizer_json, Tokenizer.get_vocab)
    return found
