"""The parts of bench/parts that are there, and what they add to the catalog."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType

DECIDES_NO_NUMBER = True

PACKAGE = "bench.parts"


@cache
def found_parts() -> dict[str, ModuleType]:
    """Return the package of each part by its name. A part whose NEEDS are not there is left out."""
    folders = import_module(PACKAGE).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folders) if module.ispkg)
    found = {name: import_module(f"{PACKAGE}.{name}") for name in names}
    missing = [name for name, part in found.items() if needs(part) - found.keys()]
    while missing:
        for name in missing:
            del found[name]
        missing = [name for name, part in found.items() if needs(part) - found.keys()]
    return found


def needs(part: ModuleType) -> set[str]:
    """Return the names of the parts that a part uses."""
    return set(getattr(part, "NEEDS", ()))


def entries_of_parts(section: str) -> dict[str, str]:
    """Return MODULE:NAME by name of what all parts add to a section of the catalog."""
    out: dict[str, str] = {}
    for part in found_parts().values():
        out |= part.ENTRIES.get(section, {})
    return out
