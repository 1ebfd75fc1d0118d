"""`bench prune` and `finetune`: a run of one artifact, whose folder is kept."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.catalog.choice import parse_method
from bench.cli.console import fail, print_line, print_lines
from bench.cli.flags import OF_RUNS, NewFolder, spec_of, with_flags
from bench.execution.descendants import adopting
from methods.contract.errors import UserError

Quantizer = Annotated[
    str | None, typer.Option("--quant", help="Quantizer, which runs last [default: none].")
]


@with_flags(*OF_RUNS, "results")
def prune(
    methods: Annotated[str, typer.Option("--method", help="One method, as in bench run.")],
    out: NewFolder,
    models: Annotated[
        str | None, typer.Option("--model", help="Alias, hub id or folder [default: tiny].")
    ] = None,
    quantizers: Quantizer = None,
    seeds: Annotated[
        int | None, typer.Option("--seed", help="Calibration seed [default: 0].")
    ] = None,
    **flags: Any,
) -> None:
    """Prune one model with one method, and write it to a folder.

    transformers can load the folder.
    """
    fixed = {"methods": methods, "models": models, "seeds": seeds, "quantizers": quantizers}
    _write_one(flags | fixed, out)


def _write_one(flags: dict[str, Any], out: Path, made: str = "") -> None:
    """Write the model of a spec. Raise UserError for several seeds. made: what, for an error; "":
    the method and the model."""
    spec = spec_of(flags, models="tiny", seeds=0, quantizers="none")
    if len(spec.seeds) != 1:
        raise UserError(
            f"one model is written, and the config has {len(spec.seeds)} seeds: name one with "
            "--seed"
        )
    from bench.execution.prune import NotMade, write_pruned

    try:
        with adopting():
            print_line(write_pruned(spec, out))
    except NotMade as failure:
        if failure.traceback:
            print_lines(failure.traceback, err=True)
        fail(
            f"{made or f'{spec.methods[0]} on {spec.models[0]}'} failed: {failure}. Nothing was "
            "written.",
            1,
        )


@with_flags(*OF_RUNS, "methods", "models", "training.data")
def finetune(
    artifact: Annotated[
        str,
        typer.Option(
            help="A record (the first digits of its key), or a folder written by bench prune."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Training text: a corpus, a .txt, .jsonl or .parquet file, or a folder of such "
            "files."
        ),
    ],
    out: NewFolder,
    rank: Annotated[
        int,
        typer.Option(
            help="Train low-rank updates of this rank, merged under the mask; 0 trains all "
            "weights.",
            min=0,
        ),
    ] = 0,
    patterns: Annotated[
        str | None, typer.Option("--pattern", help="Pattern to keep [default: the model's].")
    ] = None,
    quantizers: Quantizer = None,
    seeds: Annotated[
        int | None, typer.Option("--seed", help="Seed for the order of the text [default: 0].")
    ] = None,
    **flags: Any,
) -> None:
    """Train a pruned model further, without changing its zeros.

    The result is written to a folder that transformers can load.
    """
    from bench.inputs.models import resolve
    from bench.results.artifacts import find_pruned

    folder, record = find_pruned(artifact, flags.pop("results", None))
    methods = f"finetune:rank={rank}"
    parse_method(methods)
    resolve(str(folder))
    if record:
        patterns = patterns or record.identity.pattern
    training = [f"training.data={json_module.dumps(data, ensure_ascii=False)}"]
    fixed: dict[str, Any] = {"methods": methods, "models": (str(folder),), "seeds": seeds}
    fixed |= {"patterns": patterns, "quantizers": quantizers}
    fixed |= {"set_": training + (flags.pop("set_", None) or [])}
    if not patterns:
        from bench.verify import detect_pattern
        from methods.model.folder import Folder

        # Refuses invalid settings before weights are read.
        spec_of(flags | fixed, seeds=0, quantizers="none")
        fixed["patterns"] = str(detect_pattern(Folder(folder)))
    _write_one(flags | fixed, out, f"fine-tuning {artifact}")
