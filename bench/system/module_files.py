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
        folder = _find_folder(package)
        places = (folder / f"{name}.py", folder / name / "__init__.py") if folder else ()
        return next((place for place in places if place.exists()), None)
    spec = importlib.util.find_spec(module)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _find_folder(package: str) -> Path | None:
    """Return the folder of a package, which needs no __init__.py; None if there is none."""
    if file := find_file(package):
        return file.parent if file.name == "__init__.py" else None
    above, _, name = package.rpartition(".")
    if above:
        outer = _find_folder(above)
        folder = outer / name if outer else None
    else:
        spec = importlib.util.find_spec(package)
        places = list(spec.submodule_search_locations or ()) if spec else []
        folder = Path(places[0]) if places else None
    return folder if folder and folder.is_dir() else None
