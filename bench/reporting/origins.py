"""Where the numbers of a table come from: processors, versions of the code, and dirty trees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from bench.results.record import Record
from bench.system.text import amount

MARK = "†"
"""Mark of a row with a record from a dirty tree."""
MAX_NAMES = 4
"""Most processors that are named."""
MAX_ROWS = 6
"""Most rows that are named because their processor or code is not the most common."""


def describe(records: Iterable[Record]) -> str:
    """Return a sentence on the processors and code versions of the numbers that depend on text, and
    on records from a dirty tree. "" if all have one processor and one version, and none is
    dirty."""
    records = list(records)
    measured = [r for r in records if r.status == "ok" and r.identity.subject in ("text", "task")]
    processors = sorted({record.processor_kind for record in measured} - {""})
    commits = {record.commit_id for record in measured} - {""}
    parts = []
    if len(processors) > 1:
        names = ", ".join(processors[:MAX_NAMES])
        more = len(processors) - MAX_NAMES
        rest = f" and {more} more" if more > 0 else ""
        parts.append(f"{len(processors)} processors ({names}{rest})")
    if len(commits) > 1:
        parts.append(f"{len(commits)} versions of the code")
    out = [f"The numbers come from {' and '.join(parts)}. {_differing(measured)}"] if parts else []
    dirty = sum(is_dirty(record) for record in records)
    if dirty:
        verb = "was" if dirty == 1 else "were"
        out.append(
            f"{amount(dirty, 'record')} ({MARK}) {verb} made by code with uncommitted changes."
        )
    return " ".join(out)


def _differing(records: Sequence[Record]) -> str:
    """Return a sentence on the rows with another processor or code than the most common."""
    origins = [(record.processor_kind, record.commit_id) for record in records]
    usual = Counter(origins).most_common(1)[0][0]
    rows: dict[str, bool] = {}
    for record, origin in zip(records, origins, strict=True):
        one = record.identity
        words = (one.method, one.pattern, one.quantizer)
        name = " ".join(dict.fromkeys(word for word in words if word != "none"))
        rows[name] = rows.get(name, False) or origin != usual
    others = [name for name, differs in rows.items() if differs]
    if len(others) <= MAX_ROWS:
        return f"Not of the most common processor and version: {', '.join(sorted(others))}."
    return f"{len(others)} of {len(rows)} rows are not of the most common processor and version."


def is_dirty(record: Record) -> bool:
    """Return whether the code that made a record had uncommitted changes."""
    return bool(record.commit.get("dirty"))
