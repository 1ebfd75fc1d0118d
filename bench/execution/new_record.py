"""Records of measurements: what is known before one runs, and of one that failed."""

from __future__ import annotations

import traceback
from typing import Any

from bench.catalog import registry
from bench.planning.artifact import Measurement
from bench.results.record import Record
from bench.system import provenance
from methods.contract.errors import Diverged, Skipped

MAX_REASON = 1000
"""Longest reason in characters. A method may list thousands of tensors in a message."""
MAX_PART, MAX_TRACEBACK = 5_000, 50_000
"""Longest frame or message of a traceback, and the longest traceback, in characters."""


def new_record(measurement: Measurement, **fields: Any) -> Record:
    """Return a record with the fields that are known before the measurement."""
    return Record(
        key=measurement.key,
        identity=measurement.identity,
        artifact=measurement.artifact.key,
        key_inputs=measurement.key_inputs(),
        **fields,
    )


def failed_record(measurement: Measurement, fault: BaseException) -> Record:
    """Return a failed, diverged or skipped record with a one-line reason and the traceback."""
    text, name = _message(fault), type(fault).__name__
    lines = text.strip().splitlines() or ["no message"]
    status, reason = "failed", f"{name}: {lines[0]}"
    if isinstance(fault, Skipped):
        status, reason = "skipped", text or name
    elif isinstance(fault, Diverged):
        status, reason = "diverged", text or name
    elif (
        isinstance(fault, MemoryError) or "out of memory" in text or "can't allocate memory" in text
    ):
        reason = "OOM"
    return new_record(
        measurement,
        status=status,
        reason=reason[:MAX_REASON],
        traceback="" if status == "skipped" else _traceback(fault),
        provenance=gather(measurement),
    )


def _message(fault: BaseException) -> str:
    """Return what a fault says, or "" if its class cannot tell."""
    try:
        return _encodable(str(fault))
    except Exception:  # noqa: BLE001 (the class of a method may do anything)
        return ""


def _traceback(fault: BaseException) -> str:
    """Return the traceback of a fault. If it is too long, return its end."""
    return _encodable(
        "".join(part[:MAX_PART] for part in traceback.format_exception(fault))[-MAX_TRACEBACK:]
    )


def _encodable(text: str) -> str:
    """Replace lone surrogates, as in the name of a file that is not UTF-8. A record cannot hold
    them."""
    return text.encode(errors="replace").decode()


def gather(measurement: Measurement) -> dict[str, Any]:
    """Return the provenance of a measurement, with the plug-ins and files of the user that take
    part in it."""
    names = [(stage.kind, stage.name) for stage in measurement.artifact.stages] + [
        ("measures", measurement.measure)
    ]
    found = {name: one for kind, name in names if (one := registry.distribution_of(kind, name))}
    plugins = [provenance.describe_plugin(name, one) for name, one in found.items()]
    files = {name: target for kind, name in names if (target := registry.file_of(kind, name))}
    plugins += [provenance.describe_file(name, target) for name, target in files.items()]
    gathered = provenance.gather()
    if plugins:
        gathered["plugins"] = plugins
    return gathered
