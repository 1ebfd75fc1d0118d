"""The Python API; the command line is a thin skin over it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import planning, runner, table, watch
from bench.paths import using
from bench.spec import Spec
from bench.store import Store

if TYPE_CHECKING:
    import pandas as pd


def plan(spec: Spec) -> planning.Plan:
    """What a run would do: every cell with its key. Nothing is fetched or loaded."""
    spec.check()
    return planning.make(spec)


def execute(spec: Spec, show: watch.Watch | None = None) -> runner.Summary:
    """Do what has no record yet and return every record of the spec.

    Raises:
        UserError: before anything has run.
        runner.Stopped: results can no longer be saved.
    """
    spec.check()
    show = show or watch.on(sys.stderr)
    with runner.full_disk_stops(spec.results), using():
        store = Store(spec.results)
        for name in planning.make(spec).to_pull:
            show.note(f"fetching {name}")
        return runner.execute(planning.make(spec, fetch=True), store, show)


def run(spec: Spec) -> pd.DataFrame:
    """Do what has no record yet; one row a reading, columns as in `bench run --json`."""
    return table.frame(execute(spec).records)


def report(results: Path | str) -> pd.DataFrame:
    """The newest record of every slot in a results folder."""
    return table.frame(table.newest(Store(Path(results), write=False)))
