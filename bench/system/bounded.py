"""Bounds on work with files from outside, in this process or in a fork of it."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

DECIDES_NO_NUMBER = True
STATM = Path("/proc/self/statm")
"""Memory of this process in pages. Only Linux has it."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU, signal.SIGABRT, signal.SIGSEGV)
"""Signals that end the fork, without a handler of this process."""


class OutOfBounds(Exception):
    """The work took more than its bounds, or ended its process."""


@contextmanager
def bounded_memory(max_bytes: int) -> Iterator[None]:
    """Let this process take up to max_bytes more. Then Python raises MemoryError. Without /proc
    nothing is bounded.

    Pages of files do not count. A limit that is lower already stays.
    """
    if not STATM.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(STATM.read_text().split()[5]) * resource.getpagesize()
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([used + max_bytes, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def call_bounded(work: Callable[[], Any], max_bytes: int, max_seconds: int) -> Any:
    """Return what a function returns, which must be JSON. It runs in a fork of this process.

    A library that is not Python ends its process when memory runs out, so no bound in this process
    would do. Without /proc, it runs here and nothing is bounded.

    Args:
        max_bytes: memory that it may take.
        max_seconds: processor time that it may take.

    Raises:
        OutOfBounds: it raised, or ended its process.
    """
    if not STATM.exists():
        return work()
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiver)
        _answer(work, sender, max_bytes, max_seconds)
    os.close(sender)
    try:
        with os.fdopen(receiver, "rb") as pipe:
            answer = pipe.read()
    finally:
        os.kill(pid, signal.SIGKILL)  # after its answer it has nothing to do
        _, status = os.waitpid(pid, 0)
    if answer:
        result, problem = json.loads(answer)
        if problem:
            raise OutOfBounds(problem)
        return result
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        raise OutOfBounds(f"it takes more than {max_seconds} seconds")
    raise OutOfBounds(f"it takes more than {max_bytes:,} bytes of memory, or ends its process")


def _answer(work: Callable[[], Any], sender: int, max_bytes: int, max_seconds: int) -> NoReturn:
    """Send the result and the problem of a function to the parent, and end."""
    code = 1
    try:
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        silence = os.open(os.devnull, os.O_RDWR)
        for output in (0, 1, 2):
            os.dup2(silence, output)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        if hard == resource.RLIM_INFINITY or max_seconds < hard:
            resource.setrlimit(resource.RLIMIT_CPU, (max_seconds, hard))
        with bounded_memory(max_bytes):
            try:
                answer = json.dumps([work(), ""])
            except MemoryError:
                raise
            except BaseException as fault:  # noqa: BLE001 (a panic of Rust has no other base)
                answer = json.dumps([None, str(fault) or type(fault).__name__])
        with os.fdopen(sender, "wb") as pipe:
            pipe.write(answer.encode())
        code = 0
    finally:
        os._exit(code)
