"""Limits that the shell sets for a process, checked before the work that would meet them."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterable
from pathlib import Path

from bench.system.cache import count_bytes
from methods.errors import UserError

OPEN_FILES = 256
"""Number of files that a run may open at a time."""
LEAST_FILE_BYTES = 64 * 2**20
"""Bytes of the largest file that a run on a small model writes, with a margin."""


def require_open_files() -> None:
    """Raise UserError if this process may open fewer files than a run does."""
    if _is_below(resource.RLIMIT_NOFILE, OPEN_FILES):
        raise UserError(f"{_describe_open_files()}, and a run needs {OPEN_FILES}: set ulimit -n {OPEN_FILES}")


def require_file_size(models: Iterable[Path]) -> None:
    """Check that this process may write a file as large as each of the models, because a pruned model is one file.

    Raises:
        UserError: the limit is lower.
    """
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY:
        return
    size = max([LEAST_FILE_BYTES, *map(count_bytes, models)])
    if _is_below(resource.RLIMIT_FSIZE, size):
        raise UserError(f"{_describe_file_size()}, and this may write {size:,}: set ulimit -f unlimited")


def describe_limit(fault: OSError) -> str:
    """Return a sentence for an error that a limit of the shell caused, or "" for any other error."""
    if fault.errno == errno.EMFILE:
        return f"{_describe_open_files()}, which is too few: set ulimit -n {OPEN_FILES}"
    return f"{_describe_file_size()}, which is too few: set ulimit -f unlimited" if fault.errno == errno.EFBIG else ""


def _is_below(limit: int, needed: int) -> bool:
    allowed, _ = resource.getrlimit(limit)
    return allowed != resource.RLIM_INFINITY and allowed < needed


def _describe_open_files() -> str:
    return f"this shell allows {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} open files"


def _describe_file_size() -> str:
    return f"this shell allows files of {resource.getrlimit(resource.RLIMIT_FSIZE)[0]:,} bytes"
