"""A results folder as a section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.compare.result_set import ResultSet
from bench.report import pairwise, table
from bench.report.view import Cell, Column, Row, Section, Table
from bench.results import metrics, reproduce
from bench.results.record import Record
from bench.results.rows import to_rows

FILTERS = ("model", "method", "pattern", "quantizer")


def section(side: ResultSet, title: str) -> Section:
    """
    Raises:
        UserError: scores that cannot be read.
    """
    rows = to_rows(side.records)
    records = {r.key[:32]: r for r in side.records}
    models = sorted({r["model"] for r in rows}, key=str)
    tables = (_table(str(m), [r for r in rows if r["model"] == m], records) for m in models)
    return Section(
        title,
        _about(side.records),
        tuple(pairwise.paired(t, records, side) for t in tables),
        folder=side.name,
        made={key: _made(r) for key, r in records.items()},
    )


def _table(model: str, rows: list[dict[str, Any]], records: Mapping[str, Record]) -> Table:
    sheet = table.sheet(rows, quiet=True)
    columns = tuple(_column(c, rows) for c in sheet.columns)
    lines = tuple(_row(line, sheet.columns, records) for line in sheet.lines)
    return Table(model, sheet.told, columns, lines)


def _column(column: table.Column, rows: Iterable[dict[str, Any]]) -> Column:
    """Unit and direction of a metric that is not in METRICS are what its readings say."""
    metric, protocol, measure = column
    known = metrics.find(metric)
    like = (r for r in rows if r["metric"] == metric and r["measure"] == measure)
    better, unit = next(((r["better"] or "", r["unit"] or "") for r in like), (known.better, known.unit))
    return Column(metric, protocol or "", better, unit, table.names_protocol(protocol or ""))


def _row(line: table.Line, columns: Iterable[table.Column], records: Mapping[str, Record]) -> Row:
    first = line.group[0]
    about = {c: "" if first[c] is None else str(first[c]) for c in FILTERS}
    parts = [about["method"]]
    if about["pattern"] != about["method"]:
        parts.append(about["pattern"])
    if about["quantizer"] not in ("", "none"):
        parts.append(about["quantizer"])
    made: dict[str, str] = {}
    cells = tuple(_cell(table.summary(line.group, c), records, made) for c in columns)
    return Row(" ".join(parts), line.labels, about, cells)


def _cell(found: table.Summary | None, records: Mapping[str, Record], made: dict[str, str]) -> Cell | None:
    """made: commands of this line so far, by the first record of each."""
    if found is None:
        return None
    by_seed = sorted(found.rows, key=lambda r: -1 if r["seed"] is None else r["seed"])
    names = tuple(dict.fromkeys(name for r in by_seed for name in r.get("records", (r["record"],))))
    average = any("records" in r for r in found.rows)
    if not average and names[0] not in made:
        made[names[0]] = reproduce.command([records[name] for name in names])
    bad = next((r for r in found.rows if r["value"] is None), None)
    return Cell(
        found.text,
        found.value,
        found.spread,
        failed=bad is not None,
        reason=f"{bad['status']}: {bad['reason']}" if bad else "",
        made=names,
        average=average,
        command="" if average else made[names[0]],
    )


def _made(record: Record) -> dict[str, Any]:
    about = record.provenance
    commit, machine = about.get("commit") or {}, about.get("machine") or {}
    versions = about.get("versions") or {}
    return {
        "status": record.status,
        "reason": record.reason,
        "seed": record.identity.seed,
        "commit": f"{commit.get('id') or 'not recorded'}{' and changes not committed' if commit.get('dirty') else ''}",
        "recorded": str(about.get("recorded") or ""),
        "machine": " ".join(str(machine[k]) for k in ("device", "cpu") if machine.get(k)),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
        "seconds": record.cost.get("wall_s"),
    }


def _about(records: Iterable[Record]) -> str:
    """A sentence on a whole folder."""
    records = list(records)
    bad = [r for r in records if r.status != "ok"]
    commits = sorted({str((r.provenance.get("commit") or {}).get("id") or "unknown")[:7] for r in records})
    machines = sorted({str((r.provenance.get("machine") or {}).get("cpu") or "unknown") for r in records})
    days = sorted({str(r.provenance.get("recorded") or "")[:10] for r in records} - {""})
    told = [f"{len(records):,} records", f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"]
    told += [" and ".join(machines)] if len(machines) < 3 else [f"{len(machines)} machines"]
    told += [days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"] if days else []
    if bad:
        told.append(f"{len(bad):,} without a number")
    return " · ".join(told)
