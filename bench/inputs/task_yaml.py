"""Descriptions of tasks, read from the YAML files of lm-eval without importing it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.inputs import wikimini
from bench.system import digests
from methods.contract.errors import UserError

FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Values of `dataset_path` that mean local files instead of a hub id."""

GENERATED = 256
"""Largest number of tokens that lm-eval generates for a task that does not say."""

_NAME = re.compile(rb"^(task|group|tag):[ \t]*['\"]?([A-Za-z0-9_.-]+)", re.MULTILINE)
_FUNCTION = re.compile(r"!function\s+['\"]?([\w.]+)")


class Task(NamedTuple):
    """A zero-shot task."""

    name: str
    file: str
    """Path of the YAML file in the folder of lm-eval's tasks, or the whole path of a user's; "" for
    tasks of this package."""
    hub: str
    """Hub id of the data; "" for data that is not on the hub."""
    version: str
    digest: str
    """Digest of the YAML file and its includes; for a user's file also of its local data and of the
    code beside it."""
    config: str = ""
    """Configuration of the data set, or ""."""
    shots: int | None = None
    """Number of examples that the file names, or None."""
    split: str = ""
    """Name of the split with the questions."""
    files: tuple[str, ...] = ()
    """Local files that the file names for this split."""
    prompt: str = ""
    """Template of a question, or the name of a field or of a function; "" for another
    description."""
    generates: int = 0
    """Largest number of tokens in an answer; 0 if the task generates none."""


def tasks_root() -> Path:
    """Return the folder with the tasks of lm-eval."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "tasks"


@cache
def read_task(name: str, file: str) -> Task:
    """Read the description of a task. Refuse local files that do not exist."""
    if not file:
        return Task(name, "", "", wikimini.TASK_VERSION, wikimini.TASKS_DIGEST)
    read: list[tuple[Path, str]] = []
    config = _read(tasks_root() / file, read)
    texts = [text for _, text in read]
    kwargs = config.get("dataset_kwargs")
    remote = "://" in json.dumps(kwargs, default=str)
    path = _text(config, "dataset_path")
    about = config.get("metadata")
    version = about.get("version", "") if isinstance(about, dict) else ""
    shots = config.get("num_fewshot")
    if Path(file).is_absolute():
        texts += [digests.of_file(used) for used in (*_data_files(config), *_code_files(read))]
    split = _text(config, "test_split") or _text(config, "validation_split")
    files = tuple(map(str, _data_files(config, split)))
    if Path(file).is_absolute() and path in FILE_FORMATS and kwargs and not files and not remote:
        of = f" for its split {split!r}" if split else ""
        raise UserError(f"task file {file!r} names no file that exists{of}: correct dataset_kwargs")
    return Task(
        name,
        file,
        hub="" if path in FILE_FORMATS else path,
        version=_version(version),
        digest=digests.of(texts),
        config=_text(config, "dataset_name"),
        shots=shots if type(shots) is int else None,
        split=split,
        files=files,
        prompt=_text(config, "doc_to_text"),
        generates=_most_generated(config),
    )


def _text(config: dict[str, Any], key: str) -> str:
    """Return a text of a task's description; "" for a value of another type."""
    value = config.get(key)
    return value if isinstance(value, str) else ""


def _version(value: Any) -> str:
    is_number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**9)
    return str(value) if is_number or isinstance(value, str) else ""


def most_generated(arguments: str, default: int) -> int:
    """Return the largest number of tokens in an answer by lm-eval's gen_kwargs, or `default`."""
    found = re.search(r"(?:^|,)\s*max_(?:gen_toks|new_tokens)=([0-9]{1,9})", arguments)
    return int(found[1]) if found else default


def _most_generated(config: dict[str, Any]) -> int:
    if config.get("output_type") != "generate_until":
        return 0
    kwargs = config.get("generation_kwargs")
    wanted = kwargs.get("max_gen_toks") if isinstance(kwargs, dict) else None
    return wanted if type(wanted) is int and wanted > 0 else GENERATED


