"""Digest of the code that decides a number. It depends on the code, not on names of files and modules."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache

from bench.system import digests
from bench.system.module_files import find_file

DESCRIPTION = "methods.info"
"""Module of the facts that classes state about themselves. It decides no number."""

FOLDERS = ("bench.formats", "bench.inputs", "bench.kernels", "bench.measures", "bench.quantizers", "bench.verify")
"""Packages and modules of bench that decide numbers. The others only store and show them."""


@cache
def digest_source(*modules: str) -> str:
    """Return a sha256 of the code of modules, and of what they import from `methods`, their own package and FOLDERS.

    Comments, docstrings, imports, facts that a class states about itself (`methods.info`) and names of modules do not
    count. So a renamed file or a better sentence keeps every key, and a changed rule changes the keys that depend on it.

    Raises:
        ModuleNotFoundError: a module does not exist.
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


def digest_modules(*modules: str) -> str:
    """Return a sha256 of the code of modules, without what they import."""
    return digests.of([_read(module)[0] for module in modules])


def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """Return the content digest of a module, and the imported modules that count too."""
    file = find_file(module)
    if file is None:
        raise ModuleNotFoundError(f"no module named {module!r}")
    return _parse(module, module if file.name == "__init__.py" else module.rpartition(".")[0], file.read_bytes())


@cache
def _parse(module: str, package: str, source: bytes) -> tuple[str, tuple[str, ...]]:
    tree = _absolute(ast.parse(source), package)
    followed = _imports(tree, _packages_of(module))
    imports = tuple(name for name in followed if name != DESCRIPTION and find_file(name))
    return _content_digest(tree), imports


def _absolute(tree: ast.Module, package: str) -> ast.Module:
    """Replace relative imports by absolute ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            node.module, node.level = ".".join([*above, *([node.module] if node.module else [])]), 0
    return tree


def _packages_of(module: str) -> tuple[str, ...]:
    package = module.partition(".")[0]
    return ("methods", *FOLDERS) if package == "bench" else ("methods", package)


def _imports(tree: ast.AST, packages: tuple[str, ...]) -> Iterator[str]:
    """Yield imported modules at or under `packages`, including imports inside functions."""
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
    """Return the module that `from module import name` reads. A package may import the name from another module."""
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
    """Return a digest of what a module does, without docstrings, imports, and the modules that names are read from."""
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
        is_description = ast.unparse(node.annotation) in ("ClassVar[MethodInfo]", "ClassVar[MeasureInfo]")
        return None if is_description else self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id in self.modules:
            return ast.Name(id=node.attr, ctx=node.ctx)
        return node


def _is_module(package: str, name: str) -> bool:
    return find_file(f"{package}.{name}") is not None
