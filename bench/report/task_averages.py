"""Averages over sets of zero-shot tasks: of complete sets alone, with the worst task's drop beside the mean."""

from __future__ import annotations

import math
from typing import Any

from bench.inputs.tasks import TASK_SETS
from bench.results.identity import Protocol

Row = dict[str, Any]


def rows(table: list[Row], identity: tuple[str, ...]) -> list[Row]:
    """A row for the mean accuracy over each set that one line's seed has all of, and one for what its worst task lost.

    Args:
        table: rows as bench.table makes them; identity: the columns that make two rows the same line, seeds apart.
    """
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in table:
        if row["measure"] == "zeroshot" and row["metric"] == "acc" and row["value"] is not None:
            task: Protocol = row["identity"].protocol
            line = (*(row[c] for c in identity), row["seed"], f"x{task.limit}" if task.limit else "")
            found.setdefault(line, {})[task.name] = row
    dense = {_stand(line, identity): tasks for line, tasks in found.items() if _is_dense(line, identity)}
    out = []
    for line, tasks in found.items():
        for name, members in TASK_SETS.items():
            if set(members) <= set(tasks):
                mine = {t: tasks[t] for t in members}
                out += _about(name + line[-1], mine, dense.get(_stand(line, identity), {}))
    return out


def _about(protocol: str, mine: dict[str, Row], dense: dict[str, Row]) -> list[Row]:
    base = next(iter(mine.values())) | {"protocol": protocol, "n": len(mine)}
    base |= {"records": tuple(r["record"] for r in mine.values())}
    errors = [r["stderr"] for r in mine.values()]
    spread = None if None in errors else math.sqrt(math.fsum(e * e for e in errors)) / len(errors)
    mean = math.fsum(r["value"] for r in mine.values()) / len(mine)
    out = [base | {"metric": "mean_acc", "value": mean, "stderr": spread}]
    if base["method"] != "dense" and set(mine) <= set(dense):
        drops = {t: dense[t]["value"] - r["value"] for t, r in mine.items()}
        worst = max(drops, key=lambda t: drops[t])
        drop = {"metric": "worst_drop", "value": drops[worst], "stderr": None, "better": "lower", "told": worst}
        drop |= {"records": (*base["records"], *(dense[t]["record"] for t in mine))}
        out.append(base | drop)
    return out


def _of(line: tuple[Any, ...], identity: tuple[str, ...], column: str) -> Any:
    return line[identity.index(column)]


def _is_dense(line: tuple[Any, ...], identity: tuple[str, ...]) -> bool:
    return _of(line, identity, "method") == "dense" and _of(line, identity, "quantizer") in (None, "none")


def _stand(line: tuple[Any, ...], identity: tuple[str, ...]) -> tuple[Any, ...]:
    """What a line shares with the dense one it is held against."""
    return (*(_of(line, identity, c) for c in ("model", "dtype", "device")), line[-1])
