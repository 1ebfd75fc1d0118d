"""Read one measure off a built artifact, as a record."""

from __future__ import annotations

import math
from typing import Any

from bench.catalog import registry
from bench.inputs import loading
from bench.measures.contract import Measure, MeasureContext, Readings
from bench.plan.artifact import Measurement
from bench.results.record import Item, Reading, ReadingRow, Record
from bench.run.job import BuiltArtifact, Workspace, read_stored
from bench.run.new_record import new_record
from bench.system import provenance
from bench.system.cache import temporary_folder
from methods.contract import Compute


def measure(measurement: Measurement, built: BuiltArtifact, workspace: Workspace) -> tuple[Record, tuple[Item, ...]]:
    """A measurement's record and its per-item scores; diverged, and without scores, where a reading is not finite."""
    kind = registry.load(registry.lookup("measures", measurement.measure))
    instrument: Measure = kind(**measurement.config)
    compute = workspace.compute
    if not getattr(instrument, "streams", False):
        compute = Compute(device=compute.device, dtype=compute.dtype, threads=compute.threads)
    source, artifact = workspace.source.path, measurement.artifact
    with temporary_folder("measure") as workdir:
        context = MeasureContext(
            folder=built.folder,
            source=source,
            is_dense=built.folder == source,
            tokenizer=workspace.tokenizer,
            load_dense=lambda: loading.load(source, compute),
            counts=built.counts,
            storage=read_stored(built.notes),
            compute=compute,
            data_dir=artifact.data_dir,
            workdir=workdir,
            progress=workspace.progress,
            seed=artifact.seed,
        )
        readings = instrument.read(lambda: loading.load(built.folder, compute), context)
    notes = dict(readings.notes)
    cost: dict[str, Any] = {"peak_bytes": provenance.peak_bytes(artifact.device), "tokens": readings.tokens}
    if measurement.measure == "pattern":  # the one that every artifact has carries what its making took
        notes |= built.notes
        cost |= built.cost
    bad = [r for r in readings.values if not math.isfinite(r.value)]
    record = new_record(
        measurement,
        status="diverged" if bad else "ok",
        reason=", ".join(f"{r.metric} is {r.value}" for r in bad),
        readings=rows_of(readings),
        token_digest=readings.token_digest,
        notes=notes,
        cost=cost,
        provenance=provenance.gather(),
    )
    return record, () if bad else readings.items


def rows_of(readings: Readings) -> list[ReadingRow]:
    """As a record keeps them: what is not finite is no value."""
    return [_row(r) for r in readings.values]


def _row(r: Reading) -> ReadingRow:
    stderr = r.stderr if r.stderr is not None and math.isfinite(r.stderr) else None
    return ReadingRow(
        metric=r.metric,
        value=r.value if math.isfinite(r.value) else None,
        unit=r.unit,
        better=r.better,
        stderr=stderr,
        n=r.n,
    )
