"""The storage of quantized weights in the notes of records of all versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from methods.contract.codec import STORED_KEY

DECIDES_NO_NUMBER = True
OWN_LIBRARY = "cast-bench"


class NotedBits(NamedTuple):
    """Bits per weight that a note states."""

    values: float
    others: float
    """Bits of scales, masks and the rest."""
    is_packed: bool
    """True if the values already leave out what a pattern prunes."""


def noted_bits(notes: Mapping[str, Any], weights: float) -> NotedBits:
    """Return the bits per weight that the notes of a `pattern` record state. weights: number of all
    targets' weights.

    `methods.contract.codec.Storage.notes` has bytes. Older records have the bits of a value, and
    the number of scales with their bits. Raise TypeError, KeyError or ArithmeticError if the notes
    do not say.
    """
    note = notes[STORED_KEY]
    if "values" in note:
        return NotedBits(
            8 * note["values"] / weights, 8 * note["others"] / weights, note["is_packed"]
        )
    return NotedBits(
        note["bits"], note["scale_bits"] * note["scales"] / weights, note.get("packed", False)
    )


def claimed_by(notes: Mapping[str, Any]) -> str:
    """Return the library that says how many bits its weights take, which were not counted. "" if
    they were."""
    note = notes.get(STORED_KEY)
    if not isinstance(note, Mapping):
        return str(notes.get("claimed", ""))
    if "values" in note:
        return str(note.get("claimed", ""))
    # An older record of this project's own format, or one whose bits are those of files.
    is_counted = (
        note.get("library", OWN_LIBRARY) == OWN_LIBRARY
        or note.get("packed")
        or note.get("total_bytes")
    )
    return "" if is_counted else str(note["library"])
