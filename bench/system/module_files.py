"""Source files of modules, found without importing them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path


@cache
def find_file(module: str) -> Path | None:
    """Return the source file of a module; None if there is none."""
    package, _, name = module.rpartition(".")
    if package:
        above = find_file(package)
        if above is None or above.name != "__init__.py":
            return None
        places = (above.parent / f"{name}.py", above.parent / name / "__init__.py")
        return next((place for place in places if place.exists()), None)
    spec = importlib.util.find_spec(module)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
