"""The command line. Each command imports its modules when it runs, so that help is fast."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command, get_group

from bench.catalog import registry
from bench.catalog.declarations import read_help
from bench.cli.console import note, print_line
from bench.execution import signals
from bench.system import interpreter, provenance, terminal
from bench.system.cache import describe_unwritable
from bench.system.suggest import shorten
from bench.system.values import describe_allowed
from methods.contract.errors import UserError

USAGE_ERROR: Any = typer.BadParameter.__base__
"""Base class of typer's errors about a command line, which has no public name."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of paths that the machine refuses."""
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Errors of paths that are not there. They are a fault of this program unless the user named
them."""
MAX_SENTENCE = 500
"""Largest length of an error in terminal columns."""


GROUPS = {
    "Compress and measure": ("plan", "run", "top", "prune", "finetune", "search", "allocate"),
    "Choose and compare": ("report", "pick", "compare", "table", "figure", "show", "ls"),
    "Ship": ("export", "card", "verify", "fidelity", "speed"),
    "Guard a repository": ("gate", "baseline", "history"),
    "Share results": ("check", "sign", "merge", "import", "submit"),
    "Set up": ("doctor", "pull", "families", "conformance", "cache", "env"),
}
"""Commands of the help by what a user does, in this order."""


class _Command(TyperCommand):
    """A command whose help can name a section of the catalog, or the cards, in braces, and then
    lists what there is."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for param in self.params:
            if isinstance(param, TyperOption):
                param.help = name_cards(registry.fill_in(param.help or ""))
        super().format_options(ctx, formatter)


def name_cards(text: str) -> str:
    """Replace {cards} in a help by the cards with a datasheet."""
    if "{cards}" not in text:
        return text
    from bench.inputs.datasheets import device_specs

    return text.replace("{cards}", ", ".join(device_specs()))


class _Commands(Mapping[str, Any]):
    """The commands of the catalog by name. Each is imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        if not registry.is_installed("commands", name):
            raise KeyError(name)
        entry = registry.lookup("commands", name)
        with registry.guarded(entry):
            found = registry.load(entry)
            if isinstance(found, typer.Typer):
                group = get_group(found)
                group.name = name
                return group
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name, cls=_Command)(found)
            return get_command(alone)

    def __contains__(self, name: object) -> bool:
        return name in registry.names("commands")  # Mapping would import the command

    def __iter__(self) -> Iterator[str]:
        return iter(registry.names("commands"))

    def __len__(self) -> int:
        return len(registry.names("commands"))


class _Program(TyperGroup):
    """The program. Its commands are found in the catalog, those of plug-ins too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands()  # type: ignore[assignment]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by GROUPS, those of plug-ins last."""
        named = {name for names in GROUPS.values() for name in names}
        groups = {**GROUPS, "Others": tuple(name for name in self.commands if name not in named)}
        width = formatter.width - 6 - max(map(len, self.commands))
        for heading, names in groups.items():
            rows = []
            for name in names:
                if name in self.commands:
                    rows.append((name, self._summarize(name, width)))
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def _summarize(self, name: str, width: int) -> str:
        """Return the first sentence of a command's help, in `width` columns. A function of this
        project is read and not imported, so that help is fast."""
        command = registry.SECTIONS["commands"].get(name)
        text = read_help(command.target) if command else ""
        if text:
            return _Command(name, help=text).get_short_help_str(width)
        summary: str = self.commands[name].get_short_help_str(width)
        return summary


