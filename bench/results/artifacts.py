"""The pruned model behind a record."""

from __future__ import annotations

from pathlib import Path

from bench.results.store import RESULTS, Store
from bench.system.cache import cache_dir
from methods.errors import UserError


def find_pruned(name: str, results: Path | None) -> tuple[Path, str]:
    """The folder of a pruned model and its pattern: a folder as it is, or the cached model a record speaks of.

    Raises:
        UserError: no such record, or its model is no longer in the cache.
    """
    if Path(name).is_dir():
        return Path(name), "2:4"
    record = Store(results or RESULTS, write=False).find(name)
    if not record.artifact:
        raise UserError(
            f"record {record.key[:12]} is of bench speed, which keeps no model: name another (bench ls runs)"
        )
    folder = cache_dir() / "artifacts" / record.artifact[:32]
    if not (folder / "config.json").exists():
        raise UserError(
            f"the model of record {record.key[:12]} is no longer in the cache: make it a folder with "
            f"bench prune --method {record.identity.method} --model {record.identity.model}"
            + (f" --quant {quantizer}" if (quantizer := record.identity.quantizer) != "none" else "")
            + " --out DIR, and name that"
        )
    return folder, str(record.identity.pattern)
