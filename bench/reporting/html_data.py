"""The data inside the page: what its script sorts by, and shows on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.reporting import pairwise, pick
from bench.reporting.view import Facts, Interval, ReportSection, Table, TableCell
from methods.errors import UserError


class _StringTable:
    """Strings that a page repeats, each stored once: called with a string, it gives its number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def page_data(sections: Sequence[ReportSection], max_visible_rows: int) -> dict[str, Any]:
    """The page's data, as JSON takes it."""
    strings = _StringTable()
    tables = [_table(s, t, strings) for s in sections for t in s.tables]
    records = {name: _record(record, strings) for s in sections for name, record in s.records.items()}
    return {
        "max_visible_rows": max_visible_rows,
        "tables": tables,
        "records": records,
        "strings": list(strings.numbers),
    }


def _table(section: ReportSection, table: Table, strings: _StringTable) -> dict[str, Any]:
    pairs: dict[str, dict[int, Any]] = {}
    for (a, b, c), interval in table.intervals.items():
        pairs.setdefault(f"{a},{b}", {})[c] = _interval(interval, strings)
    quality = _quality(table)
    differ = {} if quality is None else pairwise.significance(table, quality)
    return {
        "title": table.title,
        "section": section.title,
        "protocol": table.protocol,
        "quality": quality,
        "differ": {f"{a},{b}": int(x) for (a, b), x in differ.items()},
        "columns": [
            {"name": c.name, "metric": c.metric, "better": c.better, "ratio": c.definition.is_ratio, "hidden": c.hidden}
            for c in table.columns
        ],
        "rows": [
            {"name": r.name, "source": r.source, **r.filters, "cells": [_cell(c, strings) for c in r.cells]}
            | ({} if r.part_of is None else {"part": r.part_of})
            | ({"facts": _facts(r.facts, strings)} if r.facts and r.facts.compressed else {})
            for r in table.rows
        ],
        "ranks": table.ranks or None,
        "pairs": pairs,
    }


def _quality(table: Table) -> int | None:
    """The column that rows are picked by, if any of them can be."""
    if not any(row.facts and row.facts.compressed for row in table.rows):
        return None
    try:
        return pick.quality_column(table)
    except UserError:
        return None


def _facts(facts: Facts, strings: _StringTable) -> dict[str, Any]:
    """What the page picks a row by; what was not measured is left out."""
    numbers = {"bits": facts.bits, "tokens": facts.tokens, "seconds": facts.seconds}
    bounds = {"loss": facts.loss, "drop": facts.drop, "speedup": facts.speedup}
    out: dict[str, Any] = {k: v for k, v in numbers.items() if v is not None}
    out |= {k: [b.value, b.low, b.high] for k, b in bounds.items() if b}
    out |= {k: strings(v) for k, v in (("device", facts.device), ("make", facts.make), ("export", facts.export)) if v}
    out |= {k: 1 for k, v in (("broken", facts.broken), ("least", facts.at_least)) if v}
    return out | ({"task": facts.worst_task} if facts.worst_task else {})


def _interval(i: Interval, strings: _StringTable) -> list[Any]:
    return [i.value, i.low, i.high, i.n, strings(i.unit), i.seeds]


def _cell(cell: TableCell | None, strings: _StringTable) -> dict[str, Any] | None:
    if cell is None:
        return None
    out: dict[str, Any] = {"v": cell.value, "records": cell.records}
    if cell.spread:
        out["s"] = cell.spread
    if cell.average:
        out["avg"] = True
    if cell.reason:
        out["why"] = cell.reason
    if cell.command:
        out["cmd"] = strings(cell.command)
    return out


def _record(record: Mapping[str, Any], strings: _StringTable) -> dict[str, Any]:
    repeated = ("commit", "machine", "versions", "folder")
    return {k: strings(v) if k in repeated else v for k, v in record.items() if v not in (None, "")}
