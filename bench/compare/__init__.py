"""Tell a regression from noise: pairing, estimates, verdicts and baselines.

The package can be called: `bench.compare(a, b)` is `bench.results_api.compare`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package with the name of a public function."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return import_module("bench.results_api").compare(*args, **settings)


sys.modules[__name__].__class__ = _Callable
