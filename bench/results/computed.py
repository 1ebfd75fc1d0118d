"""Answers that this machine has computed before, so that a report computes what is new.

They are in the user's cache, which no results folder can write. The name of each is the sha256 of
all that decides it: digests of records, and the bytes of the module that asks and of what it
imports. A record with another content has another name, so an answer cannot be brought along with a
submission.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.catalog import registry
from bench.catalog.parts import found_parts
from bench.results.record import Record
from bench.system import provenance
from bench.system.cache import cache_dir
from bench.system.interpreter import OWN_PACKAGES
from bench.system.module_files import find_file

DECIDES_NO_NUMBER = True

PART = "computed"
"""Folder in the cache."""
LIBRARIES = ("numpy", "scipy", "pyarrow", "pydantic", "matplotlib")
"""Libraries that decide an answer."""
VARIABLES = ("NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE")
"""Variables that choose other kernels for a sum."""
IMPORT = re.compile(r"^[ \t]*(?:from ([\w.]+) import (\([^)]*\)|[^\n]*)|import ([\w.]+))", re.M)
"""An import of our own code, which has neither relative imports nor several in one statement."""
BATCH = 2000
"""New answers from which they are written."""


class Memory:
    """Answers in a file, by name. A file that cannot be used holds nothing."""

    def __init__(self, path: Path | None) -> None:
        """path: None: remember nothing."""
        self._new: dict[str, str] = {}
        self._path = path
        self._known = _open(path) if path else None

    def get(self, *about: Any) -> Any:
        """Return the answer to what these JSON values describe, or None."""
        name = _name(about)
        text = self._new.get(name)
        if text is None and self._known is not None:
            with contextlib.suppress(sqlite3.Error):
                found = self._known.execute("SELECT text FROM answers WHERE name = ?", (name,))
                text = next((row[0] for row in found), None)
        return None if text is None else json.loads(text)

    def put(self, answer: Any, *about: Any) -> None:
        """Remember an answer, which must be JSON and not None."""
        if self._known is not None:
            self._new[_name(about)] = json.dumps(answer)
            if len(self._new) >= BATCH:
                self.save()

    def save(self) -> None:
        """Write what is new."""
        if self._known is None or not self._new:
            return
        with contextlib.suppress(sqlite3.Error), self._known:
            self._known.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)", self._new.items()
            )
        self._new.clear()


def memory(module: str) -> Memory:
    """Return the answers of a module's code. They are none if plug-ins take part, whose code may
    change without a new version."""
    if any(map(registry.has_plugins, ("measures", "columns"))):
        return _memory(None, 0)
    return _memory(cache_dir() / PART / f"{_code(module)}.sqlite", os.getpid())


def recall(
    module: str, records: Iterable[Record], about: Sequence[Any], compute: Callable[[], Any]
) -> Any:
    """Return what `compute` gives, or has given before for the same records.

    about: what else decides the answer. Both are JSON. The answer is not None.
    """
    digests = [record.digest for record in records]
    if not all(digests):
        return compute()
    known = memory(module)
    answer = known.get(about, digests)
    if answer is None:
        answer = compute()
        known.put(answer, about, digests)
    return answer


def save() -> None:
    """Write what is new in all memories of this process."""
    for one in _opened:
        one.save()


_opened: list[Memory] = []


@cache
def _memory(path: Path | None, _process: int) -> Memory:
    """Return the memory of a file in one process. A fork opens the file again."""
    _opened.append(Memory(path))
    return _opened[-1]


def _name(about: tuple[Any, ...]) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


@cache
def _code(module: str) -> str:
    """Return a sha256 of a module's code, of the libraries and of the processor."""
    digest = hashlib.sha256()
    for name, content in sorted(_closure(module).items()):
        digest.update(name.encode() + b"\0" + content)
    about = [sys.version, provenance.processor(), *map(version, LIBRARIES)]
    about += [str(os.environ.get(name)) for name in VARIABLES]
    digest.update(json.dumps(about).encode())
    return digest.hexdigest()[:32]


def _closure(module: str) -> dict[str, bytes]:
    """Return the sha256 of a module's file, of what the catalog loads when numbers are derived, and
    of all that they import of this distribution, by name. An import in a function or a docstring
    counts."""
    files: dict[str, bytes] = {}
    measures = [entry.module for entry in registry.entries("measures").values()]
    parts = [part.__name__ for part in found_parts().values()]
    queue = [module, *measures, *parts]
    seen: set[str] = set()
    while queue:
        name = queue.pop()
        if name in seen or name.partition(".")[0] not in OWN_PACKAGES:
            continue
        seen.add(name)
        content, imported = _read_module(name)
        if content:
            files[name] = content
            queue += imported
    return files


@cache
def _read_module(name: str) -> tuple[bytes, list[str]]:
    """Return the sha256 of a module's file, b"" if it has none, and all names that may be modules
    which it imports."""
    file = find_file(name)
    if file is None:
        return b"", []
    content, names = file.read_bytes(), []
    for source, some, plain in IMPORT.findall(content.decode()):
        names += [source or plain, *(f"{source}.{one}" for one in re.findall(r"\w+", some))]
    return hashlib.sha256(content).digest(), names


def _open(path: Path) -> sqlite3.Connection | None:
    """Open a file of answers, or return None."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = sqlite3.connect(path, timeout=5)
        known.execute("PRAGMA synchronous = OFF")
        known.execute("CREATE TABLE IF NOT EXISTS answers (name TEXT PRIMARY KEY, text TEXT)")
    except (OSError, sqlite3.Error):
        return None
    return known
