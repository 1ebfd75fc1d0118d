"""`bench speed`: time a model's linears, or whole models in several engines."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.catalog import registry
from bench.cli.console import note, print_line, print_rows
from bench.cli.flags import DataDir, Json, Results, figure_option, split_list
from bench.system.packages import pip_install
from bench.system.suggest import describe_unknown, shorten
from bench.system.text import amount
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.execution.phase import Phase
    from bench.parts.speed.time_linears import LinearTimingRequest
    from bench.parts.speed.time_models import ModelTimingRequest
    from bench.results.record import Record

MAX_LOAD = 0.7
"""Number of other running processes above which a timing is doubtful."""
MAX_TOKENS = 2**20
"""Largest number of tokens in a timed product."""


def speed(
    device_spec: Annotated[
        str | None,
        typer.Option(
            help="Compute limits from a datasheet instead: h100, h200, b200, h20, a100, a10, a10g, "
            "l40s, l40, l4, t4, rtx5090, rtx4090, rtx3090, rtxpro6000, mi325x, mi300x."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Alias, hub id or folder; random weights if not downloaded.")
    ] = "llama2-7b",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; auto measures on CUDA only.")
    ] = "auto",
    kinds: Annotated[
        str | None,
        typer.Option(help="bf16, fp16, int8, fp8, comma-separated [default: all of the device]."),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(help="Numbers of tokens, comma-separated [default: depends on the device]."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Time the whole model in turn in these engines, comma-separated [default: time "
            "linears one by one]. {engines}"
        ),
    ] = None,
    sparse: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="With --engine: a 2:4 version of the model [default: its largest weights].",
        ),
    ] = None,
    others: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="With --engine: dense models that are timed in the same turn, comma-separated, "
            "for example 'depth 25%=pruned/'.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads [default: all cores].", min=1, max=4096)
    ] = None,
    figure: Annotated[
        Path | None, figure_option("--figure", "With --engine: also draw it: .svg, .png or .pdf.")
    ] = None,
    results: Results = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Time 2:4 against dense.

    Times each layer shape of a model, and writes a record. Without a CUDA device, computes the
    largest possible speedup on a card instead, from the shapes and the card's datasheet.

    With --engine, times a decoding step and a prompt in each engine, in turn, and writes a record
    for each engine and kind of weight. This also works on a CPU.
    """
    from bench.inputs.datasheets import device_specs
    from bench.parts.speed import roofline
    from bench.system.devices import cores, driver_fault, resolve_device

    counts = _numbers(tokens) if tokens is not None else None
    wanted = _names("kind", kinds, roofline.QUANTIZER_OF_KIND) if kinds is not None else None
    resolved = resolve_device(device)
    if engine is not None:
        if device_spec or kinds is not None:
            flag = "--device-spec" if device_spec else "--kinds"
            raise UserError(
                f"{flag} is for linears, and --engine times whole models: leave one out"
            )
        from bench.parts.speed import time_models

        default = time_models.CPU_TOKENS if resolved == "cpu" else time_models.CUDA_TOKENS
        engines = _names("engine", engine, registry.names("engines"))
        counts = counts or (default,)
        whole = time_models.ModelTimingRequest(
            model,
            resolved,
            threads or cores(),
            engines,
            counts,
            data_dir,
            sparse,
            others=_named_folders(others, model),
        )
        _time_models(whole, results, figure, json)
        return
    for flag, given in {"--sparse": sparse, "--others": others, "--figure": figure}.items():
        if given is not None:
            raise UserError(
                f"{flag} is for whole models: give --engine too, for example --engine "
                "native,llamacpp"
            )
    if device_spec or (resolved == "cpu" and device == "auto"):
        asked = {
            "--kinds": kinds,
            "--tokens": tokens,
            "--threads": threads,
            "--results": results,
        }
        for flag, value in asked.items():
            if value is not None:
                raise UserError(
                    f"{flag} is for a measurement, and this one computes limits from a datasheet: "
                    "leave it out, or measure on this machine with --device cpu"
                )
        if not device_spec:
            note(
                f"{driver_fault() or 'no CUDA device'}: showing computed limits for h100; to "
                "measure here, use --device cpu"
            )
        card = device_spec or "h100"
        print_rows(roofline.rows(model, card, data_dir), json)
        doubt = device_specs()[card].doubt(*roofline.LIMITS)
        if doubt:
            note(doubt)
        return
    from bench.parts.speed import time_linears

    counts = counts or ((1,) if resolved == "cpu" else roofline.TOKENS)
    linears = time_linears.LinearTimingRequest(
        model, resolved, threads or cores(), wanted, counts, data_dir
    )
    _time_linears(linears, results, json)


