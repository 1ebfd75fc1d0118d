"""A benchmark suite for compressed language models: prune, quantize, measure, compare.

    import bench
    table = bench.run(bench.Spec(methods=["magnitude", "wanda"], models=["tiny"]))

`run` does what `bench run` does and returns the rows as a pandas DataFrame. `compare`, `pick`,
`table` and `figure` do what the commands of these names do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import comparing as compare
    from bench.api import plan, report, run
    from bench.execution.listener import RunListener
    from bench.formats.in_transformers import load
    from bench.planning.spec import Spec
    from bench.results_api import figure, pick, table

__all__ = [
    "RunListener", "Spec", "compare", "figure", "load", "pick", "plan", "report", "run", "table",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `bench --help` does not wait for pydantic or
    torch."""
    if name not in __all__:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    homes = {"load": "bench.formats.in_transformers"}
    homes |= dict.fromkeys(("compare", "figure", "pick", "table"), "bench.results_api")
    return getattr(import_module(homes.get(name, "bench.api")), name)
