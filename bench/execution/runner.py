"""Execute a plan: measure what has no record yet, with one process for each artifact.

Runs on one results folder share the work.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.catalog import registry
from bench.catalog.entries import LOCAL
from bench.execution import progress
from bench.execution.descendants import end_adopted
from bench.execution.disk import ResultsFolder, full_disk_stops
from bench.execution.executor import start_executor
from bench.execution.journal import Journal
from bench.execution.listener import Listeners, RunListener
from bench.execution.sweep import Sweep
from bench.planning.artifact import Measurement, Plan
from bench.planning.plan import make_plan
from bench.planning.refusal import require_memory
from bench.planning.spec import Spec
from bench.results.record import Record
from bench.results.reproduce import settings
from bench.results.store import Store
from bench.system.cache import in_use
from methods.contract.errors import UserError

RENAMED = {"floor": "final_lr_ratio"}
"""Settings of methods that older records have under another name."""


@dataclass
class Summary:
    records: list[Record]
    tried: Counter[str]
    """Number of measurements that this run tried, by status."""
    moved: list[str]

    @property
    def failed(self) -> int:
        return sum(r.status == "failed" for r in self.records)


def execute(plan: Plan, store: Store, listeners: Sequence[RunListener]) -> Summary:
    """Fill in what is missing, then read every measurement's record. Raise RunStopped if results
    can no longer be saved."""
    with contextlib.ExitStack() as stack:
        stack.callback(end_adopted)
        stack.enter_context(full_disk_stops(store.root))
        folder = stack.enter_context(contextlib.closing(ResultsFolder(store.root)))
        missing = []
        for measurements in plan.artifacts().values():
            left = [m for m in measurements if not store.finished(m.key)]
            if left:
                missing.append(left)
        known = len(plan.measurements) - sum(map(len, missing))
        require_memory(plan, missing)
        # Without work, there is no cluster to connect to.
        name = plan.spec.executor if missing else LOCAL
        executor = stack.enter_context(
            contextlib.closing(start_executor(name, plan, missing, store))
        )
        with Listeners(*listeners) as heard:
            journal = heard.add(Journal(store.root, plan.spec.executor, heard.note))
            if missing and plan.spec.log_to:
                tracking = find_tracking()
                heard.add(tracking(plan.spec.log_to, journal.status.name, store.get, heard.note))
            heard.begin(len(plan.measurements), known)
            with contextlib.closing(Sweep(plan, missing, store, folder, heard, executor)) as sweep:
                sweep.run()
        folder.require()
        records = [record for m in plan.measurements if (record := store.get(m.key))]
        return Summary(records, Counter(journal.status.tried), store.damaged)


def find_tracking() -> Any:
    """Return the class of the listener that forwards a run to trackers. Raise UserError without
    one."""
    return registry.load(registry.lookup("services", "trackers"))


def measure_again(record: Record, root: Path) -> Record:
    """Repeat a record's measurement into an empty results folder. Raise UserError if this version
    cannot."""
    plan = make_plan(Spec(**settings(record) | {"results": root}))
    measurements = tuple(m for m in plan.measurements if m.identity.key() == record.identity.key())
    if not measurements:
        raise UserError(
            f"record {record.short_key} cannot be measured by this version any more: run bench run"
        )
    _require_recipe(record, measurements[0])
    with in_use():
        summary = execute(
            Plan(plan.spec, measurements, ()), Store(root), [progress.display_for(sys.stderr)]
        )
    if len(summary.records) != 1:
        raise UserError(
            f"record {record.short_key} gave {len(summary.records)} records: run bench run"
        )
    return summary.records[0]


def _require_recipe(record: Record, planned: Measurement) -> None:
    """Raise UserError if a stage has other settings now than the record's: it would make another
    model of the same identity."""
    now = json.loads(json.dumps(planned.artifact.key_inputs()["stages"]))
    for was, stage in zip(record.key_inputs.get("stages", ()), now, strict=False):
        old = {RENAMED.get(name, name): value for name, value in was.get("config", {}).items()}
        new = stage["config"]
        changed = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
        if changed:
            name = min(changed)
            raise UserError(
                f"{was['name']} of record {record.short_key} has {name} "
                f"{old.get(name, 'not set')}, and now {new.get(name, 'not set')}: name its recipe "
                "with bench run --set training.recipe=, or use the code of "
                f"{record.commit_id or 'its commit'}"
            )
