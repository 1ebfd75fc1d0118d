"""Records and items as JSON, from machines without access to the results folder."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection
from typing import Any

from bench.results.consistency import require_consistent
from bench.results.record import Record, parse
from bench.results.store import Store


def pack_record(store: Store, key: str) -> dict[str, str]:
    """Return a record of a store, with its items, as text."""
    record = store.get(key)
    assert record is not None
    items = store.content(record) if record.items else b""
    return {"record": store.path(key).read_text(), "items": base64.b64encode(items).decode()}


def unpack_record(store: Store, packed: dict[str, Any], keys: Collection[str]) -> Record:
    """Write a record that another machine packed, unless a finished one exists. Refuse one whose
    key was not requested."""
    record = parse(str(packed["record"]).encode(), "a record of another machine")
    if record.key not in keys:
        raise ValueError(f"record {record.short_key} was not requested")
    require_consistent(record)
    known = store.finished(record.key)
    if known:
        return known
    items = b""
    if record.items:
        try:
            items = base64.b64decode(packed["items"], validate=True)
        except binascii.Error as fault:
            raise ValueError(f"items of record {record.short_key} are not whole: {fault}") from None
        if hashlib.sha256(items).hexdigest() != record.items.sha256:
            raise ValueError(f"items of record {record.short_key} are not whole: checksum mismatch")
    store.write_content(record, items)
    return record
