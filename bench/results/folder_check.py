"""Check a results folder: each record is whole, its parts agree, and its items give its numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.catalog import metric_owners
from bench.results.alike import look
from bench.results.derive import Derived, Items, differences
from bench.results.identity import Protocol
from bench.results.record import Record
from bench.results.storage_notes import noted_bits
from bench.results.store import ReadOnlyStore, require_results
from methods.contract.pattern import Pattern

ROUNDING = 1e-12
"""Tolerance for rounding in a layer's fraction of zeros."""


@dataclass(frozen=True)
class FolderCheck:
    """The result of a check."""

    records: tuple[Record, ...]
    """Records that do not contradict themselves."""
    recomputed: int
    """Numbers that were computed again from their items."""
    not_derived: Mapping[str, int]
    """Numbers that do not follow from what is stored, by metric."""
    problems: tuple[str, ...]
    """Sentences about records that are damaged or were changed."""
    leftovers: tuple[Path, ...]
    """Files that belong to no record: items, partial files of killed processes, records that were
    moved aside."""


def check_folder(root: Path) -> FolderCheck:
    """Check every record: its digest, its key and identity, its items, and each number that they
    give. Changes nothing."""
    require_results(root)
    store = ReadOnlyStore(root)
    sound: list[Record] = []
    recomputed, not_derived = 0, Counter[str]()
    items_of: dict[str, Items] = {}
    for record, evidence in store.checked():
        sound.append(record)
        recomputed += len(evidence.derived)
        not_derived.update(
            r.metric
            for r in record.readings
            if r.value is not None and r.metric not in evidence.derived
        )
        if evidence.items and record.identity.measure == "size":
            items_of[record.key] = evidence.items
    problems = [
        f"{store.path(record.key)}: {sentence}"
        for record, sentence in disagreements(sound, items_of)
    ]
    return FolderCheck(
        records=tuple(sound),
        recomputed=recomputed,
        not_derived=dict(sorted(not_derived.items())),
        problems=(*store.damaged, *problems),
        leftovers=tuple(_leftovers(root)),
    )


def disagreements(
    records: Iterable[Record], items_of: Mapping[str, Items]
) -> Iterator[tuple[Record, str]]:
    """Yield a record and a sentence where two records of a folder cannot both be true.

    items_of: sparsity of each layer of `size` records, by key.
    """
    weights: dict[str, Record] = {}
    tokens: dict[tuple[str, Protocol], Record] = {}
    artifacts: dict[str, dict[str, Record]] = {}
    spellings = _Spellings()
    for record in records:
        for sentence in spellings.odd_names(record):
            yield record, sentence
        digest = record.key_inputs.get("model")
        # The key inputs of a record made elsewhere have the name of its model, and no digest.
        is_elsewhere = "made_elsewhere" in record.notes
        first = record if is_elsewhere else weights.setdefault(record.identity.model, record)
        if first.key_inputs.get("model") != digest:
            name = record.identity.model
            yield (
                record,
                f"its {name} has other weights than in record {first.short_key}: one name for two "
                "models",
            )
        if record.status == "ok" and record.token_digest:
            text = record.identity.model, record.identity.protocol
            first = tokens.setdefault(text, record)
            if _text_of(first) != _text_of(record):
                yield (
                    record,
                    f"it was measured on other tokens than record {first.short_key} of the same "
                    "text",
                )
        if record.artifact:
            artifacts.setdefault(record.artifact, {})[record.identity.measure] = record
    for by_measure in artifacts.values():
        pattern, size = by_measure.get("pattern"), by_measure.get("size")
        if pattern and size and size.key in items_of:
            for sentence in _of_artifact(pattern, size, items_of[size.key]):
                yield size, sentence


class _Spellings:
    """Names of the records so far and of this package's metrics, to find those that look alike."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        self._seen: set[tuple[str, str]] = set()
        for metric in metric_owners.built_in():
            self._add("metric", metric, "this package")

    def odd_names(self, record: Record) -> Iterator[str]:
        """Yield a sentence for each name of a record that looks like another one."""
        names = [(column, str(text)) for column, text in record.identity.labels().items()]
        names += [("metric", reading.metric) for reading in record.readings]
        for column, text in names:
            if (column, text) not in self._seen:
                known, owner = self._add(column, text, f"record {record.short_key}")
                if known != text:
                    yield f"its {column} {text!a} looks like {known!a} of {owner}"

    def _add(self, column: str, text: str, owner: str) -> tuple[str, str]:
        """Remember a name. Return the first one that looks like it, and its owner."""
        self._seen.add((column, text))
        found = [self._known.setdefault((column, form), (text, owner)) for form in look(text)]
        return next((one for one in found if one[0] != text), found[0])


def _text_of(record: Record) -> tuple[str, int | None]:
    return record.token_digest, record.items.rows if record.items else None


def _of_artifact(counted: Record, size: Record, items: Items) -> Iterator[str]:
    """Yield a sentence where the `pattern` and `size` records of an artifact cannot both be
    true."""
    counts = {reading.metric: reading for reading in counted.readings}
    sizes = {reading.metric: reading for reading in size.readings}
    violated, bits = counts.get("violated_groups"), sizes.get("bits_per_weight")
    pattern = Pattern.parse(size.identity.pattern)
    if violated is None:
        return
    if violated.n not in (None, len(items.ids)):
        yield f"it has {len(items.ids)} layers, but record {counted.short_key} counted {violated.n}"
    lowest = float(items.columns["value"].min())
    if violated.value == 0 and pattern.m and lowest < pattern.share - ROUNDING:
        yield (
            f"a layer has {lowest:.4g} zeros, but record {counted.short_key} says that no group "
            f"breaks {pattern}"
        )
    if bits is None or violated.value != 0 or "stored" not in counted.notes:
        return
    try:
        weights = math.fsum(items.weights)
        value_bits, other_bits, is_packed = noted_bits(counted.notes, weights)
        kept, mask = 1.0, 0.0
        if pattern.m and not pattern.dense and not is_packed:
            kept, mask = pattern.n / pattern.m, pattern.mask_bits
        adapter = sum(r.value or 0.0 for r in size.readings if r.metric == "adapter_bytes")
        expected = value_bits * kept + mask + other_bits + 8 * adapter / weights
        for sentence in differences(bits, Derived(expected)):
            yield sentence.replace("its items", f"the notes of record {counted.short_key}")
    except (TypeError, KeyError, ArithmeticError):
        yield f"the notes of record {counted.short_key} do not say how its weights are stored"


def _leftovers(root: Path) -> Iterator[Path]:
    for folder in ("records", "items"):
        yield from sorted((root / folder).glob(".*"))
    owners = {path.stem for path in (root / "records").glob("*.json")}
    yield from sorted(
        path for path in (root / "items").glob("*.parquet") if path.stem not in owners
    )
    yield from sorted((root / "corrupt").glob("*"))
