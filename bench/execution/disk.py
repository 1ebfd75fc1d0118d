"""Faults that end a run: a full disk, or a results folder that vanished."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.results import store
from bench.system.cache import cache_dir
from bench.system.files import find_existing

NEARLY_FULL = 64 * 2**20
"""Free bytes below which a disk counts as full."""


class RunStopped(Exception):
    """The run cannot continue: results could not be saved."""


@contextlib.contextmanager
def full_disk_stops(results: Path) -> Iterator[None]:
    """Raise RunStopped if the disk is full."""
    try:
        yield
    except OSError as fault:
        if not store.is_disk_full(fault):
            raise
        raise RunStopped(describe_full_disk(fault, results)) from fault


def describe_full_disk(fault: BaseException, results: Path | None = None) -> str:
    """Say which disk is full and what to do. Without a file name in the fault, compare the free
    space.

    results: of a run. A user does not know those in the cache.
    """
    cache = cache_dir()
    places = {f"the cache {cache}": cache}
    if results and not results.absolute().is_relative_to(cache.absolute()):
        places[f"the results {results}"] = results
    file = getattr(fault, "filename2", None) or getattr(fault, "filename", None)
    if file:
        is_cache = Path(os.fsdecode(file)).absolute().is_relative_to(cache.absolute())
        prefix = "the cache: " if is_cache else ""
        named = [f"{prefix}{file}"]
    else:
        free = {text: shutil.disk_usage(find_existing(path)).free for text, path in places.items()}
        named = [text for text in places if free[text] < NEARLY_FULL]
        if results and not named:
            named = list(places)
    where = " or ".join(named)
    place = f" ({where})" if where else ""
    remedy = "free some space"
    if "the cache" in where:
        remedy += " (bench cache gc deletes what no run uses)"
    return f"the disk is full{place}: {remedy}, then run the same command again"


def has_room(folder: Path, size: int) -> bool:
    """Return whether a file of a size in bytes can be written into a folder."""
    try:
        with tempfile.TemporaryFile(dir=find_existing(folder)) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        return False
    return True


class ResultsFolder:
    """A check that the results folder was not deleted or replaced, because a worker would recreate
    it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # While it is open, no other folder gets its inode.
        self._handle = os.open(root / "records", os.O_RDONLY)

    def require(self) -> None:
        """Wait for a missing folder, for example on a shared disk. Raise RunStopped if it stays
        away, or is another folder."""
        with contextlib.suppress(OSError):
            store.wait_for_folder(self._root)
            if os.path.samestat(os.stat(self._root / "records"), os.fstat(self._handle)):
                return
        raise RunStopped(
            f"results folder {str(self._root)!r} vanished during the run, with the records in it: "
            "run the same command again, with a folder that stays"
        )

    def close(self) -> None:
        os.close(self._handle)