def _time_models(
    request: ModelTimingRequest, results: Path | None, figure: Path | None, json: bool
) -> None:
    from bench.parts.speed import engine_report, time_models
    from bench.results.store import RESULTS, ReadOnlyStore

    place = results or RESULTS
    records = list(
        time_models.measure(
            request, place, lambda line: print_line(line, err=True), _progress().advance
        )
    )
    found = engine_report.entries(records, ReadOnlyStore(place).items)
    print_rows(engine_report.rows(found), json)
    for record in records:
        if record.status == "skipped":
            identity = record.identity
            note(f"{identity.protocol.label} {identity.dtype}: skipped: {record.reason}")
    _warn_of_noise(records)
    if request.device == "cpu" and "llamacpp" not in request.engines:
        note(f"to compare it with llama.cpp: {_beside(request.model, ','.join(request.engines))}")
    if figure:
        print_line(engine_report.draw(found, figure), err=True)


def _time_linears(request: LinearTimingRequest, results: Path | None, json: bool) -> None:
    from bench.parts.speed import linear_report, time_linears
    from bench.results.store import RESULTS

    records = list(time_linears.measure(request, results or RESULTS, _progress().advance))
    print_rows(linear_report.rows(records), json)
    _warn_of_noise(records)
    if request.device == "cpu":
        note(
            "these are single linears; to time the whole model against llama.cpp: "
            f"{_beside(request.model)}"
        )
    failed = [record for record in records if record.status == "failed"]
    if failed:
        first = f"bench show {failed[0].short_key} --results {shlex.quote(str(results or RESULTS))}"
        note(f"{amount(len(failed), 'record')} failed: {first} prints the traceback of the first")
        raise typer.Exit(1)


def _progress() -> Phase:
    """Return a progress without a bar, which would take time from what is timed."""
    from bench.execution.phase import Phase

    return Phase("timings", note)


def _warn_of_noise(records: Sequence[Record]) -> None:
    """Warn if the machine was busy, or a timing and its own repetition differ, so that no ratio of
    them can be trusted."""
    from bench.parts.speed.comparison import MAX_NOISE

    noise, busy = [0.0], 0.0
    for record in records:
        noise += (record.notes.get("noise") or {}).values()
        noise += [shape.get("noise", 0) for shape in record.notes.get("shapes", ())]
        if "load" in record.notes:
            busy = max(busy, record.notes["load"] - record.notes["threads"])
    if busy > MAX_LOAD:
        note(
            f"this machine was busy: about {busy:.0f} more processes ran: stop them, and time it "
            "again"
        )
    if max(noise) > MAX_NOISE:
        note(
            f"not steady: a timing and its repetition differ by {max(noise):.0%}: stop other "
            "programs, and time it again"
        )


def _beside(model: str, engines: str = "native") -> str:
    """Return the command that times a model on this CPU beside llama.cpp."""
    installed = importlib.util.find_spec("llama_cpp") is not None
    command = (
        f"bench speed --model {shlex.quote(model)} --device cpu --engine "
        f"{shlex.quote(engines + ',llamacpp')}"
    )
    return command if installed else f"{pip_install('llamacpp')}, then {command}"


def _names(what: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the names in a text, by commas, or raise UserError. what: word for one of them in an
    error."""
    names = tuple(dict.fromkeys(split_list(f"{what}s", text)))
    for name in names:
        if name not in known:
            raise UserError(describe_unknown(what, name, known))
    return names


def _named_folders(text: str | None, model: str) -> dict[str, str]:
    """Return folders by name from NAME=FOLDER,NAME=FOLDER. Refuse a part of another form, and a
    repeated name."""
    from bench.parts.speed.comparison import REPEAT_SUFFIX
    from bench.parts.speed.versions import DENSE, SPARSE

    out: dict[str, str] = {}
    for part in split_list("others", text) if text is not None else ():
        name, _, folder = (side.strip() for side in part.partition("="))
        if not name or not folder:
            raise UserError(
                f"--others {shorten(part)!r} is not NAME=FOLDER: for example 'depth 25%=pruned/'"
            )
        if name in (*out, model):
            raise UserError(
                f"--others has two models with the name {shorten(name)!r}: give each its own"
            )
        if name in (DENSE, SPARSE) or name.endswith(REPEAT_SUFFIX):
            raise UserError(
                f"--others {shorten(name)!r} names timings of the model itself: choose another name"
            )
        out[name] = folder
    return out


def _numbers(text: str) -> tuple[int, ...]:
    parts = split_list("tokens", text)
    if not all(re.fullmatch("[0-9]{1,7}", p) and 0 < int(p) <= MAX_TOKENS for p in parts):
        raise UserError(
            f"invalid tokens {shorten(text)!r}: give whole numbers up to {MAX_TOKENS}, for "
            "example 1,16,512"
        )
    return tuple(int(p) for p in parts)
