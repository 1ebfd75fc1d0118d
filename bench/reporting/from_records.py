"""A results folder as a section of the leaderboard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.comparing.result_set import ResultSet
from bench.reporting import pairwise, table, task_averages
from bench.reporting.labelled_rows import labelled_rows
from bench.reporting.view import (
    ReportSection,
    Table,
    TableCell,
    TableColumn,
    TableRow,
    is_quantized,
)
from bench.results import metrics, reproduce
from bench.results.record import Record
from bench.system.grouping import group_by
from bench.system.text import amount

FILTERS = ("model", "method", "pattern", "quantizer")


def make_section(results: ResultSet, title: str) -> ReportSection:
    """Make a section with a table for each model, or raise UserError if scores cannot be read."""
    by_model = group_by(labelled_rows(results.records), lambda row: str(row["model"]))
    records = {r.stem: r for r in results.records}
    tables = (_table(model, rows, records) for model, rows in sorted(by_model.items()))
    return ReportSection(
        title,
        describe_records(results.records),
        tuple(pairwise.add_intervals(t, records, results) for t in tables),
        records={key: describe_record(r, results.name) for key, r in records.items()},
    )


def _table(model: str, rows: list[dict[str, Any]], records: Mapping[str, Record]) -> Table:
    pivot = table.pivot(rows, all_metrics=True)
    columns = tuple(make_column(c, rows) for c in pivot.columns)
    return Table(
        model,
        pivot.label_names,
        columns,
        tuple(make_row(line, pivot.columns, records) for line in pivot.lines),
        remarks=pivot.notes,
    )


def make_column(column: table.ColumnKey, rows: Sequence[dict[str, Any]]) -> TableColumn:
    """Make a column. Unit and direction come from the readings, or for means over tasks from the
    metric."""
    metric, protocol, measure = column
    known = metrics.find(metric)
    readings = (r for r in rows if r["metric"] == metric and r["measure"] == measure)
    better, unit = next(
        ((r["better"] or "", r["unit"] or "") for r in readings), (known.better, known.unit)
    )
    about = task_averages.describe_column(metric, protocol or "", rows)
    return TableColumn(
        metric, protocol or "", better, unit, table.names_protocol(protocol or ""), about=about
    )


def make_row(
    line: table.PivotLine, columns: Iterable[table.ColumnKey], records: Mapping[str, Record]
) -> TableRow:
    first = line.group[0]
    filters = {c: "" if first[c] is None else str(first[c]) for c in FILTERS}
    parts = [filters["method"]]
    if filters["pattern"] != filters["method"]:
        parts.append(filters["pattern"])
    if is_quantized(filters):
        parts.append(filters["quantizer"])
    commands: dict[str, str] = {}
    cells = tuple(_cell(table.summarize(line.group, c), records, commands) for c in columns)
    return TableRow(" ".join(parts), line.labels, filters, cells)


def _cell(
    summary: table.CellSummary | None, records: Mapping[str, Record], commands: dict[str, str]
) -> TableCell | None:
    """Make a cell. commands: those of this line so far, by their first record, because they are
    slow to make."""
    if summary is None:
        return None
    by_seed = sorted(summary.rows, key=lambda r: -1 if r["seed"] is None else r["seed"])
    names = tuple(dict.fromkeys(name for r in by_seed for name in r.get("records", (r["record"],))))
    average = any("records" in r for r in summary.rows)
    command = ""
    if not average:
        if names[0] not in commands:
            commands[names[0]] = reproduce.command([records[name] for name in names])
        command = commands[names[0]]
    reason = next((r["reason"] for r in summary.rows if r.get("claimed")), "")
    bad = next((r for r in summary.rows if r["value"] is None), None)
    if bad:
        reason = f"{bad['status']}: {bad['reason']}"
    return TableCell(
        summary.text,
        summary.value,
        summary.spread,
        reason=reason,
        records=names,
        average=average,
        command=command,
    )


def describe_record(
    record: Record, folder: str, credit: str = "", weights: str = ""
) -> dict[str, Any]:
    """Return what the page shows of a record.

    folder: folder of the record; credit: who contributed it; weights: URL of the row's weights.
    """
    commit = record.commit_id or "not recorded"
    if record.commit.get("dirty"):
        commit += ", with uncommitted changes"
    machine = [record.machine.get("device"), record.machine.get("cpu")]
    return {
        "status": record.status,
        "reason": record.reason,
        "seed": record.identity.seed,
        "folder": folder,
        "credit": credit,
        "weights": weights,
        "commit": commit,
        "recorded": record.recorded,
        "machine": " ".join(str(name) for name in machine if name),
        "versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
        "seconds": record.cost.get("wall_s"),
    }


def describe_records(records: Sequence[Record]) -> str:
    """Describe all records in a line: their number, commits, machines and days."""
    bad = [r for r in records if r.status != "ok"]
    commits = sorted({(r.commit_id or "unknown")[:7] for r in records})
    machines = sorted({str(r.machine.get("cpu") or "unknown") for r in records})
    days = sorted({r.recorded[:10] for r in records} - {""})
    word = "commits" if len(commits) > 1 else "commit"
    parts = [amount(len(records), "record"), f"{word} {', '.join(commits)}"]
    if len(machines) < 3:
        parts.append(" and ".join(machines))
    else:
        parts.append(f"{len(machines)} machines")
    if len(days) > 1:
        parts.append(f"{days[0]} to {days[-1]}")
    else:
        parts += days
    if bad:
        parts.append(f"{len(bad):,} without a number")
    return " · ".join(parts)
