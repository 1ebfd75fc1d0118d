"""Merge results folders of several machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.results import signatures
from bench.results.record import DONE, Record
from bench.results.run_status import read_statuses
from bench.results.store import ReadOnlyStore, Store, require_results
from methods.contract.errors import UserError


@dataclass(frozen=True)
class MergeSummary:
    """Counts of records."""

    taken: int = 0
    known: int = 0
    """Records that the folder had already."""
    other: int = 0
    """Records that the folder has with another number, which stays."""


def merge_folders(sources: Sequence[Path], into: Path) -> MergeSummary:
    """Copy all records that `into` lacks, with their items, byte by byte. A finished record
    replaces a failed one.

    Each record is verified, and no digest is written for it. Signatures are copied, too. Raise
    UserError for a damaged record, after the copies of others, or while a run writes into `into`.
    """
    folders = [ReadOnlyStore(source, how="as in bench merge DIR") for source in sources]
    for source in sources:
        require_results(source)
    same = next((source for source in sources if source.resolve() == into.resolve()), None)
    if same:
        raise UserError(
            f"{str(same)!r} is the folder that is merged into: name others, or another one with "
            "--results"
        )
    if any(is_alive for _, is_alive in read_statuses(into)[0]):
        raise UserError(
            f"a run is writing into {str(into)!r}: wait until it ends, or merge into another folder"
        )
    target = Store(into)
    taken = known = other = 0
    for folder in folders:
        for record in folder:
            here = target.get(record.key)
            if here is None or (here.status not in DONE and record.status in DONE):
                target.copy(record, folder)
                taken += 1
            elif record.status not in DONE or _number(here) == _number(record):
                known += 1
            else:
                other += 1
        if folder.damaged:
            raise UserError(f"{folder.damaged[0]}: delete it to go on without it")
        signatures.copy(folder, target)
    return MergeSummary(taken, known, other)


def _number(record: Record) -> object:
    return record.status, record.readings
