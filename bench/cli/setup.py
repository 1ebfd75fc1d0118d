"""Commands for this machine: doctor, cache, env."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.console import print_rows
from bench.cli.flags import DataDir, Json, Results

cache_app = typer.Typer(help="What is kept between runs.", no_args_is_help=True, rich_markup_mode=None)

env_app = typer.Typer(
    help="Environments of libraries that cannot share ours.", no_args_is_help=True, rich_markup_mode=None
)


def doctor(data_dir: DataDir = None, results: Results = None, json: Json = False) -> None:
    """Is everything here that a run may need?"""
    from bench.cli import doctor as examination

    print_rows(examination.rows(data_dir, results), json)


@cache_app.command("info")
def cache_info(json: Json = False) -> None:
    """What the cache holds, in bytes."""
    from bench.system import cache

    print_rows(cache.info(), json)


@cache_app.command("gc")
def cache_gc(
    all_: Annotated[bool, typer.Option("--all", help="Pulled models, corpora and unfinished trainings too.")] = False,
    days: Annotated[int, typer.Option(help="Keep what was made in the last so many days.", min=0)] = 0,
) -> None:
    """Delete pruned models, logs and leftovers that no run is using.

    Records stay, and what is deleted is made again when asked for.
    """
    from bench.system import cache

    freed, left = cache.gc(everything=all_, days=days)
    typer.echo(f"{freed / 1e6:,.1f} MB freed" + (f"; {left} entries are in use and stay" if left else ""))


@env_app.command("create")
def env_create(name: Annotated[str, typer.Argument(help="As in bench env ls.")]) -> None:
    """Build an environment with pip, some minutes and gigabytes. One that is ready is left as it is."""
    from rich.console import Console
    from rich.markup import escape

    from bench.system import environments

    console = Console(stderr=True, highlight=False, markup=False)
    with console.status("") as status:
        path = environments.create(
            name, lambda line: status.update(escape(line)) if line.startswith(" ") else console.print(line)
        )
    typer.echo(path)


@env_app.command("ls")
def env_ls(json: Json = False) -> None:
    """Each environment, whether it is ready, what is in it, and its size in bytes."""
    from bench.system import environments

    print_rows(environments.rows(), json)
