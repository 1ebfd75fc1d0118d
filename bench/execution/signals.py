"""Signals: the only module that installs handlers. What a signal means to a training:
methods.workshop.training.interrupt."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from methods.workshop.training.interrupt import stop_request

WORDS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated", signal.SIGHUP: "Hung up"}
ENDING = tuple(WORDS)
"""Signals that end a run."""

Handler = Callable[[int, FrameType | None], Any]


class Ended(SystemExit):
    """The end of a command by a signal. Its exit code is 128 plus the signal's number."""


@contextlib.contextmanager
def handled(handler: Handler, signals: Iterable[int] = ENDING) -> Iterator[None]:
    """Handle signals within the block, except those that the process ignores. In other threads, do
    nothing."""
    with kept(signals) as before:
        for signum, old in before.items():
            if old is not signal.SIG_IGN:
                signal.signal(signum, handler)
        yield


@contextlib.contextmanager
def kept(signals: Iterable[int] = ENDING) -> Iterator[dict[int, Any]]:
    """Restore the handlers of signals after the block, because a library may replace them."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {signum: signal.getsignal(signum) for signum in signals} if is_main else {}
    try:
        yield before
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def ended_by_signals() -> contextlib.AbstractContextManager[None]:
    """Raise on SIGTERM and SIGHUP within the block, as Python does on Ctrl-C, so that everything is
    cleaned up."""
    return handled(_end, (signal.SIGTERM, signal.SIGHUP))


def _end(signum: int, frame: FrameType | None) -> None:
    _leave_closed_terminal()
    raise Ended(128 + signum)


def _leave_closed_terminal() -> None:
    """Drop what is printed from now on to a terminal that is closed, because a fault of it would
    stop the cleaning up."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def describe_exit(code: object) -> str:
    """Return the sentence for the exit code of a signal, or "" for any other code."""
    word = next((word for signum, word in WORDS.items() if code == 128 + signum), "")
    return f"{word}. Run the same command to resume." if word else ""


def ignore(signals: Iterable[int] = ENDING) -> None:
    """Ignore signals for the rest of the process: its parent decides what ends."""
    for signum in signals:
        signal.signal(signum, signal.SIG_IGN)


def obey_runner() -> None:
    """Leave Ctrl-C and hang-ups to the runner, and stop on its SIGTERM. A second SIGTERM changes
    nothing."""
    ignore((signal.SIGINT, signal.SIGHUP))
    signal.signal(signal.SIGTERM, _stop_once)


def _stop_once(signum: int, frame: FrameType | None) -> None:
    if not stop_request.signal:  # a job manager may send the signal too
        stop_request.receive(signum, frame)


def reset(*signals: int) -> None:
    """Set signals to what a new process does."""
    for signum in signals:
        if signum == signal.SIGINT:
            signal.signal(signum, signal.default_int_handler)
        else:
            signal.signal(signum, signal.SIG_DFL)
