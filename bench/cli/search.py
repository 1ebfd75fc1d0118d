"""`bench search`: search the fields of methods."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.console import fail, note, print_line, print_rows
from bench.cli.flags import DataDir, Figure, Json, Results
from bench.reporting.words import clock_time
from bench.system.toml import read_toml


def search(
    spec: Annotated[
        Path,
        typer.Argument(metavar="SPEC", help="TOML file: a run's settings, and a table [search]."),
    ],
    results: Results = None,
    data_dir: DataDir = None,
    out: Figure = None,
    json: Json = False,
) -> None:
    """Search the fields of methods.

    Each method has the same number of trials, on the validation split. Every trial is a record. The
    same command continues a search that was stopped.
    """
    from bench import search as searching
    from bench.execution.descendants import adopting
    from bench.planning.search_space import read_search
    from bench.reporting.figures import draw_search

    given = {"results": results, "data_dir": data_dir}
    what, space = read_search(read_toml(spec) | {k: v for k, v in given.items() if v is not None})
    started, new = time.monotonic(), 0

    def report(one: Any, left: int) -> None:
        nonlocal new
        new += 1
        said = _describe(one)
        if left:
            end = clock_time(left * (time.monotonic() - started) / new)
            said += f"; {left} left, all done at {end}"
        note(said)

    try:
        with adopting():
            done = searching.run(what, space, on_trial=report)
    except searching.TrialFailed as failed:
        fail(f"{failed}: bench show RECORD prints a traceback; the same command tries it again", 1)
    print_rows([_row(one) for one in done], json)
    if out:
        values = {}
        for one in done:
            values[one.method] = [trial.value for trial in one.trials]
        print_line(draw_search(values, out), err=json)


def _describe(done: Any) -> str:
    last, best = done.trials[-1], done.best
    value = f"{last.value:.4g}" if math.isfinite(last.value) else "diverged"
    lowest = f"; lowest {best.value:.4g}" if best else ""
    return (
        f"{len(done.trials)} of {done.budget} trials of {done.method}: {last.label} {value}{lowest}"
    )


def _row(done: Any) -> dict[str, Any]:
    best = done.best
    found: dict[str, Any] = {"perplexity": None, "best trial": "", "record": ""}
    if best:
        found = {
            "perplexity": float(f"{best.value:.5g}"),
            "best trial": best.label,
            "record": best.record[:12],
        }
    return {
        "method": done.method,
        "trials": len(done.trials),
        "diverged": sum(not math.isfinite(t.value) for t in done.trials),
        **found,
    }
