"""Tell a regression from noise: pairing, estimates, verdicts, baselines, history.

The package can be called: `bench.compare(a, b)` is `bench.api.compare`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package with the name of a public function."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return import_module("bench.api").compare(*args, **settings)


sys.modules[__name__].__class__ = _Callable
