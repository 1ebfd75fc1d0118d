"""The command line. Each command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bench.flags import DataDir, Json, Results, spec_of, with_flags
from bench.judging import commands as judging
from methods.errors import UserError

if TYPE_CHECKING:
    from bench.store import Record

app = typer.Typer(
    name="bench",
    help="Compress language models, measure what is left, and prove it.",
    epilog="Exit code 0: done. 1: a cell failed, a gate or a pattern does not hold. 2: bad input, told in one sentence. "
    "130: stopped by Ctrl-C; the same command goes on.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="What is kept between runs.", no_args_is_help=True, rich_markup_mode=None)
env_app = typer.Typer(
    help="Environments of libraries that cannot share ours.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(cache_app, name="cache")
app.add_typer(env_app, name="env")
judging.add(app)


@app.command()
@with_flags()
def run(json: Json = False, **flags: Any) -> None:
    """Prune, measure, record and show. What is recorded already is not done again."""
    spec = spec_of(flags)
    from bench import api, runner

    try:
        summary = api.execute(spec)
    except runner.Stopped as stopped:
        _fail(f"stopped: {stopped}", 1)
    for line in summary.moved:
        typer.echo(f"bench: {line}", err=True)
    _show(summary.records, "json" if json else "table")
    if not json:
        again = len(summary.records) - summary.computed
        typer.echo(
            f"{summary.computed} cells measured, {max(0, again)} read from {spec.results}; bench report --results {spec.results} shows them again"
        )
    if summary.failed:
        _fail(
            f"{summary.failed} cells failed; bench show RECORD prints a traceback, the same command tries them again", 1
        )


@app.command()
@with_flags()
def plan(json: Json = False, **flags: Any) -> None:
    """What a run would do, what is done, and about what it would cost. Loads nothing."""
    from bench import estimate, listing, planning

    planned = planning.make(spec_of(flags))
    listing.show(estimate.rows(planned), json)
    for name in planned.to_pull:
        typer.echo(f"{name} is not here yet: bench pull {name}, or bench run fetches it", err=True)


@app.command()
def ls(
    what: Annotated[str, typer.Argument(help="methods, models, data, tasks, measures, quantizers, recipes or runs.")],
    long: Annotated[
        bool, typer.Option("--long", help="Fields and their defaults too; of methods, what each costs on a 7B model.")
    ] = False,
    results: Results = None,
    json: Json = False,
) -> None:
    """List what there is."""
    from bench import listing

    listing.show(listing.rows(what, long, results), json)


@app.command()
def show(
    record: Annotated[str, typer.Argument(help="A record's name or the beginning of it.")], results: Results = None
) -> None:
    """Print one record, whole."""
    from bench.spec import RESULTS
    from bench.store import Store

    found = Store(results or RESULTS, write=False).find(record)
    typer.echo(found.model_dump_json(indent=1, exclude={"traceback"}))
    if found.traceback:
        typer.echo(found.traceback)


@app.command()
def figure(
    record: Annotated[
        str, typer.Argument(help="The `pattern` record of a method that trains, or the beginning of it.")
    ],
    out: Annotated[Path, typer.Option(help="File to write: .svg, .png or .pdf.")],
    results: Results = None,
) -> None:
    """Draw how a training went: losses, S, mask flips, learning rate and alpha over steps."""
    from bench import figures
    from bench.spec import RESULTS
    from bench.store import Store

    typer.echo(figures.training(Store(results or RESULTS, write=False).find(record), out))


@app.command()
def scaling(
    method: Annotated[str, typer.Option(help="The sparse row, as in its table.")] = "cast",
    control: Annotated[str, typer.Option(help="The row it is measured against.")] = "dense-ft",
    out: Annotated[Path | None, typer.Option(help="Figure to draw: .svg, .png or .pdf.")] = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Fit how what sparsity costs falls with model size and training tokens, and predict the largest run from the rest."""
    from bench import figures, listing
    from bench import scaling as law
    from bench.spec import RESULTS

    points = law.read(results or RESULTS, method, control)
    held, predicted = law.check(points)
    fitted = law.fit([p for p in points if p is not held])
    listing.show(law.told(fitted, held, predicted), json)
    if out:
        typer.echo(figures.scaling(fitted, out, method, control, held))


