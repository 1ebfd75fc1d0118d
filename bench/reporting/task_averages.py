"""Averages over sets of zero-shot tasks, and which of their tasks count: those that the dense model
can do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.inputs.tasks import TASK_SETS
from bench.results import guessing, metrics
from bench.results.identity import Protocol
from bench.results.rows import IDENTITY
from bench.system.grouping import group_by
from bench.system.text import amount

Row = dict[str, Any]

LEFT_OUT, AT_FLOOR = "not in means", "at the floor"
"""Marks of a task on which the dense model is no better than a guess: in a set, or alone."""
FLOOR_NOTE = "No evidence, because the dense model is not above a guess: {}."
NOTE = (
    "Not in means and worst drops, because the 95% interval of the dense model's accuracy is not "
    "above chance and the majority class: {}."
)
UNJUDGED = (
    "In means without this test, because there is no dense row, or its record does not say what "
    "guesses reach: {}."
)

UNKNOWN = (
    "Without chance and majority, because the answers are no choices, or the record does not hold "
    "them: {}."
)


def average_rows(rows: list[Row]) -> list[Row]:
    """Return the mean accuracy and the worst task's drop as rows, for each line, seed and complete
    set of tasks.

    rows: as bench.results.rows makes them. The drop is from the dense model of the same dtype and
    device on the same questions. A set with a task in two versions has no mean. A task on which the
    dense model is no better than a guess does not count, because a change there says nothing: what
    is left is in the protocol of the row, and a set of which nothing is left has no mean.
    """
    dense = _dense_rows(rows)
    out = _average_tracks(rows)
    for line in group_by(_accuracies(rows), lambda row: (*_line(row), _limit(row))).values():
        by_task = group_by(line, lambda row: _protocol(row).name)
        for name, tasks in TASK_SETS.items():
            if all(len(by_task.get(t, ())) == 1 for t in tasks):
                out += _average_set(name, {t: by_task[t][0] for t in tasks}, dense)
    return out


def _average_tracks(rows: list[Row]) -> list[Row]:
    """Return the mean bits per byte of each line, seed and track. Only equal sets of questions
    share a protocol."""
    in_bits = (row for row in rows if row["metric"] == "bits_per_byte" and row["value"] is not None)
    lines = group_by(in_bits, lambda row: (*_line(row), _protocol(row).name.partition("/")[0]))
    averaged: list[tuple[str, str, Row]] = []
    sets: dict[str, set[str]] = {}
    for (*_, track), of_track in lines.items():
        if len({_protocol(row).name for row in of_track}) < len(of_track):
            continue  # a task with two limits would count twice
        questions = sum(row["n"] for row in of_track)
        label = f"{track}: {amount(len(of_track), 'task')}, {questions:,} questions"
        tasks = ", ".join(sorted(_protocol(row).label for row in of_track))
        mean = of_track[0] | {"metric": metrics.MEAN_BITS} | _mean(of_track)
        averaged.append((label, tasks, mean))
        sets.setdefault(label, set()).add(tasks)
    out = []
    for label, tasks, mean in averaged:
        if len(sets[label]) > 1:
            label = f"{label}: {tasks}"
        out.append(mean | {"protocol": label})
    return out


def _mean(rows: Sequence[Row]) -> Row:
    """Return the fields of a mean over tasks, each with equal weight."""
    errors = [row["stderr"] for row in rows]
    stderr = None
    if None not in errors:
        stderr = math.sqrt(math.fsum(e * e for e in errors)) / len(errors)
    mean = math.fsum(row["value"] for row in rows) / len(rows)
    return {
        "value": mean,
        "stderr": stderr,
        "n": len(rows),
        "records": tuple(row["record"] for row in rows),
    }


def _average_set(
    name: str, rows: dict[str, Row], dense: Mapping[tuple[Any, ...], Row]
) -> list[Row]:
    """rows: by task; dense: by _dense_key."""
    kept = {t: r for t, r in rows.items() if _is_doable(r, dense) is not False}
    if not kept:
        return []
    first = next(iter(kept.values()))
    protocol = name + _limit(first)
    if len(kept) < len(rows):
        protocol += f": {', '.join(kept)}"
    base = first | {"metric": "mean_acc", "protocol": protocol} | _mean([*kept.values()])
    out = [base]
    befores = {t: dense[_dense_key(r)] for t, r in kept.items() if _dense_key(r) in dense}
    if not _is_dense(base) and len(befores) == len(kept):
        drops = {t: befores[t]["value"] - r["value"] for t, r in kept.items()}
        worst = max(drops, key=lambda t: drops[t])
        drop = {"metric": "worst_drop", "value": drops[worst], "stderr": None, "worst_task": worst}
        drop["better"] = metrics.find("worst_drop").better
        drop["records"] = (*base["records"], *(befores[t]["record"] for t in kept))
        out.append(base | drop)
    return out


def tasks_of(protocol: str) -> tuple[tuple[str, ...], str]:
    """Return the tasks of a mean by its protocol, and the limit: "wanda7x500: rte, boolq" is
    (("rte", "boolq"), "500")."""
    whole, _, rest = protocol.partition(": ")
    name, _, limit = whole.partition("x")
    tasks = tuple(rest.split(", ")) if rest else TASK_SETS.get(name, ())
    return tasks, limit


def describe_column(metric: str, protocol: str, rows: Iterable[Row]) -> str:
    """Return what a reader must know beside the accuracies of a column: the number of questions,
    what guesses reach, and whether the task counts."""
    if metrics.find(metric).has_floor:
        same = (r for r in rows if r["protocol"] == protocol and r["metric"] == metric)
        own = list(_accuracies(same))
        guesses = _describe_guess(own[:1]) if own and own[0].get("guess") else ""
        parts = [f"n {r['n']:,}" for r in own if r["n"]][:1]
        return ", ".join(filter(None, [*parts, guesses, _mark(own)]))
    if metric == "mean_acc":
        tasks, limit = tasks_of(protocol)
        found = [r for r in _accuracies(rows) if r.get("guess")]
        by_task = {_protocol(r).name: r for r in found if _limit(r).removeprefix("x") == limit}
        if tasks and by_task.keys() >= set(tasks):
            return _describe_guess([by_task[t] for t in tasks])
    return ""


def notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the notes of a table: which tasks do not count, of which that is not known, and where
    no guess is known."""
    dense = _dense_rows(rows)
    has_means = any(r["metric"] == "mean_acc" for r in rows)
    found: dict[str, set[str]] = {}
    for row in _accuracies(rows):
        name = _protocol(row).name
        doable = _is_doable(row, dense)
        if has_means and doable is not True and _is_in_a_set(name):
            note = NOTE if doable is False else UNJUDGED
            found.setdefault(note, set()).add(name)
        elif doable is False and not _is_in_a_set(name):
            found.setdefault(FLOOR_NOTE, set()).add(name)
        if row.get("guess") is None and row["metric"] == "acc":
            found.setdefault(UNKNOWN, set()).add(name)
    return tuple(
        text.format(", ".join(sorted(found[text])))
        for text in (NOTE, UNJUDGED, FLOOR_NOTE, UNKNOWN)
        if text in found
    )


