"""The data in the page, which its script sorts by and shows on demand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bench.parts.leaderboard.page_choices import page_choices
from bench.reporting.facts import Interval
from bench.reporting.view import ReportSection, Table, TableCell, TableColumn, TableRow
from bench.system.text import printable

DIGITS = 12
"""Significant digits of a number in the page."""
PAIRS = "pairs"
"""Field of a table with the interval of each pair of rows."""
Strings = defaultdict[str, int]
"""Strings that a page repeats, each with its number."""


def page_data(
    sections: Sequence[ReportSection], max_visible_rows: int, picks: bool
) -> dict[str, Any]:
    """Return the page's data, as JSON takes it. picks: with what its sliders pick rows by."""
    strings: Strings = defaultdict()
    strings.default_factory = strings.__len__
    every = {name: record for s in sections for name, record in s.records.items()}
    places = {name: at for at, name in enumerate(every)}
    tables = [_table(s, t, strings, places, picks) for s in sections for t in s.tables]
    records = [{"name": name, **_record(record, strings)} for name, record in every.items()]
    data = {
        "max_visible_rows": max_visible_rows,
        "tables": tables,
        "records": records,
        "strings": list(strings),
    }
    return {name: _shown(part) for name, part in data.items()}


def _shown(data: Any) -> Any:
    """Round all floats, and make all text printable. Pairs, which are many, are so already."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, float):
        return _rounded(data)
    if data is None or isinstance(data, int):
        return data
    if isinstance(data, dict):
        return {_shown(k): v if k == PAIRS else _shown(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_shown(value) for value in data]
    if isinstance(data, Mapping):
        return _shown(dict(data))
    return data


def _rounded(number: float) -> float:
    """Round to DIGITS digits. The last ones depend on the version of Python, whose sums of floats
    differ."""
    return float(f"{number:.{DIGITS}g}")


def _table(
    section: ReportSection, table: Table, strings: Strings, places: Mapping[str, int], picks: bool
) -> dict[str, Any]:
    """places: number of each record in the page."""
    pairs: dict[str, dict[int, Any]] = {}
    for (a, b, c), interval in table.intervals.items():
        pairs.setdefault(f"{a},{b}", {})[c] = _interval(interval, strings)
    return {
        "title": table.title,
        "section": section.title,
        "protocol": table.protocol,
        "choices": page_choices(table) if picks else None,
        "columns": [_column(column) for column in table.columns],
        "rows": [_row(row, strings, places) for row in table.rows],
        "ranks": table.ranks if table.ranked_by is not None else None,
        PAIRS: pairs,
    }


def _column(column: TableColumn) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": column.name,
        "metric": column.metric,
        "better": column.better,
        "ratio": column.definition.is_ratio,
        "hidden": column.hidden,
    }
    shows_unit = column.derived or column.unit == "B"
    if shows_unit and column.unit:
        out["unit"] = column.unit
    return out


def _row(row: TableRow, strings: Strings, places: Mapping[str, int]) -> dict[str, Any]:
    out: dict[str, Any] = {"name": row.name, "source": row.source, **row.filters}
    out["cells"] = [_cell(cell, strings, places) for cell in row.cells]
    if row.part_of is not None:
        out["part"] = row.part_of
    return out


def _interval(i: Interval, strings: Strings) -> list[Any]:
    out = [_rounded(i.value), i.n, strings[i.unit], i.seeds]
    if i.seed_noise:
        return [*out, _rounded(i.low), _rounded(i.high), strings[i.seed_noise]]
    if i.low == i.value == i.high:
        return out
    return [*out, _rounded(i.low), _rounded(i.high)]


def _cell(
    cell: TableCell | None, strings: Strings, places: Mapping[str, int]
) -> dict[str, Any] | None:
    if cell is None:
        return None
    out: dict[str, Any] = {"v": cell.value, "r": [places[name] for name in cell.records]}
    if cell.spread:
        out["s"] = cell.spread
    if cell.reason:
        out["why"] = cell.reason
    if cell.command:
        out["cmd"] = strings[cell.command]
    return out


def _record(record: Mapping[str, Any], strings: Strings) -> dict[str, Any]:
    repeated = ("commit", "machine", "versions", "folder", "credit", "weights")
    out = {name: value for name, value in record.items() if value not in (None, "")}
    for name in repeated:
        if name in out:
            out[name] = strings[out[name]]
    return out
