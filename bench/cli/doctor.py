"""Checks of what a run may need."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.catalog import metric_owners, registry
from bench.inputs import corpora, models, tasks
from bench.inputs.hub import DATA_ENV, mirror, offline_variable
from bench.inputs.task_yaml import read_task
from bench.results.store import RESULTS
from bench.system import devices, environments, packages, provenance
from bench.system.cache import CACHE_ENV, cache_dir
from bench.system.files import find_existing
from methods.contract.errors import UserError

MISSING = ("missing", "unwritable")
"""States of a named folder that a run cannot use."""
GROUPS = {
    "corpus": ("corpora", "to download: bench pull NAME"),
    "tasks": ("task sets", "to download: bench pull NAME"),
    "model": ("models", "to download: bench pull NAME"),
    "extra": ("extras", f"to install: {packages.pip_install('NAME')}"),
    "environment": ("environments", "to create: bench env create NAME"),
}
"""Kinds of things that share a line of the table: their name there, and the remedy if absent."""


def rows(data_dir: Path | None, results: Path | None) -> list[dict[str, Any]]:
    """Return a row for each thing: its state, and a remedy if it is not ok."""
    out = [_row("cast-bench", "ok", provenance.describe_version())]
    out += [
        _device(),
        _memory(),
        _disk(),
        _results(results or RESULTS),
        _network(),
        _mirror(data_dir),
    ]
    out += [_corpus(name, data_dir) for name in corpora.names()]
    out += [_tasks(name, data_dir) for name in tasks.TASK_SETS]
    out += [_model(name) for name, alias in models.ALIASES.items() if alias.source != "hub"]
    for kind in registry.SECTIONS:
        for name, entry in registry.entries(kind).items():
            if entry.broken:
                out.append(_row(f"plug-in {name}", "broken", entry.broken))
            elif entry.is_plugin:
                out.append(_row(f"plug-in {name}", "ok", entry.target))
        out += [_row(f"plug-in {name}", "ignored", why) for name, why in registry.ignored(kind)]
    measures = [
        name
        for name, entry in registry.entries("measures").items()
        if entry.is_plugin and not entry.broken
    ]
    out += [
        _row(f"plug-in {name}", "ignored", why) for name, why in metric_owners.ignored(measures)
    ]
    for extra, parts in packages.extras().items():
        out.append(_row_of_parts(f"extra {extra}", parts, "install", packages.pip_install(extra)))
    for row in environments.rows():
        name, state = row["name"], row["state"]
        detail = row["path"] if state == "built" else f"to create: bench env create {name}"
        out.append(_row(f"environment {name}", state, detail))
    return out


def grouped(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with one for all things of a kind that are here, and one for all absent."""
    names: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        kind, _, name = row["thing"].partition(" ")
        if kind in GROUPS and row["state"] in ("ok", "built", "absent"):
            names.setdefault((kind, row["state"]), []).append(name)
    out = []
    for row in rows:
        kind, _, name = row["thing"].partition(" ")
        members = names.get((kind, row["state"]))
        if members is None:
            out.append(dict(row))
        elif name == members[0]:
            thing, remedy = GROUPS[kind]
            parts = [", ".join(members), remedy if row["state"] == "absent" else ""]
            out.append(_row(thing, row["state"], "; ".join(filter(None, parts))))
    return out


def _row(thing: str, state: str, detail: str) -> dict[str, Any]:
    return {"thing": thing, "state": state, "detail": detail}


def _row_of_parts(thing: str, parts: Mapping[str, bool], verb: str, command: str) -> dict[str, Any]:
    """Return the row of several parts. parts: whether each is here. verb, command: how to get the
    others."""
    absent = [name for name, is_here in parts.items() if not is_here]
    if not absent:
        return _row(thing, "ok", "")
    state = "absent" if len(absent) == len(parts) else "incomplete"
    return _row(thing, state, f"to {verb} {', '.join(absent)}: {command}")


def _device() -> dict[str, Any]:
    device = devices.resolve_device("auto")
    about = provenance.machine()
    if device == "cpu":
        cards = devices.driver_fault() or "no CUDA device"
        return _row("device", "cpu", f"{about['cpu']}, {devices.cores()} cores; {cards}")
    import torch

    return _row("device", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")


def _memory() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    free = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    return _row("memory", "ok", f"{free}; larger models are loaded block by block")


def _disk() -> dict[str, Any]:
    if not _can_write(cache_dir()):
        return _row("disk", "unwritable", f"{cache_dir()}: name a new folder in ${CACHE_ENV}")
    free = shutil.disk_usage(find_existing(cache_dir())).free
    about = f"{free / 1e9:.1f} GB free for {cache_dir()}"
    if free < 5e9:
        return _row("disk", "low", f"{about}; to free some: bench cache gc")
    return _row("disk", "ok", about)


def _results(root: Path) -> dict[str, Any]:
    if not _can_write(root):
        return _row("results", "unwritable", f"{root}: name another folder with --results")
    return _row("results", "ok", str(root))


def _can_write(folder: Path) -> bool:
    """Return whether files can be written in a folder, or it can be made."""
    place = find_existing(folder)
    return place.is_dir() and os.access(place, os.W_OK)


def _network() -> dict[str, Any]:
    offline = offline_variable()
    if offline:
        return _row("hub", "off", f"not asked, since ${offline} is set")
    try:
        with socket.create_connection(("huggingface.co", 443), timeout=3):
            return _row("hub", "ok", "huggingface.co answers")
    except OSError as fault:
        way = "models and corpora must be in the cache, in a mirror or on the package index"
        return _row("hub", "unreachable", f"{fault}; {way}")


def _mirror(data_dir: Path | None) -> dict[str, Any]:
    folder = mirror(data_dir)
    if folder is None:
        return _row("mirror", "none", f"to use one: --data-dir or ${DATA_ENV}")
    state = "ok" if folder.is_dir() else "missing"
    return _row("mirror", state, str(folder))


def _corpus(name: str, data_dir: Path | None) -> dict[str, Any]:
    source = corpora.lookup(name)
    if isinstance(source, corpora.TextSource):
        splits = list(source.uses) if source.digest(mirror(data_dir)) else []
    elif not source.hub:
        return _row(f"corpus {name}", "ok", "part of this package")
    else:
        splits = [use for use in source.uses if corpora.files(name, use, mirror(data_dir))]
    if splits:
        return _row(f"corpus {name}", "ok", " ".join(splits))
    return _row(f"corpus {name}", "absent", f"to download: bench pull {name}")


def _tasks(name: str, data_dir: Path | None) -> dict[str, Any]:
    wanted = [read_task(*pair) for pair in tasks.expand((name,)).items()]
    parts = {task.name: tasks.data_folder(task, mirror(data_dir)) is not None for task in wanted}
    return _row_of_parts(f"tasks {name}", parts, "download", f"bench pull {name}")


def _model(name: str) -> dict[str, Any]:
    try:
        model = models.resolve(name)
    except UserError as fault:
        return _row(f"model {name}", "broken", str(fault))
    if model:
        return _row(f"model {name}", "ok", str(model.folder))
    return _row(f"model {name}", "absent", f"to download: bench pull {name}")
