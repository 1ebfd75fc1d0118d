"""What is exported: a model as it was pruned and quantized, with all that was measured of it."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.inputs.models import ALIASES
from bench.inputs.tasks import BUILTIN_TASKS
from bench.results.identity import Identity
from bench.results.record import ReadingRow, Record
from bench.results.rows import newest

OURS = "cast-bench"
"""Who made a model that nobody published."""


@dataclass(frozen=True)
class Line:
    """The records of one model, measured by one version of cast-bench.

    name: as of a model on a hub; source: what it was made from, its hub id if it has one; identity: what its records share.
    """

    name: str
    source: str
    published: bool
    """Has the source a hub id?"""
    identity: Identity
    records: tuple[Record, ...]

    @property
    def version(self) -> str:
        return _version(self.records[0])

    @property
    def dense(self) -> bool:
        """Is it the published model, as it is?"""
        return self.identity.method == "dense" and self.identity.quantizer == "none"

    @property
    def recorded(self) -> int:
        """When its last record was made, in seconds since 1970."""
        return max(seconds(r) for r in self.records)


def lines(records: Iterable[Record]) -> tuple[list[Line], dict[str, int]]:
    """Lines by name, and how many records are in none of them for want of a number, by status."""
    grouped: dict[tuple[Any, ...], list[Record]] = {}
    left: dict[str, int] = {}
    for record in newest(records):
        if record.status == "ok" and record.readings:
            about = record.identity.key("measure", "protocol")
            grouped.setdefault((about, _version(record)), []).append(record)
        else:
            left[record.status] = left.get(record.status, 0) + 1
    found = [_line(sorted(group, key=lambda r: r.key)) for group in grouped.values()]
    return sorted(found, key=lambda line: (line.name, line.records[0].key)), left


def _line(records: list[Record]) -> Line:
    base, hub = _base(records[0].identity.model)
    identity = records[0].identity.model_copy(
        update={"model": hub or base}
    )  # a folder's path is nobody else's business
    line = Line("", hub or base, bool(hub), identity, tuple(records))
    if line.dense:
        return replace(line, name=hub or f"{OURS}/{base}")
    seed = None if identity.seed is None else f"seed{identity.seed}"
    parts = dict.fromkeys((base, identity.method, identity.pattern, identity.quantizer, seed))
    told = "-".join(_plain(str(p)) for p in parts if p not in (None, "none"))
    return replace(line, name=f"{OURS}/{told}")


def _base(model: str) -> tuple[str, str]:
    """A model's name without the folder it lies in, and its hub id if it has one."""
    if model in ALIASES:
        return model, ALIASES[model].ref if ALIASES[model].source == "hub" else ""
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model) and not Path(model).exists()
    return _plain(Path(model).name), model if is_id else ""


def _plain(text: str) -> str:
    """What can be part of a hub's id, and so of a path and of a URL."""
    return re.sub(r"([-.])[-.]+", r"\1", re.sub(r"[^A-Za-z0-9._-]+", "-", text)).strip("-.") or "unnamed"


def _version(record: Record) -> str:
    return str((record.provenance.get("versions") or {}).get("cast-bench", "unknown"))


def seconds(record: Record) -> int:
    """When a record was made, since 1970; 0 where it does not say."""
    try:
        return calendar.timegm(time.strptime(str(record.provenance.get("recorded")), "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return 0


def task(record: Record) -> str:
    """What was asked: lm-eval's task, the corpus and its windows; "" of what is counted on weights alone."""
    config = (record.key_inputs.get("measure") or {}).get("config") or {}
    if "task" in config:
        return str(config["task"])
    return str(record.identity.protocol.label) if any(r.n and r.stderr is not None for r in record.readings) else ""


def data(record: Record) -> tuple[str, str, str]:
    """Name, hub id and revision or digest of what was measured on; "" where there is none."""
    from bench.inputs.corpora import CORPORA

    measure = record.key_inputs.get("measure") or {}
    config = measure.get("config") or {}
    if "corpus" in config:
        name = str(config["corpus"])
        return name, CORPORA[name].hub if name in CORPORA else "", str(measure.get("content", ""))
    if "task" in config:
        name, source = str(config["task"]), str(record.notes.get("data", ""))
        own = name in BUILTIN_TASKS
        return (
            source if own else name,
            "" if own else source,
            str(record.notes.get("revision") or measure.get("content", "")),
        )
    return "weights", "", ""


def numbers(record: Record) -> list[tuple[ReadingRow, float]]:
    """Readings that have a value, each with it."""
    return [(r, float(r.value)) for r in record.readings if r.value is not None]
