"""Docstrings for autodoc. Ours are plain text with `code` and sections; autodoc reads reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FIELDS = {"Args:": "param", "Raises:": "raises"}
"""Sections whose lines are `name: text`, and the word that Sphinx has for such a line."""


def to_rst(lines: list[str]) -> list[str]:
    """The same text: nothing outside `code` is markup, an indented example is literal, and sections are fields."""
    return [line for paragraph in _paragraphs(lines) for line in [*_to_rst(paragraph), ""]]


def _paragraphs(lines: list[str]) -> Iterator[list[str]]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield paragraph
            paragraph = []


def _to_rst(paragraph: list[str]) -> list[str]:
    first = paragraph[0]
    if first in FIELDS:
        text = "\n".join(line[4:] for line in paragraph[1:])
        entries = re.split(r"\n(?! )", text)
        return [line for entry in entries for line in _field(FIELDS[first], entry)]
    if first.startswith("    "):
        return ["::", "", *paragraph]
    return [_escape(line) for line in paragraph]


def _field(word: str, entry: str) -> list[str]:
    name, _, text = entry.partition(":")
    head, *more = text.strip().split("\n")
    return [f":{word} {_escape(name)}: {_escape(head)}", *(f"    {_escape(line.strip())}" for line in more)]


def _escape(line: str) -> str:
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(f"`{p}`" if p.startswith("`") else re.sub(r"([\\*|]|_(?=\W|$))", r"\\\1", p) for p in parts)


def on_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", on_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
