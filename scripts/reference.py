"""Text of the pages that describes the catalog, the program and the public names.

A function of BLOCKS makes the text between two comments of a page. Its arguments are the words of
the comment: <!-- facts: methods wanda -->. `python scripts/readme.py --list` lists all.
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
COST = "estimated cost"
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above"}
BOUNDS |= {"maximum": "to", "exclusiveMaximum": "below"}
TYPES = {"number": "number", "integer": "whole number", "boolean": "true or false"}
TYPES |= {"string": "text", "null": "empty"}
SETTING_COLUMNS = ("setting", "default", "allowed")


def escape_outside_code(text: str, characters: str) -> str:
    """Put a backslash before these characters, except in `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(characters, r"\\\1", p) for p in parts)


def escape(text: str) -> str:
    """Return plain text as one line of Markdown, without tag, equation, link or emphasis."""
    return escape_outside_code(" ".join(text.split()), r"([\\<>$*_\[\]#])")


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    titles = list(header)
    lines = []
    for line in (titles, ["---"] * len(titles), *rows):
        cells = (cell.replace("|", r"\|") for cell in line)
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


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
        where = f"{section} of bench/catalog/entries.py"
        raise LookupError(f"{name!r} is not in {where}: correct or remove its section")
    entry = known[name]
    typed_name = _typed_name(name, entry)
    rows = [("command line", f"`{FLAGS[section]} {typed_name}`")] if typed_name != name else []
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
            parts.append(table(SETTING_COLUMNS, own))
        if issubclass(kind, Settings):
            link = "../settings.md#settings-of-methods-that-train"
            parts.append(f"It also has [the settings of training]({link}).")
    return "\n\n".join(parts) + "\n"


def training() -> str:
    """Return the settings of every method that trains."""
    fields = table(SETTING_COLUMNS, _fields_of(Settings))
    return "\n\n".join((_docstring(TrainingSettings), _docstring(Settings), fields))


def overview_cells(section: str) -> dict[str, list[str]]:
    """Return the link, description and needs of each name of a section.

    A variant links to the name whose section it shares.
    """
    written, rows = _pages(), {}
    for name, entry in registry.SECTIONS[section].items():
        described = _described_by(section, name, written) or name
        link = f"[{name}]({written.get((section, described), '')}#{described})"
        rows[name] = [link, escape(entry.about), ", ".join(entry.needs_with({}))]
    return rows


def overview(section: str) -> str:
    """Return a table of a section, without the columns that are empty."""
    header, rows = ["name", "what it does", "needs"], list(overview_cells(section).values())
    columns = zip(header, *rows, strict=True)
    used = [column for column in columns if any(column[1:])]
    titles, *cells = zip(*used, strict=True)
    return table(titles, cells)


def unwritten(section: str) -> str:
    """Return the facts of each name that no page has, under headings; "" if there is none."""
    written, parts = _pages(), []
    for name, entry in registry.SECTIONS[section].items():
        if not _described_by(section, name, written):
            parts.append(f"### {name}\n\n{escape(entry.about)}.\n\n{facts(section, name)}")
    return "\n\n".join([f"## More {section}", *parts]) if parts else ""


def _described_by(section: str, name: str, written: Iterable[tuple[str, str]]) -> str:
    """Return the written name whose section describes a name: itself, or one it is a variant of."""
    names = [one for kind, one in written if kind == section]
    if name in names:
        return name
    return next((one for one in names if _is_variant(section, name, one)), "")


def _is_variant(section: str, name: str, other: str) -> bool:
    """Return whether a class extends the other or its base, with equal needs, cost and settings."""
    entry, known = registry.SECTIONS[section][name], registry.SECTIONS[section][other]
    if not entry.target or not known.target or section == "measures":
        return False
    kind, base = registry.load(entry), registry.load(known)
    is_sibling = kind.__base__ is not object and issubclass(base, kind.__base__)
    if not is_sibling and not issubclass(kind, base):
        return False
    costs = [(one.needs_with({}), method_cost.describe(one)) for one in (entry, known)]
    return costs[0] == costs[1] and list(_fields_of(kind)) == list(_fields_of(base))


def _pages() -> dict[tuple[str, str], str]:
    """Return the page of each (section, name), relative to the folder of the section's overview."""
    pages = {}
    for path in sorted(DOCS.rglob("*.md")):
        for found in FACTS.findall(path.read_text(encoding="utf-8")):
            pages[tuple(found)] = path.name
    return pages


def _docstring(kind: type) -> str:
    """Return the docstring of a class, without its first paragraph, which is in the overview."""
    return "\n\n".join(map(escape, inspect.cleandoc(kind.__doc__ or "").split("\n\n")[1:]))


def _fields_of(kind: type) -> Iterator[tuple[str, str, str]]:
    """Yield the typed name, default and allowed values of each field that is not in `Settings`."""
    trains = issubclass(kind, Settings) and kind is not Settings
    inherited = {f.name: f.default for f in dataclasses.fields(Settings)} if trains else {}
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name in inherited and inherited[field.name] == field.default:
            continue
        empty = field.default in (dataclasses.MISSING, None, "")
        default = "" if empty else f"`{typed(field.default)}`"
        allowed = _allowed(TypeAdapter(hints[field.name]).json_schema())
        yield f"`{field.name.rstrip('_')}`", default, allowed


def _allowed(schema: dict[str, Any]) -> str:
    """Return a JSON schema of one value in words."""
    if "anyOf" in schema:
        return " or ".join(map(_allowed, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{v}`" for v in schema.get("enum", [schema.get("const")]))
    if "description" in schema:
        return escape(schema["description"])
    bounds = [f"{word} {schema[key]:g}" for key, word in BOUNDS.items() if key in schema]
    return " ".join([TYPES[schema["type"]], *bounds])


