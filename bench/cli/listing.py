"""Rows for `bench ls`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bench.catalog import registry
from bench.catalog.declarations import CatalogEntry
from bench.cli.console import Rows, note
from bench.inputs import corpora, models, tasks, tracks
from bench.inputs.task_yaml import read_task
from bench.planning import method_cost, recipes
from bench.results.record import RecordName
from bench.results.store import RESULTS, ReadOnlyStore
from bench.system.packages import pip_install
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError

LISTS = ("methods", "models", "data", "tasks", "measures", "quantizers", "recipes", "runs")


def rows(what: str, long: bool, results: Path | None) -> Rows:
    """Return the rows of a list. what: a kind in LISTS. long: add columns. results: folder for
    `runs`."""
    if what in ("methods", "measures", "quantizers"):
        return [_entry(what, name, entry, long) for name, entry in registry.entries(what).items()]
    if what == "models":
        return [_model(name) for name in models.names()]
    if what == "data":
        return [_corpus(name, corpora.lookup(name)) for name in corpora.names()]
    if what == "tasks":
        return _tasks()
    if what == "recipes":
        return [_recipe(name, recipe) for name, recipe in recipes.recipes().items()]
    if what == "runs":
        return _runs(results)
    raise UserError(describe_unknown("list", what, LISTS))


def _corpus(name: str, source: corpora.CorpusSource) -> dict[str, Any]:
    return {
        "corpus": name,
        "hub_id": source.hub,
        "for": " ".join(source.uses),
        "licence": source.licence,
        "about": source.about,
    }


def _recipe(name: str, recipe: recipes.Recipe) -> dict[str, Any]:
    return {
        "recipe": name,
        "up_to_parameters": f"{recipe.parameters:.3g}" if recipe.parameters else "only by name",
        "tokens": recipe.tokens,
        "step": f"{recipe.batch} x {recipe.seqlen}",
        "device": recipe.device or "any",
        "about": recipe.about,
        "source": recipe.source,
    }


def _entry(what: str, name: str, entry: CatalogEntry, long: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "about": f"broken: {entry.broken}" if entry.broken else entry.about,
        "needs": " ".join(entry.needs_with({})),
        "paper": entry.paper,
        "year": str(entry.year or ""),
        "presets": " ".join(entry.presets),
    }
    if long and what == "methods":
        row["trains"] = "yes" if entry.trains else "no"
        row["estimated_on_llama2_7b"] = method_cost.describe(entry)
        row["installed_by"] = installed_by(entry)
    if long:
        row["fields"] = " ".join(_fields(entry))
    return row


def _model(name: str) -> dict[str, Any]:
    try:
        alias = models.find_alias(name)
        assert alias is not None
    except UserError as fault:
        empty = dict.fromkeys(("source", "ref", "evaluated_on"), "")
        return {"model": name, **empty, "about": f"broken: {fault}"}
    return {
        "model": name,
        "source": alias.source,
        "ref": alias.short_ref,
        "evaluated_on": f"{alias.data}@{alias.seqlen}",
        "about": alias.about,
    }


def _fields(entry: CatalogEntry) -> list[str]:
    """Return the fields of a class, each with its default."""
    kind = registry.load(entry) if entry.target and not entry.broken else None
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return [f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default}" for f in fields]


def installed_by(entry: CatalogEntry) -> str:
    """Return the command that installs the library of an entry, or ""."""
    if entry.environment:
        return f"bench env create {entry.environment}"
    return pip_install(entry.extra) if entry.extra else ""


def _tasks() -> Rows:
    """Return the tasks, grouped by what a compressed model loses that they show."""
    rows = []
    for name, file in tasks.expand((*tasks.BUILTIN_TASKS, *tasks.TASK_FILES)).items():
        task = read_task(name, file)
        sets = " ".join(s for s, members in tasks.TASK_SETS.items() if name in members)
        rows.append(_task("short questions", name, task.version, "zeroshot", task.hub, sets))
    for name, track in tracks.all_tasks().items():
        lost = name.partition("/")[0]
        rows.append(_task(lost, name, f"{track.shots}-shot", "answers", "", lost))
    for measure, entry in registry.entries("measures").items():
        kind: Any = None if entry.broken else registry.load(entry)
        for lost, names in getattr(kind, "shows", {}).items():
            rows += [_task(lost, name, kind.version, measure, "", "") for name in names]
    return rows


def _task(lost: str, name: str, version: str, measure: str, hub: str, sets: str) -> dict[str, Any]:
    row = {"lost": lost, "task": name, "version": version, "measure": measure}
    return row | {"hub_id": hub, "sets": sets}


def _runs(results: Path | None) -> Rows:
    store = ReadOnlyStore(results or RESULTS)
    out = [_describe_record(record) for record in store.names()]
    for line in store.damaged:
        note(f"{line}: left out")
    return out


def _describe_record(record: RecordName) -> dict[str, str]:
    about = record.identity
    return {
        "record": record.key[:12],
        "model": about.model,
        "method": about.method,
        "pattern": about.pattern,
        "quantizer": about.quantizer,
        "seed": "" if about.seed is None else str(about.seed),
        "measure": about.measure,
        "protocol": about.protocol.label,
        "status": record.status,
        "recorded": record.recorded,
    }
