"""Flags that make a spec, and flags that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.catalog.entries import DEFAULT_METHODS
from bench.reporting.drawing import require_format
from bench.system.files import require_folder, require_writable_file
from bench.system.suggest import shorten
from bench.system.toml import read_toml
from bench.system.values import split_commas
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.planning.spec import Spec

Command = Callable[..., None]


def checked(check: Callable[[Path], None]) -> Callable[[Path | None], Path | None]:
    """Return a callback for a path. `check` raises a UserError before the command starts."""

    def callback(value: Path | None) -> Path | None:
        if value is not None:
            check(value)
        return value

    return callback


ALL_COLUMNS = "all"
"""Name after --columns for a table with every column."""


def split_list(option: str, text: str) -> list[str]:
    """Return the names in a comma-separated option. Raise UserError for an empty name."""
    try:
        return [part.strip() for part in split_commas(text)]
    except ValueError as fault:
        raise UserError(f"invalid {option}={shorten(text)}: {fault}") from None


def split_columns(text: str | None) -> list[str]:
    """Return the names after --columns. Raise UserError for an unknown one, before a run."""
    if text is None:
        return []
    from bench.reporting.overview import require_columns

    names = split_list("columns", text)
    require_columns([] if names == [ALL_COLUMNS] else names)
    return names


def figure_option(option: str, help_: str = "Also draw it: .svg, .png or .pdf.") -> Any:
    """Return an option for the file of a figure. option: name of the flag."""

    def check(value: Path) -> None:
        require_format(value)
        require_writable_file(value, option)

    return typer.Option(option, metavar="FILE", help=help_, callback=checked(check))


def file_option(option: str, help_: str, *, stdout: bool = False) -> Any:
    """Return an option for a file to write. option: name of the flag; stdout: "-" is standard
    output."""

    def check(value: Path) -> None:
        if not (stdout and str(value) == "-"):
            require_writable_file(value, option)

    return typer.Option(option, metavar="FILE", help=help_, callback=checked(check))


def folder_option(option: str, help_: str, *, new: bool = False) -> Any:
    """Return an option for a folder to write. option: name of the flag; new: a folder with files is
    refused."""
    check = partial(require_folder, option=option, new=new)
    return typer.Option(option, metavar="DIR", help=help_, callback=checked(check))


def _require_signers(value: Path) -> None:
    if not value.is_file():
        raise UserError(
            f"--signed-by {str(value)!r} is no file: name a file of allowed signers (man "
            "ssh-keygen)"
        )


def _check_mirror(value: Path) -> None:
    from bench.inputs.hub import require_mirror

    require_mirror(value)


_ALL_RESULTS = (
    "Folder of records; can be repeated [default: all in results/ but results/local, unless it is "
    "alone]."
)
AllResults = Annotated[
    list[Path] | None, typer.Option("--results", metavar="DIR", help=_ALL_RESULTS)
]
Results = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of records [default: results/local].")
]
_MIRROR_HELP = "Local mirror of hub data, DIR/<hub id>/...; also $BENCH_DATA_DIR."
DataDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help=_MIRROR_HELP, callback=checked(_check_mirror))
]
SignedBy = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File of allowed signers, as ssh-keygen and git read it: a line NAME KEY for each "
        "signer.",
        callback=checked(_require_signers),
    ),
]
Figure = Annotated[Path | None, figure_option("--out")]
NewFolder = Annotated[Path, folder_option("--out", "Folder to write, new or empty.", new=True)]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Columns: row, MB, perplexity, ratio, task, verdict, any metric, or all.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _flag(help_: str, *names: str, kind: Any = str, metavar: str | None = None) -> Any:
    return Annotated[kind | None, typer.Option(*names, help=help_, metavar=metavar)]


FLAGS: dict[str, Any] = {
    "methods": _flag(
        "Methods: NAME[:PRESET|:FIELD=VALUE]..., or a class in FILE.py[:CLASS]... [default: "
        f"{','.join(DEFAULT_METHODS)}].",
        metavar="NAME,...",
    ),
    "models": _flag("Aliases, hub ids or folders [default: tiny].", "--model", metavar="NAME,..."),
    "patterns": _flag(
        "2:4 keeps 2 of every 4 weights, pairs:4:8 adjacent pairs; 50% is unstructured "
        "[default: 2:4].",
        "--pattern",
    ),
    "quantizers": _flag(
        "Quantizers, which run last, by name or in FILE.py [default: none,int8,int4-gptq].",
        "--quant",
        metavar="NAME,...",
    ),
    "measures": _flag(
        "Measures, besides pattern, by name or in FILE.py [default: "
        "perplexity,agreement,zeroshot,answers,size].",
        metavar="NAME,...",
    ),
    "tasks": _flag(
        "Tasks of lm-eval, maskllm7, wanda7; tracks: knowledge, code, all... [default: "
        "wiki_continuation,wiki_lastword].",
        metavar="NAME,...",
    ),
    "seeds": _flag("Calibration seeds, comma-separated [default: 0].", "--seeds", "--seed"),
    "results": Results,
    "data_dir": _flag(_MIRROR_HELP, kind=Path, metavar="DIR"),
    "device": _flag("auto, cpu, cuda, cuda:N, or several: cuda:0,cuda:1 [default: auto]."),
    "dtype": _flag("float32, bfloat16 or float16 [default: as the model is stored]."),
    "jobs": _flag(
        "Artifacts to make in parallel; auto: as many as fit in memory [default: 1, or one per "
        "card].",
        metavar="N",
    ),
    "executor": _flag("Where artifacts are made. {executors} [default: local]."),
    "ray_address": _flag(
        "Ray cluster: HOST:PORT; local starts one on this machine [default: auto]."
    ),
    "log_to": _flag("Also show the run in trackers. {trackers}", metavar="NAME,..."),
    "max_memory": _flag(
        "Memory for each artifact; a larger model is streamed.", kind=float, metavar="GB"
    ),
    "shard": _flag("Run only part I of N of the plan.", metavar="I/N"),
    "config": _flag(
        "TOML file with the same settings; flags take precedence.", kind=Path, metavar="FILE"
    ),
    "set_": _flag(
        "Any other setting, for example calibration.sequences=64; can be repeated.",
        "--set",
        kind=list[str],
        metavar="KEY=VALUE",
    ),
}
"""Flags that make a spec, by the spec's field names. Every command `with_flags` has them."""

