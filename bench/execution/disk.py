"""What ends a whole run: a full disk, or results that are gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from bench.results import store
from bench.system.cache import cache_dir
from bench.system.files import find_existing

NEARLY_FULL = 64 * 2**20
"""Free bytes."""


class RunStopped(Exception):
    """The run cannot continue: results could not be saved."""


@contextlib.contextmanager
def full_disk_stops(results: Path) -> Iterator[None]:
    """
    Raises:
        RunStopped: the disk is full.
    """
    try:
        yield
    except OSError as fault:
        if not store.is_disk_full(fault):
            raise
        raise RunStopped(describe_full_disk(fault, results)) from fault


def describe_full_disk(fault: BaseException, results: Path) -> str:
    """Which disk is full, and what to do. Where the fault names no file, the free space of each place tells."""
    cache = cache_dir()
    places = {f"the cache {cache}": cache, f"the results {results}": results}
    file = getattr(fault, "filename", None)
    if file:
        is_cache = Path(os.fsdecode(file)).absolute().is_relative_to(cache.absolute())
        named = [f"the cache: {file}" if is_cache else str(file)]
    else:
        named = [
            text for text, path in places.items() if shutil.disk_usage(find_existing(path)).free < NEARLY_FULL
        ] or list(places)
    remedy = "free some space" + (" (bench cache gc deletes what no run uses)" if "the cache" in named[0] else "")
    return f"the disk is full ({' or '.join(named)}): {remedy}, then run the same command again"


class ResultsFolder:
    """Notices that a results folder was deleted or replaced: a worker would make it anew, nearly empty."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._handle = os.open(root / "records", os.O_RDONLY)  # while it is open no other folder gets its number

    def require(self) -> None:
        """Waits for one that is gone, as where a shared disk cannot be reached for a while.

        Raises:
            RunStopped: it does not come back, or is not the one that it was.
        """
        end = time.monotonic() + store.PATIENCE_S
        while not self._is_there() and time.monotonic() < end:
            time.sleep(store.LOOK_S)
        if not self._is_there() or not self._is_same():
            raise RunStopped(
                f"results folder {str(self._root)!r} vanished during the run, with the records in it: "
                "run the same command again, with a folder that stays"
            )

    def _is_there(self) -> bool:
        return store.is_folder(self._root / "records")

    def _is_same(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._root / "records"), os.fstat(self._handle))
        except OSError:
            return False

    def close(self) -> None:
        os.close(self._handle)
