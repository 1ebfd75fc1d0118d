"""What a format of model folders or results implements: a writer of `bench export` is an entry
point in cast_bench.exports, a reader one in cast_bench.readers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.formats.checkpoint import Checkpoint
from bench.formats.shipping import Form
from bench.inputs.models import COMPANIONS
from methods.model.folder import Folder, read_config
from methods.model.safe_files import find_file

if TYPE_CHECKING:
    from bench.results.identity import Identity
    from bench.results.record import Record

__all__ = [
    "Checkpoint", "ExportFormat", "ModelFormat", "ModelResults", "ModelSource", "Options",
    "Reader", "ResultsFormat",
]  # fmt: skip

DECIDES_NO_NUMBER = True
SPARSITY_KEYS = ("sparsity_config", "compression_config")
"""Keys of config.json that loaders refuse, or take for formats that are no longer in use."""
MODEL_CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `bench export` for the format. None or () is an option that the user did not
    give."""

    values: str | None = None
    """Number format of the written weights. None takes that of the record's quantizer, if any."""
    dtype: str | None = None
    """float32, float16 or bfloat16. None keeps the dtype of the weights."""
    exclude: tuple[str, ...] = ()
    """Globs of linears to leave dense, besides those that the record left dense."""
    windows: str | None = None
    """Pattern of weights to store as windows of 2:4, such as 6:8."""
    imatrix: str | None = None
    """Corpus or file of text for an importance matrix."""


@dataclass(frozen=True)
class ModelSource:
    """The model to export."""

    name: str
    """The record or folder, as the user typed it."""
    folder: Path
    """Folder of dense safetensors and config.json."""
    record: Record | None
    """Its record, or None if the user named a folder."""
    results: Path | None
    """Results folder of the record. None: the default one."""

    @property
    def targets(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Globs of the linears that were pruned, and of those that were left dense."""
        if self.record:
            return (self.record.identity.include, self.record.identity.exclude)
        return (("*",), ())

    def write_companions(
        self,
        out: Path,
        own: Mapping[str, Any] | None = None,
        *,
        without: Iterable[str] = (),
        also: Iterable[str] = (),
    ) -> None:
        """Copy tokenizer and config.json to a folder. own: keys to add to config.json; also:
        further files to copy."""
        copy_files(self.folder, out, (*COMPANIONS, *also))
        left_out = {*SPARSITY_KEYS, *without}
        config = {
            key: value for key, value in read_config(self.folder).items() if key not in left_out
        }
        (out / "config.json").write_text(json.dumps({**config, **(own or {})}, indent=2))


class ExportFormat:
    """Base of both kinds of format. The first paragraph of a format's docstring is its line in the
    help."""

    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Options that the format uses, each with its allowed values. An empty tuple allows any."""

    def check(self, options: Options) -> None:
        """Raise UserError for options that exclude each other. It runs before a model is read."""


class ModelFormat(ExportFormat):
    """A format of models."""

    takes_any: ClassVar[bool] = False
    """True if it also exports packed24 folders and models with low-rank terms. Others never get
    one."""
    forms: ClassVar[tuple[Form, ...]] = ()
    """Rows that engines run from its files, for `bench pick --engine`."""

    def write(self, source: ModelSource, out: Path, options: Options) -> str:
        """Write the model to an empty folder. Return a sentence for the user. Raise UserError if it
        has no such form."""
        raise NotImplementedError


@dataclass(frozen=True)
class ModelResults:
    """The records of one model, measured by one version of cast-bench."""

    name: str
    """Name in the form of a hub id."""
    source: str
    """Model that it was made from, by hub id if it has one."""
    published: bool
    """True if the source has a hub id."""
    identity: Identity
    """Identity of its records, without measure and protocol."""
    records: tuple[Record, ...]
    version: str
    """Version of cast-bench."""
    is_dense: bool
    """True for the unchanged source."""
    recorded: int
    """Time of the last record in seconds since 1970."""


class ResultsFormat(ExportFormat):
    """A format of results."""

    def documents(self, model: ModelResults, options: Options) -> Mapping[str, str]:
        """Return the text of each file by its relative path."""
        raise NotImplementedError


class Reader:
    """A format of model folders or files. The first reader that owns a path opens it, ours before
    those of other packages."""

    def owns(self, path: Path) -> bool:
        """Return whether a file or folder has this format, without reading weights."""
        raise NotImplementedError

    def open(self, path: Path, original: Folder | None) -> Checkpoint:
        """Return the plain model that the files describe. original: the model that it was made
        from, if known."""
        raise NotImplementedError


def copy_files(folder: Path, target: Path, names: Iterable[str]) -> None:
    """Copy those of the named files that a model folder has."""
    for name in names:
        file = find_file(folder, name)
        if file:
            shutil.copyfile(file, target / file.name)
