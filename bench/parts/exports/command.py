"""`bench export`: write a model, or results, in a format of the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import fail, note_ignored, print_line
from bench.cli.flags import NewFolder, Results, split_list
from bench.system.suggest import shorten
from methods.contract.errors import UserError


def export(
    out: NewFolder,
    artifact: Annotated[
        str | None,
        typer.Argument(
            help="For a model: a record (the first digits of its key) or a model folder."
        ),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="Format of the files. {exports}")] = "hf",
    values: Annotated[
        str | None,
        typer.Option(
            help="For packed24: round values to int8 or int4. For gguf: f16, q8_0, q4_0, or a "
            "K-quant or i-quant such as q4_k_m [default: as the record's quantizer]."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="For onnx: float32, float16 or bfloat16 [default: that of the weights]."),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(help="For packed24: linears to leave dense: globs, comma-separated."),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Add low-rank terms to the weights, which ends their pattern."
        ),
    ] = False,
    imatrix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="For K-quants of gguf: corpus or file whose inputs weigh the errors.",
        ),
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="For packed24: store weights of this pattern, such as 6:8, as windows of 2:4.",
        ),
    ] = None,
    card: Annotated[
        bool,
        typer.Option("--card/--no-card", help="For a model: write README.md, as bench card does."),
    ] = True,
    results: Results = None,
) -> None:
    """Write a pruned model, or results, in another format.

    A model is a record or a folder. --format hf also turns a packed24 folder into a dense one. A
    format of results writes the newest records of --results.
    """
    from bench.formats.contract import Options, ResultsFormat
    from bench.formats.writing import export_model, find_format
    from bench.parts.exports.results_export import export_results
    from bench.results.store import RESULTS
    from bench.verify import CheckFailed

    note_ignored("exports", {format_})
    globs = tuple(split_list("exclude", exclude)) if exclude else ()
    options = Options(values=values, dtype=dtype, exclude=globs, windows=windows, imatrix=imatrix)
    found = find_format(format_, options)
    if isinstance(found, ResultsFormat):
        if artifact:
            raise UserError(f"--format {format_} exports all of --results: leave {artifact!r} out")
        if merge:
            raise UserError(
                f"--merge is for the format of a model, and {format_} is one of results: leave it "
                "out"
            )
        print_line(export_results(results or RESULTS, format_, found, out, options))
        return
    if artifact is None:
        raise UserError(
            f"--format {format_} exports a model: name a record (bench ls runs) or a model folder"
        )
    if results and Path(artifact).is_dir():
        raise UserError(
            f"--results {shorten(results)} has no effect on a model folder: leave it out"
        )
    try:
        said = export_model(
            artifact, format_, out, results=results, merge=merge, card=card, **vars(options)
        )
        print_line(said)
    except CheckFailed as failure:
        fail(f"check failed: {failure}", 1)
