"""Records of measurements: what is known before one runs, and of one that failed."""

from __future__ import annotations

import traceback
from typing import Any

from bench.catalog import registry
from bench.planning.artifact import Measurement
from bench.results.record import Record
from bench.system import provenance
from methods.errors import Diverged, Skipped


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
    text = str(fault)
    lines = text.strip().splitlines()
    out_of_memory = isinstance(fault, MemoryError) or "out of memory" in text or "can't allocate memory" in text
    reason = "OOM" if out_of_memory else f"{type(fault).__name__}: {lines[0] if lines else 'no message'}"
    if isinstance(fault, Diverged | Skipped):
        reason = text or type(fault).__name__
    return new_record(
        measurement,
        status="skipped" if isinstance(fault, Skipped) else "diverged" if isinstance(fault, Diverged) else "failed",
        reason=reason,
        traceback="" if isinstance(fault, Skipped) else "".join(traceback.format_exception(fault)),
        provenance=gather(measurement),
    )


def gather(measurement: Measurement) -> dict[str, Any]:
    """Return the provenance of a measurement, with the plug-ins that take part in it."""
    names = [(stage.kind, stage.name) for stage in measurement.artifact.stages] + [("measures", measurement.measure)]
    found = {name: one for kind, name in names if (one := registry.distribution_of(kind, name))}
    plugins = [provenance.describe_plugin(name, one) for name, one in found.items()]
    return provenance.gather() | ({"plugins": plugins} if plugins else {})
