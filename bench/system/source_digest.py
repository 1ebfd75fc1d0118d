"""Digest of the code that decides a number: by content, whatever its files and modules are called."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache

from bench.system import digests
from bench.system.module_files import find_file

DESCRIPTION = "methods.info"
"""Module of what classes state about themselves. It decides no number."""

FOLDERS = ("bench.inputs", "bench.kernels", "bench.measures", "bench.quantizers", "bench.verify")
"""Of bench, what decides a number. The rest carries numbers about."""


@cache
def digest_source(*modules: str) -> str:
    """sha256 over the code of these modules and of all that they import of `methods`, their own package and FOLDERS.

    Comments, docstrings, imports, what a class states about itself (`methods.info`) and the names of modules do not count:
    a moved file or a mended sentence re-measures nothing, a changed rule does.

    Raises:
        ModuleNotFoundError: one of `modules` is not there.
    """
    contents: dict[str, str] = {}
    queue = list(modules)
    while queue:
        module = queue.pop()
        if module in contents:
            continue
        content, imports = _read(module)
        contents[module] = content
        queue += imports
    return digests.of(sorted(set(contents.values())))


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """A module's content digest, and the modules it imports that are followed."""
    file = find_file(module)
    if file is None:
        raise ModuleNotFoundError(f"no module named {module!r}")
    tree = _absolute(ast.parse(file.read_bytes()), module if file.name == "__init__.py" else module.rpartition(".")[0])
    followed = _imports(tree, _packages_of(module))
    imports = tuple(name for name in followed if name != DESCRIPTION and find_file(name))
    return _content_digest(tree), imports


def _absolute(tree: ast.Module, package: str) -> ast.Module:
    """Write `from .core import f` as from the package's own module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            node.module, node.level = ".".join([*above, *([node.module] if node.module else [])]), 0
    return tree


def _packages_of(module: str) -> tuple[str, ...]:
    package = module.partition(".")[0]
    return ("methods", *FOLDERS) if package == "bench" else ("methods", package)


def _imports(tree: ast.AST, packages: tuple[str, ...]) -> Iterator[str]:
    """Modules at or under `packages` that the code imports, at any level."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and _within(node.module, _roots(packages)):
            for alias in node.names:
                names += _modules_of(node.module, alias.name)
        yield from (name for name in names if _within(name, packages))


def _roots(packages: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({name.partition(".")[0] for name in packages})


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _modules_of(module: str, name: str) -> list[str]:
    """Where `from module import name` leads: a module of a package, or the module from which the package takes it."""
    file = find_file(module)
    if file is None or file.name != "__init__.py":
        return [module]
    if _is_module(module, name):
        return [f"{module}.{name}"]
    for node in ast.walk(_absolute(ast.parse(file.read_bytes()), module)):
        if not isinstance(node, ast.ImportFrom) or not node.module or node.module == module:
            continue
        if any((alias.asname or alias.name) == name for alias in node.names):
            return _modules_of(node.module, name)
    return [module]


def _content_digest(tree: ast.Module) -> str:
    """Of what a module does, without docstrings, imports, and the modules that names are looked up in."""
    modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if _is_module(node.module, alias.name)
    }
    stripped = ast.fix_missing_locations(_Stripper(modules).visit(tree))
    return hashlib.sha256(ast.dump(stripped).encode()).hexdigest()


class _Stripper(ast.NodeTransformer):
    def __init__(self, modules: set[str]) -> None:
        self.modules = modules

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        is_description = ast.unparse(node.annotation) == "ClassVar[MethodInfo]"
        return None if is_description else self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id in self.modules:
            return ast.Name(id=node.attr, ctx=node.ctx)
        return node


def _is_module(package: str, name: str) -> bool:
    return find_file(f"{package}.{name}") is not None
