"""Tasks as lm-eval's YAML files describe them, read without importing lm-eval."""

from __future__ import annotations

import importlib.util
import os
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.inputs import wikimini
from bench.system import digests

FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""A task that reads local files has one of these in place of a hub id."""


_NAME = re.compile(rb"^(?:task|group|tag):[ \t]*['\"]?([A-Za-z0-9_.-]+)", re.MULTILINE)


class Task(NamedTuple):
    """One task."""

    name: str
    file: str
    """Its YAML in lm-eval's folder of tasks; "" for this suite's own tasks."""
    hub: str
    """Hub id of its data; "" where the data is not on the hub."""
    version: str
    digest: str
    """Digest of the YAML and all it includes."""
    config: str = ""
    """The configuration of the data set that it reads, where it names one."""


def lm_eval_version() -> str:
    """lm-eval's version."""
    return version("lm_eval")


def tasks_root() -> Path:
    """lm-eval's folder of tasks."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "tasks"


@cache
def read_task(name: str, file: str) -> Task:
    """Read what a plan needs to know of a task."""
    if not file:
        return Task(name, "", "", wikimini.TASK_VERSION, wikimini.TASKS_DIGEST)
    texts: list[str] = []
    config = _read(tasks_root() / file, texts)
    path = str(config.get("dataset_path") or "")
    about = config.get("metadata")
    return Task(
        name,
        file,
        "" if path in FILE_FORMATS else path,
        str(about.get("version", "")) if isinstance(about, dict) else "",
        digests.of(texts),
        str(config.get("dataset_name") or ""),
    )


def find_names(wanted: str) -> tuple[bool, list[str]]:
    """Whether a name is in any of lm-eval's YAML files, and the names that they give. Takes a second; its index takes more."""
    mentioned = False
    names: set[bytes] = set()
    for folder, _, files in os.walk(tasks_root()):
        for file in files:
            if file.endswith(".yaml"):
                text = Path(folder, file).read_bytes()
                mentioned = mentioned or (wanted != "" and os.fsencode(wanted) in text)
                names.update(_NAME.findall(text))
    return mentioned, sorted(name.decode() for name in names)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads `!function` as a name and imports nothing."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def _read(path: Path, texts: list[str]) -> dict[str, Any]:
    """A YAML file merged with what it includes; its own keys win. Appends each file's text to `texts`."""
    text = path.read_text()
    texts.append(text)
    config: dict[str, Any] = yaml.load(text, Loader=_Loader)
    below: dict[str, Any] = {}
    included = config.pop("include", [])
    for name in included if isinstance(included, list) else [included]:
        below |= _read(path.parent / name, texts)
    return below | config
