"""Group records for export: each pruned and quantized model with all its measurements."""

from __future__ import annotations

import calendar
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bench.formats.contract import ModelResults
from bench.inputs import corpora
from bench.inputs.models import find_alias
from bench.inputs.tasks import BUILTIN_TASKS
from bench.results.identity import Identity
from bench.results.record import ReadingRow, Record
from bench.results.rows import newest
from bench.system.grouping import group_by

OURS = "cast-bench"
"""Developer of the models that this project made."""


def group_by_model(records: Iterable[Record]) -> tuple[list[ModelResults], dict[str, int]]:
    """Return models by name, and the number of records without a value by status."""
    every = list(newest(records))
    usable = [record for record in every if record.status == "ok" and record.readings]
    grouped = group_by(
        usable, lambda record: (record.identity.key("measure", "protocol"), _version(record))
    )
    skipped: Counter[str] = Counter(
        record.status for record in every if record.status != "ok" or not record.readings
    )
    models = [of_one_model(sorted(group, key=lambda r: r.key)) for group in grouped.values()]
    return sorted(models, key=lambda model: (model.name, model.records[0].key)), skipped


def of_one_model(records: list[Record]) -> ModelResults:
    """Return the results of one model from its records."""
    base, hub = name_of_base(records[0].identity.model)
    # The path of a folder is private.
    identity = records[0].identity.model_copy(update={"model": hub or base})
    is_dense = identity.method == "dense" and identity.quantizer == "none"
    name = f"{OURS}/{base}" if is_dense else f"{OURS}/{_slug(base, identity)}"
    if is_dense and hub:
        name = hub
    return ModelResults(
        name=name,
        source=hub or base,
        published=bool(hub),
        identity=identity,
        records=tuple(records),
        version=_version(records[0]),
        is_dense=is_dense,
        recorded=max(recorded_at(record) for record in records),
    )


def _slug(base: str, identity: Identity) -> str:
    """Return a name for what was made of the model `base`."""
    seed = None if identity.seed is None else f"seed{identity.seed}"
    parts = dict.fromkeys((base, identity.method, identity.pattern, identity.quantizer, seed))
    return "-".join(_plain(str(p)) for p in parts if p not in (None, "none"))


def name_of_base(model: str) -> tuple[str, str]:
    """Return a model's name without its folder, and its hub id if it has one."""
    alias = find_alias(model)
    if alias:
        return model, alias.ref if alias.source == "hub" else ""
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model) and not Path(model).exists()
    hub = model if is_id else ""
    return _plain(Path(model).name), hub


def _plain(text: str) -> str:
    """Reduce text to the characters of a hub id, which are safe in a path and a URL."""
    return (
        re.sub(r"([-.])[-.]+", r"\1", re.sub(r"[^A-Za-z0-9._-]+", "-", text)).strip("-.")
        or "unnamed"
    )


def _version(record: Record) -> str:
    return str(record.versions.get("cast-bench", "unknown"))


def recorded_at(record: Record) -> int:
    """Return the time of a record in seconds since 1970, or 0 if it is unknown."""
    try:
        return calendar.timegm(time.strptime(record.recorded, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return 0


def data_of(record: Record) -> tuple[str, str, str]:
    """Return name, hub id, and revision or digest of the measured data. Each is "" if unknown."""
    measure = record.key_inputs.get("measure") or {}
    config = measure.get("config") or {}
    if "corpus" in config:
        name = str(config["corpus"])
        corpus = corpora.find(name)
        hub = corpus.hub if corpus else ""
        return name, hub, str(measure.get("content", ""))
    if "task" in config:
        name, source = str(config["task"]), str(record.notes.get("data", ""))
        own = name in BUILTIN_TASKS
        content = str(record.notes.get("revision") or measure.get("content", ""))
        return (source, "", content) if own else (name, source, content)
    return "weights", "", ""


def values_of(record: Record) -> list[tuple[ReadingRow, float]]:
    """Return the readings that have a value, each with its value."""
    return [(r, float(r.value)) for r in record.readings if r.value is not None]
