"""Results folders that other programs wrote. A service of the catalog reads them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from bench.catalog import registry
from bench.comparing.result_set import ResultSet

SERVICE = "foreign_results"
"""Name of the service."""


class Pairing(NamedTuple):
    """Two result sets with the same questions, and what could not be paired."""

    before: ResultSet
    after: ResultSet
    notes: tuple[str, ...]


class ForeignResults:
    """Reads results folders that another program wrote. Each method raises UserError for a folder
    that is damaged."""

    def owns(self, path: Path) -> bool:
        """Return whether a folder has such results."""
        raise NotImplementedError

    def pair(self, a: Path, b: Path, *, whole: bool) -> Pairing:
        """Read two folders, and pair the questions of each task.

        whole: a task cannot be compared if a question of `a` has no partner, as a gate needs it.
        """
        raise NotImplementedError

    def as_results(self, folder: Path) -> AbstractContextManager[Path]:
        """Return a temporary results folder with the records of a folder."""
        raise NotImplementedError


def find_reader(path: Path) -> ForeignResults | None:
    """Return the reader of a folder that another program wrote, or None."""
    if SERVICE not in registry.names("services"):
        return None
    reader = registry.build("services", SERVICE, ForeignResults)
    return reader if reader.owns(path) else None


def as_results(folder: Path) -> AbstractContextManager[Path]:
    """Return the folder, or a temporary results folder if another program wrote it."""
    reader = find_reader(folder)
    return reader.as_results(folder) if reader else nullcontext(folder)
