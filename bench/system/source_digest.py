"""Digest of the code that decides a number. It depends on the code, not on names of files and modules."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache

from bench.system import digests
from bench.system.module_files import find_file
from methods.errors import UserError

DESCRIPTION = "methods.info"
"""Module of the facts that classes state about themselves. It decides no number."""

FOLDERS = ("bench.formats", "bench.inputs", "bench.kernels", "bench.measures", "bench.quantizers", "bench.verify")
"""Packages and modules of bench that decide numbers. The others only store and show them."""


@cache
def digest_source(*modules: str) -> str:
    """Return a sha256 of the code of modules, and of what they import from `methods`, their own package and FOLDERS.

    Comments, docstrings, imports, facts that a class states about itself (`methods.info`) and names of modules do not
    count. So a renamed file or a better sentence keeps every key, and a changed rule changes the keys that depend on it.
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
        raise UserError(
            f"{module} has no Python source, and the key of a number holds its digest: install it as source"
        )
    return _parse(module, module if file.name == "__init__.py" else module.rpartition(".")[0], file.read_bytes())


@cache
def _parse(module: str, package: str, source: bytes) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(source)
    statements = _import_statements(tree, package)
    followed = _imports(statements, module.partition(".")[0])
    imports = tuple(name for name in followed if name != DESCRIPTION and find_file(name))
    return _content_digest(tree, statements), imports


@cache
def _parse_imports(package: str, source: bytes) -> list[ast.Import | ast.ImportFrom]:
    return _import_statements(ast.parse(source), package)


def _import_statements(tree: ast.Module, package: str) -> list[ast.Import | ast.ImportFrom]:
    """Return all imports of a module, those inside functions too. Replace relative imports by absolute ones."""
    found: list[ast.Import | ast.ImportFrom] = []
    blocks: list[ast.AST] = [tree]
    for node in blocks:  # an import is a statement: expressions need no look
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            blocks += getattr(node, field, ())
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            node.module, node.level = ".".join([*above, *([node.module] if node.module else [])]), 0
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
    return found


def _imports(statements: list[ast.Import | ast.ImportFrom], root: str) -> Iterator[str]:
    """Yield imported modules of `methods`, and of the package `root`; of `bench` only those in FOLDERS."""
    packages = ("methods", *(FOLDERS if root == "bench" else (root,)))
    for node in statements:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif node.module and node.module.partition(".")[0] in ("methods", root):
            names = [_module_of(node.module, alias.name) for alias in node.names]
        else:
            continue
        yield from (name for name in names if any(f"{name}.".startswith(f"{package}.") for package in packages))


def _module_of(module: str, name: str) -> str:
    """Return the module that `from module import name` reads. A package may import the name from another module."""
    if _is_module(module, name):
        return f"{module}.{name}"
    file = find_file(module)
    if file is None or file.name != "__init__.py":
        return module
    for node in _parse_imports(module, file.read_bytes()):
        if not isinstance(node, ast.ImportFrom) or not node.module or node.module == module:
            continue
        if any((alias.asname or alias.name) == name for alias in node.names):
            return _module_of(node.module, name)
    return module


def _content_digest(tree: ast.Module, statements: list[ast.Import | ast.ImportFrom]) -> str:
    """Return a digest of what a module does, without docstrings, imports, and the modules that names are read from."""
    modules = {
        alias.asname or alias.name
        for node in statements
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if _is_module(node.module, alias.name)
    }
    return hashlib.sha256(_dump(tree, modules).encode()).hexdigest()


def _dump(node: object, modules: set[str]) -> str:
    """Return what `ast.dump` does of a tree without the statements of `_is_no_code`. A name is read from no module."""
    if isinstance(node, list):
        return f"[{', '.join([_dump(item, modules) for item in node if not _is_no_code(item)])}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Attribute):
        node = _without_module(node, modules)
    kind, fields = type(node), []
    for name in node._fields:
        value = getattr(node, name)
        if value is not None or getattr(kind, name, ...) is not None:
            fields.append(f"{name}={_dump(value, modules)}")
    return f"{kind.__name__}({', '.join(fields)})"


def _without_module(node: ast.expr, modules: set[str]) -> ast.expr:
    if isinstance(node, ast.Attribute):
        value = _without_module(node.value, modules)
        if isinstance(value, ast.Name) and value.id in modules:
            return ast.Name(id=node.attr, ctx=node.ctx)
    return node


def _is_no_code(node: object) -> bool:
    """Return whether a statement is an import, a docstring, or a fact that a class states about itself."""
    if isinstance(node, ast.AnnAssign):
        annotation = node.annotation
        about = ("ClassVar[MethodInfo]", "ClassVar[MeasureInfo]")
        return isinstance(annotation, ast.Subscript) and ast.unparse(annotation) in about
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_docstring or isinstance(node, ast.Import | ast.ImportFrom)


def _is_module(package: str, name: str) -> bool:
    return find_file(f"{package}.{name}") is not None
