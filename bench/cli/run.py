"""Commands that compute: run, plan, prune, finetune."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.console import fail, print_records, print_rows
from bench.cli.flags import Json, spec_of, with_flags


@with_flags()
def run(json: Json = False, **flags: Any) -> None:
    """Prune, measure, record and show. What is recorded already is not done again."""
    spec = spec_of(flags)
    from bench import api
    from bench.run import runner

    try:
        summary = api.execute(spec)
    except runner.RunStopped as stopped:
        fail(f"stopped: {stopped}", 1)
    for line in summary.moved:
        typer.echo(f"bench: {line}", err=True)
    print_records(summary.records, "json" if json else "table")
    if not json:
        again = len(summary.records) - summary.computed
        typer.echo(
            f"{summary.computed} measurements taken, {max(0, again)} read from {spec.results}; bench report --results {spec.results} shows them again"
        )
    if summary.failed:
        fail(
            f"{summary.failed} measurements failed: bench show RECORD prints a traceback, and the same command tries them again",
            1,
        )


@with_flags()
def plan(json: Json = False, **flags: Any) -> None:
    """What a run would do, what is done, and about what it would cost. Loads nothing."""
    from bench.plan import estimate
    from bench.plan.plan import make_plan

    planned = make_plan(spec_of(flags))
    print_rows(estimate.rows(planned), json)
    for name in planned.to_pull:
        typer.echo(f"{name} is not here yet: bench pull {name}, or bench run fetches it", err=True)


@with_flags("measures", "tasks", "results")
def prune(
    methods: Annotated[str, typer.Option("--method", help="One method, as in bench run.")],
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    models: Annotated[str, typer.Option("--model", help="Alias, hub id or folder.")] = "tiny",
    seeds: Annotated[int, typer.Option("--seed", help="Calibration seed.")] = 0,
    **flags: Any,
) -> None:
    """Prune one model with one method into a folder that transformers loads."""
    given = {"methods": methods, "models": models, "measures": "size", "seeds": seeds}
    spec = spec_of(flags | given, quantizers="none")
    from bench.run.prune import write_pruned
    from bench.verify import CheckFailed

    try:
        typer.echo(write_pruned(spec, out))
    except CheckFailed as broken:
        fail(f"{methods} on {models} is not what it promised: {broken}; nothing was written", 1)


@with_flags("methods", "models", "measures", "tasks")
def finetune(
    artifact: Annotated[
        str, typer.Option(help="A record's name or the beginning of it, or a folder bench prune wrote.")
    ],
    data: Annotated[str, typer.Option(help="A corpus, a .txt or .jsonl file, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    rank: Annotated[
        int, typer.Option(help="Of low-rank updates merged under the mask; 0 trains all weights.", min=0)
    ] = 0,
    seeds: Annotated[int, typer.Option("--seed", help="Of the order of the text.")] = 0,
    **flags: Any,
) -> None:
    """Train a pruned model further with its zeros held, and write a folder that transformers loads."""
    from bench.results.artifacts import find_pruned
    from bench.run.prune import write_pruned
    from bench.verify import CheckFailed, detect_pattern
    from methods.folder import Folder

    folder, record = find_pruned(artifact, flags.pop("results", None))
    pattern = flags.pop("patterns", None) or (
        record.identity.pattern if record else str(detect_pattern(Folder(folder)))
    )
    training = [f"training.data={json_module.dumps(data)}"]
    given = {"methods": f"finetune:rank={rank}", "models": (str(folder),), "measures": "size", "seeds": seeds}
    given |= {"patterns": pattern, "set_": training + (flags.pop("set_", None) or [])}
    try:
        typer.echo(write_pruned(spec_of(flags | given, quantizers="none"), out))
    except CheckFailed as broken:
        fail(f"fine-tuning {artifact} broke its promise: {broken}; nothing was written", 1)
