"""What the catalog, and the classes behind it, say about methods, quantizers and measures.

A new entry of the catalog is so on the site before anyone has written about it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from bench.catalog import registry
from bench.catalog.declarations import CatalogEntry
from bench.planning import method_cost
from extension.plain_text import escape, table, typed
from methods import Settings

DOCS = Path(__file__).parent.parent
FACTS = re.compile(r"^<!-- facts: (\w+) (\S+) -->$", re.MULTILINE)
COST = f"cost, estimated for {method_cost.MODEL}"
BOUNDS = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))
TYPES = {"number": "number", "integer": "whole number", "boolean": "true or false", "string": "text", "null": "empty"}


def entries(section: str) -> dict[str, CatalogEntry]:
    """The names of a section, without plug-ins: the site must not depend on what is installed beside it."""
    return dict(registry.SECTIONS[section].built_in)


def facts(section: str, name: str) -> str:
    """What the catalog and the class say about a name, as Markdown.

    Raises:
        LookupError: it is not in the catalog.
    """
    if name not in entries(section):
        raise LookupError(f"{name!r} is not in {section} of bench/catalog/entries.py: correct or remove its section")
    entry = entries(section)[name]
    kind = registry.load(entry) if entry.target else None
    prefix = {"methods": "--methods", "quantizers": "--quant", "measures": "--measures"}[section]
    rows = [("command line", f"`{prefix} {name}`")]
    if entry.presets:
        presets = (f"`{name}:{p}` ({_fields(fields)})" for p, fields in entry.presets.items())
        rows.append(("presets", ", ".join(presets)))
    if entry.paper and entry.paper != "none":
        rows.append(("source", _paper(entry)))
    rows += [(label, text) for label, text in (("needs", ", ".join(entry.needs)), ("install", _install(entry))) if text]
    if cost := method_cost.describe(entry):
        rows.append((COST, escape(cost)))
    parts = ["\n".join(f"- **{label}**: {text}" for label, text in rows)]
    if text := docstring(kind) if kind else "":
        parts.append(f"**In the code.** {text}")
    if kind:
        own = list(settings(kind)) if section != "measures" else []
        if own:
            parts.append(table(("setting", "default", "allowed"), own))
        if issubclass(kind, Settings):
            parts.append("It also has [the settings of training](../settings.md#settings-of-methods-that-train).")
    return "\n\n".join(parts) + "\n"


def training() -> str:
    """The settings of every method that trains."""
    return docstring(Settings) + "\n\n" + table(("setting", "default", "allowed"), settings(Settings))


def overview(section: str) -> str:
    """A table of a section, with what its entries have: paper and cost only where one has them."""
    known = entries(section)
    written = pages()
    header = ["name", "what it does", "needs", "source"]
    rows = []
    for name, entry in known.items():
        paper = _paper(entry) if entry.paper not in ("", "none") else ""
        link = f"[{name}]({written.get((section, name), '')}#{name})"
        rows.append([link, escape(entry.about), ", ".join(entry.needs), paper])
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return table((header[i] for i in used), ([row[i] for i in used] for row in rows))


def unwritten(section: str) -> str:
    """A part of a page: the facts of each name that no page has, under headings. Empty if there is none."""
    written = pages()
    missing = {name: entry for name, entry in entries(section).items() if (section, name) not in written}
    if not missing:
        return ""
    parts = [f"## More {section}", "No page describes these yet. The text is that of the code."]
    parts += [f"### {n}\n\n{escape(entry.about)}\n\n{facts(section, n)}" for n, entry in missing.items()]
    return "\n\n".join(parts)


def pages() -> dict[tuple[str, str], str]:
    """(section, name) -> the file that has its facts, relative to the folder of the section's overview."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        for section, name in FACTS.findall(path.read_text()):
            found[section, name] = path.name
    return found


def docstring(kind: type) -> str:
    """The docstring of a class as Markdown, without the part that dataclasses make up."""
    text = inspect.cleandoc(kind.__doc__ or "")
    if text.startswith(f"{kind.__name__}("):
        return ""
    return "\n\n".join(escape(p) for p in text.split("\n\n") if not re.fullmatch(r"\w+\.", p))


def settings(kind: type) -> Iterator[tuple[str, str, str]]:
    """(name as typed, default, allowed values) of each field of its own."""
    if not dataclasses.is_dataclass(kind):
        return
    trains = issubclass(kind, Settings) and kind is not Settings
    inherited = {f.name: f.default for f in dataclasses.fields(Settings)} if trains else {}
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name in inherited and inherited[field.name] == field.default:
            continue
        default = "" if field.default in (dataclasses.MISSING, None, "") else f"`{typed(field.default)}`"
        yield f"`{field.name.rstrip('_')}`", default, allowed(TypeAdapter(hints[field.name]).json_schema())


def allowed(schema: dict[str, Any]) -> str:
    """A JSON schema of one value in words."""
    if "anyOf" in schema:
        return " or ".join(map(allowed, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{v}`" for v in schema.get("enum", [schema.get("const")]))
    if "description" in schema:
        return escape(schema["description"])
    bounds = [f"{word} {schema[key]:g}" for key, word in BOUNDS if key in schema]
    return " ".join([TYPES[schema["type"]], *bounds])


def _fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"`{key.rstrip('_')}={typed(value)}`" for key, value in fields.items())


def _paper(entry: CatalogEntry) -> str:
    if re.fullmatch(r"\d{4}\.\d{5}", entry.paper):
        return f"[arXiv {entry.paper}](https://arxiv.org/abs/{entry.paper}) ({entry.year})"
    return escape(entry.paper)


def _install(entry: CatalogEntry) -> str:
    if entry.extra:
        return f"`pip install 'cast-bench[{entry.extra}]'`"
    return f"`bench env create {entry.environment}`" if entry.environment else ""
