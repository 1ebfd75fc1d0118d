"""The facts that `bench show` prints of a record."""

from __future__ import annotations

from typing import Any

from bench.reporting.table import format_number
from bench.reporting.words import duration
from bench.results import metrics
from bench.results.record import ReadingRow, Record


def rows(record: Record) -> list[dict[str, Any]]:
    """Return a row for each fact, in the order: identity, outcome, cost, provenance."""
    commit = record.commit_id[:12] + (", changed since" if record.commit.get("dirty") else "")
    machine = (record.processor, record.machine.get("instruction_set"), record.machine.get("platform"))
    facts = [
        *record.identity.labels().items(),
        ("threads", record.key_inputs.get("threads")),
        ("status", ": ".join(filter(None, (record.status, record.reason)))),
        *((metrics.find(one.metric).label, _number(one)) for one in record.readings),
        ("took", _cost(record.cost)),
        ("recorded", record.recorded),
        ("commit", commit),
        ("plug-ins", ", ".join(f"{one['name']} of {one['distribution']} {one['version']}" for one in record.plugins)),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("machine", ", ".join(str(part) for part in machine if part)),
    ]
    return [{"record": name, record.stem: str(fact)} for name, fact in facts if fact not in (None, "")]


def _number(reading: ReadingRow) -> str:
    """Return a number with its unit, and with its standard error if it has one."""
    if reading.value is None:
        return "none"
    text = format_number(reading.value, reading.stderr, reading.unit)
    unit = "" if reading.unit in ("1", "B") else f" {reading.unit}"
    return f"{text}{unit}" + (f", standard error over {reading.n:,}" if reading.stderr and reading.n else "")


def _cost(cost: dict[str, Any]) -> str:
    parts = [
        f"{duration(cost[name])} to {verb}"
        for name, verb in (("build_s", "make"), ("wall_s", "measure"))
        if isinstance(cost.get(name), int | float)
    ]
    if isinstance(peak := cost.get("peak_bytes"), int | float):
        parts.append(f"{peak / 1e9:.1f} GB")
    return ", ".join(parts)
