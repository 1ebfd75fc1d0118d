"""Import plug-ins in a process of their own, and say what they are. Started by bench.catalog.plugins.

Arguments: a file descriptor, then MODULE:CLASS of each. It writes a line of JSON for each.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    with os.fdopen(int(sys.argv[1]), "w") as out:
        for target in sys.argv[2:]:
            print(json.dumps({"target": target} | describe(target)), file=out, flush=True)
    os._exit(0)  # whatever threads and exit functions they left


def describe(target: str) -> dict[str, Any]:
    """Its needs and what else it declares, the first line of its docstring and its fields; or why it is broken."""
    module, _, name = target.partition(":")
    try:
        loaded = getattr(importlib.import_module(module), name)
        fields = dataclasses.fields(loaded) if dataclasses.is_dataclass(loaded) else ()
        return {
            "needs": [flag.name.lower() for flag in loaded.needs],
            "about": (loaded.__doc__ or "").strip().split("\n")[0],
            "fields": [describe_field(field) for field in fields],
            "shares_calibration": getattr(loaded, "shares_calibration", False) is True,
        }
    except BaseException as fault:  # noqa: BLE001  (importing a plug-in may raise anything)
        return {"broken": f"{type(fault).__name__}: " + " ".join(str(fault).split())}


def describe_field(field: dataclasses.Field[Any]) -> str:
    """Its name and default."""
    return field.name if field.default is dataclasses.MISSING else f"{field.name}={field.default}"


if __name__ == "__main__":
    main()
