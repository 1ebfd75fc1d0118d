"""The command line. Each command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import sys

import typer

from bench.cli import compare, models, results, run, setup
from methods.errors import UserError

app = typer.Typer(
    name="bench",
    help="Compress language models, measure what is left, and prove it.",
    epilog="Exit code 0: done. 1: a cell failed, a gate or a pattern does not hold. 2: bad input, told in one sentence. "
    "130: stopped by Ctrl-C; the same command goes on.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    run.run,
    run.plan,
    results.ls,
    results.show,
    results.figure,
    results.scaling,
    results.report,
    models.pull,
    run.prune,
    run.finetune,
    models.verify,
    models.export,
    models.speed,
    setup.doctor,
    compare.compare,
    compare.gate,
    compare.history,
    compare.merge,
    compare.migrate,
)
"""In the order of the help page."""
for command in COMMANDS:
    app.command()(command)
app.add_typer(setup.cache_app, name="cache")
app.add_typer(setup.env_app, name="env")
app.add_typer(compare.baseline_app, name="baseline")


def main() -> None:
    """Run the command line. Bad input is one sentence and exit code 2; Ctrl-C is 130 and loses nothing."""
    try:
        app()
    except UserError as fault:
        typer.echo(f"bench: {fault}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # typer's answer to Ctrl-C
            typer.echo("bench: stopped; the same command goes on from here", err=True)
        raise
    except BrokenPipeError:
        sys.exit(1)
