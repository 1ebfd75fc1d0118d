"""The page's data: what its script sorts by, and shows when asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.report.view import Cell, Interval, Section, Table


class _Strings:
    """Strings that stand many times in a page, once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def payload(sections: Sequence[Section], most: int) -> dict[str, Any]:
    """most: rows of a table that are shown at once."""
    strings = _Strings()
    tables = [_table(s, t, strings) for s in sections for t in s.tables]
    records = {name: _record(made, strings) for s in sections for name, made in s.made.items()}
    return {"most": most, "tables": tables, "records": records, "strings": list(strings.numbers)}


def _table(section: Section, table: Table, strings: _Strings) -> dict[str, Any]:
    pairs: dict[str, dict[int, Any]] = {}
    for (a, b, c), interval in table.intervals.items():
        pairs.setdefault(f"{a},{b}", {})[c] = _interval(interval, strings)
    return {
        "title": table.title,
        "section": section.title,
        "folder": section.folder,
        "columns": [{"name": c.name, "metric": c.metric, "better": c.better, "ratio": c.ratio} for c in table.columns],
        "rows": [
            {"name": r.name, "source": r.source, **r.about, "cells": [_cell(c, strings) for c in r.cells]}
            for r in table.rows
        ],
        "ranks": table.ranks or None,
        "pairs": pairs,
    }


def _interval(i: Interval, strings: _Strings) -> list[Any]:
    return [*(float(f"{x:.6g}") for x in (i.value, i.low, i.high)), i.n, strings(i.unit), i.seeds]


def _cell(cell: Cell | None, strings: _Strings) -> dict[str, Any] | None:
    if cell is None:
        return None
    out: dict[str, Any] = {"v": cell.value, "made": cell.made}
    if cell.spread:
        out["s"] = cell.spread
    if cell.average:
        out["avg"] = True
    if cell.reason:
        out["why"] = cell.reason
    if cell.command:
        out["cmd"] = strings(cell.command)
    return out


def _record(made: Any, strings: _Strings) -> dict[str, Any]:
    shared = ("commit", "machine", "versions")
    return {k: strings(v) if k in shared else v for k, v in made.items() if v not in (None, "")}
