"""Zero-shot tasks by name, and where their data lies. Imports no lm-eval: a plan reads its YAML files as they stand."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from bench.inputs import wikitasks
from bench.inputs.corpora import unreachable
from bench.inputs.task_yaml import Loader, Task
from bench.system import digests
from bench.system.cache import cache_dir
from methods.errors import UserError

_COMMON = ("hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")

SETS = {
    "maskllm7": (*_COMMON, "race", "piqa"),
    "wanda7": (*_COMMON, "boolq", "rte"),
}
"""Averages that papers report: MaskLLM's and CAST's; Wanda's and SparseGPT's."""

OWN = tuple(wikitasks.ITEMS)

KNOWN = {
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
"""Those of the sets: where lm-eval keeps them, so that its index of 14,000 need not be built."""

REQUESTS = {
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
"""Questions, and about how many tokens one takes with all its choices."""


def expand(names: tuple[str, ...]) -> dict[str, str]:
    """Single tasks, each with its YAML: sets and lm-eval's groups become their tasks.

    Raises:
        UserError: an unknown name, with the nearest known ones.
    """
    found: dict[str, str] = {}
    for name in names:
        for one in SETS.get(name, (name,)):
            if one in OWN:
                found[one] = ""
            elif one in KNOWN:
                found[one] = KNOWN[one]
            else:
                found |= _looked_up(one)
    return found


def _looked_up(name: str) -> dict[str, str]:
    """A task that is not in the sets, from lm-eval's index, which takes seconds to build."""
    from bench.inputs import lmeval

    if leaves := lmeval.leaves(name):
        return leaves
    near = get_close_matches(name, [*SETS, *OWN, *lmeval.names()], n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join([*SETS, *OWN])}, and any of lm-eval's"
    raise UserError(f"unknown task {name!r}: {hint}")


def tokens(name: str, limit: int | None) -> int:
    """About how many a task takes; 0 where nobody counted."""
    questions, each = REQUESTS.get(name, (0, 0))
    return each * min(questions, limit or questions)


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def place(task: Task, data_dir: Path | None) -> Path | None:
    """The folder that holds a task's data: the mirror's, else the cache's; None where neither has it."""
    for root_ in (data_dir, cache_dir() / "data"):
        if root_ and task.hub and _files(root_ / task.hub):
            return root_ / task.hub
    return None


def _files(folder: Path) -> list[Path]:
    """Data and its README, which says how it is split; nothing hidden."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "REVISION"]
    shown = [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    return shown if any(p.suffix not in (".md", "") for p in shown) else []


def content(task: Task, data_dir: Path | None) -> str:
    """Digest of a task's data; "" where it is not here."""
    if not task.hub:
        return task.digest
    if (folder := place(task, data_dir)) is None:
        return ""
    return digests.of([task.digest, {str(p.relative_to(folder)): digests.of_file(p) for p in _files(folder)}])


def revision(task: Task, data_dir: Path | None) -> str:
    """Where its data came from, as far as anybody wrote it down."""
    folder = place(task, data_dir)
    if folder is None:
        return ""
    note = folder / "REVISION"
    return note.read_text().strip() if note.exists() else "mirror"


def ensure(task: Task, data_dir: Path | None) -> str:
    """Make a task's data be here, and return its digest.

    Raises:
        UserError: it is neither in the mirror nor in the cache nor to be had from the hub.
    """
    if task.hub and place(task, data_dir) is None:
        pull(task, cache_dir() / "data", data_dir)
    return content(task, data_dir)


def pull(task: Task, target: Path, data_dir: Path | None = None) -> Path:
    """Fetch a task's data set into `target`, laid out as a mirror, with the revision it came from beside it.

    Raises:
        UserError: the hub does not answer, or does not give it.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    folder = target / task.hub
    looked = " and ".join(str(r / task.hub) for r in (data_dir, cache_dir() / "data") if r)
    ways = f"connect, or copy it to <mirror>/{task.hub}/ and pass --data-dir <mirror> (or BENCH_DATA_DIR)"
    try:
        revision = str(HfApi().dataset_info(task.hub, timeout=4).sha)
        snapshot_download(
            task.hub,
            repo_type="dataset",
            revision=revision,
            local_dir=folder,
            ignore_patterns=["*.py", "*.bin", "*.pt", "*.pkl", "*.pickle", ".git*"],  # data, and no code
        )
        (folder / "REVISION").write_text(f"{revision}\n")
    except (GatedRepoError, RepositoryNotFoundError):
        raise UserError(
            f"task {task.name} needs {task.hub}, which the hub does not give: accept its licence at "
            f"huggingface.co/datasets/{task.hub} and set HF_TOKEN, or {ways.removeprefix('connect, or ')}"
        ) from None
    except unreachable() as fault:
        raise UserError(
            f"task {task.name} needs {task.hub}, which is not in {looked}, and the hub does not answer "
            f"({type(fault).__name__}): {ways}, or take a task that needs none ({', '.join(OWN)})"
        ) from None
    return folder
