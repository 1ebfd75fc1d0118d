"""`bench run` and `plan`."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.catalog import metric_owners, named_files, registry
from bench.catalog.choice import short_label, unbounded_fields
from bench.catalog.entries import LOCAL
from bench.cli.console import (
    fail,
    note,
    note_ignored,
    print_line,
    print_records,
    print_rows,
)
from bench.cli.flags import (
    Columns,
    Json,
    file_option,
    spec_of,
    split_columns,
    with_flags,
)
from bench.execution.descendants import adopting
from bench.reporting.words import duration, short_count
from bench.system.devices import driver_fault, exists, resolve_device
from bench.system.text import amount
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.planning.artifact import Artifact, Measurement
    from bench.planning.spec import Spec
    from bench.results.store import ReadOnlyStore


@with_flags()
def run(columns: Columns = None, json: Json = False, **flags: Any) -> None:
    """Prune, quantize and measure models, and print a table.

    A measurement that has a record is not run again.
    """
    shown = split_columns(columns)
    spec = spec_of(flags)
    for kind in registry.SECTIONS:
        typed = " ".join(getattr(spec, kind, ()))
        note_ignored(kind, set(re.split("[:=+/ ]", typed)))
    note_ignored("trackers", spec.log_to)
    note_ignored("executors", (spec.executor,))
    for name, why in metric_owners.ignored(named_files.with_names("measures", spec.measures)):
        note(f"plug-in {name}: {why}")
    _note_driver(spec)
    _note_unbounded(spec)
    from bench import api

    with adopting(), _led(spec):
        summary = api.execute(spec)
    for line in summary.moved:
        note(line)
    from bench.comparing.result_set import ResultSet
    from bench.results.store import ReadOnlyStore

    store = ReadOnlyStore(spec.results)
    results = ResultSet(str(spec.results), tuple(summary.records), store.items)
    print_records(results, "json" if json else "table", columns=shown)
    if not json:
        known = max(0, len(summary.records) - summary.tried.total())
        print_line(f"{_describe_tried(summary.tried)}, {known} read from {spec.results}")
        identities = [record.identity for record in summary.records]
        texts = dict.fromkeys((i.model, i.calibration.data) for i in identities if i.calibration)
        for line in dict.fromkeys(_advise(model, data) for model, data in texts):
            if line:
                note(line)
        if summary.records:
            folder = shlex.quote(str(spec.results))
            model = shlex.quote(summary.records[0].identity.model)
            print_line(f"All columns: bench report --results {folder} --columns all")
            print_line(f"Next: bench pick --model {model} --results {folder}")
    if summary.failed:
        fail(
            f"{amount(summary.failed, 'measurement')} failed: bench show RECORD prints a "
            "traceback; the same command retries them",
            1,
        )


def _note_unbounded(spec: Spec) -> None:
    """Say once which fields of classes in files take a number of any size."""
    for kind in ("methods", "quantizers"):
        texts = getattr(spec, kind)
        if not any(map(named_files.names_file, texts)):
            continue
        names = [text.split(":")[0] for text in named_files.with_names(kind, texts)]
        for name in dict.fromkeys(names):
            target = registry.file_of(kind, name)
            fields = unbounded_fields(registry.load(registry.lookup(kind, name))) if target else []
            if fields:
                note(
                    f"{name}: {', '.join(fields)} may be any number. To refuse wrong values, give "
                    "a range as its type, for example Positive of methods.contract.ranges"
                )


def _note_driver(spec: Spec) -> None:
    """Say why the automatic device is the CPU on a machine with a card."""
    if spec.device == "auto" and resolve_device("auto") == "cpu":
        fault = driver_fault()
        if fault:
            note(f"the device is the CPU: {fault}")


def _led(spec: Spec) -> AbstractContextManager[None]:
    """Return the context of the first of several nodes, or none on a single node. Other nodes work,
    and exit here."""
    if spec.training.nodes == 1:
        return nullcontext()
    place = registry.load(registry.lookup("services", "nodes"))
    led: AbstractContextManager[None] = place(spec)
    return led


def _describe_tried(tried: Counter[str]) -> str:
    """Return the number of measurements that a run tried, and the outcomes if some have no
    number."""
    total, measured = tried.total(), tried["ok"]
    if total == measured:
        return f"{amount(total, 'measurement')} run"
    others = [
        f"{tried[status]} {status}" for status in ("diverged", "skipped", "failed") if tried[status]
    ]
    return f"{amount(total, 'measurement')} tried ({', '.join([f'{measured} measured', *others])})"


@with_flags()
def plan(
    slurm: Annotated[
        Path | None,
        file_option("--slurm", "Also write a script for sbatch, with a task for each shard."),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(help="For --slurm: number of tasks.", min=1, max=10_000)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="As in bench run, or a card, or several, such as 8xh100. Cards: {cards}"),
    ] = None,
    json: Json = False,
    **flags: Any,
) -> None:
    """Show what a run would do, and estimate its cost.

    No weights are read or downloaded. A model that is neither here nor among the known shapes needs
    its config.json, from the hub or alone in a folder.
    """
    flags["device"] = device
    spec = spec_of(flags)
    if (slurm is None) != (shards is None):
        raise UserError("--slurm FILE and --shards N belong together: give both, or neither")
    if slurm and spec.shard:
        raise UserError(f"--slurm divides the plan itself: leave --shard {spec.shard} out")
    from bench import api
    from bench.execution.forecast import find_forecasts
    from bench.inputs.shapes import fetched_model, planned_model
    from bench.planning.refusal import describe_whole_blocks, find_problem
    from bench.results.store import ReadOnlyStore

    _note_driver(spec)
    forecasts = find_forecasts()
    spec, cards = forecasts.split_cards(spec)
    planned = api.plan(spec)
    unplanned = set(planned.to_pull) - {m.artifact.model for m in planned.measurements}
    if unplanned:
        name = min(unplanned)
        raise UserError(
            f"the plan of {name} needs its files, which are not downloaded yet: bench pull {name} "
            "first, or name a folder with its config.json"
        )
    if spec.executor == LOCAL and not cards:
        for device in planned.devices:
            if not exists(device):
                note(f"device {device!r} is not on this machine: planned for one that has it")
    estimate = forecasts.estimate(planned, cards)
    store = ReadOnlyStore(spec.results) if spec.results.exists() else None
    rows = []
    for measurements, columns in zip(planned.artifacts().values(), estimate.columns, strict=True):
        rows.append(_describe_planned(measurements, store) | columns)
    if json:
        print_rows(rows, json)
    else:
        _print_planned(rows)
    if planned.measurements:
        for line in filter(None, (estimate.total, estimate.source)):
            note(line)
    artifacts = [measurements[0].artifact for measurements in planned.artifacts().values()]
    texts = dict.fromkeys(filter(None, map(_describe_text, artifacts)))
    if len(texts) == 1:  # several are a column
        note(min(texts))
    for line in dict.fromkeys(filter(None, map(describe_whole_blocks, artifacts))):
        note(line)
    problem = next(filter(None, map(find_problem, artifacts)), "")
    if problem:
        note(f"on this machine bench run would refuse it: {problem}")
    if (spec.jobs, spec.executor) == ("auto", LOCAL) and planned.measurements:
        threads = planned.measurements[0].artifact.threads
        note(f"--jobs auto is {planned.jobs} artifacts in parallel, threads for each: {threads}")
    if slurm:
        write_job = registry.load(registry.lookup("services", "slurm"))
        for line in write_job(planned, shards, cards, slurm):
            note(line)
    for name in planned.to_pull:
        facts = planned_model(name) or fetched_model(name, spec.data_dir)
        size = f" of about {facts.download_bytes / 1e9:,.0f} GB" if facts else ""
        note(f"{name} is not downloaded yet: bench run will do it, or bench pull {name}{size}")


def _describe_text(artifact: Artifact) -> str:
    """Return which text calibrates an artifact, and what to choose in place of prose; "" if none
    does."""
    if artifact.calibration is None:
        return ""
    data = artifact.calibration.data
    return _advise(artifact.model, data) or f"calibrated on {data}"


def _advise(model: str, data: str) -> str:
    """Return what to choose in place of the calibration text of a model's row; "" if the text is no
    default, or that of the model's own training."""
    from bench.inputs.models import find_alias
    from bench.planning.spec import Calibration

    alias = find_alias(model)
    if data not in Calibration().data or (alias and alias.data == data):
        return ""
    return (
        f"calibrated on {data}, which is prose: more of code is kept with "
        "--set calibration.data=wiki:0.5,code:0.5 (docs/calibration.md)"
    )