def _fields(fields: Any) -> str:
    return ", ".join(f"`{key.rstrip('_')}={typed(value)}`" for key, value in fields.items())


def _paper(entry: CatalogEntry) -> str:
    if re.fullmatch(r"\d{4}\.\d{5}", entry.paper):
        return f"[arXiv {entry.paper}](https://arxiv.org/abs/{entry.paper}) ({entry.year})"
    return "" if entry.paper == "none" else escape(entry.paper)


def _typed_name(name: str, entry: CatalogEntry) -> str:
    """Return the name with what must be typed behind it: a file, or the method before it."""
    if entry.file and entry.file.required:
        return f"{name}:{entry.file.field}={'DIR' if Does.IMPORTS in entry.does else 'FILE'}"
    return f"{name}:from=wanda" if Does.REFINES in entry.does and not entry.after else name


def commands() -> str:
    """Return the reference of the command line, without its title and its lists of commands.

    Options with the text that `bench run` has are named in one line.
    """
    program = typer.main.get_command(main.app)
    whole = get_docs_for_click(obj=program, ctx=typer.Context(program), name="bench")
    text = main.name_cards(registry.fill_in(whole))
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text.partition("\n")[2])
    text = re.sub(r"(\*\*Options\*\*:\n\n)?\* `--help`: .*\n", "", text)
    text = re.sub(r"\*\*Usage\*\*:\n\n```console\n.*\n```\n\n", "", text)
    text = re.sub(r"(^bench .*\n)+", r"```text\n\g<0>```\n", text, flags=re.MULTILINE)
    first, *others = re.split(r"(?=^##+ `bench )", text, flags=re.MULTILINE)
    own = next(part for part in others if part.startswith("## `bench run`"))
    known = set(re.findall(r"^\* .*\n", own, re.MULTILINE))
    text = first + "".join(p if p is own else _name_known(p, known) for p in others)
    blocks = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    return "".join(b if b.startswith("```") else _escape_help(b) for b in blocks).strip() + "\n"


def _name_known(text: str, known: set[str]) -> str:
    """Replace the known lines about options by one line with their names."""
    lines = text.splitlines(keepends=True)
    same = [re.sub(r"^\* `([^ `,]+).*\n", r"`\1`", line) for line in lines if line in known]
    own = "".join(line for line in lines if line not in known)
    if not same:
        return own
    said = f"* As in `bench run`: {', '.join(same)}.\n"
    return re.sub(r"(\*\*Options\*\*:\n\n(\* .*\n)*)", lambda found: found[0] + said, own)


def _escape_help(text: str) -> str:
    """Return help text with headings one level lower. A `<` or a `$` outside code is plain text."""
    return escape_outside_code(re.sub(r"^#", "##", text, flags=re.MULTILINE), r"([<$])")


def settings() -> str:
    """Return a table of every setting of a run."""
    return table(("setting", "default", "meaning"), _settings(Spec))


def _settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    notes, fields = _attribute_docstrings(model), model.model_fields
    defaults = {name: one.get_default(call_default_factory=True) for name, one in fields.items()}
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
        text = after.value if isinstance(after, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant):
            notes[ast.unparse(field.target)] = str(text.value)
    return notes


