"""Repeat a measurement before it counts as a regression."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.execution import progress
from bench.results.record import Record
from bench.results.reproduce import settings
from bench.results.store import Store
from bench.system.cache import in_use
from methods.errors import UserError


def measure(record: Record, root: Path) -> Record:
    """Repeat the measurement of a record into an empty results folder.

    Raises:
        UserError: this version cannot repeat it.
    """
    from bench.execution import runner
    from bench.planning.artifact import Plan
    from bench.planning.plan import make_plan
    from bench.planning.spec import make_spec

    plan = make_plan(make_spec(settings(record) | {"results": root}))
    measurements = tuple(m for m in plan.measurements if m.identity.key() == record.identity.key())
    if not measurements:
        raise UserError(f"record {record.short_key} cannot be measured by this version any more: run bench run")
    with in_use():
        summary = runner.execute(Plan(plan.spec, measurements, ()), Store(root), [progress.display_for(sys.stderr)])
    if len(summary.records) != 1:
        raise UserError(f"record {record.short_key} gave {len(summary.records)} records: run bench run")
    return summary.records[0]
