"""`bench top`: watch runs."""

from __future__ import annotations

import json as json_module
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import note, print_json, print_line
from bench.cli.flags import Json
from bench.reporting.words import clock_time
from bench.system.terminal import make_console, shorten, width_of

if TYPE_CHECKING:
    from rich.text import Text

    from bench.results.run_status import RunStatus

EVERY_S = 1.0
"""Seconds between two updates."""
MAX_LINES = 200


def top(
    results: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Folder of records [default: results/local]."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print once and exit, also during a run.")
    ] = False,
    json: Json = False,
) -> None:
    """Watch the runs of a results folder, on any machine.

    It exits after the last run. If no run is active, it prints the outcome of the last one.
    """
    from bench.results.run_status import read_statuses
    from bench.results.store import RESULTS, ReadOnlyStore

    root = ReadOnlyStore(results or RESULTS, how="as in bench top FOLDER").root
    statuses, problems = read_statuses(root)
    for problem in problems:
        note(problem)
    if json:
        rows = [
            status.model_dump() | {"state": _state(status, alive)} for status, alive in statuses
        ]
        print_json(json_module.dumps(rows, indent=1))
        return
    if not once and sys.stdout.isatty() and any(alive for _, alive in statuses):
        from rich.live import Live
        from rich.text import Text

        with Live(
            console=make_console(sys.stdout),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
        ) as live:
            while any(alive for _, alive in statuses):
                lines = _lines(statuses, live.console.width, live.console.options.ascii_only)
                live.update(Text("\n").join(lines), refresh=True)
                time.sleep(EVERY_S)
                statuses, _ = read_statuses(root)
    elif not once:
        while any(alive for _, alive in statuses):
            time.sleep(EVERY_S)
            statuses, _ = read_statuses(root)
    for line in _lines(statuses, width_of(sys.stdout) or 120, ascii_only=False):
        print_line(line.plain)
    if not statuses:
        print_line(f"no run has written to {root} yet")


def _state(status: RunStatus, alive: bool) -> str:
    if alive:
        return "running"
    return "died" if status.ended is None else status.outcome or "ended"


def _lines(statuses: list[tuple[RunStatus, bool]], width: int, ascii_only: bool) -> list[Text]:
    """Return lines for each active run and its artifacts, or for the last run that ended."""
    from rich.text import Text

    from bench.execution.bars import Line
    from bench.execution.events import describe_figures

    out = []
    now, clock = time.time(), time.monotonic()
    for status, alive in [pair for pair in statuses if pair[1]] or statuses[-1:]:
        age = max(0.0, now - status.updated) if alive else 0.0
        until = clock_time(status.left - age) if alive and status.left is not None else ""
        figures = [
            f"{count} {name}" for name, count in sorted(status.tried.items()) if name != "ok"
        ]
        end = now if alive else status.ended or status.updated
        took = max(0.0, end - status.started)  # clocks may jump
        head = Line(
            f"{status.host} {status.executor}",
            "",
            status.done,
            status.total,
            clock - took,
            until,
            figures,
        )
        out.append(head.compose(width, ascii_only))
        if not alive:
            what = (
                f"{_state(status, alive)} after {timedelta(seconds=int(took))}, cast-bench "
                f"{status.code}"
            )
            out.append(Text(shorten(what, width)))
            continue
        for work in status.at_work:
            name = f"{work.label}: {work.phase}" if work.phase else work.label
            left = clock_time(work.left - age) if work.left is not None and work.left > 2 else ""
            since = clock - max(0.0, now - work.since)
            line = Line(
                name, work.state, work.done, work.total, since, left, describe_figures(work.figures)
            )
            out.append(line.compose(width, ascii_only))
    return out[:MAX_LINES]
