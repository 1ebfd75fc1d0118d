"""Zero-shot tasks by name, and their data. lm-eval is imported only for tasks outside
TASK_FILES."""

from __future__ import annotations

import contextlib
from difflib import get_close_matches
from pathlib import Path

from bench.inputs import data_sets, hub, tracks, wikimini
from bench.inputs.task_yaml import Task, find_names, read_own
from bench.system import digests
from bench.system.cache import cache_dir
from methods.contract.errors import UserError

_COMMON_TASKS = ("hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")

TASK_SETS = {
    "maskllm7": (*_COMMON_TASKS, "race", "piqa"),
    "wanda7": (*_COMMON_TASKS, "boolq", "rte"),
}
"""Sets of tasks whose average papers report: MaskLLM and CAST use the first, Wanda and SparseGPT
the second."""

BUILTIN_TASKS = tuple(wikimini.TASKS)

TASK_FILES = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "race": "race/race.yaml",
    "piqa": "piqa/piqa.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "rte": "glue/rte/default.yaml",
}
"""YAML files of the tasks in sets. With them the index of lm-eval, which has 14,000 tasks, is not
needed."""

TASK_SIZES = {
    "wiki_continuation": (400, 4 * 70),
    "wiki_lastword": (400, 65),
    "hellaswag": (10042, 4 * 100),
    "winogrande": (1267, 2 * 28),
    "arc_easy": (2376, 4 * 35),
    "arc_challenge": (1172, 4 * 40),
    "openbookqa": (500, 4 * 20),
    "race": (1045, 4 * 420),
    "piqa": (1838, 2 * 40),
    "boolq": (3270, 140),
    "rte": (277, 80),
}
"""Number of questions of each task, and approximate number of tokens of a question with all
choices."""

BYTES_PER_TOKEN = 4
"""Approximate number of bytes of text in a token."""

HUB_ONLY = ("race",)
"""Tasks in sets whose data no known package of the index has."""

NOT_DATA = ("*.py", "*.bin", "*.pt", "*.pkl", "*.pickle", ".git*")
"""Patterns of files that are never downloaded: code, pickles, and files of git."""


def expand(names: tuple[str, ...], include_path: Path | None = None) -> dict[str, str]:
    """Replace sets of tasks, and groups of lm-eval, by their tasks. Return the YAML file of each
    task; tracks have none.

    A name that ends with .yaml is a user's file. include_path: folder with a user's files, by the
    names of their tasks.
    """
    files: dict[str, str] = {}
    own = _own_tasks(include_path) if include_path else {}
    known = dict.fromkeys(BUILTIN_TASKS, "") | TASK_FILES

    def add(name: str, file: str) -> None:
        if files.setdefault(name, file) != file:
            raise UserError(
                f"task {name!r} is in {files[name] or 'cast-bench'} and in {file}: rename one of "
                "them"
            )

    for name in (name for name in names if not tracks.is_track(name)):
        if name.endswith((".yaml", ".yml")):
            add(read_own(Path(name)), str(Path(name).resolve()))
        elif name in own:
            for file in own[name]:
                add(name, file)
        else:
            for one in TASK_SETS.get(name, (name,)):
                found = {one: known[one]} if one in known else _find_in_lm_eval(one)
                for found_name, file in found.items():
                    add(found_name, file)
    return files


def _own_tasks(folder: Path) -> dict[str, list[str]]:
    """Return the files of a folder by the names of their tasks. Files without one are includes."""
    if not folder.is_dir():
        raise UserError(f"task folder {str(folder)!r} does not exist: check zeroshot.include_path")
    found: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.yaml")):
        with contextlib.suppress(UserError):
            found.setdefault(read_own(file), []).append(str(file.resolve()))
    return found


def is_task(name: str) -> bool:
    """Return whether a name is a set, a task of this package or of lm-eval, a group or tag of
    lm-eval, or a user's file."""
    if name in (*TASK_SETS, *TASK_FILES, *BUILTIN_TASKS) or name.endswith((".yaml", ".yml")):
        return True
    found = find_names(name)
    if not found.mentioned or name in found.every:
        return found.mentioned
    from bench.inputs import lmeval  # imports lm_eval

    return bool(lmeval.expand_group(name))


