"""Find imports that should be at the top of their module, and modules that import each other.

python scripts/function_imports.py  print them; exit 1 if there are any

A module of this project may be imported inside a function if that makes the importing module start faster. That is so if the
import loads a package of SLOW, directly or through other modules, which the importing module does not load at its start. Every
other import belongs at the top. Imports for type checking count in pairs of modules only.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.system.interpreter import OWN_PACKAGES

ROOT = Path(__file__).parent.parent
SLOW = frozenset(
    [
        "accelerate",
        "datasets",
        "filelock",
        "gguf",
        "huggingface_hub",
        "jinja2",
        "lm_eval",
        "matplotlib",
        "numpy",
        "pandas",
        "psutil",
        "pyarrow",
        "pydantic",
        "rich",
        "safetensors",
        "scipy",
        "tokenizers",
        "torch",
        "transformers",
        "typer",
        "yaml",
    ]
)
"""Packages that are slow to import."""


@dataclass
class Module:
    """Imports of one module, as dotted names of modules and packages."""

    top: set[str] = field(default_factory=set)
    inside: list[tuple[int, str]] = field(default_factory=list)
    """Line and name of each import of a project module inside a function."""
    typing: set[str] = field(default_factory=set)


def modules(root: Path) -> dict[str, Path]:
    """Return the project's modules under a folder, by dotted name."""
    out = {}
    for package in OWN_PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


def read(path: Path, own: Mapping[str, Path]) -> Module:
    module = Module()
    for node, in_function, for_typing in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        for name in _names(node, own):
            if for_typing:
                module.typing.add(name)
            elif not in_function:
                module.top.add(name)
            elif name in own:
                module.inside.append((node.lineno, name))
    return module


def _imports(
    node: ast.AST, in_function: bool = False, for_typing: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, in_function, for_typing
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(child, in_function, True)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, in_function or is_function, for_typing)


def _names(node: ast.Import | ast.ImportFrom, own: Mapping[str, Path]) -> list[str]:
    """Return the modules that an import statement loads."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    submodules = [f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in own]
    return submodules + ([base] if len(submodules) < len(node.names) else [])


def findings(root: Path) -> list[str]:
    """Return a line for each import inside a function that saves no time, and for each pair of mutual imports."""
    own = modules(root)
    parsed = {name: read(path, own) for name, path in own.items()}

    @cache
    def loaded(name: str) -> frozenset[str]:
        """Return the project's modules that an import runs, with itself and its packages."""
        seen, todo = set(), [name]
        while todo:
            module = todo.pop()
            if module in parsed and module not in seen:
                seen.add(module)
                todo += [module.rpartition(".")[0], *parsed[module].top]
        return frozenset(seen)

    @cache
    def slow(name: str) -> frozenset[str]:
        return frozenset(x.partition(".")[0] for module in loaded(name) for x in parsed[module].top) & SLOW

    out = []
    for name, module in parsed.items():
        for line, imported in module.inside:
            if not slow(imported) - slow(name):
                path = own[name].relative_to(root)
                out.append(f"{path}:{line}: import {imported} at the top: inside a function it saves no time")
    reach = {n: {x for x in (*m.top, *m.typing, *(i for _, i in m.inside)) if x in own} for n, m in parsed.items()}
    pairs = {tuple(sorted((a, b))) for a, others in reach.items() for b in others if a != b and a in reach[b]}
    return out + [f"{a} and {b} import each other" for a, b in sorted(pairs)]


def main() -> None:
    found = findings(ROOT)
    print("\n".join(found) or "none")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
