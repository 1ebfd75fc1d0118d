"""The first page of a leaderboard: the main table of each model, with few columns and whole
rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from bench.reporting.pareto import BITS, quality_metric
from bench.reporting.view import ReportSection, Table
from bench.results import metrics
from bench.results.signatures import SIGNED_BY

MAX_COLUMNS = 7
"""Most columns of a table, with the names and ranks of its rows."""
TASKS = ("mean_acc", metrics.MEAN_BITS, "worst_track", "acc")
"""Columns of tasks, of which the first page shows the first that a table has."""
RATIO, TIME = ("perplexity_ratio",), ("time_to_make",)


def choose(sections: Sequence[ReportSection]) -> list[ReportSection]:
    """Return the sections of a first page: models with a number of quality. If there are none, all
    sections."""
    own = [section for section in sections if not section.published]
    return [s for s in own if quality_metric(s.tables[0])] or own or list(sections)


def shorten(section: ReportSection) -> ReportSection:
    """Return a section with its main table alone, and the records of the numbers that it shows."""
    table = _shorten(section.tables[0])
    cells = chain.from_iterable(row.cells for row in table.rows)
    used = set(chain.from_iterable(cell.records for cell in cells if cell))
    records = {name: record for name, record in section.records.items() if name in used}
    return replace(section, tables=(table,), records=records)


def _shorten(table: Table) -> Table:
    rows = [table.rows[k] for k in table.whole_rows]
    place = {k: at for at, k in enumerate(table.whole_rows)}
    signed = SIGNED_BY in table.label_names
    room = MAX_COLUMNS - 1 - signed - (table.ranked_by is not None)
    columns = _by_importance(table)[:room]
    at = {c: new for new, c in enumerate(columns)}
    short = []
    for row in rows:
        cells = tuple(row.cells[c] for c in columns)
        count = len(row.labels) - signed
        names, signers = row.labels[:count], row.labels[count:]
        told = dict.fromkeys(name for name in names if name not in ("", "none"))
        short.append(replace(row, labels=(" · ".join(told), *signers), cells=cells))
    intervals = {}
    for (a, b, c), interval in table.intervals.items():
        if a in place and b in place and c in at:
            intervals[place[a], place[b], at[c]] = interval
    return replace(
        table,
        label_names=("row", SIGNED_BY) if signed else ("row",),
        columns=tuple(replace(table.columns[c], shown=True) for c in columns),
        rows=tuple(short),
        ranks={
            at[c]: tuple(ranks[k] for k in place) for c, ranks in table.ranks.items() if c in at
        },
        intervals=intervals,
        remarks=(),
    )


def _by_importance(table: Table) -> list[int]:
    """Return the columns, the most important first: size, the quality that rows are judged by, its
    ratio to the dense model, a task and the time, then the others that the table shows."""
    shown = [c for c, column in enumerate(table.columns) if not column.hidden]

    def first(names: Sequence[str]) -> list[int]:
        found = (table.column(name) for name in names)
        return [c for c in found if c is not None][:1]

    quality = first([quality_metric(table) or ""])
    if table.ranked_by is not None:
        quality = [table.ranked_by]
    tasks = first([name for name in TASKS if table.column(name) in shown])
    size, ratio, time = first((metrics.SIZE, BITS)), first(RATIO), first(TIME)
    sizes = [c for c in shown if table.columns[c].metric.startswith("bits_per_")]
    others = [c for c in shown if c not in sizes]
    return list(dict.fromkeys((*size, *quality, *ratio, *tasks, *time, *others)))
