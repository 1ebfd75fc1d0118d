"""Packages of this distribution's extras: whether they are installed, and how to install them."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import distributions, requires

from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True

OF_EXTRA = re.compile(r"([\w.-]+).*; *extra == ['\"]([\w-]+)['\"]")
"""Pattern of a requirement in the metadata of a distribution. Its groups are the package and the
extra."""


def extras() -> dict[str, dict[str, bool]]:
    """Return for each extra its packages, and whether each is installed in any version."""
    out: dict[str, dict[str, bool]] = {}
    for requirement in requires("cast-bench") or ():
        match = OF_EXTRA.fullmatch(requirement)
        if match:
            out.setdefault(match[2], {})[match[1]] = any(distributions(name=match[1]))
    return out


def pip_install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'cast-bench[{extra}]'"


def require(*packages: str, what: str, how: str) -> None:
    """Refuse work whose packages cannot be imported. what: feature that needs them. how: command
    that installs them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{what} needs the package {package}: {how}")
