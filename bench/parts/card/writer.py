"""Write a card and the files beside it to a model folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.formats.contract import MODEL_CARD, Options
from bench.parts.card import body, metadata, receipt
from bench.parts.card.contents import inspect
from bench.parts.card.notes import Notes, may_be_written, read_notes
from bench.parts.card.row import Row, read_row
from bench.parts.exports import every_eval_ever_export
from bench.parts.exports.result_sets import name_of_base
from bench.parts.submission import licences
from bench.results.record import Record
from bench.results.store import RESULTS
from bench.system.files import write_file


@dataclass(frozen=True)
class Card:
    """What a card says of a model besides its files."""

    base: str
    """Alias, hub id or folder's name of the model that it was made from, "" if it is not known."""
    base_hub: str
    """Its id on the hub, "" if it has none."""
    licence: str
    row: Row | None
    export: tuple[str, ...] = ()
    """Flags of the export that wrote the files, --format first. Empty: not known."""
    steps: tuple[str, ...] = ()
    """Sentences about what was done to a folder without a row."""

    def files(self, name: str, folder: Path) -> dict[str, str]:
        """Return the text of each file of the card by its path in the folder."""
        contents = inspect(folder, self.row.identity if self.row else None)
        front = metadata.front_matter(name, self.base_hub, self.licence, self.row, contents)
        about = (self.base, self.base_hub, self.licence, self.row, contents)
        text = body.text(name, *about, export=self.export, steps=self.steps)
        out = {MODEL_CARD: f"---\n{front}---\n\n{text}"}
        base = self.base_hub or self.base
        out[receipt.FILE] = receipt.to_json(name, base, self.steps, self.row, folder, self.export)
        if self.row:
            out |= metadata.benchmark_files(self.row.numbers)
            out |= _every_eval_ever(self.row)
        return out


def of_row(record: Record, results: Path) -> Card:
    """Return the card of a record's row. Raise UserError if the results cannot be read."""
    row = read_row(record, results)
    return _of_base(record.identity.model, row)


def of_folder(notes: Notes, base: str = "") -> Card:
    """Return the card of a folder without a row. base: alias, hub id or folder of the original, ""
    for that of its notes."""
    return replace(_of_base(base or notes.base, None), steps=notes.steps)


def _of_base(name: str, row: Row | None) -> Card:
    if not name:
        return Card("", "", "", row)
    base, hub = name_of_base(name)
    return Card(base, hub, licences.of_model(name), row)


def _every_eval_ever(row: Row) -> Mapping[str, str]:
    """Return the results for Every Eval Ever, with a line for each question."""
    found = every_eval_ever_export.documents(
        row.model, availability="open_weights", items_of=row.results.items
    )
    return {f"every_eval_ever/{path}": text for path, text in found.items()}


def write(card: Card, name: str, folder: Path) -> list[str]:
    """Write a card to a model folder, and return the names of its files. A README.md of somebody
    else is kept."""
    files = card.files(name, folder)
    if not may_be_written(folder):
        del files[MODEL_CARD]
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_file(folder / path, text)
    return list(files)


def prepare(
    source: Path, record: Record | None, results: Path | None, format_: str, options: Options
) -> Callable[[Path, str], str]:
    """Read the row of an export before the model is written. Return a function that writes the
    card to a folder under a name, and returns a sentence. It is the service `model_card`.

    source: folder of the exported model. record: None for a model folder, whose row is not known.
    """
    flags = ["--format", format_]
    for name, value in vars(options).items():
        if value:
            flags += [f"--{name}", value if isinstance(value, str) else ",".join(value)]
    found = of_row(record, results or RESULTS) if record else of_folder(read_notes(source))
    card = replace(found, export=tuple(flags))

    def write_card(folder: Path, name: str) -> str:
        if MODEL_CARD in write(card, name, folder):
            return "README.md is its card"
        return "its README.md was kept"

    return write_card
