"""Declarations of the class behind a name, read from its source, so that a list of names imports no
class."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from bench.system.module_files import find_file
from methods.contract import info, measure_info, rules
from methods.contract.info import Does, Link, MethodInfo
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs


@dataclass(frozen=True, kw_only=True)
class CatalogEntry(MethodInfo):
    """A name of the catalog: its class, and what the class declares."""

    target: str
    """MODULE:CLASS, or "" for a name without a class."""
    about: str = ""
    """First paragraph of the class docstring."""
    needs: tuple[str, ...] = ()
    """Names of its `Needs`, in lower case."""
    shares_calibration: bool = False
    """True if several processes can share its calibration."""
    metrics: tuple[Metric, ...] = ()
    """Metrics that a measure declares."""
    other_metrics: bool = False
    """True if a measure may have further metrics."""
    defaults: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Literal defaults of the fields that its own module declares."""
    is_plugin: bool = False
    """True if another distribution provides it."""
    broken: str = ""
    """Reason for which it cannot be imported; "" if it can."""

    @property
    def module(self) -> str:
        """The module of the class."""
        return self.target.split(":")[0]

    @property
    def trains(self) -> bool:
        """True if it needs training data."""
        return "training" in self.needs

    @property
    def year(self) -> int | None:
        """The year of its paper: the arXiv number begins with it, and a venue ends with it."""
        number = re.match(r"(\d\d)\d\d\.", self.paper)
        venue = re.search(r"\d{4}$", self.paper)
        if number:
            return 2000 + int(number[1])
        return int(venue[0]) if venue else None

    def needs_with(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what it needs with these settings."""
        if self.file and not self.file.required and config.get(self.file.field):
            return ()
        waived = {need for rule in self.rules for need in rule.waives(config)}
        return tuple(need for need in self.needs if need not in waived)

    def link(self, name: str, label: str, config: Mapping[str, Any]) -> Link:
        """Return it as a stage of a chain. label: as the user typed it; config: its settings."""
        return Link(name, label, self, {**self.defaults, **config}, self.trains)


class Catalog(Mapping[str, CatalogEntry]):
    """Entries by name. Each is read from the source of its class when it is first asked for."""

    def __init__(self, names: Mapping[str, str | CatalogEntry], of_classes: bool = True) -> None:
        """names: MODULE:CLASS by name, or the entry of a name that has no class. of_classes: False
        if names stand for functions or other objects, which declare nothing."""
        self._names, self.of_classes = names, of_classes

    def __getitem__(self, name: str) -> CatalogEntry:
        known = self._names[name]
        if isinstance(known, CatalogEntry):
            return known
        return read_source(known) if self.of_classes else CatalogEntry(target=known)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def describe(target: str, declared: Any, *, is_plugin: bool = False) -> CatalogEntry:
    """Return the entry of a class from the attributes that it declares, or raise TypeError if one
    is of another type."""
    needs, stated = (
        getattr(declared, "needs", Needs.NOTHING),
        getattr(declared, "info", MethodInfo()),
    )
    if not isinstance(needs, Needs):
        raise TypeError(
            f"needs={needs!r} must be a Needs of `methods`, for example Needs.CALIBRATION"
        )
    if not isinstance(stated, MethodInfo | MeasureInfo):
        raise TypeError(
            f"info={stated!r} must be a MethodInfo of `methods`, or a MeasureInfo for a measure"
        )
    if is_plugin:
        _check_types(stated)
        derives = any(metric.aggregation == "own" for metric in getattr(stated, "metrics", ()))
        if derives and not hasattr(declared, "derive"):
            raise TypeError(
                "a metric has the aggregation own, but the class has no static method "
                "`derive(metric, record, items)`"
            )
    if isinstance(stated, MethodInfo):
        _require_amounts(stated)
    first = inspect.cleandoc(declared.__doc__ or "").split("\n\n")[0]
    return CatalogEntry(
        target=target,
        about=" ".join(first.split()).removesuffix("."),
        needs=tuple(str(flag.name).lower() for flag in needs),
        shares_calibration=getattr(declared, "shares_calibration", False) is True,
        defaults={name: getattr(declared, name) for name in _fields(declared)},
        is_plugin=is_plugin,
        **vars(stated),
    )


def _check_types(stated: MethodInfo | MeasureInfo) -> None:
    """Raise TypeError if a fact of a plug-in is of another type."""
    from pydantic import TypeAdapter, ValidationError  # the catalog itself starts without it

    try:
        TypeAdapter(type(stated)).validate_python(vars(stated))
        for metric in getattr(stated, "metrics", ()):  # pydantic does not check an instance again
            TypeAdapter(Metric).validate_python(vars(metric))
    except ValidationError as fault:
        wrong = fault.errors()[0]
        raise TypeError(f"{'.'.join(map(str, wrong['loc']))} of info: {wrong['msg']}") from None


def _require_amounts(stated: MethodInfo) -> None:
    """Raise TypeError if a method removes or adds something and does not say how much."""
    for flag, field_name, amounts in (
        (Does.REMOVES, "removes", stated.removes),
        (Does.ADDS, "adds", stated.adds),
    ):
        if bool(amounts) != (flag in stated.does):
            raise TypeError(
                f"info has {field_name}={amounts!r} and {stated.does}: give both Does.{flag.name} "
                f"and {field_name}="
            )


def _fields(declared: Any) -> list[str]:
    """Return the names of the fields that have a default, those of bases too."""
    if is_dataclass(declared):
        return [each.name for each in fields(declared) if hasattr(declared, each.name)]
    return [name for name in vars(declared) if not name.startswith("__")]


@cache
def read_source(target: str) -> CatalogEntry:
    """Return the entry of a class of this project, without importing it. target: MODULE:CLASS."""
    module, _, name = target.partition(":")
    file = find_file(module)
    assert file is not None, f"{target} is not there"
    tree = ast.parse(file.read_bytes())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    declared: dict[str, Any] = {}
    for base in reversed(list(_bases(classes, name))):
        declared |= _attributes(base)
    return describe(target, SimpleNamespace(__doc__=ast.get_docstring(classes[name]), **declared))


def read_help(target: str) -> str:
    """Return the docstring of a function of this project, without importing it; "" for another
    object. target: MODULE:FUNCTION."""
    module, _, name = target.partition(":")
    file = find_file(module)
    assert file is not None, f"{target} is not there"
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
    return ""


def _bases(classes: Mapping[str, ast.ClassDef], name: str) -> Iterator[ast.ClassDef]:
    """Yield the class and those of its bases that are in the same module; bases of other modules
    declare nothing."""
    yield classes[name]
    for base in classes[name].bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from _bases(classes, base.id)


def _attributes(node: ast.ClassDef) -> dict[str, Any]:
    """Return the attributes whose values are literals, `Needs` or expressions of
    `methods.contract.info`, `measure_info` and `rules`."""
    names = vars(info) | vars(measure_info) | vars(rules) | {"Needs": Needs, "__builtins__": {}}
    found = {}
    for statement in node.body:
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value
        ):
            field, value = statement.target.id, statement.value
            if field in ("needs", "info"):
                found[field] = eval(compile(ast.Expression(value), node.name, "eval"), names)
            elif isinstance(value, ast.Constant):
                found[field] = value.value
    return found
