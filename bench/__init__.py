"""A benchmark suite for compressed language models: prune, quantize, measure, compare.

    import bench
    table = bench.run(bench.Spec(methods=["magnitude", "wanda"], models=["tiny"]))

`run` does what `bench run` does and returns the rows as a pandas DataFrame.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import plan, report, run
    from bench.plan.spec import Spec

__all__ = ["Spec", "plan", "report", "run"]
__version__ = "0.1.0"


class _Bench(ModuleType):
    """Imports on first use: `bench --help` must not wait for pydantic, let alone torch."""

    def __getattr__(self, name: str) -> Any:
        if name == "Spec":
            return import_module("bench.plan.spec").Spec
        if name in __all__:
            return import_module(f"bench.{name}")
        raise AttributeError(f"module 'bench' has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


class _CallablePackage(ModuleType):
    """`bench.plan`, `bench.run` and `bench.report` are packages, and called they are the functions of bench.api."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.__name__.removeprefix("bench.")
        return getattr(import_module("bench.api"), name)(*args, **kwargs)


sys.modules[__name__].__class__ = _Bench
