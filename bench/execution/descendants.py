"""Processes that a method leaves behind: whose child they become, and their end."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Collection, Iterator

import psutil

PR_SET_CHILD_SUBREAPER = 36
MAX_ROUNDS = 100
"""For a process that starts another whenever one of its own ends."""

_adopted_since: frozenset[int] | None = None
"""Children of this process from before it began to adopt others; None where it does not."""


def adopt_orphans(adopts: bool = True) -> None:
    """From now on a descendant whose parent ends becomes a child of this process. On Linux alone."""
    global _adopted_since
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, *map(ctypes.c_ulong, (adopts, 0, 0, 0)))
        _adopted_since = frozenset(c.pid for c in psutil.Process().children()) if adopts else None


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Adopt orphans within it. For a program of this package: somebody else's has children of its own."""
    adopt_orphans()
    try:
        yield
    finally:
        adopt_orphans(False)


def end_adopted(spare: Collection[int] = ()) -> None:
    """End all that this process has adopted. spare: its own children, by their id."""
    if _adopted_since is not None:
        end_descendants(_adopted_since | set(spare))


def end_descendants(spare: Collection[int] = ()) -> None:
    """Kill every process that descends from this one, but for the children `spare` and theirs."""
    me = psutil.Process()
    for _ in range(MAX_ROUNDS):  # those that one round orphans are found by the next, if this process adopts
        children = [child for child in me.children() if child.pid not in spare]
        if not children:
            return
        for child in children:
            for process in (child, *_below(child)):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        psutil.wait_procs(children, timeout=1)


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []
