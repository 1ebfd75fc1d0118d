"""TOML files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from methods.errors import UserError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as fault:
        raise UserError(f"config {str(path)!r} cannot be read ({fault.strerror}): check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise UserError(f"config {str(path)!r} is not TOML: {fault}") from None
