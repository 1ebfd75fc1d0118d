"""Steps that read records of older schemas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from methods.errors import UserError

SCHEMA = 2
"""Of the records that this version writes."""

Fields = dict[str, Any]


def name_training_in_identity(fields: Fields) -> Fields:
    """Before there were methods that train, a slot had no `training`."""
    return fields | {"slot": {"training": None} | fields["slot"]}


STEPS: dict[int, Callable[[Fields], Fields]] = {1: name_training_in_identity}
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