@app.command()
def report(
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of records, several by repeating it [default: every one in results/]."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="Print instead: table, json, csv or md [default folder: results/local]."),
    ] = None,
    equal_bytes: Annotated[
        bool,
        typer.Option("--equal-bytes", help="Print sparse rows beside dense ones of about as many bits per weight."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write [default: reports].")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit code 1 if the folder's files are not what would be written."),
    ] = False,
) -> None:
    """Write the leaderboard: a page, Markdown, CSV, LaTeX and figures. With --results or --format alone, print tables.

    The newest record of every slot, and what papers report (results/published).
    """
    if out or check:
        if format_ or equal_bytes:
            raise UserError("--format and --equal-bytes print, --out and --check are about files: leave one kind out")
    elif format_ or equal_bytes or results:
        return _print(results, format_ or "table", equal_bytes)
    from bench.reporting import files

    folder = out or files.OUT
    made = files.make(results or files.folders(), files.PUBLISHED)
    if not check:
        return typer.echo("\n".join(map(str, files.write(made, folder))))
    if stale := files.stale(made, folder):
        _fail(f"stale: {', '.join(map(str, stale))}; run bench report" + (f" --out {out}" if out else ""), 1)


def _print(results: list[Path] | None, format_: str, equal_bytes: bool) -> None:
    from bench.spec import RESULTS
    from bench.store import Store
    from bench.table import newest

    for folder in results or [RESULTS]:
        store = Store(folder, write=False)
        records = newest(store)
        for line in store.moved:
            typer.echo(f"bench: {line}", err=True)
        _show(records, format_, equal_bytes)


@app.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Models, corpora or tasks.")], data_dir: DataDir = None
) -> None:
    """Fetch models, corpora and tasks ahead of a run; corpora and tasks into --data-dir where it is given."""
    from bench import data, fetching, tasks
    from bench.paths import cache_dir, using

    root = data_dir or cache_dir() / "data"
    with using():
        for name in names:
            if name in data.CORPORA:
                files = data.pull(name, root)
                typer.echo(f"{name}: {len(files)} files in {root}" if files else f"{name}: here")
            elif name in (*tasks.SETS, *tasks.KNOWN):
                for task in (tasks.describe(*pair) for pair in tasks.expand((name,)).items()):
                    typer.echo(f"{task.name}: {tasks.place(task, root) or tasks.pull(task, root, data_dir)}")
            else:
                typer.echo(f"{name}: {fetching.pull(name, data_dir).folder}")


@app.command()
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
    from bench import export

    try:
        typer.echo(export.prune(spec, out))
    except export.Broken as broken:
        _fail(f"{methods} on {models} is not what it promised: {broken}; nothing was written", 1)


@app.command()
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
    from bench import export

    folder, pattern = export.pruned(artifact, flags.pop("results", None))
    training = [f"training.data={json_module.dumps(data)}"]
    given = {"methods": f"finetune:rank={rank}", "models": (str(folder),), "measures": "size", "seeds": seeds}
    given |= {"patterns": flags.pop("patterns", None) or pattern, "set_": training + (flags.pop("set_", None) or [])}
    try:
        typer.echo(export.prune(spec_of(flags | given, quantizers="none"), out))
    except export.Broken as broken:
        _fail(f"fine-tuning {artifact} broke its promise: {broken}; nothing was written", 1)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="A safetensors folder, ours or not; or an alias.")],
    pattern: Annotated[str, typer.Option(help="2:4 keeps 2 of every 4; 50% is unstructured.")] = "2:4",
    include: Annotated[str, typer.Option(help="Linears to look at: globs, by commas.")] = "*",
    exclude: Annotated[str | None, typer.Option(help="Linears to leave out: globs, by commas.")] = None,
    json: Json = False,
) -> None:
    """Count, layer by layer, what breaks a pattern. Exit code 0 where it holds, 1 where not, 2 on bad input."""
    from bench import listing, verifying

    verdict = verifying.verify(model, pattern, include.split(","), exclude.split(",") if exclude else [])
    listing.show(verifying.rows(verdict), json)
    if verdict.violations:
        _fail(f"{verdict.violations} groups of {model} break {verdict.pattern}", 1)


@app.command()
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
    from bench import convert
    from bench.exports import writing
    from bench.spec import RESULTS

    if format_ in writing.FORMATS:
        if artifact:
            raise UserError(f"--format {format_} writes the folder --results names, whole: leave {artifact!r} out")
        typer.echo(writing.export(results or RESULTS, format_, out, organization))
        return
    if artifact is None and format_ in convert.FORMATS:
        raise UserError(f"--format {format_} writes a model: name a record (bench ls runs) or a model folder")
    left = tuple(exclude.split(",")) if exclude else ()
    typer.echo(convert.export(artifact or "", format_, out, values=values, exclude=left, results=results))


