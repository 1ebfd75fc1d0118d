"""The command speed: a model's linears, or whole models in several engines."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import note, print_line, print_rows
from bench.cli.flags import DataDir, Json, Results, figure_callback, note_former_names, split_list
from bench.system.packages import pip_install
from bench.system.suggest import describe_unknown, shorten
from methods.errors import UserError

if TYPE_CHECKING:
    from bench.execution.time_linears import LinearTimingRequest
    from bench.execution.time_models import ModelTimingRequest

MAX_TOKENS = 2**20
"""In one product that is timed."""


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
    """Time 2:4 against dense.

    Each layer shape of a model is timed and gets a record. Without a CUDA device, the largest possible speedup on a card is
    computed instead, from the shapes and the card's datasheet. With --engine, a decoding step and a prompt are timed in
    each engine, in turn, on the CPU where there is no CUDA device; each engine and kind of weight gets a record.
    """
    from bench.measures.speed import roofline
    from bench.system.devices import cores, resolve_device

    note_former_names([model])
    counts = _numbers(tokens) if tokens is not None else None
    wanted = _names("kind", kinds, roofline.QUANTIZER_OF_KIND) if kinds is not None else None
    resolved = resolve_device(device)
    if engine is not None:
        if device_spec or kinds is not None:
            raise UserError(
                f"{'--device-spec' if device_spec else '--kinds'} is for linears, and --engine measures whole models: leave one out"
            )
        from bench.execution import time_models
        from bench.execution.engines.table import ENGINES

        default = time_models.CPU_TOKENS if resolved == "cpu" else time_models.CUDA_TOKENS
        engines = _names("engine", engine, ENGINES)
        counts = counts or (default,)
        whole = time_models.ModelTimingRequest(model, resolved, threads or cores(), engines, counts, data_dir)
        _time_models(whole, results, figure, json)
        return
    if device_spec or (resolved == "cpu" and device == "auto"):
        for flag, value in {"--kinds": kinds, "--tokens": tokens, "--threads": threads, "--figure": figure}.items():
            if value is not None:
                raise UserError(
                    f"{flag} is for a measurement, and this one computes limits from a datasheet: leave it out, "
                    "or measure on this machine with --device cpu"
                )
        if not device_spec:
            note("no CUDA device: showing computed limits for h100; to measure here, use --device cpu")
        print_rows(roofline.rows(model, device_spec or "h100", data_dir), json)
        return
    from bench.execution import time_linears

    counts = counts or ((1,) if resolved == "cpu" else roofline.TOKENS)
    linears = time_linears.LinearTimingRequest(model, resolved, threads or cores(), wanted, counts, data_dir)
    _time_linears(linears, results, figure, json)


def _time_models(request: ModelTimingRequest, results: Path | None, figure: Path | None, json: bool) -> None:
    from bench.execution import time_models
    from bench.reporting import engines
    from bench.results.store import RESULTS, Store

    place = results or RESULTS
    records = list(time_models.measure(request, place, lambda line: print_line(line, err=True)))
    found = engines.entries(records, Store(place, write=False).items)
    print_rows(engines.rows(found), json)
    if request.device == "cpu" and "llamacpp" not in request.engines:
        note(f"to read it beside llama.cpp: {_beside(request.model, ','.join(request.engines))}")
    if figure:
        print_line(engines.draw(found, figure), err=True)


def _time_linears(request: LinearTimingRequest, results: Path | None, figure: Path | None, json: bool) -> None:
    from bench.execution import time_linears
    from bench.reporting import figures
    from bench.results.store import RESULTS

    records = list(time_linears.measure(request, results or RESULTS))
    print_rows(time_linears.rows(records), json)
    if request.device == "cpu":
        note(f"linears alone; the whole model, beside what one would use instead: {_beside(request.model)}")
    if figure:
        print_line(figures.draw_speeds(records, figure), err=True)


def _beside(model: str, engines: str = "native") -> str:
    """The command that times a model on this CPU beside llama.cpp."""
    installed = importlib.util.find_spec("llama_cpp") is not None
    command = f"bench speed --model {shlex.quote(model)} --device cpu --engine {shlex.quote(engines + ',llamacpp')}"
    return command if installed else f"{pip_install('llamacpp')}, then {command}"


def _names(what: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    """The names in a text, by commas. what: one of them is.

    Raises:
        UserError: one is not known, or empty.
    """
    names = tuple(dict.fromkeys(split_list(f"{what}s", text)))
    for name in names:
        if name not in known:
            raise UserError(describe_unknown(what, name, known))
    return names


def _numbers(text: str) -> tuple[int, ...]:
    parts = split_list("tokens", text)
    if not all(re.fullmatch("[0-9]{1,7}", p) and 0 < int(p) <= MAX_TOKENS for p in parts):
        raise UserError(
            f"invalid tokens {shorten(text)!r}: give whole numbers up to {MAX_TOKENS} by commas, for example 1,16,512"
        )
    return tuple(int(p) for p in parts)
