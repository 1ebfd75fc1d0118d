"""Records of older schemas, brought to today's a step at a time; and `bench migrate`, which writes them so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.errors import UserError

if TYPE_CHECKING:
    from bench.store import Store

SCHEMA = 2
"""Of the records that this version writes."""
Fields = dict[str, Any]


def _slots_name_the_training(fields: Fields) -> Fields:
    """Before there were methods that train, a slot had no `training`."""
    return fields | {"slot": {"training": None} | fields["slot"]}


STEPS: dict[int, Callable[[Fields], Fields]] = {1: _slots_name_the_training}
"""What makes a record of schema n one of n + 1. `key` and `determinants` stay: one is the digest of the other."""


def upgrade(fields: Fields, name: str) -> Fields:
    """A record's fields in today's schema. name: what they were read from, for the sentence.

    Raises:
        UserError: of a newer schema.
        ValueError, KeyError, TypeError: no record at all.
    """
    version = int(fields["schema_version"])
    refuse_newer(version, name)
    if version < min(STEPS):
        raise ValueError(f"there never was a schema {version}")
    for step in range(version, SCHEMA):
        fields = STEPS[step](fields) | {"schema_version": step + 1}
    return fields


def refuse_newer(version: int, name: str) -> None:
    """
    Raises:
        UserError: a schema that this version does not know yet.
    """
    if version > SCHEMA:
        raise UserError(
            f"{name} has schema {version}, newer than this version's {SCHEMA}: upgrade cast-bench to read it"
        )


@dataclass(frozen=True)
class Migrated:
    """How many records were written anew, and how many were of today's schema already."""

    written: int
    known: int


def migrate(root: Path) -> Migrated:
    """Write every record of a results folder in today's schema.

    Each original is laid aside in `older/` before its record takes its place, and all of them go when every record has
    been read back. Killed in between, the same command goes on from there.

    Raises:
        UserError: no results folder, one that cannot be written, or a record that is none; what came before stays done.
    """
    from bench.store import Store

    if not (root / "records").is_dir():
        raise UserError(f"{str(root)!r} is no results folder: it has no records/ in it")
    store, aside = Store(root), root / "older"
    paths = sorted((root / "records").glob("*.json"))
    old = [path for path in paths if _renewed(path, store, aside)]
    for path in old:
        if _schema(path.read_bytes(), path) != SCHEMA:
            raise UserError(f"{path} did not come back as it was written; its original is {aside / path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return Migrated(len(old), len(paths) - len(old))


def _renewed(path: Path, store: Store, aside: Path) -> bool:
    """Was it of an older schema?"""
    from bench.paths import replacing
    from bench.store import parse

    content = path.read_bytes()
    if _schema(content, path) == SCHEMA:
        return False
    try:
        record = parse(content, str(path))
        if record.key[:32] != path.stem:
            raise ValueError("it does not bear its own key")
    except ValueError as fault:
        raise UserError(
            f"{path} is no record ({str(fault).splitlines()[0]}): delete it, or run its cell again"
        ) from None
    with replacing(aside / path.name) as temporary:
        temporary.write_bytes(content)
    store.write(record)
    return True


def _schema(content: bytes, path: Path) -> int:
    try:
        return int(json.loads(content)["schema_version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is no record: delete it, or run its cell again") from None