def _describe_guess(rows: Iterable[Row]) -> str:
    """rows: of the tasks over which guesses are averaged."""
    chances, majorities = zip(*(row["guess"] for row in rows), strict=True)
    chance, majority = math.fsum(chances) / len(chances), math.fsum(majorities) / len(majorities)
    return f"chance {chance:.3f}, majority {majority:.3f}"


def _mark(rows: Sequence[Row]) -> str:
    """Return the mark of a task on which the dense model is no better than a guess, or ""."""
    dense = _dense_rows(rows)
    if all(_is_doable(row, dense) is not False for row in rows):
        return ""
    return LEFT_OUT if _is_in_a_set(_protocol(rows[0]).name) else AT_FLOOR


def _is_in_a_set(task: str) -> bool:
    return any(task in tasks for tasks in TASK_SETS.values())


def _is_doable(row: Row, dense: Mapping[tuple[Any, ...], Row]) -> bool | None:
    """Return whether the dense model is better than a guess on a row's questions. None if that is
    not known."""
    before = dense.get(_dense_key(row))
    if before is None:
        return None
    return guessing.is_above_floor(
        before["metric"], before["value"], before["stderr"], before["n"], before.get("guess")
    )


def _accuracies(rows: Iterable[Row]) -> Iterable[Row]:
    return (
        r
        for r in rows
        if r["identity"].subject == "task"
        and r["value"] is not None
        and metrics.find(r["metric"]).has_floor
    )


def _dense_rows(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """Return the rows of the dense model by _dense_key."""
    return {_dense_key(row): row for row in _accuracies(rows) if _is_dense(row)}


def _is_dense(row: Row) -> bool:
    """Return whether a row is the dense model without a quantizer."""
    return row["method"] == "dense" and row["quantizer"] in (None, "none")


def _protocol(row: Row) -> Protocol:
    protocol: Protocol = row["identity"].protocol
    return protocol


def _line(row: Row) -> tuple[Any, ...]:
    return (*(row[c] for c in IDENTITY), row["seed"])


def _limit(row: Row) -> str:
    limit = _protocol(row).limit
    return f"x{limit}" if limit else ""


def _dense_key(row: Row) -> tuple[Any, ...]:
    """Return what a row shares with the dense row that it is compared with."""
    return (*(row[name] for name in ("model", "dtype", "device", "protocol", "metric")),)