def _find_in_lm_eval(name: str) -> dict[str, str]:
    """Look a name up in lm-eval's files, and in its index, which takes seconds to build, only for
    groups and tags."""
    mentioned, names, files = find_names(name)
    if len(files) == 1:
        return {name: files[0]}
    if mentioned:
        from bench.inputs import lmeval  # imports lm_eval

        leaves = lmeval.expand_group(name)
        if leaves:
            return leaves
    near = get_close_matches(
        name, [*TASK_SETS, *tracks.names(), *BUILTIN_TASKS, *names], n=3, cutoff=0.6
    )
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = (
            f"known: {', '.join([*TASK_SETS, *tracks.names(), *BUILTIN_TASKS])}, any of "
            "lm-eval's, or a file such as my_task.yaml"
        )
    raise UserError(f"unknown task {name!r}: {hint}")


def estimate_tokens(name: str, limit: int | None) -> int:
    """Return the approximate number of tokens of a task; 0 if it is unknown."""
    questions, each = TASK_SIZES.get(name, (0, 0))
    return each * min(questions, limit or questions)


def count_tokens(
    task: Task, data_dir: Path | None, limit: int | None, shots: int, generates: int
) -> int:
    """Return about how many tokens a task reads and generates; 0 if its data is not on this
    machine.

    limit: number of questions; None for all. shots: number of examples before each question.
    generates: largest number of tokens in an answer.
    """
    if task.name in TASK_SIZES:
        return (1 + shots) * estimate_tokens(task.name, limit)
    files = [Path(file) for file in task.files]
    if not files and (folder := data_folder(task, data_dir)):
        place, _ = data_sets.location(folder, task.config)
        files = [file for file in data_sets.files(place) if task.split and task.split in file.name]
    rows, size = data_sets.measure_rows(files, task.prompt)
    return round(min(rows, limit or rows) * ((1 + shots) * size / BYTES_PER_TOKEN + generates))


def data_folder(task: Task, data_dir: Path | None) -> Path | None:
    """Return the folder with the data of a task: in the mirror, else in the cache. None if neither
    has it."""
    for root in hub.roots(data_dir):
        folder = root / task.hub
        if task.hub and data_sets.holds(folder, task.config):
            apart = data_sets.location(folder, task.config)[0] != folder
            pattern = f"{task.config}/*" if apart else "*"
            if hub.is_whole(folder, pattern):
                return folder
    return None


def data_digest(task: Task, data_dir: Path | None) -> str:
    """Return the digest of a task's description and data; "" if the data is not on this machine."""
    if not task.hub:
        return task.digest
    folder = data_folder(task, data_dir)
    if folder is None:
        return ""
    return digests.of(
        [
            task.digest,
            {str(p.relative_to(folder)): digests.of_file(p) for p in data_sets.files(folder)},
        ]
    )


def revision(task: Task, data_dir: Path | None) -> str:
    """Return the hub commit of the local data of a task; "mirror" if none is recorded, "" without
    data."""
    folder = data_folder(task, data_dir)
    return hub.recorded_revision(folder) if folder else ""


def ensure(task: Task, data_dir: Path | None) -> str:
    """Return the digest of a task's data, which the hub gives if it is not on this machine. Raise
    UserError if it does not."""
    if task.hub and data_folder(task, data_dir) is None:
        pull(task, cache_dir() / "data", data_dir)
    return data_digest(task, data_dir)


def pull(task: Task, root: Path, data_dir: Path | None = None) -> Path:
    """Download the data set of a task into the mirror or cache `root`. Raise UserError if the hub
    does not give it."""
    in_package = task.name in TASK_FILES and task.name not in HUB_ONLY
    package = f"bench pull {task.name} --from index, or " if in_package else ""
    way = f"{package}take a task that needs no download ({', '.join(BUILTIN_TASKS)})"
    repository = hub.data_set(task.hub, f"task {task.name}", way, data_dir, task.config)
    hub.fill(root, repository, ignore=NOT_DATA)
    if not data_sets.holds(root / task.hub, task.config):
        place = f"{task.hub}/{task.config}".rstrip("/")
        raise UserError(
            f"task {task.name} needs {place}, and {task.hub} on the hub has no such data: put the "
            f"files into <mirror>/{place}/ and pass --data-dir <mirror>"
        )
    return root / task.hub
