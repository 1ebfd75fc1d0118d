"""TOML files."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

from methods.contract.errors import UserError


def read_toml(path: Path, most: int = 2**20) -> dict[str, Any]:
    """Read a TOML file of at most `most` bytes. Raise UserError if the file cannot be read, or is
    not valid TOML."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > most:
            raise ValueError(f"no regular file of at most {most:,} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        why = getattr(fault, "strerror", None) or fault
        raise UserError(
            f"config {str(path)!r} cannot be read ({why}): correct it, or name another"
        ) from None
