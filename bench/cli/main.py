"""The command line. Each command imports what it needs when it runs, so that help needs no time."""

from __future__ import annotations

import sys

import typer

from bench.cli import compare, models, pick, results, run, setup
from bench.cli.console import print_line
from bench.system.terminal import make_output_printable
from methods.errors import UserError

app = typer.Typer(
    name="bench",
    help="Prune, quantize, measure and compare language models.",
    epilog="Exit codes: 0 success. 1 a measurement, a gate or a check failed. 2 invalid input; one line says why. "
    "130 interrupted by Ctrl-C; run the same command to resume.",
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
    pick.pick,
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
"""In the order of the help."""
for command in COMMANDS:
    app.command()(command)
app.add_typer(setup.cache_app, name="cache")
app.add_typer(setup.env_app, name="env")
app.add_typer(compare.baseline_app, name="baseline")


def main() -> None:
    """Run the command line. Invalid input: one line, and exit code 2. Ctrl-C: exit code 130."""
    make_output_printable()
    try:
        app()
    except UserError as fault:
        print_line(f"bench: {fault}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # typer's, for Ctrl-C
            print_line("bench: Interrupted. Run the same command to resume.", err=True)
        raise
    except BrokenPipeError:
        sys.exit(1)