def read_own(path: Path) -> str:
    """Return the name of the task in a user's YAML file. Raise UserError if it cannot be read, or
    has no task."""
    try:
        config = _read(path, [])
        name = config.get("task")
    # The library raises a ValueError or a LookupError for a value that is not of its tag, for
    # example the date 2024-13-45.
    except (
        OSError,
        ValueError,
        LookupError,
        yaml.YAMLError,
        AttributeError,
        TypeError,
        RecursionError,
        MemoryError,
    ) as fault:
        reason = " ".join(str(fault).split()) or type(fault).__name__
        raise UserError(f"task file {str(path)!r} cannot be read ({reason}): correct it") from None
    if not isinstance(name, str) or not name:
        raise UserError(f"task file {str(path)!r} names no task: add a line such as task: my_task")
    return name


def _data_files(config: dict[str, Any], split: str = "") -> Iterator[Path]:
    """Yield the local files that a task's data set, or a split of it, is read from."""
    kwargs = config.get("dataset_kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    named, folder = kwargs.get("data_files"), kwargs.get("data_dir")
    folder = os.path.expanduser(folder) if isinstance(folder, str) else ""  # as datasets does
    if folder and not named and config.get("dataset_path") in FILE_FORMATS:
        named = "**"
    files = named if isinstance(named, dict) else {split: named}
    values = [files.get(split)] if split else files.values()
    for value in values:
        listed = value if isinstance(value, list) else [value]
        for file in listed:
            if isinstance(file, str):
                file = os.path.join(folder, file)
                found = [file] if Path(file).is_file() else sorted(glob(file, recursive=True))
                yield from filter(Path.is_file, map(Path, found))


def _code_files(read: list[tuple[Path, str]]) -> list[Path]:
    """Return the Python files in the folders of the functions that YAML files name. They may import
    each other."""
    named = ((file, name) for file, text in read for name in _FUNCTION.findall(text))
    # lm-eval reads `a.b.function` of a/b.py beside the YAML file.
    folders = {file.parent.joinpath(*name.split(".")[:-2]) for file, name in named}
    return sorted(code for folder in folders for code in folder.glob("*.py") if code.is_file())


class Names(NamedTuple):
    """Result of a search in the YAML files of lm-eval."""

    mentioned: bool
    """True if a file may name a task, group or tag so."""
    every: list[str]
    """Names of all tasks, groups and tags that have a separate line."""
    files: list[str]
    """Paths of the files of a task with the wanted name."""


@cache
def _read_texts(root: Path) -> list[tuple[str, bytes]]:
    """Return the path in the folder, and the text, of every YAML file, also of an included file
    without a dot."""
    paths = [
        Path(folder, file)
        for folder, _, found in os.walk(root)
        for file in found
        if file.endswith("yaml")
    ]
    return [(str(path.relative_to(root)), path.read_bytes()) for path in paths]


def find_names(wanted: str) -> Names:
    """Search the YAML files of lm-eval for a name. This takes a second; lm-eval's index takes
    more."""
    mentioned = False
    names: set[bytes] = set()
    files: list[str] = []
    name = os.fsencode(wanted)
    key = rb"[\"']?(?:task|tag|group)[\"']? *: *(?:\[.*)?"
    value = re.compile(
        rb"(?m)^ *-? *(?:" + key + rb")?[\"']?" + re.escape(name) + rb"[\"']? *(?:[\],#\r]|$)"
    )
    for file, text in _read_texts(tasks_root()):
        names.update(known for _, known in _NAME.findall(text))
        if wanted and name in text:
            mentioned = mentioned or bool(value.search(text))
            if (b"task", name) in _NAME.findall(text) and b"\nclass:" not in text:
                files.append(file)
    return Names(mentioned, sorted(name.decode() for name in names), files)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads `!function` as a name and imports nothing."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def _read(path: Path, read: list[tuple[Path, str]]) -> dict[str, Any]:
    """Read a YAML file with its includes, whose keys it overrides. Append each file and its text to
    `read`."""
    text = path.read_text()
    read.append((path, text))
    config: dict[str, Any] = yaml.load(text, Loader=_Loader) or {}
    below: dict[str, Any] = {}
    included = config.pop("include", [])
    if not isinstance(included, list):
        included = [included]
    for name in included:
        below |= _read(path.parent / name, read)
    return below | config
