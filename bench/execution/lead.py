"""Whether a node leads the others, if a training takes several."""

from __future__ import annotations

import os

from methods.contract.errors import UserError

STORE_ENV = "CAST_BENCH_STORE"
"""HOST:PORT of the store in which the first node announces trainings, for its workers."""


def require_lead(nodes: int) -> None:
    """Raise UserError if a training takes several nodes, but no node leads them."""
    if nodes > 1 and STORE_ENV not in os.environ:
        raise UserError(f"training.nodes={nodes} is for bench run: leave it out here")
