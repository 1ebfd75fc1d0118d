"""Export a model to a folder in a format of the catalog."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bench.catalog import registry
from bench.formats.adapter import AdapterCheckpoint
from bench.formats.contract import (
    MODEL_CARD,
    ExportFormat,
    ModelFormat,
    ModelSource,
    Options,
    copy_files,
)
from bench.formats.opening import find_reader
from bench.inputs import architecture
from bench.inputs.models import COMPANIONS
from bench.results.artifacts import find_pruned
from bench.system.cache import in_use
from bench.system.files import atomic_folder
from bench.system.suggest import shorten
from methods.contract.errors import UserError
from methods.model import constant_experts, low_rank_adapter
from methods.model.folder import Folder, Writer
from methods.model.safe_files import check_files
from methods.model.targets import family_of

CARD = "model_card"
"""Name of the service that writes a model card."""


def find_format(name: str, options: Options) -> ExportFormat:
    """Return a format of the catalog. Raise UserError for an unknown one, or for options that it
    does not use."""
    found = registry.build("exports", name, ExportFormat)
    with registry.guarded(registry.lookup("exports", name)):
        found.check(options)
        for option, value in vars(options).items():
            if value:
                _require_option(name, found, option, value)
    return found


def _require_option(
    name: str, found: ExportFormat, option: str, value: str | tuple[str, ...]
) -> None:
    """Refuse an option that a format does not use, or a value that it does not have."""
    typed = value if isinstance(value, str) else ",".join(value)
    if option not in found.options:
        raise UserError(
            f"--{option} {shorten(typed)} needs --format {_users(option)}: leave it out"
        )
    allowed = found.options[option]
    if allowed and value not in allowed:
        raise UserError(
            f"invalid --{option} {typed!r}: with --format {name} it must be {', '.join(allowed)}"
        )


def _users(option: str) -> str:
    """Return the names of the formats that use an option."""
    usable = {
        name: entry for name, entry in registry.entries("exports").items() if not entry.broken
    }
    users = [
        name
        for name, entry in usable.items()
        if option in getattr(registry.load(entry), "options", ())
    ]
    return " or ".join(sorted(users)) or "of a part that is not installed"


def export_model(
    name: str,
    format_: str,
    out: Path,
    *,
    results: Path | None = None,
    merge: bool = False,
    card: bool = False,
    **options: Any,
) -> str:
    """Write the model of a record, or a model folder, to `out`. Returns a sentence for the user.

    Args:
        format_: name of a format of models in the catalog.
        merge: add the low-rank terms of a model to its weights, which ends its pattern.
        card: write a model card beside the files, if the part that does is there.
        options: fields of `Options`.

    Raises:
        UserError: no such model or format, `out` exists, the format cannot represent the model, or
            an option of another format.
        CheckFailed: a written file does not match the model.
    """
    given = Options(**options)
    found = find_format(format_, given)
    if not isinstance(found, ModelFormat):
        raise UserError(f"{format_} is a format of results: use --format hf, for example")
    with in_use(), atomic_folder(out) as workdir:
        folder, record = find_pruned(name, results)
        check_files(folder)
        constant_experts.refuse(folder)
        if merge:
            folder, record = _merge(folder, workdir / "merged"), None
        elif not found.takes_any:
            low_rank_adapter.refuse(folder)
        reader = find_reader(folder)
        if not reader:
            architecture.check(Folder(folder))
        elif not found.takes_any:
            raise UserError(
                f"{folder} is a {reader} folder: unpack it first with bench export --format hf"
            )
        write_card = None
        if card and CARD in registry.names("services"):
            prepare_card = registry.load(registry.lookup("services", CARD))
            write_card = prepare_card(folder, record, results, format_, given)
        with registry.guarded(registry.lookup("exports", format_)):
            summary = found.write(ModelSource(name, folder, record, results), workdir, given)
        if merge:
            shutil.rmtree(folder)
            summary += "; low-rank terms are merged, so the pattern of the weights ends"
        if write_card:
            summary += f"; {write_card(workdir, out.name)}"
    return f"{out}: {summary}"


def _merge(folder: Path, target: Path) -> Path:
    """Write a model with its low-rank terms added to its weights. Return the folder. Raise
    UserError if it has none."""
    if not low_rank_adapter.is_beside(folder):
        raise UserError(f"{folder} has no low-rank terms: leave --merge out")
    source = Folder(folder)
    merged, writer = AdapterCheckpoint(folder / low_rank_adapter.FOLDER, source), Writer(target)
    writer.add_folded(source, merged.tensor, family_of(source.config))
    writer.close()
    copy_files(folder, target, ("config.json", *COMPANIONS, MODEL_CARD))
    return target
