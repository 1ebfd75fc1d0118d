"""Methods, quantizers and measures by name: built in (bench.catalog.entries), of plug-ins, or in a
file of the user.

A plug-in is imported when it is named or listed, and not before: a run of other methods never runs
its code. A measure is also imported to find the owner of a metric that no measure of this package
declares (bench.catalog.metric_owners).
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, TypeVar

from bench.catalog.declarations import Catalog, CatalogEntry, describe
from bench.catalog.entries import (
    ALIASES,
    CODECS,
    COLUMNS,
    COMMANDS,
    CORPORA,
    EMBEDDINGS,
    ENGINES,
    EXECUTORS,
    EXPORTS,
    HARNESSES,
    MEASURES,
    METHODS,
    QUANTIZERS,
    READERS,
    SERVICES,
    TRACKERS,
)
from bench.system import surroundings
from bench.system.suggest import describe_unknown, shorten
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True
T = TypeVar("T")

SECTIONS: dict[str, Catalog] = {
    "methods": METHODS,
    "measures": MEASURES,
    "quantizers": QUANTIZERS,
    "codecs": CODECS,
    "embeddings": EMBEDDINGS,
    "exports": EXPORTS,
    "readers": READERS,
    "engines": ENGINES,
    "trackers": TRACKERS,
    "executors": EXECUTORS,
    "services": SERVICES,
    "commands": COMMANDS,
    "aliases": ALIASES,
    "corpora": CORPORA,
    "columns": COLUMNS,
    "harnesses": HARNESSES,
}
"""Entries that are built in, by the name that commands and entry-point groups use for them."""
NOUNS = {
    "aliases": "alias",
    "corpora": "corpus",
    "embeddings": "format of embeddings",
    "exports": "format",
    "harnesses": "harness",
}
"""Noun for a name of a section in errors, if it is not the singular of the section."""


_RESERVED: dict[str, Collection[str]] = {}
"""Built-in names of a section that are not in the catalog."""
_NAMED: dict[str, dict[str, str]] = {kind: {} for kind in SECTIONS}
"""FILE:CLASS by name, for classes in files that the user named. FILE is an absolute path, and the
name of the module."""
_SOURCES: dict[str, bytes] = {}
"""Source of each imported file by path."""
_OF_FILES: dict[str, CatalogEntry] = {}
"""Entry of each class of `_NAMED` by FILE:CLASS."""


def reserve(kind: str, names: Collection[str]) -> None:
    """Keep names of a section that are built in, and are not in the catalog, from plug-ins."""
    _RESERVED[kind] = names
    _plugins.cache_clear()


def _is_built_in(kind: str, name: str) -> bool:
    return name in SECTIONS[kind] or name in _RESERVED.get(kind, ())


def _entry_points(kind: str) -> Iterable[EntryPoint]:
    found: Iterable[EntryPoint] = _installed_entry_points().select(group=f"cast_bench.{kind}")
    return found


@cache
def _installed_entry_points() -> Any:
    """Return those of all packages, whose files are read once."""
    try:
        return entry_points()
    except (TypeError, ValueError):  # one malformed file is enough, in any package
        for each in distributions():
            try:
                list(each.entry_points)
            except (TypeError, ValueError) as fault:
                raise UserError(
                    f"the entry points of the package {each.name} cannot be read ({fault}): "
                    "reinstall or uninstall it"
                ) from None
        raise


@cache
def _plugins(kind: str) -> dict[str, EntryPoint]:
    """Return the entry point of each plug-in by its name. None can replace a built-in name."""
    found: dict[str, EntryPoint] = {}
    for point in _entry_points(kind):
        if not _is_built_in(kind, point.name):
            found.setdefault(point.name, point)
    return found


def ignored(kind: str) -> list[tuple[str, str]]:
    """Return the name of each entry point that is not used, and why."""
    used, out = _plugins(kind), []
    for point in _entry_points(kind):
        if _is_built_in(kind, point.name):
            out.append(
                (point.name, "the name is built in: rename it in the package's entry points")
            )
        elif point != used[point.name]:
            both = f"{point.value} has the name of {used[point.name].value}"
            out.append(
                (point.name, f"{both}: rename it in the package's entry points, or uninstall one")
            )
    return out


def distribution_of(kind: str, name: str) -> Distribution | None:
    """Return the distribution that provides a name, or None for a built-in or unknown one."""
    return _plugins(kind)[name].dist if name in _plugins(kind) else None


def is_installed(kind: str, name: str) -> bool:
    """Return whether a name is built in, or of a plug-in."""
    return name in SECTIONS[kind] or name in _plugins(kind)


def has_plugins(kind: str) -> bool:
    """Return whether another package or a file adds to a section."""
    return bool(_plugins(kind) or _NAMED[kind])


def names(kind: str) -> list[str]:
    """Return all names: built in, of plug-ins, and of files that the user named. This imports
    none."""
    return [*SECTIONS[kind], *_plugins(kind), *_NAMED[kind]]


def use_file(kind: str, name: str, target: str) -> None:
    """Add a class in a file of the user to the catalog of this process. The file is imported later.

    target: FILE:CLASS. MODULE:CLASS is ignored.
    """
    if target.partition(":")[0].endswith(".py"):
        _NAMED[kind][name] = target


def file_of(kind: str, name: str) -> str:
    """Return FILE:CLASS of a name whose class is in a file of the user, or ""."""
    return _NAMED[kind].get(name, "")


def named_targets() -> set[str]:
    """Return FILE:CLASS of all classes in files that the user named, without codecs."""
    return {
        target for kind in ("methods", "quantizers", "measures") for target in _NAMED[kind].values()
    }


def import_file(path: str) -> ModuleType:
    """Import a file of the user, again if its content changed. Its codecs join the catalog.

    path: absolute, and the name of the module. No bytecode is written. Raise UserError if it cannot
    be imported.
    """
    try:
        source = Path(path).read_bytes()
    except OSError as fault:
        raise UserError(
            f"file {path!r} cannot be read ({fault.strerror}): check the path"
        ) from None
    if _SOURCES.get(path) == source:
        return sys.modules[path]
    stale = [target for target in _OF_FILES if target.partition(":")[0] == path]
    for target in stale:
        del _OF_FILES[target]
    module = ModuleType(path)
    module.__file__ = path
    sys.modules[path] = module
    try:
        with _guest(path, path):
            exec(compile(source, path, "exec"), vars(module))
    except BaseException:
        sys.modules.pop(path, None)
        _SOURCES.pop(path, None)
        raise
    _SOURCES[path] = source
    for name, declared in classes_of(path).items():
        codec = getattr(declared, "name", None)
        if (
            isinstance(codec, str)
            and hasattr(declared, "decode")
            and not is_installed("codecs", codec)
        ):
            use_file("codecs", codec, f"{path}:{name}")
    return module


def classes_of(path: str) -> dict[str, type]:
    """Return the classes that an imported file defines, by name and in order."""
    found = vars(import_file(path)).items()
    return {
        name: each for name, each in found if isinstance(each, type) and each.__module__ == path
    }


@cache
def _import_plugin(point: EntryPoint) -> CatalogEntry:
    """Return the entry of a plug-in's class. A plug-in is broken if its class cannot be
    imported."""
    match = EntryPoint.pattern.fullmatch(point.value)
    target = f"{match['module']}:{match['attr']}" if match else point.value
    try:
        with _guest(point.name, target):
            if not match or not match["attr"]:
                raise ValueError(f"its entry point {point.value!r} is not MODULE:CLASS")
            declared = resolve_name(target)
            if not SECTIONS[point.group.removeprefix("cast_bench.")].of_classes:
                return CatalogEntry(target=target, is_plugin=True)
            if not isinstance(declared, type):
                raise TypeError(f"{target} is no class")
            return describe(target, declared, is_plugin=True)
    except UserError as fault:
        return CatalogEntry(target=target, is_plugin=True, broken=str(fault))


def _entry_of_file(target: str) -> CatalogEntry:
    """Return the entry of a class in a file of the user. Raise UserError if it cannot be used."""
    if target not in _OF_FILES:
        path, _, name = target.partition(":")
        if name not in (defined := classes_of(path)):
            raise UserError(describe_unknown(f"class of {path}", name, defined))
        with _guest(path, path):
            _OF_FILES[target] = describe(target, defined[name], is_plugin=True)
    return _OF_FILES[target]


def entries(kind: str) -> dict[str, CatalogEntry]:
    """Return all entries of a section. This imports every plug-in."""
    theirs = {name: _import_plugin(point) for name, point in _plugins(kind).items()}
    named = {name: _entry_of_file(target) for name, target in _NAMED[kind].items()}
    return {**SECTIONS[kind], **theirs, **named}


def lookup(kind: str, name: str) -> CatalogEntry:
    """Return the entry of a name. A plug-in is imported. Raise UserError if it is broken, or the
    name is unknown."""
    built_in, plugins = SECTIONS[kind], _plugins(kind)
    if name in built_in:
        return built_in[name]
    target = file_of(kind, name)
    if target:
        return _entry_of_file(target)
    if name not in plugins:
        if name.endswith(".py"):
            raise UserError(
                f"{shorten(name)!r} is a file, not a name: only --methods, --quant and --measures "
                "take a file. Elsewhere, install its class as an entry point of group "
                f"cast_bench.{kind} (docs/adding.md)"
            )
        if kind == "services":
            raise UserError(
                f"nothing here provides {name!r}: restore the folder of bench/parts/ that does, or "
                "install a package that has it as an entry point of group cast_bench.services"
            )
        raise UserError(
            describe_unknown(NOUNS.get(kind, kind.removesuffix("s")), name, names(kind))
        )
    entry = _import_plugin(plugins[name])
    if entry.broken:
        raise UserError(entry.broken)
    return entry


def load(entry: CatalogEntry) -> Any:
    """Import the class or object of an entry. Raise UserError if a plug-in cannot be imported."""
    if entry.module.endswith(".py"):
        return classes_of(entry.module)[entry.target.partition(":")[2]]
    with guarded(entry):
        return resolve_name(entry.target)


def build(kind: str, name: str, base: type[T]) -> T:
    """Return an object of the class behind a name. Raise UserError if it cannot be made, or is of
    another base."""
    entry = lookup(kind, name)
    with guarded(entry):
        made = load(entry)()
        if not isinstance(made, base):
            raise TypeError(
                f"{entry.target} does not derive from {base.__module__}.{base.__qualname__}"
            )
        return made


def fill_in(text: str) -> str:
    """Replace the name of a section in braces, such as {exports}, by a sentence about each of its
    names."""
    for kind in SECTIONS:
        if f"{{{kind}}}" in text:
            usable = {name: entry for name, entry in entries(kind).items() if not entry.broken}
            said = [": ".join(filter(None, (name, e.about))) + "." for name, e in usable.items()]
            text = text.replace(f"{{{kind}}}", " ".join(said))
    return text


class PluginFault(UserError):
    """Code of a plug-in failed."""


def guarded(entry: CatalogEntry) -> AbstractContextManager[None]:
    """Guard code of an entry that runs in this process, if a plug-in provides it."""
    return _guest(entry.target, entry.target) if entry.is_plugin else nullcontext()


@contextlib.contextmanager
def _guest(name: str, target: str) -> Iterator[None]:
    """Run the code of a plug-in, whose prints go to stderr. Put back what it changes of this
    process. Raise UserError in place of what it raises.

    target: MODULE:CLASS, to find the line of the plug-in that failed.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr), surroundings.kept():
            yield
    except UserError:
        raise
    except BaseException as fault:
        if isinstance(fault, KeyboardInterrupt) or (
            isinstance(fault, SystemExit) and type(fault) is not SystemExit
        ):
            raise  # ours, for a signal
        why = f"{type(fault).__name__}: " + " ".join(str(fault).split()) + _place(fault, target)
        if target.partition(":")[0].endswith(".py"):
            raise PluginFault(
                f"file {target.partition(':')[0]!r} cannot be used ({why}): repair it"
            ) from fault
        raise PluginFault(
            f"plug-in {name!r} cannot be used ({why}): repair or uninstall it"
        ) from fault


def _place(fault: BaseException, target: str) -> str:
    """Return the last line that ran in the plug-in's package, or "" if none did."""
    package = target.partition(":")[0].partition(".")[0]
    lines = [
        f", {Path(frame.f_code.co_filename).name} line {number}"
        for frame, number in traceback.walk_tb(fault.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return lines[-1] if lines else ""
