"""Digest of the code that decides a number: of what modules do, not of their names and folders.

A key follows imports. A module counts if code that counts imports it, unless the module itself says

    DECIDES_NO_NUMBER = True

at its top level, as modules do that store, show, name or check. What only such a module imports
does not count either.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bench.system import digests
from bench.system.interpreter import OWN_PACKAGES
from bench.system.module_files import find_file
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True
_NEUTRAL = b"\nDECIDES_NO_NUMBER = True\n"


@cache
def digest_source(*modules: str) -> str:
    """Return a sha256 of the code of modules, and of what they import from this distribution and
    their own package.

    Comments, docstrings, imports, texts of errors, facts that a class states about itself
    (`methods.contract.info`, `measure_info`), names and folders of modules do not count. So a
    moved file or a better sentence keeps every key, and a changed rule changes the keys that depend
    on it.
    """
    contents: set[str] = set()
    seen: set[str] = set()
    queue = list(modules)
    while queue:
        module = queue.pop()
        if module in seen:
            continue
        seen.add(module)
        if module in modules or _decides(module):
            content, imports = _read(module)
            contents.add(content)
            queue += imports
    return digests.of(sorted(contents))


def digest_modules(*modules: str) -> str:
    """Return a sha256 of the code of modules, without what they import."""
    return digests.of([_read(module)[0] for module in modules])


def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """Return the content digest of a module, and the imported modules that count too."""
    # A file of the user has its path as its name (bench.catalog.registry.import_file).
    file = Path(module) if module.endswith(".py") else find_file(module)
    if file is None:
        raise UserError(
            f"{module} has no Python source, and the key of a number holds its digest: install it "
            "as source"
        )
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return _parse(module, package, file.read_bytes())


@cache
def _parse(module: str, package: str, source: bytes) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(source)
    statements = _import_statements(tree, package)
    followed = _imports(statements, {*OWN_PACKAGES, module.partition(".")[0]})
    return _content_digest(tree, statements), tuple(followed)


def _decides(module: str) -> bool:
    file = find_file(module)
    return file is not None and _NEUTRAL not in file.read_bytes()


@cache
def _parse_imports(package: str, source: bytes) -> list[ast.Import | ast.ImportFrom]:
    return _import_statements(ast.parse(source), package)


def _import_statements(tree: ast.Module, package: str) -> list[ast.Import | ast.ImportFrom]:
    """Return all imports of a module, those inside functions too. Replace relative imports by
    absolute ones."""
    found: list[ast.Import | ast.ImportFrom] = []
    blocks: list[ast.AST] = [tree]
    for node in blocks:  # an import is a statement: expressions need no look
        for field in ("body", "handlers", "orelse", "finalbody", "cases"):
            blocks += getattr(node, field, ())
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            if node.module:
                above.append(node.module)
            node.module, node.level = ".".join(above), 0
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
    return found


def _imports(statements: list[ast.Import | ast.ImportFrom], packages: set[str]) -> Iterator[str]:
    """Yield the imported modules of top-level packages."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (
                alias.name for alias in node.names if alias.name.partition(".")[0] in packages
            )
        elif node.module and node.module.partition(".")[0] in packages:
            yield from (_module_of(node.module, alias.name) for alias in node.names)


def _module_of(module: str, name: str) -> str:
    """Return the module that `from module import name` reads. A package may import the name from
    another module."""
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
    """Return a digest of what a module does, without docstrings, imports, and the modules that
    names are read from."""
    modules = {
        alias.asname or alias.name
        for node in statements
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if _is_module(node.module, alias.name)
    }
    return hashlib.sha256(_dump(tree, modules).encode()).hexdigest()


def _dump(node: object, modules: set[str]) -> str:
    """Return what `ast.dump` does of a tree without texts of errors and the statements of
    `_is_no_code`.

    A name is read from no module, and the name of a module is any other's.
    """
    if isinstance(node, list):
        return f"[{', '.join([_dump(item, modules) for item in node if not _is_no_code(item)])}]"
    if not isinstance(node, ast.AST):
        if type(node) is str and _names_module(node):
            node = "module"
        return repr(node)
    if isinstance(node, ast.Attribute):
        node = _without_module(node, modules)
    elif isinstance(node, ast.Raise):
        node = _without_text(node)
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


def _without_text(node: ast.Raise) -> ast.Raise:
    """Return a raise statement without the sentence of its error."""
    if not isinstance(node.exc, ast.Call):
        return node
    rest = [value for value in node.exc.args if not _is_text(value)]
    return ast.Raise(ast.Call(node.exc.func, rest, node.exc.keywords), node.cause)


def _is_text(node: ast.expr) -> bool:
    is_constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_constant or isinstance(node, ast.JoinedStr)


def _names_module(text: str) -> bool:
    """Return whether a text is the name of a module of this distribution, as
    "methods.model.folder"."""
    package, _, rest = text.partition(".")
    return bool(rest) and package in OWN_PACKAGES and find_file(text) is not None


def _is_no_code(node: object) -> bool:
    """Return whether a statement is an import, a docstring, or a fact that a class states about
    itself."""
    if isinstance(node, ast.AnnAssign):
        annotation = node.annotation
        about = ("ClassVar[MethodInfo]", "ClassVar[MeasureInfo]")
        return isinstance(annotation, ast.Subscript) and ast.unparse(annotation) in about
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_docstring or isinstance(node, ast.Import | ast.ImportFrom)


def _is_module(package: str, name: str) -> bool:
    return find_file(f"{package}.{name}") is not None
