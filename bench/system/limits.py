"""Limits that the shell sets for a process, checked before the work that would meet them."""

from __future__ import annotations

import errno
import math
import resource
from collections.abc import Iterable
from pathlib import Path

from bench.system.cache import count_bytes
from methods.contract.errors import UserError

OPEN_FILES = 256
"""Number of files that a run may open at a time."""
LEAST_FILE_BYTES = 64 * 2**20
"""Bytes of the largest file that a run on a small model writes, with a margin."""


def require_limits(models: Iterable[Path] = ()) -> None:
    """Refuse limits of this process below a run's number of open files, or below the size of one of
    the models."""
    if _allowed(resource.RLIMIT_NOFILE) < OPEN_FILES:
        raise UserError(
            f"{_describe(errno.EMFILE)}, and a run needs {OPEN_FILES}: set ulimit -n {OPEN_FILES}"
        )
    allowed = _allowed(resource.RLIMIT_FSIZE)
    if allowed < math.inf:
        size = max([LEAST_FILE_BYTES, *map(count_bytes, models)])
        if allowed < size:
            raise UserError(
                f"{_describe(errno.EFBIG)}, and this may write {size:,}: set ulimit -f unlimited"
            )


def describe_limit(fault: OSError) -> str:
    """Return a sentence for an error that a limit of the shell caused, or "" for any other
    error."""
    remedies = {
        errno.EMFILE: "raise it (ulimit -n), or run fewer --jobs",
        errno.EFBIG: "set ulimit -f unlimited",
    }
    remedy = remedies.get(fault.errno or 0)
    return f"{_describe(fault.errno)}, which is too few: {remedy}" if remedy else ""


def _allowed(limit: int) -> float:
    allowed, _ = resource.getrlimit(limit)
    return math.inf if allowed == resource.RLIM_INFINITY else allowed


def _describe(code: int | None) -> str:
    """Return a limit by the error of the system that says that it was met."""
    if code == errno.EMFILE:
        return f"this shell allows {_allowed(resource.RLIMIT_NOFILE):,} open files"
    return f"this shell allows files of {_allowed(resource.RLIMIT_FSIZE):,} bytes"