def tracks() -> str:
    """Return a table of the tasks of every track, by the licence of their texts."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for name, task in all_tasks().items():
        track, _, short = name.partition("/")
        tasks.setdefault((track, escape(task.licence)), []).append(f"`{short}`")
    rows = [(track, licence, ", ".join(names)) for (track, licence), names in tasks.items()]
    return table(("track", "licence of the texts", "tasks"), rows)


def families() -> str:
    """Return what works on the families of models, with a row for families that are alike."""
    text = (ROOT / "results/families.json").read_text(encoding="utf-8")
    tried = {name: row["cells"] for name, row in json.loads(text).items()}
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, cells in tried.items():
        unnamed = tuple(escape(cell.replace(f" ({name})", "")) for cell in cells.values())
        alike.setdefault(unnamed, []).append(f"`{name}`")
    rows = [(", ".join(names), *cells) for cells, names in alike.items()]
    return table(("family", *next(iter(tried.values()))), rows)


def public() -> str:
    """Return a section for each public name, in the order of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return "\n".join(map(_public, project["tool"]["cast-bench"]["public"]))


def _public(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    target = getattr(import_module(module), attribute)
    if inspect.ismodule(target):
        # A package that can be called, as the function of the API with its name.
        target = getattr(import_module("bench.results_api"), attribute)
    code = f"```python\n{attribute}{_signature(target)}\n```"
    parts = [f"### {name}", code, *_paragraphs(target)]
    if inspect.isclass(target) and not issubclass(target, BaseModel):
        notes = _attribute_docstrings(target).items()
        lines = [f"- `{field}`: {escape(note)}" for field, note in notes]
        parts += ["\n".join(lines)] if lines else []
    if inspect.isclass(target):
        for member, value in vars(target).items():
            is_property = isinstance(value, property)
            function = value.fget if is_property else getattr(value, "__func__", value)
            if inspect.isfunction(function) and function.__doc__ and not member.startswith("_"):
                signature = "" if is_property else _signature(function)
                parts += [f"`{attribute}.{member}{signature}`", *_paragraphs(function)]
    return "\n\n".join(parts) + "\n"


def _signature(target: Any) -> str:
    """Return a signature with the types of the source, and without computed defaults."""
    if inspect.isclass(target) and issubclass(target, Exception | Enum | Protocol):
        return ""
    if inspect.isclass(target) and issubclass(target, BaseModel):
        return "(**settings)"
    text = re.sub(r"ForwardRef\('([^']*)'\)", r"\1", str(inspect.signature(target)))
    text = re.sub(r"""(: |-> )(['"])(.*?)\2""", r"\1\3", text).replace("mappingproxy({})", "{}")
    text = re.sub(r" = <[^>]*>", " = ...", text).replace("PosixPath(", "Path(")
    text = re.sub(r"^\((self|cls)(, )?", "(", text)
    return text.removesuffix(" -> None")


def _paragraphs(target: Any) -> Iterator[str]:
    """Yield a docstring as Markdown, with a code block for an indented example, and lists.

    "Args:" and "Raises:" become lists.
    """
    text = inspect.cleandoc(target.__doc__ or "")
    if inspect.isclass(target) and text.startswith(f"{target.__name__}("):
        return  # generated by dataclass
    for paragraph in re.split(r"\n\n(?=\S)", text):
        head, _, rest = paragraph.partition("\n")
        if head in ("Args:", "Raises:"):
            lines = re.split(r"\n(?! )", textwrap.dedent(rest))
            pairs = [line.partition(": ") for line in lines]
            items = [f"- `{name}`: {escape(' '.join(about.split()))}" for name, _, about in pairs]
            yield f"{head}\n\n" + "\n".join(items)
        elif paragraph.startswith("- "):
            items = re.split(r"^- ", paragraph, flags=re.MULTILINE)[1:]
            yield "\n".join(f"- {escape(item)}" for item in items)
        else:
            for part in re.split(r"\n\n+(?=    )", paragraph, maxsplit=1):
                code = f"```text\n{textwrap.dedent(part).strip()}\n```"
                yield code if part.startswith("    ") else escape(part)


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


MAKERS = (overview, facts, unwritten, training, commands, settings, tracks, families)
BLOCKS = {make.__name__: make for make in (*MAKERS, public, notebook)}
"""Functions that make the text, by the word in the comment."""
