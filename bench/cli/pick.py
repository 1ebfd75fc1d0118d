"""`bench pick`: which compressed model meets some limits, and how to make it."""

from __future__ import annotations

import contextlib
import json as json_module
import math
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import fail, note, print_json, print_line, print_lines
from bench.cli.flags import AllResults, Json, split_list
from bench.system.suggest import describe_unknown
from bench.system.terminal import width_of
from bench.system.text import one_line
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.inputs.model_facts import ModelFacts
    from bench.reporting.candidates import Answer, Candidate, Check, Limits
    from bench.reporting.from_papers import PaperRow
    from bench.reporting.view import Table

MAX_WIDTH = 80
MAX_ROWS, MAX_NAMES = 10, 5
"""Most rows that are printed, and most names in a sentence. --json has all."""
MAX_PAPERS = 6
"""Most rows of papers, and of another model, that are printed."""
USUAL, USUAL_GGUF = ("int8", "int4-gptq"), ("int8", "q6_k", "q4_k")
"""Quantizers that a first run measures."""


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
    from bench.reporting.serving import find_engine, ship
    from bench.results.store import RESULTS

    if engine:
        find_engine(engine)
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
    if not results and any(RESULTS.parent.glob("*/records")) and leaves_local_out():
        note(f"{RESULTS} is left out: --results {RESULTS} picks from it")
    table = _board(model, results, protocol, device)
    if table is None:
        _print_unmeasured(model, limits, engine, json)
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
    protocol comes first. None: a model that could be measured, and has no records."""
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

    records, left_out = board.without_outdated(merged.records)
    if left_out:
        note(left_out)
    chosen = choose_board(model, merged.only(model, records), protocol, device)
    return chosen.make_table(paired=chosen.is_quality)


def _require_measurable(model: str, known: list[str]) -> None:
    """Raise UserError for a name that is neither a hub id, nor a model of this package, nor a
    folder. known: models with records."""
    from bench.inputs.models import find_alias
    from bench.inputs.shapes import known_shapes

    if not (model in known_shapes() or find_alias(model) or "/" in model or Path(model).is_dir()):
        raise UserError(describe_unknown("model", model, known, ", a hub id or a folder"))


def _print_unmeasured(model: str, limits: Limits, engine: str, json: bool) -> None:
    """Print what is known of a model without records, and the command that measures it."""
    from bench.reporting import similar_models, words
    from bench.reporting.serving import engines, suggest

    facts = _facts_of(model)
    papers = similar_models.papers_about(model)
    family, parameters = "", 0.0
    if facts:
        family = str(facts.config.get("model_type", ""))
        parameters = float(sum(map(math.prod, facts.shapes.values())))
    near = similar_models.nearest(family, parameters)
    sizes = suggest(facts, engine, near) if facts else []
    fitting = [one for one in sizes if limits.max_mb is None or one.megabytes <= limits.max_mb]
    offered = [one.quantizer for one in fitting or sizes[-1:]] or list(USUAL)
    quantizers = [name for name in offered if name in USUAL] or offered[:MAX_NAMES]
    if engine == "llama.cpp":
        quantizers = [name for name in offered if name in USUAL_GGUF] or offered
    methods = "awq" if "int4-gptq" in quantizers and engine != "llama.cpp" else "dense"
    asked = ["--model", model, "--methods", methods, "--quant", ",".join(quantizers)]
    run = shlex.join(["bench", "run", *asked])
    if json:
        answer = {
            "model": model,
            "measured": False,
            "papers": [row.model_dump(mode="json") for row in papers],
            "nearest": [row._asdict() for row in near],
            "sizes": [one._asdict() for one in sizes],
            "run": run,
        }
        print_json(json_module.dumps(answer, indent=1))
        return
    _say(f"{model} has no records here, so nothing says what it loses.")
    if sizes:
        print_line()
        kind = f"files of {engine}" if engine else "files with the quantized tensors"
        _say(f"Sizes, computed from its shapes ({kind}):")
        _print_cells(
            ["quantizer", "MB", "bits per weight", "export"],
            [[s.quantizer, f"{s.megabytes:,.0f}", f"{s.bits:.4g}", s.export] for s in sizes],
            {"quantizer", "export"},
        )
        if not fitting:
            _say(f"None has at most {limits.max_mb:,.15g} MB: choose a smaller model.")
    if papers:
        _print_papers(papers)
    first = near[0]
    print_line()
    _say(
        f"The nearest model measured here is {first.model} ({first.parameters / 1e6:,.0f} million "
        "parameters). A larger model usually loses less:"
    )
    rows = []
    for one in near[:MAX_PAPERS]:
        label = one.method if one.pattern == one.method else f"{one.method} {one.pattern}"
        loss = words.percent(one.loss, one.low, one.high)
        rows.append([label, one.quantizer.split(":")[0], f"{one.bits:.4g}", loss])
    _print_cells(["row", "quantizer", "bits per weight", "loss"], rows, {"row", "quantizer"})
    print_line()
    cost = shlex.join(["bench", "plan", *asked, "--device", "a10"])
    _say_command("Its cost, for example on an A10", cost)
    _say_command("Measure it", run)
    again = ["bench", "pick", "--model", model, "--results", "results/local"]
    if engine:
        again += ["--engine", engine]
    _say_command("Then pick", shlex.join(again))
    if not engine:
        _say(f"--engine {', '.join(engines())}: only what that engine runs.")


def _print_papers(papers: Sequence[PaperRow]) -> None:
    """Print the best rows of the text that most rows of papers are on."""
    counts = Counter(row.protocol for row in papers)
    protocol = counts.most_common(1)[0][0]
    own = [row for row in papers if row.protocol == protocol]
    dense = next((row.perplexity for row in own if row.method == "dense"), None)
    print_line()
    _say(f"From papers about {own[0].model}, on {protocol}. None was measured here:")
    rows = []
    for row in own[:MAX_PAPERS]:
        ratio = "–" if dense is None else f"{row.perplexity / dense:.2f}"
        label = row.method if row.method == row.pattern else f"{row.method} {row.pattern}"
        rows.append([label, f"{row.perplexity}", ratio, row.source])
    _print_cells(["row", "perplexity", "ratio", "source"], rows, {"row", "source"})


def _facts_of(model: str) -> ModelFacts | None:
    """Return the facts of a model from its shapes or config, or None without a network."""
    from bench.inputs.shapes import fetched_model, planned_model

    if found := planned_model(model):
        return found
    with contextlib.suppress(UserError):
        return fetched_model(model, None)
    return None


def _print_cells(heads: list[str], rows: list[list[str]], words: set[str]) -> None:
    from bench.cli.tables import print_table

    right = [head not in words for head in heads]
    print_table(heads, rows, right=right, width=MAX_WIDTH)


def _print(answer: Answer, tracks: Sequence[str], engine: str) -> None:
    from bench.reporting.board import BROKEN
    from bench.reporting.candidates import describe_limits
    from bench.reporting.serving import engines

    count = len(answer.meets)
    verb = "meets" if count < 2 else "meet"
    limits = describe_limits(answer.limits)
    _say(f"{answer.table.title}, {answer.table.protocol}")
    of_engine = f" that {engine} runs" if engine else ""
    rows = f"{answer.candidates} compressed rows{of_engine}"
    _say(f"{count or 'None'} of {rows} {verb} {limits}.")
    if tracks:
        _say(
            "Loss: the largest of these tracks, in bits per byte of their right answers: "
            f"{', '.join(tracks)}."
        )
    print_line()
    if answer.meets:
        _print_rows(answer)
        _print_first(answer)
        if not engine and answer.meets:
            _say(f"What one engine runs, in its files: --engine {', '.join(engines())}.")
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
    if answer.began_with:
        _say(
            f"Best: {answer.began_with.row.name}, the file that {answer.table.title} began with. "
            f"Keep it ({answer.began_with.facts.make}), unless you need another format."
        )
        if first is answer.began_with:
            return
        _say(f"The best compression made here: {first.row.name} of {answer.table.title}.{with_it}")
    else:
        _say(f"First: {first.row.name} of {answer.table.title}.{with_it}")
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
        if facts.serve:
            _say_command("Serve it", facts.serve)
    else:
        _say("Its records do not say how it was made.")


def _describe_check(check: Check) -> str:
    assert check.bound is not None
    return f"{check.limit.text(*check.bound.parts)}, limit {check.limit.given(check.wanted)}"