def _describe_planned(
    measurements: list[Measurement], store: ReadOnlyStore | None
) -> dict[str, Any]:
    """Return a row for an artifact: its measurements, and how many of them have a record."""
    artifact = measurements[0].artifact
    names = ("model", "method", "pattern", "quantizer")
    row: dict[str, Any] = {name: getattr(artifact, name) for name in names}
    row["seed"] = "" if artifact.seed is None else str(artifact.seed)
    row["calibration"] = artifact.calibration.data if artifact.calibration else ""
    row["measurements"] = len(measurements)
    row["done"] = sum(bool(store and store.finished(m.key)) for m in measurements)
    return row


def _print_planned(rows: list[dict[str, Any]]) -> None:
    """Print a table of the rows of a plan, or of several models one each, with the model above."""
    shown = _shortened(rows)
    if len({row["model"] for row in rows}) < 2:
        print_rows(shown, as_json=False, width=80)
        return
    of_model: dict[str, list[dict[str, Any]]] = {}
    for row, shortened in zip(rows, shown, strict=True):
        of_model.setdefault(row["model"], []).append(shortened)
    for model, of_one in of_model.items():
        print_rows(of_one, as_json=False, width=80, title=model)


def _shortened(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a plan for a terminal: numbers in a person's units, no columns that are
    the same in all rows or that another one implies."""
    varying = []
    for name in ("seed", "calibration"):
        given = {row[name] for row in rows}
        if len(given - {""}) > 1:
            varying.append(name)
    quantizers = list(dict.fromkeys(row["quantizer"] for row in rows))
    out = []
    for row in rows:
        shown = {name: row[name] for name in ("method", "pattern", "quantizer")}
        shown["quantizer"] = short_label(row["quantizer"], quantizers)
        shown |= {name: row[name] for name in varying}
        shown["done"] = f"{row['done']}/{row['measurements']}"
        if "about_s" in row:
            shown["tokens"] = short_count(row["tokens"])
            shown["about_time"] = "" if row["about_s"] is None else duration(row["about_s"])
            shown["about_GB"] = row["about_GB"]
        if "about_device_GB" in row:
            # The main memory holds the files alone.
            del shown["about_GB"]
            shown["about_card_GB"] = row["about_device_GB"]
        if "cards_enough" in row:
            del shown["tokens"]
            enough = row["cards_enough"]
            shown["cards_enough"] = enough.replace(" with recompute=true", ", recompute")
        if "about_disk_GB" in row:
            shown["about_disk_GB"] = row["about_disk_GB"]
        out.append(shown)
    return out
