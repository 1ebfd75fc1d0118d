"""The program as it is: its commands, its settings, its public names, its notebook."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from bench.planning.spec import Spec
from extension.plain_text import escape, table, typed

DOCS = Path(__file__).parent.parent


def commands() -> str:
    """The reference of the command line: without its title and its lists of commands, which cut the help short, and with
    headings one level lower."""
    run = [sys.executable, "-m", "typer", "bench.cli.main", "utils", "docs", "--name", "bench"]
    text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text.partition("\n")[2])
    blocks = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    return "".join(b if b.startswith("```") else _escape_help(b) for b in blocks)


def _escape_help(text: str) -> str:
    """Help texts are plain: a `<` or a `$` outside code is meant as it is."""
    parts = re.split(r"(`[^`]*`)", re.sub(r"^#", "##", text, flags=re.MULTILINE))
    return "".join(p if p.startswith("`") else re.sub(r"([<$])", r"\\\1", p) for p in parts)


def settings() -> str:
    return table(("setting", "default", "meaning"), _settings(Spec))


def families() -> str:
    """Every family and whether each part of the suite works on it, or the sentence that refuses it."""
    rows: dict[str, dict[str, Any]] = json.loads((DOCS.parent / "results/families.json").read_text())
    columns = list(next(iter(rows.values()))["cells"])
    return table(
        ("family", *columns), ((f"`{name}`", *map(escape, row["cells"].values())) for name, row in rows.items())
    )


def _settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    notes = _field_notes(model)
    defaults = {name: field.get_default() for name, field in model.model_fields.items()}
    for name, default in sorted(defaults.items(), key=lambda item: isinstance(item[1], BaseModel)):
        if isinstance(default, BaseModel):
            yield from _settings(type(default), f"{name}.")
        else:
            shown = "" if default in (None, ()) else f"`{typed(default)}`"
            yield f"`{prefix}{name}`", shown, escape(notes.get(name, ""))


def _field_notes(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field."""
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    notes = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            notes[ast.unparse(field.target)] = str(after.value.value)
    return notes


def public() -> str:
    """autodoc of every public name, in the order of pyproject.toml."""
    names = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["tool"]["cast-bench"]["public"]
    return "\n".join(_autodoc(name) for name in names)


def _autodoc(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    target = getattr(import_module(module), attribute)
    if inspect.isclass(target):
        arguments = "(**settings)" if issubclass(target, BaseModel) else _signature(target)
        lines = [f".. autoclass:: {name}{arguments}", ":members:", ":exclude-members: model_config"]
    else:
        lines = [f".. autofunction:: {name}"]
    return f"### {name}\n\n```{{eval-rst}}\n{chr(10).join(lines[:1] + ['   ' + line for line in lines[1:]])}\n```\n"


def _signature(target: Any) -> str:
    """With types as they are written, and without the values that a field computes."""
    if inspect.isclass(target) and issubclass(target, Exception | Enum | Protocol):
        return ""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(target)))
    return re.sub(r" = <[^>]*>", " = ...", text).removesuffix(" -> None")


def notebook(name: str) -> str:
    """Its cells without outputs. Headings go one level down."""
    parts = []
    for cell in json.loads((DOCS / name).read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            parts.append(f"```python\n{text}\n```")
        else:
            parts.append(re.sub(r"^# .*\n+", "", re.sub(r"^## ", "### ", text, flags=re.MULTILINE)))
    return "\n\n".join(parts) + "\n"
