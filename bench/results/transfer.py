"""Records and items as JSON, from machines without access to the results folder."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

from bench.results.items import unpack
from bench.results.record import Record, parse
from bench.results.record_check import check_record
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
    known = store.finished(record.key)
    if known:
        return known
    content, items = b"", None
    if record.items:
        name = f"the items of record {record.short_key}"
        content = base64.b64decode(packed["items"])
        record.items.require_whole(content, name)
        items = unpack(content, record, name)
    check_record(record, items)
    store.write_content(record, content)
    return record
