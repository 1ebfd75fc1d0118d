"""Measure suspected regressions once more, before they are reported."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.compare.resolve import read
from bench.compare.result_set import ResultSet
from bench.compare.verdict import Comparison
from bench.results.derive import Items
from bench.results.record import Record
from methods.errors import UserError

SUSPECT_VERDICTS = ("REGRESSION", "NEW_FAILURE")


def rerun(
    after: ResultSet,
    comparison: Comparison,
    workdir: Path,
    measure: Callable[[Record, Path], Record],
    note: Callable[[str], None],
) -> ResultSet:
    """Return `after`, with suspected records measured again where possible. The results folder does not change.

    measure: runs a record's measurement and writes to an empty results folder. It raises UserError if it cannot.
    """
    suspects = {r.key: r for row in comparison.rows if row.verdict in SUSPECT_VERDICTS for r in row.records}
    by_key: dict[str, tuple[Record, ResultSet]] = {}
    for key, record in suspects.items():
        try:
            root = Path(tempfile.mkdtemp(prefix="again-", dir=workdir))
            new = measure(record, root)
            by_key[key] = (new, read(root))
            note(f"measured again: {record.short_key}, {new.status}")
        except UserError as fault:
            note(f"cannot measure again: {record.short_key} ({fault})")
    records = tuple(by_key[r.key][0] if r.key in by_key else r for r in after.records)
    sources = {id(record): results for record, results in by_key.values()}

    def items(record: Record) -> Items:
        return sources.get(id(record), after).items(record)

    return ResultSet(after.name, records, items)