OF_RUNS = ("measures", "tasks", "jobs", "executor", "ray_address", "shard", "log_to")
"""Flags that only a run of several artifacts has."""


def with_flags(*omit: str) -> Callable[[Command], Command]:
    """Replace a command's `**flags` by FLAGS, except those in `omit`, which --set cannot set
    either.

    Without `measures`, --set cannot set a measure's table.
    A parameter of the command replaces the flag of the same name. Required parameters come first.
    """

    def declare(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters
        parameters = {
            name: inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
            )
            for name, kind in FLAGS.items()
            if name not in omit
        }
        parameters |= {
            name: p.replace(kind=p.KEYWORD_ONLY)
            for name, p in own.items()
            if p.kind is not p.VAR_KEYWORD
        }
        ordered = sorted(parameters.values(), key=lambda p: p.default is not p.empty)

        @wraps(command)
        def call(**flags: Any) -> None:
            from bench.planning.spec import MEASURE_TABLES

            for assignment in flags.get("set_") or ():
                name = assignment.partition("=")[0].strip()
                if name in omit or (
                    "measures" in omit and name.partition(".")[0] in MEASURE_TABLES
                ):
                    raise UserError(
                        f"--set {shorten(assignment)} has no effect on this command: leave it out"
                    )
            command(**flags)

        call.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        # typer reads both.
        call.__annotations__ = {p.name: p.annotation for p in ordered}
        return call

    return declare


def spec_of(flags: dict[str, Any], **defaults: Any) -> Spec:
    """Return the spec from flags, config and assignments. defaults: values that neither a flag nor
    the config sets."""
    from bench.planning import spec

    flags = {name: value for name, value in flags.items() if value is not None}
    config, assignments = flags.pop("config", None), flags.pop("set_", [])
    if config:
        defaults |= read_toml(config)
    values = defaults | flags
    for assignment in assignments:
        spec.assign(values, assignment)
    made = spec.Spec(**values)
    for assignment in assignments:
        _require_reader(assignment, made)
    return made


def _require_reader(assignment: str, spec: Spec) -> None:
    """Raise UserError for a setting of a measure that does not run."""
    from bench.catalog import registry
    from bench.planning.spec import MEASURE_TABLES

    name = assignment.partition("=")[0].strip()
    table = name.partition(".")[0]
    if table not in MEASURE_TABLES:
        return
    readers = []
    for measure in registry.names("measures"):
        kind = registry.load(registry.lookup("measures", measure))
        if getattr(getattr(kind, "settings", None), "table", "") == table:
            readers.append(measure)
    if not set(readers) & set(spec.measures):
        raise UserError(
            f"--set {shorten(assignment)} has no effect, because no measure that runs reads it: "
            f"add {' or '.join(readers)} to --measures, or leave the setting out"
        )
