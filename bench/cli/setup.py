"""`bench doctor`, `cache` and `env`: this machine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bench.cli.console import fail, print_line, print_rows
from bench.cli.flags import DataDir, Json, Results
from bench.system.terminal import make_console, shorten
from bench.system.text import one_line

cache_app = typer.Typer(
    help="Show or clean the cache.", no_args_is_help=True, rich_markup_mode=None
)

env_app = typer.Typer(
    help="Manage environments of other libraries.", no_args_is_help=True, rich_markup_mode=None
)


def doctor(data_dir: DataDir = None, results: Results = None, json: Json = False) -> None:
    """Check this machine: device, memory, disk, network and data. --json has a row for each thing.

    Exit code 1: the folder of --results, $CAST_BENCH_CACHE or $BENCH_DATA_DIR cannot be used.
    Exit code 2: the folder of --data-dir cannot be used.
    """
    from bench.cli import doctor as checks

    rows = checks.rows(data_dir, results)
    print_rows(rows if json else checks.grouped(rows), json, width=80)
    bad = [row for row in rows if row["state"] in checks.MISSING]
    if bad:
        fail("; ".join(f"{row['thing']} {row['state']}: {row['detail']}" for row in bad), 1)


@cache_app.command("info")
def cache_info(json: Json = False) -> None:
    """Show the size of the cache by part, in bytes."""
    from bench.system import cache

    print_rows(cache.info(), json)


@cache_app.command("gc")
def cache_gc(
    all_: Annotated[
        bool,
        typer.Option("--all", help="Also delete downloads, environments and unfinished trainings."),
    ] = False,
    days: Annotated[
        int, typer.Option(help="Keep what is newer than this many days.", min=0, max=36500)
    ] = 0,
) -> None:
    """Delete pruned models, logs and temporary files that no run uses.

    Records are not deleted. A model that is needed again is made again.
    """
    from bench.system import cache

    freed, in_use = cache.gc(everything=all_, days=days)
    kept = f"; still in use and kept: {in_use}" if in_use else ""
    print_line(f"{freed / 1e6:,.1f} MB freed{kept}")


@env_app.command("create")
def env_create(
    name: Annotated[str, typer.Argument(help="Name of an environment; bench env ls lists them.")],
) -> None:
    """Create an environment with pip.

    It takes some minutes and gigabytes. An environment that exists is not changed.
    """
    from rich.text import Text

    from bench.system import environments

    console = make_console(sys.stderr)
    # An unknown name ends before anything is drawn.
    environments.lookup(name)
    with console.status(Text()) as status:

        def note(line: str) -> None:
            text = one_line(line.rstrip())
            if line.startswith(" "):
                status.update(Text(shorten(text, console.width - 4)))
            else:
                console.print(Text(text))

        path = environments.create(name, note)
    print_line(path)


@env_app.command("ls")
def env_ls(json: Json = False) -> None:
    """List environments: state, packages, size in bytes."""
    from bench.system import environments

    print_rows(environments.rows(), json)
