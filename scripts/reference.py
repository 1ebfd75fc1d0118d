"""Text of the pages that describes the catalog, the program and the public names. scripts/readme.py
writes it.

<!-- overview: methods -->     table of all names of a section: methods, quantizers or measures
<!-- facts: methods wanda -->  source, cost, needs and settings of a name, and the docstring of its
class <!-- unwritten: methods -->    the same for all names that no page describes, each under a
heading <!-- training -->              settings of every method that trains <!-- commands -->
every command and option <!-- settings -->              every setting of a run <!-- tracks -->
table of the tasks of every track <!-- families -->              table of what works on which family
of models <!-- public -->                signatures and docstrings of the public names <!--
notebook: api.ipynb -->   cells of a notebook
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, get_type_hints

import typer
from pydantic import BaseModel, TypeAdapter
from typer.cli import get_docs_for_click

from bench.catalog import registry
from bench.catalog.declarations import CatalogEntry
from bench.cli import main
from bench.cli.listing import installed_by
from bench.inputs.tracks import all_tasks
from bench.planning import method_cost
from bench.planning.spec import Spec
from methods import Does, Settings, TrainingSettings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FLAGS = {"methods": "--methods", "quantizers": "--quant", "measures": "--measures"}
FACTS = re.compile(r"^<!-- facts: (\w+) (\S+) -->$", re.MULTILINE)
COST = f"cost, estimated for {method_cost.MODEL}"
BOUNDS = (
    ("minimum", "from"),
    ("exclusiveMinimum", "above"),
    ("maximum", "to"),
    ("exclusiveMaximum", "below"),
)
TYPES = {
    "number": "number",
    "integer": "whole number",
    "boolean": "true or false",
    "string": "text",
    "null": "empty",
}


def escape(text: str) -> str:
    """Return plain text as one line of Markdown: outside `code` it has no tag, equation, link or
    emphasis."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        p if p.startswith("`") else re.sub(r"([\\<>$*_\[\]#])", r"\\\1", p) for p in parts
    )


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    titles = list(header)
    lines = [titles, ["---"] * len(titles), *map(list, rows)]
    return (
        "\n".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
        )
        + "\n"
    )


def typed(value: Any) -> str:
    """Return a value in the form of the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def facts(section: str, name: str) -> str:
    """Return what the catalog and the class say about a name.

    Raises:
        LookupError: it is not in the catalog.
    """
    known = registry.SECTIONS[section]
    if name not in known:
        raise LookupError(
            f"{name!r} is not in {section} of bench/catalog/entries.py: correct or remove its "
            "section"
        )
    entry = known[name]
    rows = [("command line", f"`{FLAGS[section]} {_typed_name(name, entry)}`")]
    if entry.presets:
        presets = (f"`{name}:{p}` ({_fields(fields)})" for p, fields in entry.presets.items())
        rows.append(("presets", ", ".join(presets)))
    rows += [("source", _paper(entry)), ("needs", ", ".join(entry.needs_with({})))]
    if install := installed_by(entry):
        rows.append(("install", f"`{install}`"))
    rows.append((COST, escape(method_cost.describe(entry))))
    parts = ["\n".join(f"- **{label}**: {text}" for label, text in rows if text)]
    kind = registry.load(entry) if entry.target else None
    if kind and (text := _docstring(kind)):
        parts.append(text)
    if kind and section != "measures":
        if own := list(_fields_of(kind)):
            parts.append(table(("setting", "default", "allowed"), own))
        if issubclass(kind, Settings):
            parts.append(
                "It also has [the settings of "
                "training](../settings.md#settings-of-methods-that-train)."
            )
    return "\n\n".join(parts) + "\n"


def training() -> str:
    """Return the settings of every method that trains."""
    fields = table(("setting", "default", "allowed"), _fields_of(Settings))
    return "\n\n".join((_docstring(TrainingSettings), _docstring(Settings), fields))


def overview(section: str) -> str:
    """Return a table of a section, without the columns that are empty."""
    written = _pages()
    header = ["name", "what it does", "needs", "source"]
    rows = [
        [
            f"[{name}]({written.get((section, name), '')}#{name})",
            escape(entry.about),
            ", ".join(entry.needs_with({})),
            _paper(entry),
        ]
        for name, entry in registry.SECTIONS[section].items()
    ]
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return table((header[i] for i in used), ([row[i] for i in used] for row in rows))


def unwritten(section: str) -> str:
    """Return the facts of each name that no page has, under headings; "" if there is none."""
    written = _pages()
    missing = {
        n: entry for n, entry in registry.SECTIONS[section].items() if (section, n) not in written
    }
    parts = [
        f"### {n}\n\n{escape(entry.about)}.\n\n{facts(section, n)}" for n, entry in missing.items()
    ]
    return "\n\n".join([f"## More {section}", *parts]) if parts else ""


def _pages() -> dict[tuple[str, str], str]:
    """Return the page that has the facts of each (section, name), relative to the folder of the
    section's overview."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
    return {
        tuple(found): path.name for path, text in pages.items() for found in FACTS.findall(text)
    }


def _docstring(kind: type) -> str:
    """Return the docstring of a class, without its first paragraph, which is in the overview."""
    return "\n\n".join(map(escape, inspect.cleandoc(kind.__doc__ or "").split("\n\n")[1:]))


def _fields_of(kind: type) -> Iterator[tuple[str, str, str]]:
    """Yield (name as typed, default, allowed values) of each field that the class adds to
    `Settings`."""
    trains = issubclass(kind, Settings) and kind is not Settings
    inherited = {f.name: f.default for f in dataclasses.fields(Settings)} if trains else {}
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name in inherited and inherited[field.name] == field.default:
            continue
        default = (
            "" if field.default in (dataclasses.MISSING, None, "") else f"`{typed(field.default)}`"
        )
        yield (
            f"`{field.name.rstrip('_')}`",
            default,
            _allowed(TypeAdapter(hints[field.name]).json_schema()),
        )


def _allowed(schema: dict[str, Any]) -> str:
    """Return a JSON schema of one value in words."""
    if "anyOf" in schema:
        return " or ".join(map(_allowed, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{v}`" for v in schema.get("enum", [schema.get("const")]))
    if "description" in schema:
        return escape(schema["description"])
    bounds = [f"{word} {schema[key]:g}" for key, word in BOUNDS if key in schema]
    return " ".join([TYPES[schema["type"]], *bounds])


