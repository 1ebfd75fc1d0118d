"""TOML files."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from methods.contract.errors import UserError

MAX_BYTES = 2**20
MAX_DOTS = 100
"""Largest number of dots in a key. The parser's memory grows with their square."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raise UserError if the file cannot be read, or is not valid TOML."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
            raise UserError(
                f"config {str(path)!r} is not a regular file of at most {MAX_BYTES:,} bytes: name "
                "another"
            )
        text = path.read_text(encoding="utf-8")
        _require_short_keys(text)
        return tomllib.loads(text)
    except OSError as fault:
        raise UserError(
            f"config {str(path)!r} cannot be read ({fault.strerror}): check the path"
        ) from None
    except UnicodeDecodeError as fault:
        raise UserError(
            f"config {str(path)!r} is not text in UTF-8 ({fault}): convert it"
        ) from None
    except (ValueError, RecursionError) as fault:
        raise UserError(f"config {str(path)!r} is not TOML: {fault}") from None


def _require_short_keys(text: str) -> None:
    """Raise ValueError if what may be a key has too many dots."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = re.split(r"[,=\[\]{}]", "".join(line.split()))
        if not line.lstrip().startswith("#") and max(word.count(".") for word in words) > MAX_DOTS:
            raise ValueError(f"line {number} has more than {MAX_DOTS} dots in a row")
