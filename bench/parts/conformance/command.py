"""`bench conformance`: check a method or a measure."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from bench.catalog import named_files, registry
from bench.cli.console import fail, print_rows
from bench.cli.flags import Json
from bench.system.suggest import describe_unknown
from methods.contract.errors import Skipped, UserError


def conformance(
    name: Annotated[
        str,
        typer.Argument(
            help="A method or quantizer, as in bench run: NAME[:FIELD=VALUE]...; a measure; or a "
            "file with one."
        ),
    ],
    json: Json = False,
) -> None:
    """Check a method's or a measure's contract on the model tiny.

    For authors of plug-ins. A method prunes its targets and nothing else, gives the same result
    twice, and leaves no files. One that removes experts is tried on tiny-moe. A measure reads a
    dense and a pruned model, gives the same numbers twice, says their unit and direction, and has
    a column.
    """
    kind = _kind_of(name)
    from bench.parts.conformance import measures
    from bench.parts.conformance.checks import rows

    try:
        if kind == "measures":
            from bench.api import execute

            found = list(measures.rows(name, lambda spec: execute(spec).records))
        else:
            found = list(rows(name, kind))
    except Skipped as why:
        raise UserError(f"{name} cannot be checked here: {why}") from None
    print_rows(found, json)
    failed = [row for row in found if row["state"] == "failed"]
    if failed:
        fail(f"{name} fails {len(failed)} of {len(found)} checks", 1)


def _kind_of(text: str) -> str:
    """Return the kind of a name, or refuse an unknown one."""
    if named_files.is_file(text):
        return _kind_in_file(text)
    name = text.partition(":")[0]
    kinds = ("quantizers", "measures", "methods")
    for kind in kinds:
        if name in registry.names(kind):
            registry.lookup(kind, name)  # a broken plug-in says why
            return kind
    known = [known for kind in kinds for known in registry.names(kind)]
    raise UserError(describe_unknown("method, quantizer or measure", name, known))


def _kind_in_file(text: str) -> str:
    """Return the kind of a class in a file. A quantizer derives from a class of rounding, or has a
    codec in its file."""
    file, _, rest = text.partition(":")
    module, wanted = registry.import_file(os.path.abspath(file)), rest.partition(":")[0]
    defined = registry.classes_of(module.__name__)
    one = defined.get(wanted) or next(
        (each for each in defined.values() if named_files.fits("methods", each)), None
    )
    if one is None or not named_files.fits("methods", one):
        return "measures"
    from methods import RoundInGroups, RoundToNearest

    has_codec = any(hasattr(each, "decode") for each in defined.values())
    return (
        "quantizers" if has_codec or issubclass(one, RoundInGroups | RoundToNearest) else "methods"
    )