app = typer.Typer(
    name="bench",
    cls=_Program,
    help="""Prune, quantize, measure and compare language models.

    \b
    bench run                                        measure a bundled model
    bench plan --model Qwen/Qwen3-8B --device a10    cost of yours on your card
    bench pick --model tiny --results results/local  which row to ship, and how
    """,
    epilog="Exit codes: 0 success. 1 a measurement, a gate or a check failed. 2 invalid input; one "
    "line says why. 130, 143, 129 stopped by Ctrl-C, SIGTERM or SIGHUP; run the same command to "
    "resume. 141 the output's reader has gone.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"cast-bench {provenance.describe_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version, and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Run the command line. Invalid input ends in one line and exit code 2, a signal in exit code
    128 and its number."""
    interpreter.require_utf8()
    terminal.make_output_printable()
    try:
        with signals.ended_by_signals():
            _require_values(sys.argv[1:])
            sys.exit(app(standalone_mode=False, prog_name="bench"))
    except UserError as fault:
        note(terminal.shorten(str(fault), MAX_SENTENCE))
        sys.exit(2)
    except BrokenPipeError:
        _end_without_reader()
    except USAGE_ERROR as fault:
        if type(fault).__name__ == "NoArgsIsHelpError":
            # Its message is the help.
            fault.show()
        else:
            note(_sentence(fault))
        sys.exit(2)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            # typer and rich exit with 1, which is the code of a failed gate.
            _end_without_reader()
        sentence = signals.describe_exit(end.code)
        if not sentence:
            raise
        with contextlib.suppress(OSError):  # the terminal may be gone
            note(sentence)
            sys.stdout.flush()
        # Taking the interpreter down takes seconds on a busy machine.
        os._exit(int(str(end.code)))
    except Exception as fault:
        code, sentence = _describe(fault)
        if not sentence:
            raise
        note(sentence)
        sys.exit(code)


def _describe(fault: Exception) -> tuple[int, str]:
    """Return the exit code and a sentence for a run that cannot go on, or a fault of a named path;
    "" for any other fault."""
    from bench.execution.disk import RunStopped, describe_full_disk
    from bench.results.store import is_disk_full

    if isinstance(fault, RunStopped):
        return 1, f"stopped: {fault}"
    if is_disk_full(fault):
        return 1, f"stopped: {describe_full_disk(fault)}"
    if isinstance(fault, RuntimeError) and str(fault).startswith("Symlink loop"):
        return 2, f"a path is a link to itself ({fault}): replace it by a file or a folder"
    if not isinstance(fault, OSError):
        return 1, ""
    if fault.errno in (errno.EMFILE, errno.EFBIG):
        return 2, f"{fault.strerror}: raise this limit of the shell (ulimit -a)"
    return 2, describe_unwritable(fault) or _describe_named_path(fault)


def _require_values(arguments: list[str]) -> None:
    """Refuse empty arguments, also after "=". As a path, an empty one would mean the current
    folder."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument or re.fullmatch("--[a-z-]+=", argument):
            name = argument.removesuffix("=")
            if not name and before.startswith("-") and "=" not in before:
                name = before
            raise UserError(f"{name or 'an argument'} is empty: give a value, or leave it out")


def _end_without_reader() -> NoReturn:
    """Exit as after SIGPIPE: the reader of the output has gone, for example in `bench gate |
    head`."""
    # Python flushes standard output at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(128 + signal.SIGPIPE)


def _is_named(path: Path) -> bool:
    """Return whether the command line has a path, a folder that it is in, or a path in it."""
    for argument in sys.argv[1:]:
        for word in filter(None, re.split("[=,]", argument)):
            named = Path(word).absolute()
            if path.is_relative_to(named) or named.is_relative_to(path):
                return True
    return False


def _describe_named_path(fault: OSError) -> str:
    """Return a sentence for a path that the machine refuses, or that the user named and is not
    there; "" for any other fault."""
    if fault.errno not in REFUSED + MISSING or not isinstance(fault.filename, str):
        return ""
    if fault.errno in MISSING and not _is_named(Path(fault.filename).absolute()):
        return ""
    return f"{shorten(fault.filename)!r} cannot be used ({fault.strerror}): check the path"


def _sentence(fault: Any) -> str:
    """Return typer's error about a command line as one sentence."""
    if hasattr(fault.__cause__, "errors"):
        # pydantic refused the value of a flag.
        first = fault.__cause__.errors()[0]
        return f"invalid {fault.param.opts[0]}={shorten(first['input'])}: {describe_allowed(first)}"
    if type(fault).__name__ == "MissingParameter" and (what := getattr(fault.param, "help", "")):
        if fault.param.param_type_name == "argument":
            name = f"{fault.param.name!r}"
        else:
            name = fault.param.opts[0]
        path = fault.ctx.command_path
        return f"{path} needs {name}: {what[0].lower()}{what[1:].rstrip('.')} (see {path} --help)"
    text = " ".join(fault.format_message().split()).rstrip(".")
    text = terminal.shorten(text, MAX_SENTENCE)
    see = " See" if text.endswith("?") else ": see"
    where = f"{see} {fault.ctx.command_path} --help" if fault.ctx else ""
    return text[:1].lower() + text[1:] + where
