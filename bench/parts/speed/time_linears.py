"""Timings of a model's linears on this machine, as a record for each kind of weight and number of
tokens."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.execution.measure import rows_of
from bench.inputs import models
from bench.measures.contract import Readings
from bench.parts.packed24 import native
from bench.parts.speed import linears, roofline
from bench.results.identity import Identity, Protocol
from bench.results.record import Record
from bench.results.store import Store
from bench.system import digests, nvidia_smi, provenance
from bench.system.devices import fingerprint, select_card
from bench.system.source_digest import digest_source
from methods.contract.errors import Skipped, first_line
from methods.contract.method import Compute
from methods.contract.pattern import Pattern


@dataclass(frozen=True)
class LinearTimingRequest:
    """Linears to time. kinds: None for all kinds of the device."""

    model: str
    device: str
    threads: int
    kinds: tuple[str, ...] | None
    tokens: tuple[int, ...]
    data_dir: Path | None


def measure(
    request: LinearTimingRequest,
    results: Path,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Iterator[Record]:
    """Yield each record. A finished one is not measured again. advance: called with the numbers of
    timed and of all shapes."""
    source = Source(request.model, request.data_dir)
    store = Store(results)
    select_card(request.device)
    device = linears.select_device(
        Compute(device=torch.device(request.device), threads=request.threads)
    )
    kinds = request.kinds or device.kinds
    torch.set_num_threads(request.threads)
    new = [
        _new_record(request, source, kind, tokens) for kind in kinds for tokens in request.tokens
    ]
    known = {record.key: old for record in new if (old := store.finished(record.key))}
    total = (len(new) - len(known)) * len(source.shapes)
    done = itertools.count(1)
    for record in new:
        if record.key not in known:
            before = nvidia_smi.describe(request.device)
            items = _fill(record, device, source, lambda: advance(next(done), total))
            record.notes |= nvidia_smi.note(before, request.device)
            store.write(record, items)
        yield known.get(record.key, record)


class Source:
    """The weights to time: the model's own, pruned by magnitude if they are not 2:4, or random ones
    without a model."""

    def __init__(self, name: str, data_dir: Path | None) -> None:
        self.model = models.resolve(name, data_dir)
        self.shapes = roofline.model_sizes(name, data_dir).linears
        self.names: dict[tuple[int, int], str] = {}
        self.method, self.digest = "random", ""
        if self.model:
            self.folder = self.model.open()
            self.digest = self.model.digest
            for target in self.model.linears:
                out, width = self.model.shapes[f"{target}.weight"]
                self.names.setdefault((out, width), target)
            every = (self._weight(name) for name in self.names.values())
            self.method = (
                "unchanged" if all(Pattern(2, 4).violations(w) == 0 for w in every) else "magnitude"
            )

    def _weight(self, name: str) -> Tensor:
        return self.folder.weight(name).contiguous()

    @cached_property
    def _random_weights(self) -> list[tuple[int, Tensor]]:
        return list(linears.random_weights(self.shapes))

    def weights(self) -> Iterator[tuple[int, Tensor]]:
        if not self.model:
            yield from self._random_weights
            return
        for shape, name in self.names.items():
            weight = self._weight(name)
            if self.method == "magnitude":
                weight = torch.where(Pattern(2, 4).keep(weight.float().abs()), weight, 0)
            yield self.shapes[shape], weight.bfloat16()


def _new_record(request: LinearTimingRequest, source: Source, kind: str, tokens: int) -> Record:
    identity = Identity(
        model=request.model,
        stages=(source.method,),
        pattern="2:4",
        quantizer=roofline.QUANTIZER_OF_KIND[kind],
        measure="speed",
        protocol=Protocol(name="linears", seqlen=tokens),
        dtype=kind,
        device=request.device.split(":")[0],
    )
    key_inputs = {
        "model": source.digest or request.model,
        "shapes": sorted([*shape, count] for shape, count in source.shapes.items()),
        "measure": {
            "name": "speed",
            "source": digest_source(linears.__name__),
            "kernel": native.source_digest(),
        },
        "weights": source.method,
        "kind": kind,
        "tokens": tokens,
        "threads": request.threads,
        "hardware": fingerprint(request.device),
    }
    return Record(
        key=digests.of(key_inputs), identity=identity, key_inputs=key_inputs, status="skipped"
    )


def _fill(
    record: Record, device: Any, source: Source, after_shape: Callable[[], object]
) -> tuple[Any, ...]:
    record.provenance = provenance.gather()
    kind, tokens = record.identity.dtype, record.identity.protocol.seqlen or 0
    try:
        readings: Readings = linears.time_linears(
            device, source.weights(), tokens, kind, after_shape=after_shape
        )
    except Skipped as why:
        record.reason = str(why)
        return ()
    # A library failed on this device. The other records do not depend on it.
    except RuntimeError as fault:
        record.status, record.reason, record.traceback = (
            "failed",
            first_line(fault),
            traceback.format_exc(),
        )
        return ()
    record.status = "ok"
    record.readings = rows_of(readings)
    record.notes = dict(readings.notes)
    return readings.items
