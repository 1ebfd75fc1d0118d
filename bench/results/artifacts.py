"""The pruned model behind a record, or in a folder."""

from __future__ import annotations

import re
from pathlib import Path

from bench.results.record import Record
from bench.results.reproduce import prune_and_export
from bench.results.store import RESULTS, ReadOnlyStore
from bench.system.cache import cache_dir
from methods.contract.errors import UserError


def find_pruned(name: str, results: Path | None) -> tuple[Path, Record | None]:
    """Return the folder of a pruned model: a given folder, or the cached model of a record, with
    the record."""
    if name and Path(name).is_dir():
        return Path(name), None
    if Path(name).is_file() and not name.endswith(".json"):
        raise UserError(f"{name!r} is a file: name a model folder or a record (bench ls runs)")
    if not re.fullmatch("[0-9a-f]+", Path(name).stem):
        raise UserError(
            f"{name!r} is no model folder and no record: check the path (bench ls runs lists "
            "records)"
        )
    record = ReadOnlyStore(results or RESULTS).find(name)
    if not record.artifact:
        raise UserError(
            f"record {record.short_key} is of bench speed, which keeps no model: name another "
            "(bench ls runs)"
        )
    folder = cache_dir() / "artifacts" / record.artifact[:32]
    if not (folder / "config.json").exists():
        make, _ = prune_and_export(record)
        again = f"make a folder with {make}, and name that" if make else "measure its row again"
        unchanged = (folder / "artifact.json").exists()
        if unchanged:
            why = "its last stage changed nothing, so the cache has no copy"
        else:
            why = "it is no longer in the cache"
        raise UserError(f"record {record.short_key} has no model: {why}: {again}")
    return folder, record
