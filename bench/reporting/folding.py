"""Rows that differ only in budget: the row of the largest budget is shown, and the others fold into
it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.reporting.table import ColumnKey, PivotLine, summarize
from bench.results import metrics
from bench.results.identity import Identity
from bench.system.grouping import group_by

RULE = (
    "A row is the mean over its seeds. Of rows that differ only in budget (tokens for calibration "
    "or training), the one of the largest budget is shown."
)


def fold(
    lines: Sequence[PivotLine], columns: Sequence[ColumnKey]
) -> tuple[list[PivotLine], list[int | None]]:
    """Return the lines, each followed by those of smaller budgets, and for each line the number of
    the line it is part of."""
    quality = [c for c in columns if metrics.find(c[0]).quality][:1]
    tasks = [c for c in columns if c[0] == "mean_acc"]
    ordered = sorted(lines, key=lambda line: _place(line, quality, tasks))
    groups = group_by(ordered, lambda line: _without_budget(line.group[0]["identity"]))
    out: list[PivotLine] = []
    parents: list[int | None] = []
    for group in groups.values():
        first, *others = sorted(group, key=lambda line: _budget(line, quality), reverse=True)
        parent = len(out)
        out += [first, *others]
        parents += [None, *[parent] * len(others)]
    return out, parents


def _place(
    line: PivotLine, quality: Sequence[ColumnKey], tasks: Sequence[ColumnKey]
) -> tuple[bool, bool, bool, float, tuple[str, ...]]:
    """Sort key: the dense model first, then from the best to the worst, then lines without a
    number.

    Lines without a mean over tasks come after all that have one. Equal numbers are in the order of
    their names.
    """
    no_tasks = bool(tasks) and not any(summarize(line.group, c) for c in tasks)
    identity: Identity = line.group[0]["identity"]
    summaries = (summarize(line.group, column) for column in quality)
    summary = next(filter(None, summaries), None)
    name = (identity.method, identity.pattern, identity.quantizer)
    compressed = identity.stages != ("dense",) or identity.quantizer != "none"
    if summary is None or summary.value is None:
        return (compressed, no_tasks, True, 0.0, name)
    value = summary.value
    if any(r["better"] == "higher" for r in summary.rows):
        value = -value
    return (compressed, no_tasks, False, value, name)


def _without_budget(identity: Identity) -> tuple[Any, ...]:
    """Return what is equal in rows that differ only in their numbers of tokens, or of sequences and
    their length."""
    calibration, training = identity.calibration, identity.training
    calibrated = calibration and (calibration.data, calibration.all_experts, calibration.bos)
    trained = training and (training.data, training.batch, training.bos, training.recipe)
    return (identity.stages, identity.pattern, identity.quantizer, calibrated, trained)


def _budget(line: PivotLine, quality: Sequence[ColumnKey]) -> tuple[bool, int, int]:
    identity: Identity = line.group[0]["identity"]
    summaries = [summarize(line.group, column) for column in quality]
    measured = any(summary and summary.value is not None for summary in summaries)
    trained = calibrated = 0
    if identity.training:
        trained = identity.training.tokens or 0
    if identity.calibration:
        calibrated = (identity.calibration.sequences or 0) * (identity.calibration.seqlen or 0)
    return (measured, trained, calibrated)
