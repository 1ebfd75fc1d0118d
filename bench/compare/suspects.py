"""Measure suspected regressions again before they are called regressions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.compare import result_set
from bench.compare.resolve import read
from bench.compare.result_set import ResultSet
from bench.compare.verdict import Comparison
from bench.results.record import Record
from methods.errors import UserError

SUSPECT_VERDICTS = ("REGRESSION", "NEW_FAILURE")


def rerun(
    after: ResultSet,
    judged: Comparison,
    room: Path,
    measure: Callable[[Record, Path], Record],
    note: Callable[[str], None],
) -> ResultSet:
    """`after` with each suspected record measured again, where that is possible; the results folder stays as it is.

    measure: runs a record's measurement into an empty results folder; raises UserError where it cannot.
    """
    suspects = {r.key: r for row in judged.rows if row.verdict in SUSPECT_VERDICTS for r in row.records}
    fresh: dict[str, tuple[Record, ResultSet]] = {}
    for key, record in suspects.items():
        try:
            root = Path(tempfile.mkdtemp(prefix="again-", dir=room))
            found = measure(record, root)
            fresh[key] = (found, read(root))
            note(f"measured again: {key[:12]}, {found.status}")
        except UserError as fault:
            note(f"could not be measured again: {key[:12]} ({fault})")
    records = tuple(fresh[r.key][0] if r.key in fresh else r for r in after.records)
    anew = {id(record): side for record, side in fresh.values()}

    def items(record: Record) -> result_set.Items:
        return anew[id(record)].items(record) if id(record) in anew else after.items(record)

    return ResultSet(after.name, records, items)
