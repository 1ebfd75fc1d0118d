"""TOML files."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

from methods.errors import UserError

MAX_BYTES = 2**20


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: the file cannot be read, or is not valid TOML.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
            raise UserError(f"config {str(path)!r} is not a regular file of at most {MAX_BYTES:,} bytes: name another")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise UserError(f"config {str(path)!r} cannot be read ({fault.strerror}): check the path") from None
    except (ValueError, RecursionError) as fault:
        raise UserError(f"config {str(path)!r} is not TOML: {fault}") from None
