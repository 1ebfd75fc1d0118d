"""A guard against methods that write into their source."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.inputs import models
from bench.planning.artifact import Artifact
from bench.system import digests
from bench.system.cache import cache_dir
from bench.verify import CheckFailed
from methods.errors import UserError


class FileState(NamedTuple):
    """State of a file that a write changes. A method can set the modification time, but not the change time."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


@contextlib.contextmanager
def read_only(folder: Path, names: Collection[str], label: str) -> Iterator[None]:
    """Check that the block changes neither the weights of a model folder nor its files `names`.

    A file is digested again only if its size or its times changed. Without an earlier digest it counts as changed. A
    changed artifact in the cache is deleted, and built again later.

    Raises:
        CheckFailed: a file changed.
    """
    for name in names:
        if (folder / name).is_file():
            digests.of_file(folder / name)
    before, fault = _states(folder, names), None
    try:
        yield
    except Exception as raised:  # noqa: BLE001  (raised again below)
        fault = raised
    after = _states(folder, names)
    changed = [n for n in sorted(before | after) if _has_changed(folder / n, before.get(n), after.get(n))]
    if changed:
        for name in changed:
            digests.forget(folder / name)
        if folder.parent == cache_dir() / "artifacts":
            shutil.rmtree(folder, ignore_errors=True)
        raise CheckFailed(f"{label} wrote into its source: {', '.join(changed)} changed in {folder}") from fault
    if fault:
        raise fault


def require_planned(artifact: Artifact) -> None:
    """Raise CheckFailed if the model is no longer the one of the plan."""
    with contextlib.suppress(UserError):
        model = models.resolve(artifact.model, artifact.data_dir)
        if model and model.digest == artifact.digest:
            return
    raise CheckFailed(f"model folder {artifact.folder} changed since this run began: run the same command again")


def _states(folder: Path, names: Collection[str]) -> dict[str, FileState]:
    files = [p for p in folder.iterdir() if (p.name in names or ".safetensors" in p.name) and p.is_file()]
    stats = {file.name: file.stat() for file in files}
    return {n: FileState(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for n, s in stats.items()}


def _has_changed(file: Path, before: FileState | None, after: FileState | None) -> bool:
    if before is None or after is None:
        return True
    if before == after:
        return False
    known = digests.remembered(file, before.size, before.modified_ns)
    return known is None or digests.read(file) != known
