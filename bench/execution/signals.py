"""Signals that end a run, and what they do in a command which builds in its own process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from methods.training.interrupt import Stopped, stop_request

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run."""


@contextlib.contextmanager
def checkpoint_first() -> Iterator[None]:
    """Within it a signal ends a training after a checkpoint, and everything else at once.

    Raises:
        SystemExit: with 128 and the signal's number.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: old for s in ENDING if (old := signal.getsignal(s)) is not signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, stop_request.receive)
    try:
        yield
    except Stopped:
        raise SystemExit(128 + stop_request.signal) from None
    finally:
        stop_request.reset()
        for signum, handler in before.items():
            signal.signal(signum, handler)
