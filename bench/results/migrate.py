"""Write the records of a results folder in today's schema."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.results.record import parse
from bench.results.schema import SCHEMA, stored_version
from bench.results.store import Store, require_results
from bench.system.files import atomic_write
from methods.errors import UserError


@dataclass(frozen=True)
class MigrationSummary:
    """How many records were written anew, and how many were of today's schema already."""

    written: int
    known: int


def migrate_folder(root: Path) -> MigrationSummary:
    """Write every record of a results folder in today's schema.

    Each original is laid aside in `older/` before its record takes its place, and all of them go when every record has
    been read back. Killed in between, the same command goes on from there.

    Raises:
        UserError: no results folder, one that cannot be written, or a record that is none; what came before stays done.
    """
    require_results(root)
    store, aside = Store(root, how="as DIR, for example a copy of it"), root / "older"
    paths = sorted((root / "records").glob("*.json"))
    old = [path for path in paths if _migrate_record(path, store, aside)]
    for path in old:
        if _schema(path.read_bytes(), path) != SCHEMA:
            raise UserError(f"{path} did not come back as it was written; its original is {aside / path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return MigrationSummary(len(old), len(paths) - len(old))


def _migrate_record(path: Path, store: Store, aside: Path) -> bool:
    """Was it of an older schema?"""
    content = path.read_bytes()
    if _schema(content, path) == SCHEMA:
        return False
    try:
        record = parse(content, str(path))
        if record.stem != path.stem:
            raise ValueError("it does not bear its own key")
        if record.items:
            record.items.size = len(store.content(record))
    except ValueError as fault:
        raise UserError(f"{path} is no record ({str(fault).splitlines()[0]}): delete it, or measure it again") from None
    with atomic_write(aside / path.name) as temporary:
        temporary.write_bytes(content)
    store.write(record)
    return True


def _schema(content: bytes, path: Path) -> int:
    try:
        return stored_version(content)
    except ValueError:
        raise UserError(f"{path} is no record: delete it, or measure it again") from None
