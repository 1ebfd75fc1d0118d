"""Commands for models and data: pull, verify, export, speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.console import fail, print_rows
from bench.cli.flags import DataDir, Json, Results
from methods.errors import UserError

if TYPE_CHECKING:
    from bench.verify import Verdict
    from methods.folder import Folder


def pull(
    names: Annotated[list[str], typer.Argument(help="Models, corpora or tasks.")], data_dir: DataDir = None
) -> None:
    """Fetch models, corpora and tasks ahead of a run; corpora and tasks into --data-dir where it is given."""
    from bench.inputs import corpora, download, tasks
    from bench.inputs.task_yaml import read_task
    from bench.system.cache import cache_dir, in_use

    root = data_dir or cache_dir() / "data"
    with in_use():
        for name in names:
            if name in corpora.CORPORA:
                files = corpora.pull(name, root)
                typer.echo(f"{name}: {len(files)} files in {root}" if files else f"{name}: here")
            elif name in (*tasks.TASK_SETS, *tasks.TASK_FILES):
                for task in (read_task(*pair) for pair in tasks.expand((name,)).items()):
                    typer.echo(f"{task.name}: {tasks.data_folder(task, root) or tasks.pull(task, root, data_dir)}")
            else:
                typer.echo(f"{name}: {download.pull(name, data_dir).folder}")


def verify(
    model: Annotated[str, typer.Argument(help="A safetensors folder, ours or not; or an alias.")],
    pattern: Annotated[str, typer.Option(help="2:4 keeps 2 of every 4; 50% is unstructured.")] = "2:4",
    include: Annotated[str, typer.Option(help="Linears to look at: globs, by commas.")] = "*",
    exclude: Annotated[str | None, typer.Option(help="Linears to leave out: globs, by commas.")] = None,
    json: Json = False,
) -> None:
    """Count, layer by layer, what breaks a pattern. Exit code 0 where it holds, 1 where not, 2 on bad input."""
    from bench.verify import verify_folder

    verdict = verify_folder(_open_folder(model), pattern, include.split(","), exclude.split(",") if exclude else [])
    print_rows(_layer_rows(verdict), json)
    if verdict.violations:
        fail(f"{verdict.violations} groups of {model} break {verdict.pattern}", 1)


def export(
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    artifact: Annotated[
        str | None,
        typer.Argument(help="Of hf and packed24: a record's name or the beginning of it, or a model folder."),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="A model: hf, dense, for transformers and vLLM; packed24, kept values and bitmasks. "
            "Results: eee, for Every Eval Ever; lm-eval, as its own runs save them.",
        ),
    ] = "hf",
    values: Annotated[str | None, typer.Option(help="Of packed24: int8 or int4 [default: as they are].")] = None,
    exclude: Annotated[str | None, typer.Option(help="Globs of linears that packed24 leaves dense, by commas.")] = None,
    organization: Annotated[str, typer.Option(help="Of eee: who ran the evaluation.")] = "unknown",
    results: Results = None,
) -> None:
    """Write a pruned model, or a folder of results, for others.

    A packed24 folder becomes dense again with --format hf. eee and lm-eval write the newest records of --results.
    """
    from bench.export.model import MODEL_FORMATS, export_model
    from bench.export.results import RESULT_FORMATS, export_results
    from bench.results.store import RESULTS

    if format_ in RESULT_FORMATS:
        if artifact:
            raise UserError(f"--format {format_} writes the folder --results names, whole: leave {artifact!r} out")
        typer.echo(export_results(results or RESULTS, format_, out, organization))
        return
    if artifact is None and format_ in MODEL_FORMATS:
        raise UserError(f"--format {format_} writes a model: name a record (bench ls runs) or a model folder")
    left = tuple(exclude.split(",")) if exclude else ()
    typer.echo(export_model(artifact or "", format_, out, values=values, exclude=left, results=results))


def speed(
    device_spec: Annotated[
        str | None, typer.Option(help="Measure nothing: what a card's datasheet allows; h100, h200 or a100.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Alias, hub id or folder; weights of one that is not here are random.")
    ] = "llama2-7b",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto is CUDA or nothing.")] = "auto",
    kinds: Annotated[str | None, typer.Option(help="bf16, fp16, int8, fp8, by commas [default: all it has].")] = None,
    tokens: Annotated[str | None, typer.Option(help="Numbers of tokens, by commas [default: by device].")] = None,
    threads: Annotated[int | None, typer.Option(help="On a CPU [default: all cores].", min=1)] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the table, too: .svg, .png or .pdf.")] = None,
    results: Results = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Time a model's linears, 2:4 against dense, layer shape by layer shape, as records.

    Without a CUDA device: what 2:4 can gain at most on a card, from shapes and its datasheet. A model, no measurement.
    """
    from bench.measures.speed import roofline
    from bench.system.devices import cores, resolve_device

    found = resolve_device(device)
    if device_spec or (found == "cpu" and device == "auto"):
        if not device_spec:
            typer.echo(
                "bench: skipped: no CUDA device; what follows is a model for h100 (--device cpu measures)", err=True
            )
        print_rows(roofline.rows(model, device_spec or "h100", data_dir), json)
        return
    from bench.report import figures
    from bench.results.store import RESULTS
    from bench.run import time_linears as table

    asked = table.Request(
        model, found, threads or cores(), tuple(kinds.split(",")) if kinds else None,
        _numbers(tokens) if tokens else ((1,) if found == "cpu" else roofline.TOKENS), data_dir,
    )  # fmt: skip
    made = list(table.measure(asked, results or RESULTS))
    print_rows(table.rows(made), json)
    if figure:
        typer.echo(figures.speeds(made, figure), err=True)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [p.strip() for p in text.split(",")]
    if not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UserError(f"tokens {text!r} will not do: whole numbers by commas, for example 1,16,512")
    return tuple(int(p) for p in parts)


def _open_folder(name: str) -> Folder:
    from bench.inputs import models
    from methods.folder import Folder

    if Path(name).is_dir():
        return Folder(Path(name))
    model = models.resolve(name)
    if model is None:
        raise UserError(f"model {name!r} is not here yet: bench pull {name} fetches it")
    return model.open()


def _layer_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """A row a layer, and one for all."""
    out: list[dict[str, Any]] = [
        {
            "layer": name,
            "weights": x.weights,
            "zeros": x.zeros,
            "negative_zeros": x.negative_zeros,
            "violated_groups": x.violations,
        }
        for name, x in verdict.layers.items()
    ]
    return [*out, {"layer": "total"} | {k: sum(r[k] for r in out) for k in out[0] if k != "layer"}]
