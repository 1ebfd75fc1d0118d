"""`bench pick`: which compressed model meets some limits, and how to make it."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import fail, note, print_json, print_line
from bench.cli.flags import AllResults, Json, split_list
from bench.cli.unmeasured import MAX_NAMES, MAX_WIDTH, print_unmeasured, say, say_command
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.reporting.candidates import Answer, Candidate, Check
    from bench.reporting.view import Table

MAX_ROWS = 10
"""Most rows that are printed. --json has all."""


def pick(
    model: Annotated[str, typer.Option(help="The model, as in the leaderboard.")],
    max_mb: Annotated[
        str | None, typer.Option(metavar="MB", help="Most MB of the model, for example 100.")
    ] = None,
    max_bits: Annotated[
        str | None, typer.Option(metavar="BITS", help="Most bits per weight, for example 5.")
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT", help="Most that perplexity may rise over dense, for example 3%."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="TRACK,...",
            help="--max-loss limits the loss of each of these tracks, not of perplexity.",
        ),
    ] = None,
    max_worst_drop: Annotated[
        str | None,
        typer.Option(metavar="PP", help="Most that the worst task may lose, for example 5pp."),
    ] = None,
    min_speedup: Annotated[
        str | None,
        typer.Option(metavar="X", help="Least measured speedup over dense, for example 1.2."),
    ] = None,
    budget_tokens: Annotated[
        str | None,
        typer.Option(metavar="N", help="Most tokens to make it: 500000, 500k, 2M or 1B."),
    ] = None,
    pattern: Annotated[str, typer.Option(help="Only this pattern, for example 2:4.")] = "",
    quantizer: Annotated[
        str, typer.Option("--quant", help="Only these quantizers: int4 is all that begin so.")
    ] = "",
    device: Annotated[str, typer.Option(help="Measured on cpu, cuda or a card of this name.")] = "",
    engine: Annotated[
        str,
        typer.Option(
            help="Only what this engine runs, with the sizes of its files, for example vllm or "
            "llama.cpp."
        ),
    ] = "",
    protocol: Annotated[
        str,
        typer.Option(
            help="Parts of a protocol's name, by commas [default: the model's main protocol]."
        ),
    ] = "",
    results: AllResults = None,
    json: Json = False,
) -> None:
    """Pick a compressed model by limits, from measured rows.

    Prints the rows that meet all limits, the best first, what each costs to make, the nearest row
    that fails, and the commands that make, export and serve the first. Rows tie if a paired test
    finds no difference; the smallest of them is first. For a model without records: rows of papers,
    the nearest measured model, and the command that measures it.

    Exit code 0: a row meets the limits. 1: none does. 2: invalid input.
    """
    from bench.reporting import answer_json
    from bench.reporting import candidates as picking
    from bench.reporting.folders import leaves_local_out
    from bench.reporting.limits import parse_limits
    from bench.reporting.serving import find_engine, ship
    from bench.results.store import RESULTS

    if engine:
        find_engine(engine)
    limits = parse_limits(
        max_mb=max_mb,
        max_bits=max_bits,
        max_loss=max_loss,
        max_worst_drop=max_worst_drop,
        min_speedup=min_speedup,
        budget_tokens=budget_tokens,
    )
    if protocol:
        split_list("protocol", protocol)  # only to refuse an empty part
    tracks = _tracks(keep, max_loss)
    if not results and any(RESULTS.parent.glob("*/records")) and leaves_local_out():
        note(f"{RESULTS} is left out: --results {RESULTS} picks from it")
    table = _board(model, results, protocol, device)
    if table is None:
        print_unmeasured(model, limits, engine, json)
        fail(f"{model} has no records here", 1)
    if engine:
        table = ship(table, engine)
    answer = picking.pick(table, limits, pattern, quantizer, tracks)
    if json:
        print_json(json_module.dumps(answer_json.to_objects(answer), indent=1))
    else:
        _print(answer, tracks, engine)
    if not answer.meets:
        fail(f"no row of {model} meets the limits", 1)


def _tracks(keep: str | None, max_loss: str | None) -> list[str]:
    """Return the names after --keep. Raise UserError if a name is no track, or --max-loss is
    missing."""
    from bench.inputs.tracks import names

    kept = split_list("keep", keep) if keep is not None else []
    unknown = [name for name in kept if name not in names()]
    if unknown:
        raise UserError(describe_unknown("track in --keep", unknown[0], names()))
    if kept and max_loss is None:
        raise UserError(
            f"--keep {keep} needs --max-loss: say how much these tracks may lose, for example 5%"
        )
    return kept


def _board(model: str, folders: list[Path] | None, protocol: str, device: str) -> Table | None:
    """Return the first board that fits the protocol and device, or raise UserError. A model's main
    protocol comes first. Rows calibrated on different texts compete, unless the protocol names a
    text. None: a model that could be measured, and has no records."""
    from bench.reporting import board
    from bench.reporting.folders import read_boards, results_folders
    from bench.results.store import RESULTS, ReadOnlyStore

    if not folders and not any(RESULTS.parent.glob("*/records")):
        _require_measurable(model, [])
        return None
    folders = folders or results_folders()
    merged = board.merge(read_boards(folders, model))
    if not merged.records:
        every = (r for folder in folders for r in ReadOnlyStore(folder).listed())
        _require_measurable(model, list(dict.fromkeys(r.identity.model for r in every)))
        return None
    from bench.reporting.answer_json import choose_board
    from bench.reporting.protocol import CALIBRATED

    records, left_out = board.without_outdated(merged.records)
    if left_out:
        note(left_out)
    of_model = merged.only(model, records)
    by_calibration = CALIBRATED in protocol
    chosen = choose_board(model, of_model, protocol, device, by_calibration)
    return chosen.make_table(paired=chosen.is_quality)


def _require_measurable(model: str, known: list[str]) -> None:
    """Raise UserError for a name that is neither a hub id, nor a model of this package, nor a
    folder. known: models with records."""
    from bench.inputs.models import find_alias
    from bench.inputs.shapes import known_shapes

    if not (model in known_shapes() or find_alias(model) or "/" in model or Path(model).is_dir()):
        raise UserError(describe_unknown("model", model, known, ", a hub id or a folder"))


def _print(answer: Answer, tracks: Sequence[str], engine: str) -> None:
    from bench.reporting.board import BROKEN
    from bench.reporting.limits import describe_limits
    from bench.reporting.serving import engines

    count = len(answer.meets)
    verb = "meets" if count < 2 else "meet"
    limits = describe_limits(answer.limits)
    say(f"{answer.table.title}, {answer.table.protocol}")
    of_engine = f" that {engine} runs" if engine else ""
    rows = f"{answer.candidates} compressed rows{of_engine}"
    say(f"{count or 'None'} of {rows} {verb} {limits}.")
    if tracks:
        say(
            "Loss: the largest of these tracks, in bits per byte of their right answers: "
            f"{', '.join(tracks)}."
        )
    print_line()
    if answer.meets:
        _print_rows(answer)
        _print_first(answer)
        known = engines()
        if known and not engine:
            say(f"What one engine runs, in its files: --engine {', '.join(known)}.")
    if answer.nearest:
        reasons = ", ".join(f"{c.limit.noun} {_describe_check(c)}" for c in answer.nearest.failed)
        say(f"Nearest row that fails: {answer.nearest.row.name}: {reasons}.")
        if any(c.unsure for c in answer.nearest.failed):
            say("  Its interval contains the limit: it may meet it.")
    if answer.unmeasured:
        missing = dict.fromkeys(x.limit.noun for c in answer.unmeasured for x in c.unmeasured)
        say(f"Left out, not measured ({', '.join(missing)}): {_names(answer.unmeasured)}.")
    if answer.broken:
        names = ", ".join(row.name.removesuffix(f" ({BROKEN})") for row in answer.broken)
        say(f"Left out, their weights break their pattern: {names}.")


def _print_rows(answer: Answer) -> None:
    from bench.cli.tables import print_table
    from bench.reporting import overview
    from bench.reporting.candidates import describe_facts
    from bench.reporting.table import ABSENT

    shown = answer.meets[:MAX_ROWS]
    names = overview.row_names(answer.table)
    rows = [{"row": names[c.index]} | describe_facts(c.facts) for c in shown]
    columns = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        if set(cells) != {ABSENT}:
            columns[name] = cells
    lines = list(zip(*columns.values(), strict=True))
    print_table(list(columns), lines, right=[name != "row" for name in columns], width=MAX_WIDTH)
    print_line()
    if len(answer.meets) > MAX_ROWS:
        say(f"and {len(answer.meets) - MAX_ROWS} more: --json lists all")


def _names(candidates: Sequence[Candidate]) -> str:
    names = [c.row.name for c in candidates]
    more = len(names) - MAX_NAMES
    rest = f" and {more} more" if more > 0 else ""
    return ", ".join(names[:MAX_NAMES]) + rest


def _print_first(answer: Answer) -> None:
    first, *others = answer.meets
    tied = [c for c in others if c.tied]
    with_it = f" Tied with it: {_names(tied)}." if tied else ""
    if answer.began_with:
        say(
            f"Best: {answer.began_with.row.name}, the file that {answer.table.title} began with. "
            f"Keep it ({answer.began_with.facts.make}), unless you need another format."
        )
        if first is answer.began_with:
            return
        say(f"The best compression made here: {first.row.name} of {answer.table.title}.{with_it}")
    else:
        say(f"First: {first.row.name} of {answer.table.title}.{with_it}")
    if answer.uncompared:
        say(f"Rows not compared with the best in pairs: {answer.uncompared}.")
    for check in first.checks:
        if check.unsure:
            say(
                f"Not sure: {check.limit.noun} {_describe_check(check)}; the interval contains "
                "the limit."
            )
        elif (
            check.bound
            and check.bound.low is None
            and check.limit.name not in ("max_mb", "max_bits", "budget_tokens")
        ):
            say(f"Not sure: {check.limit.noun} has no interval.")
    facts = first.facts
    if facts.device:
        say(f"Made on: {facts.device}.")
    if facts.make:
        say_command("Make it", facts.make)
        if facts.export:
            say_command("Export it", facts.export)
        if facts.serve:
            say_command("Serve it", facts.serve)
    else:
        say("Its records do not say how it was made.")


def _describe_check(check: Check) -> str:
    assert check.bound is not None
    return f"{check.limit.text(*check.bound.parts)}, limit {check.limit.given(check.wanted)}"
