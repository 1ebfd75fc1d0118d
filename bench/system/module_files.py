"""Source files of modules, found without importing them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path


@cache
def find_file(module: str) -> Path | None:
    """Return the source file of a module; None if there is none. A package needs no __init__.py."""
    package, *below = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    if not below:
        origin = spec.origin or ""
        return Path(origin) if origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *below)
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.exists():
                return file
    return None
