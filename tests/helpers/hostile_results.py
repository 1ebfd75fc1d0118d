"""Records, items and baselines made to mislead, to flood or to stop the command that reads them."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from bench.comparing import baseline
from bench.comparing.result_arguments import read
from bench.system import digests
from helpers import fake_records

Case = Callable[[Path], object]
DEEP = "[" * 100_000
OUTSIDE = "../../secret"

# Records


def sealed(change: Callable[[dict[str, Any]], object]) -> Case:
    """Change the fields of a perplexity record, and write the digest of the new fields."""

    def case(folder: Path) -> None:
        path, fields = record_in(folder)
        change(fields)
        fields["digest"] = digests.of({k: v for k, v in fields.items() if k != "digest"})
        path.write_text(json.dumps(fields))

    return case


def as_text(change: Callable[[str], str | bytes]) -> Case:
    """Change the text of a record."""

    def case(folder: Path) -> None:
        path, fields = record_in(folder)
        text = change(json.dumps(fields))
        path.write_bytes(text.encode(errors="surrogatepass") if isinstance(text, str) else text)

    return case


def with_notes(notes: str) -> Case:
    return as_text(lambda text: text.replace('"notes": {}', f'"notes": {notes}'))


def record_in(folder: Path) -> tuple[Path, dict[str, Any]]:
    fake_records.perplexity(folder)
    fake_records.accuracy(folder)
    paths = sorted((folder / "records").iterdir())
    path = next(path for path in paths if '"perplexity"' in path.read_text())
    return path, json.loads(path.read_text())


def put(*path: Any, value: Any) -> Case:
    """Seal a record with another value at a path."""

    def change(fields: dict[str, Any]) -> None:
        place: Any = fields
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return sealed(change)


RECORDS: dict[str, Case] = {
    "items elsewhere": put("items", "file", value=OUTSIDE),
    "items without end": put("items", "rows", value=2**62),
    "key of a path": put("key", value="../" * 10 + "etc/passwd"),
    "deep notes": with_notes('{"a": ' + DEEP + "]" * 100_000 + "}"),
    "long number": with_notes('{"a": ' + "9" * 100_000 + "}"),
    "huge": as_text(lambda text: text + " " * 70_000_000),
}

# Items of a record


def items(change: Callable[[pa.Table], pa.Table | bytes], **options: Any) -> Case:
    """Write other items of a record, with their digest and size in the record."""

    def case(folder: Path) -> None:
        path, fields = record_in(folder)
        file = folder / "items" / fields["items"]["file"]
        changed = change(parquet.read_table(file))
        content = changed if isinstance(changed, bytes) else valid(changed, **options)
        file.write_bytes(content)
        fields["items"] |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        del fields["digest"]
        path.write_text(json.dumps(fields | {"digest": digests.of(fields)}))

    return case


def valid(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, **options)
    return sink.getvalue()


ITEMS: dict[str, Case] = {
    "no rows": items(lambda t: t.slice(0, 0)),
    "a million rows": items(lambda t: pa.concat_tables([t] * 9000), compression="zstd"),
    "many groups": items(lambda t: pa.concat_tables([t] * 50), row_group_size=1),
    "metadata": items(lambda t: t.replace_schema_metadata({"a": "x" * 30_000_000})),
    "random": items(lambda t: np.random.default_rng(0).bytes(5000)),
    "long footer": items(lambda t: valid(t)[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"),
}

# Baselines


def zipped(
    change: Callable[[dict[str, bytes]], object], *, refit: bool = False, **options: Any
) -> Case:
    """Change the files of a baseline. refit: with a digest that fits."""

    def case(folder: Path) -> None:
        fake_records.perplexity(folder / "r")
        file = baseline.write(read(folder / "r"), folder / "b.zip")
        with zipfile.ZipFile(file) as packed:
            files = {name: packed.read(name) for name in packed.namelist()}
        change(files)
        if refit:
            about = json.loads(files[baseline.MANIFEST])
            parts = files[baseline.RECORDS].decode(), files[baseline.ITEMS].hex()
            about["digest"] = digests.of(list(parts))
            files[baseline.MANIFEST] = json.dumps(about).encode()
        with zipfile.ZipFile(file, "w", **({"compression": zipfile.ZIP_DEFLATED} | options)) as out:
            for name, content in files.items():
                out.writestr(name, content)

    return case


def manifest(**fields: Any) -> Case:
    def change(files: dict[str, bytes]) -> None:
        about = json.loads(files[baseline.MANIFEST]) | fields
        files[baseline.MANIFEST] = json.dumps(about).encode()

    return zipped(change)


def more_records(change: Callable[[bytes], bytes]) -> Case:
    def edit(files: dict[str, bytes]) -> None:
        files[baseline.RECORDS] = change(files[baseline.RECORDS])

    return zipped(edit, refit=True)


def file_of(name: str, content: bytes, *, refit: bool = False) -> Case:
    return zipped(lambda files: files.update({name: content}), refit=refit)


def bytes_of_zip(change: Callable[[bytearray], object]) -> Case:
    """Change the bytes of a baseline."""

    def case(folder: Path) -> None:
        zipped(lambda _: None)(folder)
        content = bytearray((folder / "b.zip").read_bytes())
        change(content)
        (folder / "b.zip").write_bytes(content)

    return case


ZIPS: dict[str, Case] = {
    "format without end": manifest(format=10**30),
    "deep manifest": file_of(baseline.MANIFEST, DEEP.encode()),
    "manifest of a list": file_of(baseline.MANIFEST, b"[]"),
    "records twice": more_records(lambda records: 2 * records),
    "spaces": file_of(baseline.RECORDS, b" " * 200_000_000),
    "items of text": file_of(baseline.ITEMS, b"x", refit=True),
    "names outside": zipped(
        lambda files: files.update({f"../{OUTSIDE}": b"x", "/secret": b"x", baseline.RECORDS: b""})
    ),
    "bzip2": zipped(lambda _: None, compression=zipfile.ZIP_BZIP2),
    "cut": bytes_of_zip(lambda content: content.__delitem__(slice(-40, None))),
}
