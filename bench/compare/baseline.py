"""Baselines as files in the repository: one zip with a manifest, records as JSON lines, and per-item scores as Parquet.

The same records give the same bytes, so that git sees a change only where there is one.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare import result_set
from bench.compare.result_set import ResultSet
from bench.results import metrics
from bench.results.record import Record, parse
from bench.results.rows import latest
from bench.results.schema import SCHEMA, refuse_newer
from bench.system import digests
from bench.system.files import atomic_write
from methods.errors import UserError

FORMAT = 1
FOLDER = Path("results/baselines")
MANIFEST, RECORDS, ITEMS = "manifest.json", "records.jsonl", "items.parquet"
MAX_FILE_BYTES = 2**30
"""Of a file in a baseline, unpacked: beyond it is no baseline of ours."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """
    Raises:
        UserError: a name that is no file name.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"baseline {name!r} is no name: use letters, digits, dots, dashes and underscores")
    return folder / f"{name.removesuffix('.zip')}.zip"


def write(side: ResultSet, path: Path) -> Path:
    """Keep the newest records of a results folder, without tracebacks, notes and costs.

    Raises:
        UserError: their scores cannot be read.
    """
    records = sorted(side.records, key=lambda r: (repr(r.identity.key()), r.key))
    tables, lines = [], []
    for record in records:
        kept = record.model_copy(update={"traceback": "", "notes": {}, "cost": {}})
        if record.items is not None and all(metrics.find(r.metric).counted for r in record.readings):
            kept = kept.model_copy(update={"items": None})
        elif record.items is not None:
            tables.append((record.key[:32], side.items(record)))
        lines.append(kept.model_dump_json() + "\n")
    text = "".join(lines).encode()
    items = _parquet(tables)
    manifest = {"format": FORMAT, "schema": SCHEMA, "records": len(records), "commits": _commits(records)}
    manifest["digest"] = digests.of([text.decode(), items.hex()])
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as out:
        for name, content, packing in (
            (MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode(), zipfile.ZIP_STORED),
            (RECORDS, text, zipfile.ZIP_DEFLATED),
            (ITEMS, items, zipfile.ZIP_STORED),
        ):
            about = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            about.compress_type = packing
            out.writestr(about, content)
    return path


def _commits(records: Sequence[Record]) -> list[str]:
    return sorted({str(c) for r in records if (c := (r.provenance.get("commit") or {}).get("id"))})


