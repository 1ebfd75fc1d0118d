"""`bench conformance`: check a method."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.catalog import registry
from bench.cli.console import fail, print_rows
from bench.cli.flags import Json
from methods.errors import Skipped, UserError


def conformance(
    name: Annotated[str, typer.Argument(help="A method or quantizer, as in bench run: NAME[:FIELD=VALUE]...")],
    json: Json = False,
) -> None:
    """Check a method's contract on the model tiny.

    For authors of plug-ins: the method prunes its targets and nothing else, gives the same result twice, and leaves no
    files.
    """
    kind = _kind_of(name)
    from bench.conformance.run import rows

    try:
        found = list(rows(name, kind))
    except Skipped as why:
        raise UserError(f"{name} cannot be checked here: {why}") from None
    print_rows(found, json)
    if failed := [row for row in found if row["state"] == "failed"]:
        fail(f"{name} fails {len(failed)} of {len(found)} checks", 1)


def _kind_of(text: str) -> str:
    """Return the kind of a name, or refuse an unknown one."""
    name = text.partition(":")[0]
    try:
        registry.lookup("quantizers", name)
    except UserError:
        registry.lookup("methods", name)
        return "methods"
    return "quantizers"
