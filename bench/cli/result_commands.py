"""Commands that print what there is: ls, show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.console import print_json, print_lines, print_rows
from bench.cli.flags import Json, Results
from bench.system.suggest import shorten
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.results.record import ReadingRow, Record


def ls(
    what: Annotated[
        str,
        typer.Argument(help="methods, models, data, tasks, measures, quantizers, recipes or runs."),
    ],
    long: Annotated[
        bool,
        typer.Option(
            "--long",
            help="Also list fields with their defaults, and what each method costs on a 7B model.",
        ),
    ] = False,
    results: Results = None,
    json: Json = False,
) -> None:
    """List methods, models, data, tasks, records and more."""
    from bench.cli import listing

    if results and what != "runs":
        raise UserError(f"--results is for bench ls runs: leave it out of bench ls {shorten(what)}")
    if long and what not in ("methods", "measures", "quantizers"):
        raise UserError(
            "--long is for methods, measures and quantizers: leave it out of bench ls "
            f"{shorten(what)}"
        )
    print_rows(listing.rows(what, long, results), json)


def show(
    record: Annotated[
        str, typer.Argument(help="The first digits of a record's key; bench ls runs lists them.")
    ],
    results: Results = None,
    json: Json = False,
) -> None:
    """Print one record: its numbers, and what made them.

    One that failed has its traceback. --json prints all fields.
    """
    from bench.results.store import RESULTS, ReadOnlyStore

    one = ReadOnlyStore(results or RESULTS).find(record)
    if json:
        print_json(one.model_dump_json(indent=1))
        return
    print_rows(_facts(one), as_json=False)
    if one.traceback:
        print_lines(one.traceback)


def _facts(record: Record) -> list[dict[str, Any]]:
    """Return a row for each fact, in the order: identity, outcome, cost, provenance."""
    from bench.results import metrics

    commit = record.commit_id[:12]
    if record.commit.get("dirty"):
        commit += ", changed since"
    machine = (
        record.processor,
        record.machine.get("instruction_set"),
        record.machine.get("platform"),
    )
    facts = [
        *record.identity.labels().items(),
        ("threads", record.key_inputs.get("threads")),
        ("status", ": ".join(filter(None, (record.status, record.reason)))),
        *((metrics.find(one.metric).label, _number(one)) for one in record.readings),
        ("took", _cost(record.cost)),
        ("recorded", record.recorded),
        ("commit", commit),
        (
            "plug-ins",
            ", ".join(
                f"{one['name']} of {one['distribution']} {one['version']}" for one in record.plugins
            ),
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("machine", ", ".join(str(part) for part in machine if part)),
    ]
    return [
        {"record": name, record.stem: str(fact)} for name, fact in facts if fact not in (None, "")
    ]


def _number(reading: ReadingRow) -> str:
    """Return a number with its unit, and with its standard error if it has one."""
    from bench.reporting.table import format_number

    if reading.value is None:
        return "none"
    text = format_number(reading.value, reading.stderr, reading.unit)
    if reading.unit not in ("1", "B"):
        text += f" {reading.unit}"
    if reading.stderr and reading.n:
        text += f", standard error over {reading.n:,}"
    return text


def _cost(cost: dict[str, Any]) -> str:
    from bench.reporting.words import duration

    parts = [
        f"{duration(cost[name])} to {verb}"
        for name, verb in (("build_s", "make"), ("wall_s", "measure"))
        if isinstance(cost.get(name), int | float)
    ]
    if isinstance(peak := cost.get("peak_bytes"), int | float):
        parts.append(f"{peak / 1e9:.1f} GB")
    return ", ".join(parts)
