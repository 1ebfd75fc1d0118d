"""Methods, quantizers and measures in a file that the user names: FILE.py[:CLASS][:FIELD=VALUE]...

The first word after the file that has no "=" is the class. Without one, it is the first class of
the kind that the file defines. The row has the `name` of the class. Only the settings of a run go
through this module: a record never names a file that is run.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import keyword
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.catalog import metric_owners, registry
from bench.catalog.choice import CONTRACT_FIELDS, parse_value
from bench.system.suggest import describe_unknown, shorten
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True

WANTED = {
    "methods": "a frozen dataclass with a method apply(self, model, job)",
    "quantizers": "a frozen dataclass with a method apply(self, model, job)",
    "measures": "a frozen dataclass with a method read or reader",
}
"""Classes of each kind, in words."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

TYPED = re.compile(r"[^-:,+=][^:,+=]*\.py:\w+")
"""FILE:CLASS that a printed command may name."""


def is_file(text: str) -> bool:
    """Return whether a typed text begins with a Python file."""
    return text.partition(":")[0].endswith(".py")


def names_file(text: str) -> bool:
    """Return whether `with_names` would import a file for a text."""
    return is_file(text) or bool(re.search(r"(from=|\+)[^:+/]*\.py(?![^:+/])", text))


def with_names(kind: str, texts: Iterable[str]) -> tuple[str, ...]:
    """Return the methods, quantizers or measures of a run with names of classes in place of files.

    From then on the catalog of this process has these names. Raise UserError if a file or class
    cannot be used, or its name is taken.
    """
    taken: dict[str, str] = {}
    return tuple(_with_name(kind, text, taken) for text in texts)


def _with_name(kind: str, text: str, taken: dict[str, str]) -> str:
    options = text.split(":")
    if options[0].endswith(".py"):
        file = options.pop(0)
        wanted = options.pop(0) if options and "=" not in options[0] else ""
        if kind == "measures" and options:
            raise UserError(
                f"invalid {text}: the settings of a measure are in tables of the run: leave "
                f"{options[0]} out"
            )
        options = [_name_of(kind, file, wanted, taken), *options]
    for place, option in enumerate(options):
        if option.startswith("from=") and kind == "methods":
            stages = option.removeprefix("from=").split("+")
            options[place] = "from=" + "+".join(
                _stage_with_name(kind, stage, taken) for stage in stages
            )
    return ":".join(options)


def _stage_with_name(kind: str, stage: str, taken: dict[str, str]) -> str:
    """Return a stage of `from=`. A slash begins its settings, so its file has no folder."""
    first, *rest = stage.split("/")
    if not first.endswith(".py"):
        return stage
    return _with_name(kind, ":".join([first, *rest]), taken).replace(":", "/")


def _name_of(kind: str, file: str, wanted: str, taken: dict[str, str]) -> str:
    """Return the name of a class in a file, and add it to the catalog.

    taken: FILE:CLASS of the other names of the run.
    """
    path = os.path.abspath(file)
    registry.import_file(path)
    declared = _find_class(kind, file, path, wanted)
    name, target = getattr(declared, "name", None), f"{path}:{declared.__name__}"
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == "none":
        raise UserError(
            f"{declared.__name__} of {file} has no name for its row: give it name: ClassVar[str] "
            "of letters, digits, _ . and -"
        )
    if registry.is_installed(kind, name):
        raise UserError(
            f"{declared.__name__} of {file} has the name {name!r}, which is taken: give it "
            "another name"
        )
    other = taken.setdefault(name, target)
    if other != target:
        raise UserError(
            f"{other} and {target} both have the name {name!r}: give one of them another name"
        )
    registry.use_file(kind, name, target)
    registry.lookup(kind, name)
    if kind == "measures":
        metric_owners.of_plugins.cache_clear()
    return name


def _find_class(kind: str, file: str, path: str, wanted: str) -> type:
    """Return the class with the name `wanted`, or the first of a kind."""
    defined = registry.classes_of(path)
    if not wanted:
        fitting = [each for each in defined.values() if fits(kind, each)]
        if not fitting:
            raise UserError(f"{file} defines no {kind.removesuffix('s')}: write {WANTED[kind]}")
        return fitting[0]
    if wanted not in defined:
        raise UserError(describe_unknown(f"class of {file}", wanted, defined))
    if not fits(kind, defined[wanted]):
        raise UserError(
            f"{wanted} of {file} is no {kind.removesuffix('s')}: it must be {WANTED[kind]}"
        )
    return defined[wanted]


