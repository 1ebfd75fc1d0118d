"""Check a results folder: each record is whole, its parts agree, and its items give its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.results import metrics
from bench.results.items import derive
from bench.results.record import Record
from bench.results.store import ReadOnlyStore, require_results
from bench.system import digests
from methods.errors import UserError


@dataclass(frozen=True)
class FolderCheck:
    """The result of a check."""

    records: int
    recomputed: int
    """Numbers that were computed again from their items."""
    problems: tuple[str, ...]
    """Sentences about records that are damaged or were changed."""
    leftovers: tuple[Path, ...]
    """Files that belong to no record: items, partial files of killed processes, records that were moved aside."""


def check_folder(root: Path) -> FolderCheck:
    """Check every record: its digest, its key and identity, its items, and each number that they give. Changes nothing.

    Raises:
        UserError: no results folder.
    """
    require_results(root)
    store = ReadOnlyStore(root)
    problems: list[str] = []
    recomputed, owned = 0, set()
    records = list(store)
    for record in records:
        problems += [f"{store.path(record.key)}: {sentence}" for sentence in contradictions(record)]
        if record.items is None:
            continue
        owned.add(store.items_path(record).name)
        try:
            recomputed += sum(1 for _ in derive(record, store.items(record)))
        except UserError as fault:
            problems.append(f"{store.path(record.key)}: {fault}")
    return FolderCheck(
        records=len(records) + len(store.damaged),
        recomputed=recomputed,
        problems=(*store.damaged, *problems),
        leftovers=tuple(_leftovers(root, owned)),
    )


def contradictions(record: Record) -> Iterator[str]:
    """Yield a sentence for each part of a record that contradicts another."""
    inputs, identity = record.key_inputs, record.identity
    if record.key != digests.of(inputs):
        yield "its key is not the digest of its key_inputs"
    stages = [*identity.stages, *([] if identity.quantizer == "none" else [identity.quantizer])]
    parts = {
        "seed": identity.seed,
        "dtype": identity.dtype,
        "arithmetic": identity.arithmetic,
        "device": identity.device,
        "targets": [list(identity.include), list(identity.exclude)],
        "stages": [stage.partition(":")[0] for stage in stages],
        "calibration": identity.calibration and identity.calibration.data,
        "training": identity.training and identity.training.data,
        "measure": identity.measure,
    }
    stored = dict(inputs)
    for name, key in (("calibration", "data"), ("training", "data"), ("measure", "name")):
        stored[name] = (inputs.get(name) or {}).get(key)
    stored["stages"] = [stage["name"] for stage in inputs.get("stages", ())]
    # A timing of engines has other inputs.
    for name in parts.keys() & inputs.keys():
        if parts[name] != stored[name]:
            yield f"its identity has {name} {parts[name]!r}, but its key was made from {stored[name]!r}"
    owed = [r.metric for r in record.readings if r.value is not None and metrics.find(r.metric).averages_items]
    if owed and record.items is None:
        yield f"it has no items, but its {owed[0]} is a mean over items"


def _leftovers(root: Path, owned: set[str]) -> Iterator[Path]:
    for folder in ("records", "items"):
        yield from sorted((root / folder).glob(".*"))
    yield from sorted(path for path in (root / "items").glob("*.parquet") if path.name not in owned)
    yield from sorted((root / "corrupt").glob("*"))
