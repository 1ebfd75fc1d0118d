"""Packages of this distribution's extras: whether they are installed, and how to install them."""

from __future__ import annotations

import importlib.util
import re
import traceback
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


def describe_unreadable(fault: Exception) -> str:
    """Return a sentence for an error that a malformed entry_points.txt caused, or "" for any other
    error.

    Pydantic and torch read the entry points of all distributions when they are imported, and stop
    at the first malformed line.
    """
    modules = (
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(fault.__traceback__)
    )
    if not any(module.startswith("importlib.metadata") for module in modules):
        return ""
    for installed in distributions():
        try:
            installed.entry_points  # noqa: B018
        except (TypeError, ValueError) as why:
            reason = why if isinstance(why, ValueError) else "a line has no '='"
            return (
                f"entry_points.txt of {installed.metadata['Name']} in {installed.locate_file('')} "
                f"is malformed ({reason}), and pydantic and torch cannot be imported beside it: "
                "repair or uninstall this distribution"
            )
    return ""
