"""`bench pick`: which compressed model meets some limits, and how to make it."""

from __future__ import annotations

import json as json_module
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.console import fail, note, print_json, print_line, print_lines
from bench.cli.flags import AllResults, Json, split_list
from bench.system.suggest import describe_unknown
from bench.system.terminal import width_of
from bench.system.text import one_line
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.reporting.candidates import Answer, Candidate, Check
    from bench.reporting.view import Table

MAX_WIDTH = 80
MAX_ROWS, MAX_NAMES = 10, 5
"""Most rows that are printed, and most names in a sentence. --json has all."""
JSON_NAMES = {"bits": "bits_per_weight", "drop": "worst_drop"}
"""Names in JSON of a row's facts, where they are longer."""


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
    that fails, and the commands that make and export the first. Rows tie if a paired test finds no
    difference; the smallest of them is first.

    Exit code 0: a row meets the limits. 1: none does. 2: invalid input.
    """
    from bench.reporting import candidates as picking
    from bench.reporting.folders import leaves_local_out
    from bench.results.store import RESULTS

    limits = picking.parse_limits(
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
    if not results and leaves_local_out():
        note(f"{RESULTS} is left out: --results {RESULTS} picks from it")
    answer = picking.pick(
        _board(model, results, protocol, device), limits, pattern, quantizer, tracks
    )
    if json:
        print_json(json_module.dumps(as_json(answer), indent=1))
    else:
        _print(answer, tracks)
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


def _board(model: str, folders: list[Path] | None, protocol: str, device: str) -> Table:
    """Return the first board that fits the protocol and device, or raise UserError. A model's main
    protocol comes first."""
    from bench.reporting import board
    from bench.reporting.folders import read_boards, results_folders
    from bench.results.store import ReadOnlyStore

    folders = folders or results_folders()
    merged = board.merge(read_boards(folders, model))
    if not merged.records:
        every = (record for folder in folders for record in ReadOnlyStore(folder).listed())
        models = dict.fromkeys(record.identity.model for record in every)
        raise UserError(describe_unknown("model", model, models))
    records, left_out = board.without_outdated(merged.records)
    if left_out:
        note(left_out)
    known, chosen = [], None
    for one in board.boards_of(model, merged.only(model, records), device):
        known.append(one.protocol.label)
        if one.fits(protocol, device):
            chosen = one if protocol == known[-1] else chosen or one
            if protocol in ("", known[-1]):
                break
    if chosen is None:
        wanted = ", ".join(filter(None, (protocol, device)))
        raise UserError(
            f"{model} was not measured under {wanted!r}: its protocols are {'; '.join(known)}"
        )
    return chosen.make_table(paired=chosen.is_quality)


def as_json(answer: Answer) -> dict[str, Any]:
    """Return the whole answer for other programs."""
    not_measured = []
    for one in answer.unmeasured:
        lacks = [check.limit.noun for check in one.unmeasured]
        not_measured.append({"row": one.row.name, "lacks": lacks})
    return {
        "model": answer.table.title,
        "protocol": answer.table.protocol,
        "limits": {k: v for k, v in asdict(answer.limits).items() if v is not None},
        "candidates": answer.candidates,
        "meets": [_candidate_json(c) for c in answer.meets],
        "nearest": _candidate_json(answer.nearest) if answer.nearest else None,
        "not_measured": not_measured,
        "pattern_broken": [row.name for row in answer.broken],
        "not_compared_with_the_best": answer.uncompared,
    }


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    facts = {JSON_NAMES.get(name, name): value for name, value in asdict(candidate.facts).items()}
    facts["tracks"] = {
        name: {"loss": one["loss"], "flips": one["flips"]} for name, one in facts["tracks"].items()
    }
    return {
        "row": candidate.row.name,
        **{k: candidate.row.filters[k] for k in ("method", "pattern", "quantizer")},
        "tied_with_best": candidate.tied,
        **{
            name: value
            for name, value in facts.items()
            if name not in ("compressed", "broken", "make", "export")
        },
        "fails": [c.limit.name for c in candidate.failed],
        "unsure": [c.limit.name for c in candidate.checks if c.unsure],
        "make": facts["make"],
        "export": facts["export"],
    }


def _print(answer: Answer, tracks: Sequence[str]) -> None:
    from bench.reporting.board import BROKEN
    from bench.reporting.candidates import describe_limits

    count = len(answer.meets)
    verb = "meets" if count < 2 else "meet"
    limits = describe_limits(answer.limits)
    _say(f"{answer.table.title}, {answer.table.protocol}")
    _say(f"{count or 'None'} of {answer.candidates} compressed rows {verb} {limits}.")
    if tracks:
        _say(
            "Loss: the largest of these tracks, in bits per byte of their right answers: "
            f"{', '.join(tracks)}."
        )
    print_line()
    if answer.meets:
        _print_rows(answer)
        _print_first(answer)
    if answer.nearest:
        reasons = ", ".join(f"{c.limit.noun} {_describe_check(c)}" for c in answer.nearest.failed)
        _say(f"Nearest row that fails: {answer.nearest.row.name}: {reasons}.")
        if any(c.unsure for c in answer.nearest.failed):
            _say("  Its interval contains the limit: it may meet it.")
    if answer.unmeasured:
        missing = dict.fromkeys(x.limit.noun for c in answer.unmeasured for x in c.unmeasured)
        _say(f"Left out, not measured ({', '.join(missing)}): {_names(answer.unmeasured)}.")
    if answer.broken:
        names = ", ".join(row.name.removesuffix(f" ({BROKEN})") for row in answer.broken)
        _say(f"Left out, their weights break their pattern: {names}.")


def _print_rows(answer: Answer) -> None:
    from bench.cli.tables import print_table
    from bench.reporting.candidates import describe_facts
    from bench.reporting.table import ABSENT

    shown = answer.meets[:MAX_ROWS]
    rows = [{"row": c.row.name} | describe_facts(c.facts) for c in shown]
    columns = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        if set(cells) != {ABSENT}:
            columns[name] = cells
    lines = list(zip(*columns.values(), strict=True))
    print_table(list(columns), lines, right=[name != "row" for name in columns], width=MAX_WIDTH)
    print_line()
    if len(answer.meets) > MAX_ROWS:
        _say(f"and {len(answer.meets) - MAX_ROWS} more: --json lists all")


def _names(candidates: Sequence[Candidate]) -> str:
    names = [c.row.name for c in candidates]
    more = len(names) - MAX_NAMES
    rest = f" and {more} more" if more > 0 else ""
    return ", ".join(names[:MAX_NAMES]) + rest


def _say(sentence: str) -> None:
    """Print a sentence, broken between words at the width of the terminal."""
    width = width_of(sys.stdout) or MAX_WIDTH
    print_lines(
        textwrap.fill(
            one_line(sentence),
            min(width, MAX_WIDTH),
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    )


def _say_command(title: str, command: str) -> None:
    """Print a command that can be copied: broken before flags, with a backslash at each line's
    end."""
    chunks: list[str] = []
    for word in shlex.split(command):
        word = shlex.quote(word)
        if chunks and chunks[-1].startswith("--") and " " not in chunks[-1]:
            chunks[-1] += f" {word}"
        else:
            chunks.append(word)
    lines = chunks[:1]
    for chunk in chunks[1:]:
        if len(lines[-1]) + 1 + len(chunk) > MAX_WIDTH - 6:
            lines.append(chunk)
        else:
            lines[-1] += f" {chunk}"
    print_lines(f"{title}:\n  " + " \\\n    ".join(map(one_line, lines)))


def _print_first(answer: Answer) -> None:
    first, *others = answer.meets
    tied = [c for c in others if c.tied]
    with_it = f" Tied with it: {_names(tied)}." if tied else ""
    _say(f"First: {first.row.name}.{with_it}")
    if answer.uncompared:
        _say(f"Rows not compared with the best in pairs: {answer.uncompared}.")
    for check in first.checks:
        if check.unsure:
            _say(
                f"Not sure: {check.limit.noun} {_describe_check(check)}; the interval contains "
                "the limit."
            )
        elif (
            check.bound
            and check.bound.low is None
            and check.limit.name not in ("max_mb", "max_bits", "budget_tokens")
        ):
            _say(f"Not sure: {check.limit.noun} has no interval.")
    facts = first.facts
    if facts.device:
        _say(f"Made on: {facts.device}.")
    if facts.make:
        _say_command("Make it", facts.make)
        if facts.export:
            _say_command("Export it", facts.export)
    else:
        _say("Its records do not say how it was made.")


def _describe_check(check: Check) -> str:
    assert check.bound is not None
    return f"{check.limit.text(*check.bound.parts)}, limit {check.limit.given(check.wanted)}"
