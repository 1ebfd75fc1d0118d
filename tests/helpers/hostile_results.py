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
from helpers.hostile_inputs import DEEP, ESCAPE, OUTSIDE, Case

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


def with_engine(fields: dict[str, Any]) -> None:
    fields["identity"]["measure"] = "speed"
    fields["identity"]["protocol"]["engine"] = "native"


def put(*path: Any, value: Any) -> Case:
    """Seal a record with another value at a path."""

    def change(fields: dict[str, Any]) -> None:
        place: Any = fields
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return sealed(change)


ODD_VALUES = (None, "x", -1, [], {"a": {}}, 1e308, True, [[]], ESCAPE, 2**70)
FIELDS = (
    "schema_version", "key", "identity", "artifact", "status", "reason", "traceback", "readings",
    "items", "token_digest", "notes", "key_inputs", "cost", "provenance",
)  # fmt: skip
RECORDS: dict[str, Case] = {
    **{
        f"{name} {shift}": put(name, value=ODD_VALUES[(3 * i + 5 * shift) % 10])
        for i, name in enumerate(FIELDS)
        for shift in (0, 1)
    },
    "value of text": put("readings", 0, "value", value="12"),
    "value of a list": put("readings", 0, "value", value=[12.0]),
    "negative error": put("readings", 0, "stderr", value=-1.0),
    "items elsewhere": put("items", "file", value=OUTSIDE),
    "items of no size": put("items", "size", value=-1),
    "items without end": put("items", "rows", value=2**62),
    "key of a path": put("key", value="../" * 10 + "etc/passwd"),
    "commit of a list": put("provenance", value={"commit": [1]}),
    "machine of lists": put("provenance", value={"machine": {"cpu": [[]]}}),
    "negative time": put("cost", value={"wall_s": -1}),
    "notes of 300 levels": put("notes", value={"a": json.loads("[" * 300 + "]" * 300)}),
    "engine without its notes": sealed(with_engine),
    "deep notes": with_notes('{"a": ' + DEEP + "]" * 100_000 + "}"),
    "long number": with_notes('{"a": ' + "9" * 100_000 + "}"),
    "a name twice": with_notes('{}, "notes": {}'),
    "not a number": with_notes('{"a": NaN}'),
    "surrogate": with_notes('{"a": "\\ud800"}'),
    "utf-16": as_text(lambda text: text.encode("utf-16")),
    "byte order mark": as_text(lambda text: "\ufeff" + text),
    "nothing": as_text(lambda text: ""),
    "null": as_text(lambda text: "null"),
    "list": as_text(lambda text: f"[{text}]"),
    "two": as_text(lambda text: text + text),
    "cut": as_text(lambda text: text[:-20]),
    "huge": as_text(lambda text: text + " " * 70_000_000),
    "zeros": as_text(lambda text: bytes(1000)),
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


def column(name: str, make: Callable[[int], Any], kind: Any = None) -> Case:
    """Replace a column. make: takes the number of rows."""
    return items(
        lambda t: t.set_column(t.column_names.index(name), name, pa.array(make(t.num_rows), kind))
    )


def valid(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, **options)
    return sink.getvalue()


def many_columns(table: pa.Table) -> pa.Table:
    for i in range(3000):
        table = table.append_column(f"c{i}", table["value"])
    return table


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x7F]) + content[at + 1 :]


def nested(depth: int) -> Any:
    kind: Any = pa.float64()
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


ITEMS: dict[str, Case] = {
    **{
        f"value of {v!r}": column("value", lambda n, v=v: [v] * n)
        for v in ("much", True, [1.0], {"a": 1}, None, b"x", 1e308, float("inf"), float("nan"), 0)
    },
    **{
        f"value as {kind}": column("value", lambda n: [None] * n, kind)
        for kind in (pa.timestamp("ns"), pa.decimal128(38, 10), pa.float16(), nested(100))
    },
    **{
        f"weight of {v!r}": column("weight", lambda n, v=v: [v] * n)
        for v in (0.0, -1.0, None, 1e-320, "1")
    },
    "numbers as ids": column("item_id", range),
    "long ids": column("item_id", lambda n: [str(i) * 100_000 for i in range(n)]),
    "ids without text": column("item_id", lambda n: [""] * n),
    "one id": column("item_id", lambda n: ["a"] * n),
    "no cluster": items(lambda t: t.drop_columns(["cluster_id"])),
    "columns twice": items(
        lambda t: t.append_column("more", t["value"]).rename_columns([*t.column_names, "value"])
    ),
    "many columns": items(many_columns),
    "no rows": items(lambda t: t.slice(0, 0)),
    "a row less": items(lambda t: t.slice(1)),
    "a million rows": items(lambda t: pa.concat_tables([t] * 9000), compression="zstd"),
    "many groups": items(lambda t: pa.concat_tables([t] * 50), row_group_size=1),
    "metadata": items(lambda t: t.replace_schema_metadata({"a": "x" * 30_000_000})),
    "other schema": items(lambda t: t.replace_schema_metadata({"ARROW:schema": b"A" * 132})),
    "random": items(lambda t: np.random.default_rng(0).bytes(5000)),
    "encrypted": items(lambda t: b"PARE" + valid(t)[4:-4] + b"PARE"),
    "long footer": items(lambda t: valid(t)[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1"),
    "cut": items(lambda t: valid(t)[:-300]),
    "csv": items(lambda t: b"item_id,value\na,1\n"),
    **{f"byte {at}": items(lambda t, at=at: flipped(valid(t), at)) for at in range(-900, -8, 180)},
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
    **{
        f"format {value!r}": manifest(format=value) for value in (10**30, "one", None, [1], -1, 1.5)
    },
    **{f"schema {value!r}": manifest(schema=value) for value in ("4", 3, None, {})},
    **{f"digest {value!r}": manifest(digest=value) for value in (None, "0" * 64, [])},
    "deep manifest": file_of(baseline.MANIFEST, DEEP.encode()),
    "manifest of a list": file_of(baseline.MANIFEST, b"[]"),
    "no manifest": zipped(lambda files: files.pop(baseline.MANIFEST)),
    "no records": zipped(lambda files: files.pop(baseline.RECORDS)),
    "empty records": file_of(baseline.RECORDS, b"", refit=True),
    "blank line": more_records(lambda records: records + b"\n"),
    "records twice": more_records(lambda records: 2 * records),
    "records not unicode": file_of(baseline.RECORDS, b"\xff\xfe"),
    "spaces": file_of(baseline.RECORDS, b" " * 200_000_000),
    "items of text": file_of(baseline.ITEMS, b"x", refit=True),
    "empty items": file_of(baseline.ITEMS, b"", refit=True),
    "names outside": zipped(
        lambda files: files.update({f"../{OUTSIDE}": b"x", "/secret": b"x", baseline.RECORDS: b""})
    ),
    "bzip2": zipped(lambda _: None, compression=zipfile.ZIP_BZIP2),
    "checksum": bytes_of_zip(lambda content: content.__setitem__(slice(14, 18), b"abcd")),
    "encrypted": bytes_of_zip(
        lambda content: content.__setitem__(content.rindex(b"PK\1\2") + 8, 1)
    ),
    "cut": bytes_of_zip(lambda content: content.__delitem__(slice(-40, None))),
    "more before": bytes_of_zip(lambda content: content.__setitem__(slice(0, 0), bytes(2**20))),
    "size of a lie": bytes_of_zip(
        lambda content: struct.pack_into("<I", content, content.rindex(b"PK\1\2") + 24, 2**31)
    ),
}