def _fields(fields: Any) -> str:
    return ", ".join(f"`{key.rstrip('_')}={typed(value)}`" for key, value in fields.items())


def _paper(entry: CatalogEntry) -> str:
    if re.fullmatch(r"\d{4}\.\d{5}", entry.paper):
        return f"[arXiv {entry.paper}](https://arxiv.org/abs/{entry.paper}) ({entry.year})"
    return "" if entry.paper == "none" else escape(entry.paper)


def _typed_name(name: str, entry: CatalogEntry) -> str:
    """Return the name with what must be typed behind it: its folder, its settings, or a method
    before it."""
    if entry.file and entry.file.required:
        return f"{name}:{entry.file.field}={'DIR' if Does.IMPORTS in entry.does else 'FILE'}"
    return f"{name}:from=wanda" if Does.REFINES in entry.does and not entry.after else name


def commands() -> str:
    """Return the reference of the command line, without its title and its lists of commands."""
    program = typer.main.get_command(main.app)
    text = registry.fill_in(
        get_docs_for_click(obj=program, ctx=typer.Context(program), name="bench")
    )
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text.partition("\n")[2])
    blocks = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    return "".join(b if b.startswith("```") else _escape_help(b) for b in blocks).strip() + "\n"


def _escape_help(text: str) -> str:
    """Return help text with headings one level lower. A `<` or a `$` outside code is plain text."""
    parts = re.split(r"(`[^`]*`)", re.sub(r"^#", "##", text, flags=re.MULTILINE))
    return "".join(p if p.startswith("`") else re.sub(r"([<$])", r"\\\1", p) for p in parts)


def settings() -> str:
    """Return a table of every setting of a run."""
    return table(("setting", "default", "meaning"), _settings(Spec))


def _settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    notes = _attribute_docstrings(model)
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
    }
    for name, default in sorted(defaults.items(), key=lambda item: isinstance(item[1], BaseModel)):
        if isinstance(default, BaseModel):
            yield from _settings(type(default), f"{name}.")
        else:
            shown = "" if default in (None, (), {}) else f"`{typed(default)}`"
            yield f"`{prefix}{name}`", shown, escape(notes.get(name, ""))


