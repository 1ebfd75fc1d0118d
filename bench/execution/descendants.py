"""Processes that must not outlive others: what a method leaves behind, and ours without their
parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Collection, Iterator

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
MAX_ROUNDS = 100
"""Limit against a process that restarts its children."""

_adopted_since: frozenset[int] | None = None
"""Children from before this process adopted others. None: it adopts none."""


def adopt_orphans(adopts: bool = True) -> None:
    """Adopt descendants whose parent ends, from now on. Works on Linux only."""
    global _adopted_since
    if sys.platform == "linux":
        _set(PR_SET_CHILD_SUBREAPER, adopts)
        _adopted_since = frozenset(c.pid for c in psutil.Process().children()) if adopts else None


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Adopt orphans within the block. Only for our own program: another one may have children."""
    adopt_orphans()
    try:
        yield
    finally:
        adopt_orphans(False)


def end_adopted(spare: Collection[int] = ()) -> None:
    """End all adopted processes. spare: ids of our own children."""
    if _adopted_since is not None:
        end_descendants(_adopted_since | set(spare))


def end_with_parent() -> None:
    """Let the kernel end this process once the thread that started it ends. Works on Linux only."""
    _set(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_stdin() -> None:
    """End this process, and all that it started, once the other end of its standard input
    closes."""

    def wait() -> None:
        poll = select.poll()
        poll.register(0, select.POLLHUP)
        poll.poll()
        end_descendants()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _set(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def end_descendants(spare: Collection[int] = ()) -> None:
    """Kill all descendants, except the children `spare` and theirs."""
    me = psutil.Process()
    for _ in range(MAX_ROUNDS):  # the next round finds what this one orphans
        children = [child for child in me.children() if child.pid not in spare]
        if not children:
            return
        for child in children:
            below: list[psutil.Process] = []
            with contextlib.suppress(psutil.Error):
                below = child.children(recursive=True)
            for process in (child, *below):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        psutil.wait_procs(children, timeout=1)
