"""Joining results folders that were filled on several machines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.results.record import DONE, Record
from bench.results.store import Store
from bench.system.files import atomic_write
from methods.errors import UserError


@dataclass(frozen=True)
class MergeSummary:
    """How many records were taken, were there already, or are there with another number, which stays."""

    taken: int = 0
    known: int = 0
    other: int = 0


def merge_folders(sources: Sequence[Path], into: Path) -> MergeSummary:
    """Copy every record that `into` lacks, its scores first. A finished one takes the place of a failed one.

    Raises:
        UserError: a folder is not there, or is `into`, or scores are not those that their record speaks of; what came before stays.
    """
    folders = [Store(source, write=False, how="as in bench merge DIR") for source in sources]
    if bare := next((source for source in sources if not (source / "records").is_dir()), None):
        raise UserError(f"{str(bare)!r} is no results folder: it has no records/ in it")
    if same := next((source for source in sources if source.resolve() == into.resolve()), None):
        raise UserError(f"{str(same)!r} is the folder that is merged into: name others, or another one with --results")
    target = Store(into)
    taken = known = other = 0
    for folder in folders:
        for record in folder:
            here = target.get(record.key)
            if here is None or (here.status not in DONE and record.status in DONE):
                _copy(folder, record, target)
                taken += 1
            elif record.status not in DONE or _number(here) == _number(record):
                known += 1
            else:
                other += 1
        if folder.moved:
            raise UserError(f"{folder.moved[0]}: run the same command again to go on without it")
    return MergeSummary(taken, known, other)


def _number(record: Record) -> object:
    return record.status, record.readings


def _copy(source: Store, record: Record, target: Store) -> None:
    if record.items:
        name = Path(record.items.file).name
        content = (source.root / "items" / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != record.items.sha256:
            raise UserError(
                f"{source.root / 'items' / name} does not match its record (checksum mismatch): measure it again"
            )
        with atomic_write(target.root / "items" / f"{record.key[:32]}.parquet") as temporary:
            temporary.write_bytes(content)
        record.items.file = f"{record.key[:32]}.parquet"
    target.write(record)
