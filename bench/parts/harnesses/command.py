"""`bench import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import print_line
from bench.cli.flags import Results
from bench.system.text import amount
from methods.contract.pattern import Pattern


def import_results(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of lm-eval (--log_samples), lighteval (--save-details), EvalScope or "
            "Every Eval Ever, or a log of llama-perplexity --kl-divergence."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Name of the original [default: the name that the harness wrote].")
    ] = "",
    method: Annotated[str, typer.Option(help="Name of the row.")] = "dense",
    pattern: Annotated[str, typer.Option(help="Pattern of the row, for example 2:4.")] = "dense",
    results: Results = None,
) -> None:
    """Make records of what another harness measured.

    Their columns name the harness, so they never mix with numbers of bench run.
    """
    from bench.parts.harnesses import elsewhere
    from bench.results.store import RESULTS

    Pattern.parse(pattern)
    tasks = elsewhere.import_folder(
        folder, results or RESULTS, model=model, method=method, pattern=pattern
    )
    print_line(
        f"{amount(len(tasks), 'task')} of {folder} in {results or RESULTS}: {', '.join(tasks)}"
    )