def fits(kind: str, declared: type) -> bool:
    """Return whether a class is a method or quantizer, or a measure."""
    if not getattr(
        getattr(declared, "__dataclass_params__", None), "frozen", False
    ) or inspect.isabstract(declared):
        return False
    methods = ("read", "reader") if kind == "measures" else ("apply",)
    return any(callable(getattr(declared, method, None)) for method in methods)


def text_of(kind: str, value: Any) -> str:
    """Return what a user types for a class, or an instance with its settings. Text does not change.

    Raise UserError if the class is in no file, or a setting cannot be typed.
    """
    if isinstance(value, str):
        return value
    declared = value if isinstance(value, type) else type(value)
    if not fits(kind, declared):
        raise UserError(
            f"{shorten(repr(value))} is no {kind.removesuffix('s')}: give a name, or {WANTED[kind]}"
        )
    settings = [] if isinstance(value, type) else _settings(value)
    if kind == "measures" and settings:
        raise UserError(
            f"{declared.__name__} has settings, and those of a measure are in tables of the run: "
            "give the class"
        )
    name, target = (
        str(getattr(declared, "name", "")),
        f"{declared.__module__}:{declared.__qualname__}",
    )
    is_known = registry.is_installed(kind, name) and registry.lookup(kind, name).target == target
    if not is_known:
        name = _place_of(declared)
    return ":".join([name, *settings])


def _place_of(declared: type) -> str:
    """Return FILE:CLASS of a class. Raise UserError if no other process can import it."""
    try:
        file = inspect.getsourcefile(declared) or ""
    except (OSError, TypeError):
        file = ""
    if not file.endswith(".py") or not Path(file).is_file() or "." in declared.__qualname__:
        raise UserError(
            f"class {declared.__name__} is not at the top of a file, and workers import it from "
            f"one: save it in FILE.py, and give {declared.__name__} of that file, or the text "
            f"FILE.py:{declared.__name__}"
        )
    if ":" in os.path.abspath(file):
        raise UserError(f"{file} has a colon in its path, which begins a setting: move it")
    return f"{os.path.abspath(file)}:{declared.__name__}"


def _settings(instance: Any) -> list[str]:
    """Return the fields of an instance that are not defaults, as the user types them."""
    out = []
    for each in dataclasses.fields(instance):
        value = getattr(instance, each.name)
        if not each.init or each.name in CONTRACT_FIELDS or value == each.default:
            continue
        typed = each.name.removesuffix("_")
        typed = typed if keyword.iskeyword(typed) else each.name
        text = value
        try:
            if not isinstance(value, str) or parse_value(value) != value:
                text = json.dumps(value)
        except TypeError:
            text = ":"
        if ":" in text:
            raise UserError(
                f"{typed} of {type(instance).__name__} is {shorten(value)!r}, which cannot be "
                "typed as a setting"
            )
        out.append(f"{typed}={text}")
    return out


def with_files(kind: str, label: str, plugins: Iterable[Mapping[str, Any]]) -> str:
    """Return the label of a record with FILE:CLASS in place of names. plugins: of the record."""
    files = {one["name"]: one["file"] for one in plugins if TYPED.fullmatch(one.get("file") or "")}
    files = {name: file for name, file in files.items() if not registry.is_installed(kind, name)}
    name, colon, rest = label.partition(":")
    others = []
    options = rest.split(":") if colon else []
    for place, option in enumerate(options):
        if not option.startswith("from=") or kind != "methods":
            continue
        stages = []
        for stage in option.removeprefix("from=").split("+"):
            first, slash, settings = stage.partition("/")
            file = files.get(first, "")
            if "/" in file:
                others.append(file)
            elif file:
                first = file.replace(":", "/")
            stages.append(first + slash + settings)
        options[place] = "from=" + "+".join(stages)
    return ",".join([*others, ":".join([files.get(name, name), *options])])