def _attribute_docstrings(kind: type) -> dict[str, str]:
    """Return the docstring below each attribute of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    notes = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            notes[ast.unparse(field.target)] = str(after.value.value)
    return notes


def tracks() -> str:
    """Return a table of the tasks of every track, with the prompt and the licence of the texts."""
    rows = []
    for name, task in all_tasks().items():
        track, _, short = name.partition("/")
        rows.append(
            (track, f"`{short}`", escape(task.title), str(task.shots), escape(task.licence))
        )
    return table(("track", "task", "data", "shots", "licence of the texts"), rows)


def families() -> str:
    """Return a table of every family: each part of the suite works on it, or is refused in a
    sentence."""
    rows: dict[str, dict[str, Any]] = json.loads(
        (ROOT / "results/families.json").read_text(encoding="utf-8")
    )
    columns = list(next(iter(rows.values()))["cells"])
    return table(
        ("family", *columns),
        ((f"`{name}`", *map(escape, row["cells"].values())) for name, row in rows.items()),
    )


def public() -> str:
    """Return a section for each public name, in the order of pyproject.toml."""
    names = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "cast-bench"
    ]["public"]
    return "\n".join(_public(name) for name in names)


def _public(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    target = getattr(import_module(module), attribute)
    parts = [
        f"### {name}",
        f"```python\n{attribute}{_signature(target)}\n```",
        *_paragraphs(target),
    ]
    if inspect.isclass(target) and not issubclass(target, BaseModel):
        notes = [
            f"- `{field}`: {escape(note)}" for field, note in _attribute_docstrings(target).items()
        ]
        parts += ["\n".join(notes)] if notes else []
    if inspect.isclass(target):
        for member, value in vars(target).items():
            function = (
                value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            )
            if inspect.isfunction(function) and function.__doc__ and not member.startswith("_"):
                shown = member if isinstance(value, property) else f"{member}{_signature(function)}"
                parts += [f"`{attribute}.{shown}`", *_paragraphs(function)]
    return "\n\n".join(parts) + "\n"


def _signature(target: Any) -> str:
    """Return a signature with the types of the source, and without computed defaults."""
    if inspect.isclass(target) and issubclass(target, Exception | Enum | Protocol):
        return ""
    if inspect.isclass(target) and issubclass(target, BaseModel):
        return "(**settings)"
    text = re.sub(r"ForwardRef\('([^']*)'\)", r"\1", str(inspect.signature(target)))
    text = re.sub(r"""(: |-> )(['"])(.*?)\2""", r"\1\3", text).replace("mappingproxy({})", "{}")
    return (
        re.sub(r" = <[^>]*>", " = ...", text)
        .replace("PosixPath(", "Path(")
        .removesuffix(" -> None")
    )


def _paragraphs(target: Any) -> Iterator[str]:
    """Yield a docstring as Markdown: an indented example becomes a code block, "Args:" and
    "Raises:" become lists."""
    text = inspect.cleandoc(target.__doc__ or "")
    if inspect.isclass(target) and text.startswith(f"{target.__name__}("):
        return  # generated by dataclass
    for paragraph in re.split(r"\n\n(?=\S)", text):
        head, _, rest = paragraph.partition("\n")
        if head in ("Args:", "Raises:"):
            lines = re.split(r"\n(?! )", textwrap.dedent(rest))
            yield f"{head}\n\n" + "\n".join(
                f"- `{n}`: {escape(t)}" for n, _, t in (line.partition(": ") for line in lines)
            )
            continue
        if paragraph.startswith("- "):
            yield "\n".join(
                f"- {escape(item)}" for item in re.split(r"^- ", paragraph, flags=re.MULTILINE)[1:]
            )
            continue
        for part in re.split(r"\n\n+(?=    )", paragraph, maxsplit=1):
            yield (
                f"```text\n{textwrap.dedent(part).strip()}\n```"
                if part.startswith("    ")
                else escape(part)
            )


def notebook(name: str) -> str:
    """Return the cells of a notebook without outputs. Headings go one level down."""
    parts = []
    for cell in json.loads((DOCS / name).read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            parts.append(f"```python\n{text}\n```")
        else:
            parts.append(re.sub(r"^# .*\n+", "", re.sub(r"^## ", "### ", text, flags=re.MULTILINE)))
    return "\n\n".join(part for part in parts if part) + "\n"


BLOCKS = {
    make.__name__: make
    for make in (
        overview,
        facts,
        unwritten,
        training,
        commands,
        settings,
        tracks,
        families,
        public,
        notebook,
    )
}
"""Functions that make the text, by the word in the comment."""