@app.command()
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
    from bench import limits, listing
    from bench.devices import cores, resolve_device

    found = resolve_device(device)
    if device_spec or (found == "cpu" and device == "auto"):
        if not device_spec:
            typer.echo(
                "bench: skipped: no CUDA device; what follows is a model for h100 (--device cpu measures)", err=True
            )
        listing.show(limits.rows(model, device_spec or "h100", data_dir), json)
        return
    from bench import figures
    from bench.spec import RESULTS
    from bench.speed import records as table

    asked = table.Asked(
        model, found, threads or cores(), tuple(kinds.split(",")) if kinds else None,
        _numbers(tokens) if tokens else ((1,) if found == "cpu" else limits.TOKENS), data_dir,
    )  # fmt: skip
    made = list(table.measure(asked, results or RESULTS))
    listing.show(table.rows(made), json)
    if figure:
        typer.echo(figures.speeds(made, figure), err=True)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [p.strip() for p in text.split(",")]
    if not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UserError(f"tokens {text!r} will not do: whole numbers by commas, for example 1,16,512")
    return tuple(int(p) for p in parts)


@app.command()
def doctor(data_dir: DataDir = None, results: Results = None, json: Json = False) -> None:
    """Is everything here that a run may need?"""
    from bench import doctor as examination
    from bench import listing

    listing.show(examination.rows(data_dir, results), json)


@cache_app.command("info")
def cache_info(json: Json = False) -> None:
    """What the cache holds, in bytes."""
    from bench import cache, listing

    listing.show(cache.info(), json)


@cache_app.command("gc")
def cache_gc(
    all_: Annotated[bool, typer.Option("--all", help="Pulled models, corpora and unfinished trainings too.")] = False,
    days: Annotated[int, typer.Option(help="Keep what was made in the last so many days.", min=0)] = 0,
) -> None:
    """Delete pruned models, logs and leftovers that no run is using.

    Records stay, and what is deleted is made again when asked for.
    """
    from bench import cache

    freed, left = cache.gc(everything=all_, days=days)
    typer.echo(f"{freed / 1e6:,.1f} MB freed" + (f"; {left} entries are in use and stay" if left else ""))


@env_app.command("create")
def env_create(name: Annotated[str, typer.Argument(help="As in bench env ls.")]) -> None:
    """Build an environment with pip, some minutes and gigabytes. One that is ready is left as it is."""
    from rich.console import Console
    from rich.markup import escape

    from bench import environments

    console = Console(stderr=True, highlight=False, markup=False)
    with console.status("") as status:
        path = environments.create(
            name, lambda line: status.update(escape(line)) if line.startswith(" ") else console.print(line)
        )
    typer.echo(path)


@env_app.command("ls")
def env_ls(json: Json = False) -> None:
    """Each environment, whether it is ready, what is in it, and its size in bytes."""
    from bench import environments, listing

    listing.show(environments.rows(), json)


def _show(records: list[Record], format_: str, equal_bytes: bool = False) -> None:
    from bench import bands, table

    if equal_bytes and format_ not in ("table", "md"):
        raise UserError(f"--equal-bytes is a table: take --format table or md, not {format_}")
    grids = bands.grids if equal_bytes else table.grids
    if equal_bytes and not grids(records):
        raise UserError(
            "no sparse row here has a dense one of about its bits per weight: measure some, for example "
            "bench run --dtype bfloat16 --quant none,int8,int3-rtn,int4-gptq"
        )
    if format_ == "json":
        typer.echo(table.json_rows(records))
    elif format_ == "csv":
        typer.echo(table.csv(records), nl=False)
    elif format_ == "md":
        typer.echo("\n".join(f"**{table.plain(g.title)}**\n\n{table.markdown(g)}" for g in grids(records)), nl=False)
    elif format_ == "table":
        from rich.console import Console

        console = Console() if sys.stdout.isatty() else Console(width=200)
        for grid in grids(records):
            console.print(table.rich_table(grid))
    else:
        raise UserError(f"format {format_!r} is not one of table, json, csv, md")


def _fail(sentence: str, code: int) -> NoReturn:
    typer.echo(f"bench: {sentence}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """Run the command line. Bad input is one sentence and exit code 2; Ctrl-C is 130 and loses nothing."""
    try:
        app()
    except UserError as fault:
        typer.echo(f"bench: {fault}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # typer's answer to Ctrl-C
            typer.echo("bench: stopped; the same command goes on from here", err=True)
        raise
    except BrokenPipeError:
        sys.exit(1)
