"""`bench scaling`."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.console import print_line, print_rows
from bench.cli.flags import Figure, Json, Results


def scaling(
    method: Annotated[str, typer.Option(help="The sparse method, as in its table.")] = "cast",
    control: Annotated[
        str, typer.Option(help="The dense method that it is compared with.")
    ] = "dense-ft",
    out: Figure = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Fit a power law to the cost of sparsity.

    The cost is the loss above a control, over model size and training tokens. The largest run is
    not fitted, but predicted.
    """
    from bench.parts.scaling import figure, law
    from bench.results.store import RESULTS

    fit, holdout, predicted = law.predict_holdout(law.read(results or RESULTS, method, control))
    print_rows(law.to_rows(fit, holdout, predicted), json)
    if out:
        print_line(figure.draw_scaling(fit, out, method, control, holdout), err=json)
