"""The pruned model behind a record, or in a folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.results.record import Record
from bench.results.store import RESULTS, Store
from bench.system.cache import cache_dir
from methods.errors import UserError


def find_pruned(name: str, results: Path | None) -> tuple[Path, Record | None]:
    """The folder of a pruned model: a folder as it is (and no record), or the cached model behind a record.

    Raises:
        UserError: no such record, or its model is no longer in the cache.
    """
    if Path(name).is_dir():
        return Path(name), None
    record = Store(results or RESULTS, write=False).find(name)
    if not record.artifact:
        raise UserError(
            f"record {record.key[:12]} is of bench speed, which keeps no model: name another (bench ls runs)"
        )
    folder = cache_dir() / "artifacts" / record.artifact[:32]
    if not (folder / "config.json").exists():
        quantizer = record.identity.quantizer
        raise UserError(
            f"the model of record {record.key[:12]} is no longer in the cache: make it a folder with "
            f"bench prune --method {shlex.quote(record.identity.method)} --model {shlex.quote(record.identity.model)}"
            + (f" --quant {quantizer}" if quantizer != "none" else "")
            + " --out DIR, and name that"
        )
    return folder, record
