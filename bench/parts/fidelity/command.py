"""`bench fidelity`: how far a model is from its original."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from bench.cli.console import fail, note, print_json, print_line
from bench.cli.flags import DataDir, Json, figure_option

WIDTH = 80
"""Columns of a table in a file or a pipe."""


def fidelity(
    original: Annotated[
        str, typer.Argument(help="Alias, or a folder or file in any format of folder:path=.")
    ],
    compressed: Annotated[str, typer.Argument(help="The model that was made from it, the same.")],
    data: Annotated[
        str, typer.Option(help="A corpus, a .txt, .jsonl or .parquet file, or a folder of them.")
    ] = "wiki-mini",
    seqlen: Annotated[
        int | None,
        typer.Option(help="Tokens in a window [default: 512, or the context].", min=2, max=2**20),
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option(help="Windows, evenly spaced [default: 32,768 tokens].", min=1, max=10**6),
    ] = None,
    floor: Annotated[
        bool,
        typer.Option(
            "--floor",
            help="Also compare the original with itself: another dtype, threads, batch, attention.",
        ),
    ] = False,
    buckets: Annotated[
        bool,
        typer.Option(
            "--buckets", help="Also show all distances by confidence, position and kind of token."
        ),
    ] = False,
    max_kl: Annotated[
        float | None,
        typer.Option(
            help="Exit with 1 if the interval of the mean KL ends above this many nats.", min=0
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16 [default: as the original is stored]."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads [default: all cores].", min=1, max=4096)
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="Program that runs COMPRESSED: transformers, or llamacpp for a GGUF."),
    ] = "transformers",
    figure: Annotated[Path | None, figure_option("--figure")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show how far a model is from its original.

    Both read the same text, and the distributions of each next token are compared: KL with its
    tail, by confidence, position and kind of token. Intervals hold 95%, over articles of the text.

    Exit code 0: compared. 1: the mean KL may be above --max-kl. 2: invalid input.
    """
    from bench.execution.phase import phase
    from bench.parts.fidelity import pair, report
    from bench.parts.fidelity.figure import draw
    from bench.system.devices import cores, resolve_device

    request = pair.Request(
        original=original,
        compressed=compressed,
        data=data,
        seqlen=seqlen,
        windows=windows,
        device=resolve_device(device),
        dtype=dtype,
        threads=threads or cores(),
        engine=engine,
        data_dir=data_dir,
    )
    opened = pair.prepare(request)
    with (
        TemporaryDirectory(prefix="cast-bench-") as workdir,
        phase("comparing windows", note) as progress,
    ):
        found = pair.compare(opened, Path(workdir), progress, with_floor=floor)
    if json:
        print_json(json_module.dumps(report.to_json(opened, found, max_kl), indent=1))
    else:
        report.print_tables(opened, found, WIDTH, with_buckets=buckets)
    if figure:
        print_line(draw(found, figure, f"{compressed} beside {original}"), err=True)
    if max_kl is not None and report.exceeds(found, max_kl):
        fail(f"{compressed} {report.describe_limit(found, max_kl)}", 1)
