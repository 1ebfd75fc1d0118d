"""One measurement as it is stored: identity, key, status, readings, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.results.identity import Identity
from bench.results.schema import SCHEMA, upgrade

Status = Literal["ok", "diverged", "skipped", "failed"]

DONE = ("ok", "diverged")
"""What a later run does not try again."""


class Reading(NamedTuple):
    """One number."""

    metric: str
    value: float
    unit: str
    better: str
    """ "lower", "higher" or "" where neither is."""
    stderr: float | None = None
    n: int | None = None


class Item(NamedTuple):
    """One window's or question's share of a number; what paired statistics pair."""

    item_id: str
    cluster_id: str
    value: float
    weight: float
    beside: Mapping[str, float] = MappingProxyType({})
    """The same item's value of further metrics, by name."""


class ReadingRow(BaseModel):
    model_config = ConfigDict(extra="forbid")
    metric: str
    value: float | None
    unit: str
    better: str
    stderr: float | None = None
    n: int | None = None


class ItemsFile(BaseModel):
    file: str
    rows: int
    sha256: str


class Record(BaseModel):
    """One measurement's outcome. Two are equal when they are equal apart from `provenance` and `cost`."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = SCHEMA
    key: str
    identity: Identity
    artifact: str = ""
    """Key of the pruned model that was measured."""
    status: Status
    reason: str = ""
    traceback: str = ""
    readings: list[ReadingRow] = []
    items: ItemsFile | None = None
    token_digest: str = ""
    notes: dict[str, Any] = {}
    key_inputs: dict[str, Any] = {}
    """What the key is the digest of."""
    cost: dict[str, Any] = {}
    provenance: dict[str, Any] = {}

    def same(self) -> dict[str, Any]:
        """What is compared when two records are."""
        return self.model_dump(exclude={"provenance", "cost"})


def parse(content: bytes, name: str) -> Record:
    """A record from its JSON, of today's schema or an older one. name: where it was read, for the sentence.

    Raises:
        UserError: of a newer schema, whatever its fields.
        ValueError: no record.
    """
    try:
        record = Record.model_validate_json(content)
        if record.schema_version == SCHEMA:
            return record
    except ValidationError:
        pass  # of another schema, or none
    try:
        return Record.model_validate(upgrade(json.loads(content), name))
    except (KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise ValueError(f"{type(fault).__name__}: {fault}") from None
