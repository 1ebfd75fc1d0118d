"""How a command ends that a signal stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

WORDS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated", signal.SIGHUP: "Hung up"}


class Ended(SystemExit):
    """A signal ended this command: exit code 128 and the signal's number."""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise, as Ctrl-C does, so that everything is left in order. An ignored one stays so."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: old for s in (signal.SIGTERM, signal.SIGHUP) if (old := signal.getsignal(s)) is not signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, _end)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _end(signum: int, frame: FrameType | None) -> None:
    raise Ended(128 + signum)


def describe_end(code: object) -> str:
    """The sentence for an exit code of a signal; "" for any other."""
    word = next((word for signum, word in WORDS.items() if code == 128 + signum), "")
    return f"{word}. Run the same command to resume." if word else ""
