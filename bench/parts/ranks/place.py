"""The place of `bench run` among the nodes of a training."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import typer

from bench.cli.console import note
from bench.parts.ranks import nodes
from bench.planning.resolve import resolve_request
from bench.planning.spec import Spec


def place(spec: Spec) -> AbstractContextManager[None]:
    """Return the context of the first node. Other nodes work, and exit here. It is the service
    `nodes`."""
    count, processes = spec.training.nodes, spec.training.processes
    own = nodes.find_place(count, os.environ)
    # An invalid spec ends before nodes wait for each other.
    resolve_request(spec)
    if own.node == 0:
        return nodes.lead(own, os.environ)
    from bench.parts.ranks.ranks import take_part  # imports torch

    note(
        f"node {own.node + 1} of {count} lends {processes // count} processes to "
        f"{own.host}:{own.port}"
    )
    take_part(own, count, processes)
    raise typer.Exit
