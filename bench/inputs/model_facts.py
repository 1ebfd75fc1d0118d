"""ModelFacts: what a model's folder says, read once when its name is resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.model.families import Family
from methods.model.folder import Folder
from methods.model.targets import family_of, find_targets

if TYPE_CHECKING:
    from bench.inputs.tokenizer_facts import TokenizerFacts


@dataclass(frozen=True)
class QuickRun:
    """Smaller defaults for a model that serves as a first look. None: no smaller default."""

    tokens: int | None = None
    """Number of tokens in all evaluation windows together."""
    questions: int | None = None
    """Number of questions of each zero-shot task."""
    training_tokens: int | None = None
    """Number of training tokens, if no recipe is named."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model as planning sees it.

    Two models with one name have different digests, so they never share a record.
    """

    name: str
    folder: Path
    config: Mapping[str, Any] = field(repr=False)
    """Content of config.json."""
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    """Shape of each tensor."""
    dtype: str
    """Number format of most weights."""
    has_weights: bool = True
    """False if config.json is all that is known of the model."""
    has_tokenizer: bool = True
    """True if the folder has a tokenizer file."""
    digest: str
    """Digest of the weights and the config."""
    tokenizer_digest: str = ""
    """Digest of the tokenizer files."""
    companions_digest: str = ""
    """Digest of the files that a pruned folder copies."""
    revision: str = ""
    seqlen: int
    """Default length of an evaluation window in tokens, at most the context length."""
    data: str
    """Default evaluation corpus."""
    quick: QuickRun = QuickRun()
    terms: str = ""
    """Terms of use that records name."""

    @cached_property
    def family(self) -> Family:
        """Structure of the architecture. Raise UserError for an unknown one, or quantized
        weights."""
        return family_of(self.config)

    @cached_property
    def linears(self) -> tuple[str, ...]:
        """Names of all linears that can be pruned. Raise UserError for an unknown architecture."""
        return find_targets(self.config, self.shapes)

    @cached_property
    def tokenizer(self) -> TokenizerFacts:
        """The tokenizer. Raise UserError if its file is damaged."""
        from bench.inputs.tokenizer_facts import read_tokenizer_facts  # imports tokenizers

        return read_tokenizer_facts(self.folder)

    @property
    def positions(self) -> int | None:
        """Number of learned positions. None: no limit."""
        return self.config.get(self.family.positions)

    @property
    def download_bytes(self) -> int:
        """Bytes of all weights in `dtype`."""
        size = 4 if self.dtype == "float32" else 2
        return size * sum(map(math.prod, self.shapes.values()))

    def open(self) -> Folder:
        """Open the folder to read tensors."""
        return Folder(self.folder)
