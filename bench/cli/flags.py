"""The flags of the command line that make a spec, and those that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from bench.plan.spec import Spec

Command = TypeVar("Command", bound=Callable[..., None])

Results = Annotated[Path | None, typer.Option(help="Folder of records [default: results/local].")]
DataDir = Annotated[Path | None, typer.Option(help="Mirror of hub data, <dir>/<hub id>/...; also $BENCH_DATA_DIR.")]
Json = Annotated[bool, typer.Option("--json", help="Rows as JSON on stdout.")]

FLAGS: dict[str, Any] = {
    "methods": Annotated[
        str | None, typer.Option(help="NAME[:preset|:field=value]..., separated by commas [default: all one-shot].")
    ],
    "models": Annotated[
        str | None, typer.Option("--model", help="Alias, hub id or folder; several by commas [default: tiny].")
    ],
    "patterns": Annotated[
        str | None,
        typer.Option("--pattern", help="2:4 keeps 2 of every 4; 50% is unstructured [default: 2:4]."),
    ],
    "quantizers": Annotated[
        str | None,
        typer.Option("--quant", help="Quantizers to run last, by commas [default: none,int8,int4-gptq]."),
    ],
    "measures": Annotated[
        str | None,
        typer.Option(help="[default: perplexity,agreement,zeroshot,size]; pattern is always measured."),
    ],
    "tasks": Annotated[
        str | None,
        typer.Option(help="Zero-shot: maskllm7, wanda7, any of lm-eval [default: wiki_continuation,wiki_lastword]."),
    ],
    "seeds": Annotated[
        str | None, typer.Option("--seeds", "--seed", help="Calibration seeds, by commas [default: 0].")
    ],
    "results": Results,
    "data_dir": DataDir,
    "device": Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N [default: auto].")],
    "dtype": Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 [default: by device].")],
    "config": Annotated[Path | None, typer.Option(help="TOML file with the same settings; flags win.")],
    "set_": Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. perplexity.seqlen=512."),
    ],
}
"""Flags that make a spec, by the spec's names. One that is added here is a flag of every command `with_flags`."""


def with_flags(*without: str) -> Callable[[Command], Command]:
    """FLAGS, but for those in `without`, in place of a command's `**flags`.

    A parameter of the command's own under a flag's name stands in that flag's place; required ones come first.
    """

    def declare(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters
        shown = {
            name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in FLAGS.items()
            if name not in without
        }
        shown |= {name: p.replace(kind=p.KEYWORD_ONLY) for name, p in own.items() if p.kind is not p.VAR_KEYWORD}
        ordered = sorted(shown.values(), key=lambda p: p.default is not p.empty)
        command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in ordered}  # typer reads both
        return command

    return declare


def spec_of(flags: dict[str, Any], **below: Any) -> Spec:
    """The spec that flags, a config and assignments make. below: what holds where neither a flag nor the config says otherwise."""
    from bench.plan import spec
    from bench.system.toml import read_toml

    flags = {name: value for name, value in flags.items() if value is not None}
    config, assignments = flags.pop("config", None), flags.pop("set_", [])
    values = below | (read_toml(config) if config else {}) | flags
    for assignment in assignments:
        spec.assign(values, assignment)
    return spec.make_spec(values)
