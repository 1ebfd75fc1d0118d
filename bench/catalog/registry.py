"""Methods, quantizers and measures by name: those built in (bench.catalog.entries), and those of plug-ins.

A plug-in is imported when it is named or listed, and not before: a run of other methods never runs its code. A measure is also
imported to find the owner of a metric that no measure of this package declares (bench.catalog.metric_owners).
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from bench.catalog.declarations import Catalog, CatalogEntry, describe
from bench.catalog.entries import CODECS, EXPORTS, MEASURES, METHODS, QUANTIZERS, READERS, TRACKERS
from bench.system.suggest import describe_unknown, shorten
from methods.errors import UserError

DECIDES_NO_NUMBER = True
T = TypeVar("T")

SECTIONS: dict[str, Catalog] = {
    "methods": METHODS,
    "measures": MEASURES,
    "quantizers": QUANTIZERS,
    "codecs": CODECS,
    "exports": EXPORTS,
    "readers": READERS,
    "trackers": TRACKERS,
}
"""Entries that are built in, by the name that commands and entry-point groups use for them."""
NOUNS = {"exports": "format"}
"""Noun for a name of a section in errors, if it is not the singular of the section."""


@cache
def _plugins(kind: str) -> dict[str, EntryPoint]:
    """Return the entry point of each plug-in by its name. None can replace a built-in name."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"cast_bench.{kind}"):
        if point.name not in SECTIONS[kind]:
            found.setdefault(point.name, point)
    return found


def ignored(kind: str) -> list[tuple[str, str]]:
    """Return the name of each entry point that is not used, and why."""
    used, out = _plugins(kind), []
    for point in entry_points(group=f"cast_bench.{kind}"):
        if point.name in SECTIONS[kind]:
            out.append((point.name, "the name is built in: rename it in the package's entry points"))
        elif point != used[point.name]:
            both = f"{point.value} has the name of {used[point.name].value}"
            out.append((point.name, f"{both}: rename it in the package's entry points, or uninstall one"))
    return out


def distribution_of(kind: str, name: str) -> Distribution | None:
    """Return the distribution that provides a name, or None for a built-in or unknown one."""
    return _plugins(kind)[name].dist if name in _plugins(kind) else None


def names(kind: str) -> list[str]:
    """Return all names, built in and of plug-ins, none of which is imported."""
    return [*SECTIONS[kind], *_plugins(kind)]


@cache
def _import_plugin(point: EntryPoint) -> CatalogEntry:
    """Return the entry of a plug-in's class. A plug-in is broken if its class cannot be imported."""
    match = EntryPoint.pattern.fullmatch(point.value)
    target = f"{match['module']}:{match['attr']}" if match else point.value
    try:
        with _guest(point.name, target):
            if not match or not match["attr"]:
                raise ValueError(f"its entry point {point.value!r} is not MODULE:CLASS")
            if not isinstance(declared := resolve_name(target), type):
                raise TypeError(f"{target} is no class")
            return describe(target, declared, is_plugin=True)
    except UserError as fault:
        return CatalogEntry(target=target, is_plugin=True, broken=str(fault))


def entries(kind: str) -> dict[str, CatalogEntry]:
    """Return all entries of a section. This imports every plug-in."""
    theirs = {name: _import_plugin(point) for name, point in _plugins(kind).items()}
    return {**SECTIONS[kind], **theirs}


def lookup(kind: str, name: str) -> CatalogEntry:
    """Return the entry of a name. A plug-in is imported. Raise UserError if it is broken, or the name is unknown."""
    built_in, plugins = SECTIONS[kind], _plugins(kind)
    if name in built_in:
        return built_in[name]
    if name not in plugins:
        if name.endswith(".py"):
            raise UserError(
                f"{shorten(name)!r} is a file, not a name: register its class as an entry point of group cast_bench.{kind}, "
                "and install it (docs/adding.md, A method outside this repository)"
            )
        raise UserError(describe_unknown(NOUNS.get(kind, kind.removesuffix("s")), name, [*built_in, *plugins]))
    entry = _import_plugin(plugins[name])
    if entry.broken:
        raise UserError(entry.broken)
    return entry


def load(entry: CatalogEntry) -> Any:
    """Import the class of an entry. Raise UserError if a plug-in cannot be imported."""
    with guarded(entry):
        return resolve_name(entry.target)


def build(kind: str, name: str, base: type[T]) -> T:
    """Return an object of the class behind a name. Raise UserError if it cannot be made, or is of another base."""
    entry = lookup(kind, name)
    with guarded(entry):
        made = resolve_name(entry.target)()
        if not isinstance(made, base):
            raise TypeError(f"{entry.target} does not derive from {base.__module__}.{base.__qualname__}")
        return made


def fill_in(text: str) -> str:
    """Replace the name of a section in braces, such as {exports}, by a sentence about each of its names."""
    for kind in SECTIONS:
        if f"{{{kind}}}" in text:
            usable = {name: entry for name, entry in entries(kind).items() if not entry.broken}
            said = [f"{name}: {entry.about}." if entry.about else f"{name}." for name, entry in usable.items()]
            text = text.replace(f"{{{kind}}}", " ".join(said))
    return text


def guarded(entry: CatalogEntry) -> AbstractContextManager[None]:
    """Guard code of an entry that runs in this process, if a plug-in provides it."""
    return _guest(entry.target, entry.target) if entry.is_plugin else nullcontext()


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
    package = target.partition(":")[0].partition(".")[0]
    lines = [
        f", {Path(frame.f_code.co_filename).name} line {number}"
        for frame, number in traceback.walk_tb(fault.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return lines[-1] if lines else ""
