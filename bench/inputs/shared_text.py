"""Passages that a text shares with test questions, if a part counts them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from bench.catalog import registry

DECIDES_NO_NUMBER = True

SERVICE = "shared_text"


def count_shared(
    name: str,
    texts: Callable[[], Iterable[str]],
    data_dir: Path | None,
    tasks: Collection[str] | None = None,
) -> dict[str, int] | None:
    """Return how many passages of 13 words a corpus shares with the test questions of each track.

    texts: returns its text, if it has to be read. tasks: as TRACK/TASK. None: all. Return None
    if no part counts them, or no question is on this machine.
    """
    if not registry.is_installed("services", SERVICE):
        return None
    count = registry.load(registry.lookup("services", SERVICE))
    found: dict[str, int] | None = count(name, texts, data_dir, tasks)
    return found
