"""Methods, quantizers and measures by name: those built in (bench.catalog.entries), and those of plug-ins.

A plug-in is imported when it is named or listed, and not before: a run of other methods never runs its code.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, NamedTuple

from bench.catalog.declarations import Catalog, CatalogEntry, describe
from bench.catalog.entries import MEASURES, METHODS, QUANTIZERS
from bench.system.suggest import describe_unknown, shorten
from methods.errors import UserError


class CatalogSection(NamedTuple):
    """One kind of entry: the word for a single one, and those that are built in."""

    noun: str
    built_in: Catalog


SECTIONS = {
    "methods": CatalogSection("method", METHODS),
    "measures": CatalogSection("measure", MEASURES),
    "quantizers": CatalogSection("quantizer", QUANTIZERS),
}
"""Sections by the name that commands and entry-point groups use."""


TARGET = re.compile(r"([\w.]+)\s*:\s*(\w+)\s*(\[.*\])?")
"""Pattern of an entry point's value: module, class and extras."""


@cache
def _plugins(kind: str) -> dict[str, tuple[str, Distribution]]:
    """Return the entry-point value and the distribution of each plug-in by its name. None can replace a built-in name."""
    found: dict[str, tuple[str, Distribution]] = {}
    for installed in distributions():
        for name, value in _entry_points(installed, f"cast_bench.{kind}"):
            if name not in SECTIONS[kind].built_in:
                found.setdefault(name, (value, installed))
    return found


def _plugin_targets(kind: str) -> dict[str, str]:
    """Return the entry-point value of each plug-in by its name."""
    return {name: value for name, (value, _) in _plugins(kind).items()}


def distribution_of(kind: str, name: str) -> Distribution | None:
    """Return the distribution that provides a name, or None for a built-in or unknown one."""
    return _plugins(kind)[name][1] if name in _plugins(kind) else None


def _entry_points(installed: Distribution, group: str) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each entry point of a group.

    `importlib.metadata.entry_points` reads the files of all distributions, and raises at the first malformed line.
    """
    try:
        text = installed.read_text("entry_points.txt") or ""
    except UnicodeDecodeError as fault:
        text = fault.object.decode(errors="replace")
    except OSError:
        return
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif section == group and line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


@cache
def _import_plugin(name: str, value: str) -> CatalogEntry:
    """Return the entry of a plug-in's class. A plug-in is broken if its class cannot be imported."""
    match = TARGET.fullmatch(value)
    target = f"{match[1]}:{match[2]}" if match else value
    try:
        with _guest(name, target):
            if not match:
                raise ValueError(f"its entry point {value!r} is not MODULE:CLASS")
            if not isinstance(declared := _import(target), type):
                raise TypeError(f"{target} is no class")
            return describe(target, declared, is_plugin=True)
    except UserError as fault:
        return CatalogEntry(target=target, is_plugin=True, broken=str(fault))


def forget_plugins() -> None:
    """Look for plug-ins again when the next name is looked up."""
    _plugins.cache_clear()
    _import_plugin.cache_clear()


def entries(kind: str) -> dict[str, CatalogEntry]:
    """Return all entries of "methods", "measures" or "quantizers". This imports every plug-in."""
    theirs = {name: _import_plugin(name, target) for name, target in _plugin_targets(kind).items()}
    return {**SECTIONS[kind].built_in, **theirs}


def lookup(kind: str, name: str) -> CatalogEntry:
    """Return the entry of a name. A plug-in is imported to read what it declares.

    Raises:
        UserError: unknown, with the nearest known names; a file; or broken, with the reason.
    """
    built_in, targets = SECTIONS[kind].built_in, _plugin_targets(kind)
    if name in built_in:
        return built_in[name]
    if name not in targets and name.endswith(".py"):
        raise UserError(
            f"{shorten(name)!r} is a file, not a name: register its class as an entry point of group cast_bench.{kind}, "
            "and install it (docs/adding.md, A method outside this repository)"
        )
    if name not in targets:
        raise UserError(describe_unknown(SECTIONS[kind].noun, name, [*built_in, *targets]))
    entry = _import_plugin(name, targets[name])
    if entry.broken:
        raise UserError(entry.broken)
    return entry


def load(entry: CatalogEntry) -> Any:
    """Import the class of an entry. Raise UserError if a plug-in cannot be imported."""
    with guarded(entry):
        return _import(entry.target)


def guarded(entry: CatalogEntry) -> AbstractContextManager[None]:
    """Guard code of an entry that runs in this process, if a plug-in provides it."""
    return _guest(entry.target, entry.target) if entry.is_plugin else nullcontext()


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def _guest(name: str, target: str) -> Iterator[None]:
    """Run the code of a plug-in, whose prints go to stderr. Raise UserError in place of what it raises.

    target: MODULE:CLASS, to find the line of the plug-in that failed.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UserError:
        raise
    except BaseException as fault:
        if isinstance(fault, KeyboardInterrupt) or (isinstance(fault, SystemExit) and type(fault) is not SystemExit):
            raise  # ours, for a signal
        why = f"{type(fault).__name__}: " + " ".join(str(fault).split()) + _place(fault, target)
        raise UserError(f"plug-in {name!r} cannot be used ({why}): repair or uninstall it") from fault


def _place(fault: BaseException, target: str) -> str:
    """Return the last line that ran in the plug-in's package, or "" if none did."""
    package = re.split("[.:]", target)[0]
    lines = [
        f", {Path(frame.f_code.co_filename).name} line {number}"
        for frame, number in traceback.walk_tb(fault.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return lines[-1] if lines else ""
