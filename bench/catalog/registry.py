"""Methods, quantizers and measures by name: those built in (bench.catalog.entries), and those of plug-ins."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from bench.catalog import plugins
from bench.catalog.entries import MEASURES, METHODS, QUANTIZERS, Entry
from bench.catalog.plugins import PlugIn
from bench.system.suggest import describe_unknown
from methods.errors import UserError


class Section(NamedTuple):
    """One kind of entry: the word for a single one, and those that are built in."""

    noun: str
    built_in: Mapping[str, Entry]


SECTIONS = {
    "methods": Section("method", METHODS),
    "measures": Section("measure", MEASURES),
    "quantizers": Section("quantizer", QUANTIZERS),
}
"""By the name that commands and entry-point groups use."""


@cache
def _targets(kind: str) -> dict[str, str]:
    """MODULE:CLASS of each plug-in, by its name. A plug-in cannot replace a built-in name."""
    targets: dict[str, str] = {}
    for point in entry_points(group=f"cast_bench.{kind}"):
        if point.name not in SECTIONS[kind].built_in:
            targets.setdefault(point.name, f"{point.module}:{point.attr}")
    return targets


_described: dict[str, PlugIn] = {}
"""Plug-ins that have been imported, by their targets."""


def _describe(targets: Iterable[str], limit_s: float) -> None:
    _described.update(plugins.describe([t for t in targets if t not in _described], limit_s))


def forget() -> None:
    """Look for plug-ins again, the next time one is asked for."""
    _targets.cache_clear()
    _described.clear()


def entries(kind: str) -> dict[str, Entry]:
    """All entries of a section, "methods", "measures" or "quantizers": those built in, and those of plug-ins.

    Plug-ins are imported to be listed, in processes of their own. One that cannot be imported is listed as broken.
    """
    _describe(_targets(kind).values(), plugins.LIST_S)
    return {**SECTIONS[kind].built_in, **{name: _entry(target) for name, target in _targets(kind).items()}}


def all_entries() -> dict[str, dict[str, Entry]]:
    """The entries of each section."""
    _describe([target for kind in SECTIONS for target in _targets(kind).values()], plugins.LIST_S)
    return {kind: entries(kind) for kind in SECTIONS}


def _entry(target: str) -> Entry:
    plugin = _described.get(target, PlugIn(target))
    return Entry(
        target,
        plugin.needs,
        plugin.about,
        shares_calibration=plugin.shares_calibration,
        broken=plugin.broken,
        plugin=plugin,
    )


def lookup(kind: str, name: str) -> Entry:
    """The entry of a name. If it is a plug-in it is imported, in a process of its own, to know its needs.

    Raises:
        UserError: unknown, with the nearest known names; or broken, with the reason.
    """
    if name not in SECTIONS[kind].built_in and name in _targets(kind):
        _describe([_targets(kind)[name]], plugins.USE_S)
    entry = lookup_without_import(kind, name)
    if entry.broken:
        raise UserError(f"plug-in {name!r} cannot be loaded ({entry.broken}): repair or uninstall it")
    return entry


def lookup_without_import(kind: str, name: str) -> Entry:
    """The entry of a name, which imports nothing: of a plug-in that was not looked up before, `target` alone is known.

    Raises:
        UserError: unknown, with the nearest known names.
    """
    built_in, targets = SECTIONS[kind].built_in, _targets(kind)
    if name in built_in:
        return built_in[name]
    if name in targets:
        return _entry(targets[name])
    raise UserError(describe_unknown(SECTIONS[kind].noun, name, [*built_in, *targets]))


def load(entry: Entry) -> Any:
    """The class behind an entry.

    Raises:
        UserError: a plug-in that cannot be imported.
    """
    module, _, name = entry.target.partition(":")
    with guarded(entry):
        return getattr(importlib.import_module(module), name)


def guarded(entry: Entry) -> AbstractContextManager[None]:
    """For code of an entry that runs in this process: a plug-in's fault becomes a sentence, and its output no result."""
    return plugins.as_guest(entry.target) if entry.plugin else nullcontext()