def _parquet(tables: Sequence[tuple[str, result_set.Items]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.dictionary(pa.int32(), pa.string())
    parts = []
    for key, items in tables:
        columns = {"record": [key] * len(items.ids), "item_id": items.ids, "cluster_id": items.clusters}
        made = {name: pa.array(values).cast(text) for name, values in columns.items()}
        made |= {"weight": pa.array(items.weights)} | {n: pa.array(v) for n, v in items.columns.items()}
        parts.append(pa.table(made))
    if not parts:
        names = ("record", "item_id", "cluster_id", "weight", "value")
        parts = [pa.table({name: pa.array([], pa.float64()) for name in names})]
    sink = io.BytesIO()
    parquet.write_table(
        pa.concat_tables(parts, promote_options="default").unify_dictionaries(), sink, version="2.6", compression="zstd"
    )
    return sink.getvalue()


def manifest(path: Path) -> dict[str, Any]:
    """
    Raises:
        UserError: not there, not a baseline, or of another format.
    """
    return _read_files(path)[0]


def _read_files(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    again = "make it again with bench baseline set"
    if not path.is_file():
        raise UserError(f"baseline {str(path)!r} is not there: bench baseline set writes one")
    try:
        with zipfile.ZipFile(path) as packed:
            about = {i.filename: i for i in packed.infolist()}
            if any(about[name].file_size > MAX_FILE_BYTES for name in (MANIFEST, RECORDS, ITEMS)):
                raise UserError(f"baseline {str(path)!r} unpacks to more than {MAX_FILE_BYTES:,} bytes: {again}")
            files = {name: packed.read(name) for name in (MANIFEST, RECORDS, ITEMS)}
        told = json.loads(files[MANIFEST])
        version, schema = int(told["format"]), int(told.get("schema", SCHEMA))
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        TypeError,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as fault:
        reason = (str(fault) or type(fault).__name__).splitlines()[0][:80]
        raise UserError(f"baseline {str(path)!r} cannot be read ({reason}): {again}") from None
    if version > FORMAT:
        raise UserError(
            f"baseline {str(path)!r} has format {version}, newer than this version's {FORMAT}: upgrade cast-bench"
        )
    refuse_newer(schema, f"baseline {str(path)!r}")
    if version < FORMAT:
        raise UserError(f"baseline {str(path)!r} has format {version}, older than this version's {FORMAT}: {again}")
    return told, files


def read(path: Path) -> ResultSet:
    """
    Raises:
        UserError: not there, damaged, or of an older or newer format.
    """
    told, files = _read_files(path)
    again = "make it again with bench baseline set"
    try:
        if told.get("digest") != digests.of([files[RECORDS].decode(), files[ITEMS].hex()]):
            raise UserError(f"baseline {str(path)!r} is damaged (its digest is another): {again}")
        records = tuple(parse(line, f"baseline {str(path)!r}") for line in files[RECORDS].splitlines())
    except ValueError as fault:
        reason = str(fault).splitlines()[0]
        raise UserError(f"baseline {str(path)!r} holds what is no record ({reason}): {again}") from None
    if not records:
        raise UserError(f"baseline {str(path)!r} holds no records: {again}")
    return ResultSet(str(path), tuple(latest(records)), _ItemReader(files[ITEMS], str(path)))


class _ItemReader:
    """Items by record, the table read when first asked for."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content, self.name = content, name
        self.table: Any = None
        self.rows: dict[str, tuple[int, int]] = {}

    def __call__(self, record: Record) -> result_set.Items:
        if self.table is None:
            self._open()
        if record.key[:32] not in self.rows:
            raise UserError(f"{self.name} kept no per-item scores of record {record.key[:12]}: make it again")
        start, length = self.rows[record.key[:32]]
        return result_set.items_of_table(self.table.slice(start, length))

    def _open(self) -> None:
        found = result_set.read_parquet(self.content, f"{self.name}: {ITEMS}")
        if "record" not in found.column_names:
            raise UserError(f"{self.name}: {ITEMS} has no column 'record': make it again")
        for at, key in enumerate(found.column("record").to_pylist()):
            start, length = self.rows.get(key, (at, 0))
            if start + length != at:
                raise UserError(f"{self.name}: {ITEMS} is out of order at record {str(key)[:12]!r}: make it again")
            self.rows[key] = (start, length + 1)
        self.table = found


def list_rows(folder: Path) -> list[dict[str, Any]]:
    """The baselines in a folder; one that cannot be read is listed with the reason."""
    out = []
    for path in sorted(folder.glob("*.zip")):
        row: dict[str, Any] = {"baseline": path.stem, "records": None, "commits": "", "kB": path.stat().st_size // 1000}
        try:
            told = manifest(path)
            row |= {"records": told["records"], "commits": " ".join(c[:12] for c in told["commits"])}
        except (UserError, KeyError, TypeError) as fault:
            row["commits"] = f"unreadable: {fault}"
        out.append(row)
    return out


def reading_rows(side: ResultSet) -> list[dict[str, Any]]:
    """A baseline's rows, one a reading: text that a git diff can be made of."""
    out = []
    for record in side.records:
        labels = record.identity.labels()
        columns = ("model", "method", "pattern", "quantizer", "seed", "measure", "protocol")
        name: dict[str, Any] = {k: labels[k] for k in columns}
        name["seed"] = "" if name["seed"] is None else str(name["seed"])
        for reading in record.readings:
            out.append(name | {"metric": reading.metric, "value": reading.value, "record": record.key[:12]})
        if not record.readings:
            out.append(name | {"metric": record.status, "value": None, "record": record.key[:12]})
    return out
