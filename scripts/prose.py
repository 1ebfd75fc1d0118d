"""Find sentences that a reader has to decode: fragments in docstrings, and idioms.

python scripts/prose.py [FOLDER or FILE ...]  print them; exit 1 if there are any

A docstring is a sentence or a noun phrase that needs no name beside it. A function's begins with a
verb. CHANGELOG.md and the tests are not read.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("bench", "methods", "cast", "baselines", "scripts", "benchmarks")
READ = (*CODE, "docs", "README.md", "CONTRIBUTING.md", "SECURITY.md")

FRAGMENT = re.compile(r"(Of|That|Which|Whose|Whatever|Whoever|So many)\b")
"""First words of a docstring that continues a name instead of saying something."""

NOT_A_VERB = re.compile(r"(A|An|The|Whether|What|Where|How|Why|When)\b")
"""First words of a function's docstring that are no verb."""

IDIOM = re.compile(
    r"\b(so many|whoever|nobody|anew|stands|lies|is told|are told|said its last|came of it|"
    r"as it (?:is|was)|as they (?:are|were)|of (?:its|their) own)\b",
    re.IGNORECASE,
)
"""Idioms of ours. `of its own` is "its own …", `anew` is "again", `is told` is "gets"."""

ANY_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def main(paths: list[str]) -> int:
    """Print every finding below the paths, and return 1 if there is one."""
    findings = [line for path in paths or READ for line in read(ROOT / path)]
    print(*(findings or ["none"]), sep="\n")
    return bool(findings)


def read(path: Path) -> Iterator[str]:
    """Yield the findings of a file, or of all files below a folder."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        found: list[tuple[int, str]] = []
        # This file's patterns are the idioms.
        if file.suffix == ".py" and file != Path(__file__):
            found = sorted(python(file.read_text(encoding="utf-8")))
        elif file.suffix == ".md" and "_build" not in file.parts:
            found = list(idioms(1, file.read_text(encoding="utf-8")))
        name = file.resolve().relative_to(ROOT)
        yield from (f"{name}:{line}: {what}" for line, what in found)


def python(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, finding) for the docstrings, comments and strings of a module."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            yield from _attributes(body)
        if isinstance(node, (*ANY_FUNCTION, ast.ClassDef, ast.Module)):
            text = ast.get_docstring(node) or ""
            function = isinstance(node, ANY_FUNCTION) and not _is_property(node)
            if FRAGMENT.match(text) or (function and NOT_A_VERB.match(text)):
                name = getattr(node, "name", "the module")
                yield getattr(node, "lineno", 1), f"docstring of {name}: {_start(text)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from idioms(node.lineno, node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from idioms(token.start[0], token.string)


def idioms(line: int, text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, finding) for each idiom of a text that begins on `line`."""
    for count, part in enumerate(text.splitlines()):
        for match in IDIOM.finditer(part):
            around = part[max(0, match.start() - 30) : match.end() + 20].strip()
            yield line + count, f"idiom: …{around}…"


def _attributes(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    for field, after in itertools.pairwise(body):
        if isinstance(field, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
            text = getattr(after.value, "value", None)
            if isinstance(text, str) and FRAGMENT.match(text):
                yield after.lineno, f"attribute: {_start(text)}"


def _start(text: str) -> str:
    return text.splitlines()[0][:90]


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
