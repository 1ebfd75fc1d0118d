"""Find sentences that a reader has to decode, and figures of results that were typed.

python scripts/prose.py [FOLDER or FILE ...]  print them; exit 1 if there are any

A docstring is a sentence or a noun phrase that needs no name beside it. A function's begins with a
verb. CHANGELOG.md and the tests are not read.

README.md and docs/ type no share, ratio, time or size: scripts/readme.py generates it between two
comments, or FIGURES says where it comes from if it is no result.
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

UNIT = r"(?:%|percent|times|×(?!\s*\d)|ms|s|min|minutes?|seconds?|hours?|[MG]i?B)(?!\w)"
FIGURE = re.compile(
    rf"×\d+|(?<!\d)(?!95 ?%|50%)\d[\d,.]*\s?{UNIT}|"
    rf"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty)\s{UNIT}|"
    r"\bperplexity (?:of )?\d+|\b(?:half|twice)\sas\b|"
    r"\bby\san?\s(?:half|third|quarter|fifth|sixth|eighth|tenth|twentieth)\b",
    re.IGNORECASE,
)
"""Figures of a measurement. 95% is the level of an interval, and 50% a pattern."""

FIGURES = {
    "a setting, default or limit of the code": (
        "0.5% of perplexity",
        "5% of times",
        "5% of latency",
        "operations of the run at 40%",
        "Time is arithmetic for one H100: 40%",
        "more than 100 times",
        "token, 64 times",
        "more than ten times its median",
        "within 0.1% of their size",
        "2% in float16",
        "10% in bfloat16",
        "by a third of that",
        "is three times this",
        "at most 30%",
        "may differ by 1%",
        "every five seconds",
        "signal two minutes before",
        "or five seconds after",
        "about 1 MiB",
        "at most 5% of the time",
        "waits 19 times",
        "Weights over 2 GB",
        "at most 120 MB",
        "at most 3% above",
        "at most 20% in bits",
        "differ by 1.5%",
        "differences by 0.4%",
        "At 0%",
        "at 0.5%",
    ),
    "a definition, or arithmetic that a test repeats": (
        "80% power at the level 5%",
        "perplexity is within 0.5%",
        "in at most 5% of tables",
        "SliceGPT at 25%",
        "1.75 times a power of two",
        "four times the activations",
        "chance 25%",
        "the first pull is twice as",
        "needs 97 GB",
        "or 46 GB",
        "1.02 times this arithmetic",
        "on H100 1.4 times",
        "and 2.6 times",
    ),
    "somebody else's, with a link or a digest": (
        "238 MB). Its sha256",
        "up to ten minutes",
        "12% slower",
        "[below 5%]",
    ),
}
"""Phrases with a figure that is no result, by the origin of the figure."""

GENERATED = re.compile(
    r"^<!-- (?!intro|way)([\w-]+)(?:: [^>]+)? -->\n.*?^<!-- /\1 -->$", re.DOTALL | re.MULTILINE
)
"""Text that scripts/readme.py writes. `intro` and `way` only mark a part of README.md."""
CODE_OR_LINK = re.compile(
    r"^```.*?^```|\$\$.*?\$\$|`[^`\n]*`|\$[^$\n]*\$|\]\([^)]*\)", re.DOTALL | re.MULTILINE
)

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
            text = file.read_text(encoding="utf-8")
            found = list(idioms(1, text))
            if file == ROOT / "README.md" or "docs" in file.parts:
                found = sorted([*found, *figures(text)])
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


def figures(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, finding) for each figure of a page that is neither generated nor in FIGURES."""
    text = GENERATED.sub(_blank, text)
    for phrase in itertools.chain(*FIGURES.values()):
        text = re.sub(re.escape(phrase).replace(r"\ ", r"\s"), _blank, text)
    for match in FIGURE.finditer(CODE_OR_LINK.sub(_blank, text)):
        yield text.count("\n", 0, match.start()) + 1, f"figure: {match[0]}"


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


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
