"""A model's tokenizer as planning sees it: read once, without transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from bench.inputs.bos import begins_with_bos
from methods.contract.errors import UserError
from methods.model.safe_files import read_object

MAX_ADDED_TOKENS = 2**14
"""Largest number of tokens added to a vocabulary. Known models add at most some thousands."""
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
"""Files and folders with chat templates, besides tokenizer_config.json."""


@dataclass(frozen=True)
class TokenizerFacts:
    """The tokenizer of a model folder."""

    path: Path
    """tokenizer.json, whether it exists or not."""
    tokenizer: Tokenizer | None
    """Tokenizer of that file. None: the file does not exist."""
    begins_with_bos: bool
    """True if the file puts a special token before every text."""
    lacks_template: bool
    """True if there is no chat template. False if the files cannot be read."""
    _counts: dict[str, int] = field(default_factory=dict, repr=False)
    """Numbers of tokens by text. Several measures count the same text."""

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, without truncation. tokenizer.json must exist."""
        if text not in self._counts:
            assert self.tokenizer is not None
            with tokenizer_faults(self.path):
                self._counts[text] = len(self.tokenizer.encode(text).ids)
        return self._counts[text]

    def require_fit(self, rows: int) -> None:
        """Refuse more tokens than rows of the embedding, and more added ones than
        MAX_ADDED_TOKENS."""
        if self.tokenizer is None:
            return
        added = len(self.tokenizer.get_added_tokens_decoder())
        if added > MAX_ADDED_TOKENS:
            raise UserError(
                f"{self.path} has {added:,} added tokens, more than {MAX_ADDED_TOKENS:,}: use the "
                "model's own tokenizer"
            )
        last = max(self.tokenizer.get_vocab(with_added_tokens=False).values(), default=0)
        if last >= rows:
            raise UserError(
                f"{self.path} has tokens up to {last}, and the model's embedding {rows} rows: use "
                "the model's own tokenizer"
            )


def read_tokenizer_facts(folder: Path) -> TokenizerFacts:
    """Read the tokenizer of a model folder. Raise UserError if tokenizer.json is damaged."""
    path = folder / "tokenizer.json"
    tokenizer, begins = None, False
    if path.exists():
        tokenizer = read_tokenizer(path)
        with tokenizer_faults(path):
            begins = begins_with_bos(tokenizer)
            tokenizer.no_truncation()  # some files turn it on
    return TokenizerFacts(path, tokenizer, begins, _lacks_template(folder))


def _lacks_template(folder: Path) -> bool:
    try:
        config = read_object(folder, "tokenizer_config.json")
    except (ValueError, OSError):
        return False
    if config is None or config.get("chat_template"):
        return False
    return not any((folder / name).exists() for name in TEMPLATES)


def read_tokenizer(tokenizer_json: Path) -> Tokenizer:
    """Read a tokenizer. Raise UserError if the file is damaged."""
    with tokenizer_faults(tokenizer_json):
        return Tokenizer.from_file(str(tokenizer_json))


@contextlib.contextmanager
def tokenizer_faults(tokenizer_json: Path) -> Iterator[None]:
    """Raise UserError in place of what the library raises. A panic has no base class but
    BaseException."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as fault:  # noqa: BLE001 (a panic has no other base)
        raise UserError(
            f"cannot use {tokenizer_json} ({fault}): download or write it again"
        ) from None
