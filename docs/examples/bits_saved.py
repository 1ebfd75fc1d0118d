"""A column that is computed from other numbers of a row."""

from bench.reporting.facts import RowNumbers
from bench.reporting.view import DerivedColumn, TableCell


def saved(row: RowNumbers) -> TableCell | None:
    """Return the bits that a weight of the row saves, or None if they were not counted."""
    own, dense = (numbers.get("bits_per_weight") for numbers in (row.values, row.dense))
    if own is None or dense is None:
        return None
    return TableCell(f"{dense - own:.1f}", dense - own)


BITS_SAVED = DerivedColumn("bits_saved", saved, after="size", better="higher")
