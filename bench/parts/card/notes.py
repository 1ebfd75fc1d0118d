"""What a model folder says of itself: the notes of `bench prune`, or the receipt of a card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from bench.formats.contract import MODEL_CARD
from bench.parts.card import body, receipt
from methods.contract.errors import UserError
from methods.model.safe_files import read_object

PRUNED = re.compile(r"^Made from `([^`\n]+)`[^\n]* by cast-bench [^\n]*$", re.MULTILINE)
"""Line of the README.md that `bench prune` writes, with the original."""


class Notes(NamedTuple):
    """What a folder says of itself."""

    base: str = ""
    """Original, "" if it is not known."""
    steps: tuple[str, ...] = ()
    """Sentences about what was done to it."""
    record: str = ""
    """Key of a record of its row, "" if it names none."""
    export: tuple[str, ...] = ()
    """Flags of the export that wrote the files. Empty: not known."""


def read_notes(folder: Path) -> Notes:
    """Return what a folder says. Raise UserError if its receipt is damaged."""
    text = _card_of(folder)
    made = PRUNED.search(text)
    if made:
        lines = [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]
        return Notes(made[1], tuple(lines))
    try:
        about = read_object(folder, receipt.FILE) or {}
        base, steps = about.get("base", {}).get("name", ""), about.get("steps", [])
        record, export = next(iter(about.get("records", {})), ""), about.get("export", [])
        return Notes(str(base), tuple(map(str, steps)), record, tuple(map(str, export)))
    except (ValueError, TypeError, AttributeError) as fault:
        raise UserError(
            f"{folder / receipt.FILE} cannot be read ({fault}): delete it, and write the card again"
        ) from None


def may_be_written(folder: Path) -> bool:
    """Return whether the folder has no card, or one of this program."""
    text = _card_of(folder)
    return not text or body.MARK in text or PRUNED.search(text) is not None


def _card_of(folder: Path) -> str:
    file = folder / MODEL_CARD
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
