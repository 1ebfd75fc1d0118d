"""Averages over sets of zero-shot tasks. Only complete sets have one; the drop of the worst task goes with it."""

from __future__ import annotations

import math
from typing import Any

from bench.inputs.tasks import TASK_SETS
from bench.results import metrics
from bench.results.identity import Protocol
from bench.results.rows import IDENTITY

Row = dict[str, Any]


def average_rows(rows: list[Row]) -> list[Row]:
    """Return the mean accuracy and the worst task's drop as rows, for each line, seed and complete set of tasks.

    rows: as bench.results.rows makes them. The drop is from the dense model of the same dtype and device on the same
    questions. A set with a task in two versions has no mean.
    """
    lines: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    dense = {}
    for row in rows:
        if row["identity"].subject == "task" and row["metric"] == "acc" and row["value"] is not None:
            line = (*(row[c] for c in IDENTITY), row["seed"], _limit(row))
            lines.setdefault(line, {}).setdefault(_protocol(row).name, []).append(row)
            if _is_dense(row):
                dense[_dense_key(row)] = row
    out = []
    for by_task in lines.values():
        for name, tasks in TASK_SETS.items():
            if all(len(by_task.get(t, ())) == 1 for t in tasks):
                out += _average_set(name, {t: by_task[t][0] for t in tasks}, dense)
    return out


def _average_set(name: str, rows: dict[str, Row], dense: dict[tuple[Any, ...], Row]) -> list[Row]:
    """rows: by task; dense: by _dense_key."""
    first = next(iter(rows.values()))
    base = first | {"protocol": name + _limit(first), "n": len(rows)}
    base |= {"records": tuple(r["record"] for r in rows.values())}
    errors = [r["stderr"] for r in rows.values()]
    stderr = None if None in errors else math.sqrt(math.fsum(e * e for e in errors)) / len(errors)
    mean = math.fsum(r["value"] for r in rows.values()) / len(rows)
    out = [base | {"metric": "mean_acc", "value": mean, "stderr": stderr}]
    befores = {t: dense[_dense_key(r)] for t, r in rows.items() if _dense_key(r) in dense}
    if not _is_dense(base) and len(befores) == len(rows):
        drops = {t: befores[t]["value"] - r["value"] for t, r in rows.items()}
        worst = max(drops, key=lambda t: drops[t])
        drop = {"metric": "worst_drop", "value": drops[worst], "stderr": None, "worst_task": worst}
        drop["better"] = metrics.find("worst_drop").better
        drop["records"] = (*base["records"], *(befores[t]["record"] for t in rows))
        out.append(base | drop)
    return out


def _is_dense(row: Row) -> bool:
    """Return whether a row is the dense model without a quantizer."""
    return row["method"] == "dense" and row["quantizer"] in (None, "none")


def _protocol(row: Row) -> Protocol:
    protocol: Protocol = row["identity"].protocol
    return protocol


def _limit(row: Row) -> str:
    limit = _protocol(row).limit
    return f"x{limit}" if limit else ""


def _dense_key(row: Row) -> tuple[Any, ...]:
    """Return what a row shares with the dense row that it is compared with."""
    return (row["model"], row["dtype"], row["device"], row["protocol"])
