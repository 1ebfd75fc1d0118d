"""Baselines: zip files with a manifest, records as JSON lines, and per-item scores as Parquet.

The same records give the same bytes, so git shows a change only if there is one.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench.comparing.result_set import ResultSet
from bench.results import metrics
from bench.results.derive import Items
from bench.results.items import TEXT_COLUMNS, of_table, read_parquet
from bench.results.record import SCHEMA, NoItems, Record, parse, require_schema
from bench.results.record_check import check_record
from bench.results.rows import latest
from bench.system import archives, digests
from bench.system.suggest import shorten
from methods.contract.errors import UserError, first_line

FORMAT = 1
FOLDER = Path("results/baselines")
MANIFEST, RECORDS, ITEMS = "manifest.json", "records.jsonl", "items.parquet"
MAX_FILE_BYTES = 2**30
"""Largest unpacked size of a file in a baseline."""
REMAKE = "make it again with bench baseline set"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """Return the file of a baseline with this name. Raise UserError if the name cannot be a file
    name."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"invalid baseline name {name!r}: use letters, digits, dots, dashes and underscores"
        )
    return folder / f"{name.removesuffix('.zip')}.zip"


def write(results: ResultSet, path: Path) -> Path:
    """Write records and their per-item scores, without tracebacks, costs, and notes that no check
    needs."""
    records = sorted(results.records, key=lambda r: (repr(r.identity.key()), r.key))
    tables, lines = [], []
    for record in records:
        # A timing of an engine is no record without its notes.
        notes = record.notes if record.is_engine_timing else {}
        small = record.model_copy(update={"traceback": "", "notes": notes, "cost": {}})
        if record.items is not None and all(
            metrics.find(r.metric).counted for r in record.readings
        ):
            small = small.model_copy(update={"items": None})
        elif record.items is not None:
            tables.append((record.stem, results.items(record)))
        lines.append(small.to_json() + "\n")
    text = "".join(lines).encode()
    items = _parquet(tables)
    commits = sorted({r.commit_id for r in records} - {""})
    about = {"format": FORMAT, "schema": SCHEMA, "records": len(records), "commits": commits}
    about["digest"] = digests.of([text.decode(), items.hex()])
    header = json.dumps(about, indent=1, sort_keys=True).encode()
    archives.write(
        path, ((MANIFEST, header), (RECORDS, text), (ITEMS, items)), stored=(MANIFEST, ITEMS)
    )
    return path


def _parquet(tables: Sequence[tuple[str, Items]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.dictionary(pa.int32(), pa.string())
    parts = []
    for key, items in tables:
        columns = {
            "record": [key] * len(items.ids),
            "item_id": items.ids,
            "cluster_id": items.clusters,
        }
        arrays = {name: pa.array(values).cast(text) for name, values in columns.items()}
        arrays |= {"weight": pa.array(items.weights)} | {
            n: pa.array(v) for n, v in items.columns.items()
        }
        parts.append(pa.table(arrays))
    if not parts:
        names = ("record", "item_id", "cluster_id", "weight", "value")
        parts = [pa.table({name: pa.array([], pa.float64()) for name in names})]
    sink = io.BytesIO()
    parquet.write_table(
        pa.concat_tables(parts, promote_options="default").unify_dictionaries(),
        sink,
        version="2.6",
        compression="zstd",
    )
    return sink.getvalue()


def _read_files(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest (format, schema, number of records, commits, digest), and the files.
    Raise UserError as `read`."""
    if not path.is_file():
        raise UserError(f"no baseline {str(path)!r}: write one with bench baseline set")
    try:
        files = archives.read(path, MAX_FILE_BYTES, (MANIFEST, RECORDS, ITEMS))
        about = json.loads(files[MANIFEST])
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {shorten(repr(about['format']))}, not {FORMAT}")
        require_schema(about.get("schema", SCHEMA), f"baseline {str(path)!r}")
    except archives.FAULTS as fault:
        reason = first_line(fault)[:80]
        raise UserError(f"cannot read baseline {str(path)!r} ({reason}): {REMAKE}") from None
    return about, files


def read(path: Path) -> ResultSet:
    """Read a baseline, and compute its numbers again from their items. Refuse a damaged one, and
    other formats."""
    about, files = _read_files(path)
    try:
        if about.get("digest") != digests.of([files[RECORDS].decode(), files[ITEMS].hex()]):
            raise UserError(
                f"baseline {str(path)!r} is damaged (its digest does not match): {REMAKE}"
            )
        # A file, because a list of lines takes much more memory than the text.
        records = tuple(
            parse(line, f"baseline {str(path)!r}") for line in io.BytesIO(files[RECORDS])
        )
    except ValueError as fault:
        reason = first_line(fault)
        raise UserError(
            f"baseline {str(path)!r} contains an invalid record ({reason}): {REMAKE}"
        ) from None
    if not records:
        raise UserError(f"baseline {str(path)!r} has no records: {REMAKE}")
    if len({record.key for record in records}) < len(records):
        raise UserError(f"baseline {str(path)!r} has two records of one key: {REMAKE}")
    reader = _item_reader(files[ITEMS], str(path))
    for record in records:
        # Its digest covers the counted numbers whose items it does not keep.
        check_record(record, reader(record) if record.items else None, dropped=True)
    return ResultSet(str(path), tuple(latest(records)), reader)


def _item_reader(content: bytes, name: str) -> Callable[[Record], Items]:
    """Return a reader of items by record. It reads the table on first use."""

    @cache
    def opened() -> tuple[Any, dict[str, tuple[int, int]]]:
        table = read_parquet(content, f"{name}: {ITEMS}", TEXT_COLUMNS)
        if "record" not in table.column_names:
            raise UserError(f"{name}: {ITEMS} has no column 'record': {REMAKE}")
        rows: dict[str, tuple[int, int]] = {}
        for at, key in enumerate(table.column("record").to_pylist()):
            start, length = rows.get(key, (at, 0))
            if start + length != at:
                raise UserError(
                    f"{name}: {ITEMS} is out of order at record {str(key)[:12]!r}: {REMAKE}"
                )
            rows[key] = (start, length + 1)
        return table, rows

    def items(record: Record) -> Items:
        table, rows = opened()
        if record.stem not in rows:
            raise NoItems(f"{name} has no per-item scores of record {record.short_key}: {REMAKE}")
        return of_table(table.slice(*rows[record.stem]), f"{name}: {ITEMS}")

    return items


def list_rows(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each baseline in a folder. An unreadable one has the reason in place of
    commits."""
    out = []
    for path in sorted(folder.glob("*.zip")):
        try:
            about = _read_files(path)[0]
            records, commits = about["records"], " ".join(c[:12] for c in about["commits"])
        except (UserError, KeyError, TypeError) as fault:
            records, commits = None, f"unreadable: {fault}"
        kilobytes = round(path.stat().st_size / 1000)
        out.append({"baseline": path.stem, "records": records, "commits": commits, "kB": kilobytes})
    return out


def reading_rows(results: ResultSet) -> list[dict[str, Any]]:
    """Return a row for each reading of a baseline. As JSON, git diff compares them."""
    out = []
    for record in results.records:
        labels = record.identity.labels()
        columns = ("model", "method", "pattern", "quantizer", "seed", "measure", "protocol")
        texts = {column: labels[column] for column in columns}
        name: dict[str, Any] = {k: "" if v is None else str(v) for k, v in texts.items()}
        for metric, value in [(r.metric, r.value) for r in record.readings] or [
            (record.status, None)
        ]:
            out.append(name | {"metric": metric, "value": value, "record": record.short_key})
    return out
