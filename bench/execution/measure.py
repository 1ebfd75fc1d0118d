"""Measure a built artifact. Measures that read the same windows share a forward pass."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeGuard

from torch import nn

from bench.catalog import registry
from bench.execution.job import BuiltArtifact, Workspace
from bench.execution.new_record import failed_record, gather, new_record
from bench.inputs import loading, models
from bench.inputs.models import SOURCE_KEY
from bench.measures.contract import Measure, MeasureContext, Readings
from bench.measures.dense_states import DenseModel
from bench.measures.window_pass import Participant
from bench.measures.windowed import Windowed, read_together
from bench.planning.artifact import Measurement
from bench.results import metrics
from bench.results.items import require_readable
from bench.results.record import Item, ReadingRow, Record
from bench.results.store import is_disk_full
from bench.system import provenance, surroundings
from bench.system.cache import temporary_folder
from methods.model.logits import head_of

DECIDES_NO_NUMBER = True


def group(measurements: Iterable[Measurement]) -> list[list[Measurement]]:
    """Group measurements of one artifact by forward pass. A measurement that shares none is a group
    alone."""
    groups: dict[Any, list[Measurement]] = {}
    for measurement in measurements:
        try:
            instrument = _instrument(measurement)
        except Exception:  # noqa: BLE001 (it raises again when it is measured)
            instrument = None
        shared = instrument.same_pass if _shares_pass(instrument) else measurement.key
        groups.setdefault(shared, []).append(measurement)
    return list(groups.values())


def measure(
    measurements: Sequence[Measurement], built: BuiltArtifact, workspace: Workspace
) -> list[tuple[Record, tuple[Item, ...]]]:
    """Measure a group, and return records with per-item scores.

    A record is "failed" if its measure or the forward pass raised. It is "diverged" and has no
    scores if a reading is not finite. `cost.wall_s` is the time of a measurement alone plus an
    equal part of the shared time, so that the sum over records is right.

    Raises:
        OSError: the disk is full.
    """
    started = time.monotonic()
    states: list[str] = []
    try:
        with surroundings.kept():
            attempts = _read(measurements, built, workspace, states)
    except Exception as fault:  # noqa: BLE001 (a measure may raise anything; only these measurements fail)
        attempts = [Participant(fault=fault, shares=True)] * len(measurements)
    shared = time.monotonic() - started - sum(a.seconds for a in attempts)
    sharing = [m.label for m, a in zip(measurements, attempts, strict=True) if a.shares]
    out = []
    for measurement, attempt in zip(measurements, attempts, strict=True):
        record, items = _record(measurement, attempt, built)
        own = attempt.seconds
        if attempt.shares:
            own += shared / len(sharing)
        record.cost["wall_s"] = round(own, 3)
        if attempt.shares and len(sharing) > 1:
            record.cost |= {
                "shared_s": round(shared, 3),
                "shared_with": [x for x in sharing if x != measurement.label],
            }
        if attempt.shares and states:
            record.cost["dense_states"] = states
        out.append((record, items))
    return out


def _instrument(measurement: Measurement) -> Measure:
    kind = registry.load(registry.lookup("measures", measurement.measure))
    instrument: Measure = kind(**measurement.config)
    return instrument


def _shares_pass(instrument: Measure | None) -> TypeGuard[Windowed]:
    """Return whether a measure reads in a pass with others. One with its own `read` does not."""
    return isinstance(instrument, Windowed) and type(instrument).read is Windowed.read


def _read(
    measurements: Sequence[Measurement],
    built: BuiltArtifact,
    workspace: Workspace,
    states: list[str],
) -> list[Participant]:
    """Take the readings of a group. states: gets a sentence for each event of the cached hidden
    states of the dense model."""
    instruments = [_instrument(m) for m in measurements]
    artifact, source, compute = measurements[0].artifact, workspace.source.path, workspace.compute
    workspace.choose_products()
    if not all(getattr(i, "streams", False) for i in instruments):
        compute = replace(compute, stream=False)
    with temporary_folder("measure") as workdir:
        compute = replace(compute, scratch=workdir)
        context = MeasureContext(
            folder=built.folder,
            source=source,
            is_dense=built.folder == source,
            tokenizer=workspace.tokenizer,
            load_dense=lambda: loading.load(source, compute),
            counts=built.counts,
            storage=built.storage,
            compute=compute,
            data_dir=artifact.data_dir,
            workdir=workdir,
            progress=workspace.progress,
            seed=artifact.seed,
        )

        def load() -> nn.Module:
            model = loading.load(built.folder, compute)
            workspace.progress.enter("first step")
            return model

        windowed = [i for i in instruments if _shares_pass(i)]
        if not windowed:
            (instrument,) = instruments
            return [Participant(readings=instrument.read(load, context), shares=True)]
        contexts = []
        for i in range(len(windowed)):
            (workdir / str(i)).mkdir()
            contexts.append(replace(context, workdir=workdir / str(i)))
        dense = DenseModel(
            {"model": artifact.digest, "loader": artifact.loader}
            | {"dtype": artifact.computed_in, "device": artifact.device, "stream": compute.stream},
            load_head=lambda: head_of(loading.load(source, replace(compute, stream=True))),
            most_bytes=int(1e9 * measurements[0].options.get("dense_states_gb", 0)),
            events=states,
        )
        return read_together(list(zip(windowed, contexts, strict=True)), load, dense)


def _record(
    measurement: Measurement, attempt: Participant, built: BuiltArtifact
) -> tuple[Record, tuple[Item, ...]]:
    fault = attempt.fault
    if not fault:
        try:
            record, items = _record_readings(measurement, attempt.readings, built)
            require_readable(record, items)
            return record, items
        except Exception as wrong:  # noqa: BLE001 (a measure may return anything)
            fault = wrong
    if is_disk_full(fault):
        raise fault
    return failed_record(measurement, fault), ()


def _record_readings(
    measurement: Measurement, readings: Any, built: BuiltArtifact
) -> tuple[Record, tuple[Item, ...]]:
    if not isinstance(readings, Readings):
        returned = type(readings).__name__
        raise TypeError(
            f"{measurement.measure}.read returned {returned}: end it with return "
            "Readings((Reading(...),))"
        )
    notes = dict(readings.notes)
    if measurement.artifact.terms:
        notes["terms"] = measurement.artifact.terms
    model = measurement.artifact.model
    if measurement.measure == "size" and model.endswith(".gguf"):
        file = models.gguf_sizes(Path(model))
        notes |= {SOURCE_KEY: asdict(file)} if file else {}
    cost: dict[str, Any] = {
        "peak_bytes": provenance.peak_bytes(measurement.artifact.device),
        "tokens": readings.tokens,
    }
    # Every artifact has this measure, so its record has the cost of the build.
    if measurement.measure == "pattern":
        notes |= dict(built.notes)
        if built.storage:
            notes |= built.storage.notes()
        cost |= built.cost
    status, items = "ok", readings.items
    bad = [r for r in readings.values if not math.isfinite(r.value)]
    if bad:
        status, items = "diverged", ()
    record = new_record(
        measurement,
        status=status,
        reason=", ".join(f"{r.metric} is {r.value}" for r in bad),
        readings=rows_of(readings),
        token_digest=readings.token_digest,
        notes=notes,
        cost=cost,
        provenance=gather(measurement),
    )
    return record, items


def rows_of(readings: Readings) -> list[ReadingRow]:
    """Return readings as rows of a record.

    A value that is not finite, and a standard error that is not finite or is negative, become None.
    A reading without unit or direction takes that of its metric.
    """
    out = []
    for r in readings.values:
        value = r.value if math.isfinite(r.value) else None
        stderr = r.stderr if r.stderr is not None and 0 <= r.stderr < math.inf else None
        unit = metrics.find(r.metric).unit if r.unit is None else r.unit
        better = metrics.find(r.metric).better if r.better is None else r.better
        out.append(
            ReadingRow(metric=r.metric, value=value, unit=unit, better=better, stderr=stderr, n=r.n)
        )
    return out
