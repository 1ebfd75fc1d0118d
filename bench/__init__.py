"""The instrument: plan, run, measure, record, show.

    import bench
    table = bench.run(bench.Spec(methods=["magnitude", "wanda"], models=["tiny"]))

`run` does what `bench run` does and returns the rows as a pandas DataFrame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import plan, report, run
    from bench.plan.spec import Spec

__all__ = ["Spec", "plan", "report", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use: `bench --help` must not wait for pydantic, let alone torch."""
    if name == "Spec":
        from bench.plan.spec import Spec

        return Spec
    if name in __all__:
        from bench import api

        return getattr(api, name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
