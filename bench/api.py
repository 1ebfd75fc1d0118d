"""The Python API, which the command line calls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.execution import disk, progress, runner
from bench.execution.lead import require_lead
from bench.execution.listener import Listeners, RunListener
from bench.inputs import models
from bench.planning.artifact import Plan
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from bench.results.rows import newest, to_frame
from bench.results.store import ReadOnlyStore, Store, refuse_links
from bench.system.cache import in_use, sweep_leftovers
from bench.system.files import require_folder

if TYPE_CHECKING:
    import pandas as pd


def _describe_fetch(model: str) -> str:
    return ". ".join(filter(None, (f"fetching {model}", models.describe_terms(model))))


def plan(spec: Spec) -> Plan:
    """Return what a run would do: every measurement with its key. Nothing is downloaded or
    loaded."""
    return make_plan(spec)


def execute(spec: Spec, *listeners: RunListener) -> runner.Summary:
    """Measure what has no record yet, and return every record of the spec.

    listeners: receive what happens. On a terminal the progress display stays. Without listeners it
    is there anywhere.

    Raises:
        UserError: before anything has run.
        disk.RunStopped: results can no longer be saved.
    """
    require_lead(spec.training.nodes)
    if spec.log_to:
        runner.find_tracking().require(spec.log_to)
    if not listeners or sys.stderr.isatty():
        listeners = (progress.display_for(sys.stderr), *listeners)
    with disk.full_disk_stops(spec.results):
        require_folder(spec.results, "--results", new=False)
        refuse_links(spec.results)
        sweep_leftovers(spec.results)
        with in_use():
            plan = make_plan(
                spec,
                fetch=True,
                on_fetch=lambda name: Listeners(*listeners).note(_describe_fetch(name)),
            )
            summary = runner.execute(plan, Store(spec.results), listeners)
        sweep_leftovers(spec.results)
    return summary


def run(spec: Spec, *listeners: RunListener) -> pd.DataFrame:
    """Measure what has no record yet, and return a row for each reading, with the columns of `bench
    run --json`.

    listeners: receive what happens (`bench.RunListener`). On a terminal the progress display stays.
    """
    return to_frame(execute(spec, *listeners).records)


def report(results: Path | str) -> pd.DataFrame:
    """Return the newest record of every identity in a results folder.

    Raises:
        UserError: no such folder, or a record in it cannot be read.
    """
    store = ReadOnlyStore(Path(results))
    frame = to_frame(newest(store))
    store.require_whole()
    return frame
