"""From wikitext to plain prose: what a reader sees of an article's paragraphs and headings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Tag, Template
    from mwparserfromhell.wikicode import Wikicode

_BACK_MATTER = {
    "references",
    "external links",
    "see also",
    "further reading",
    "notes",
    "footnotes",
    "bibliography",
    "citations",
    "sources",
    "gallery",
    "works cited",
    "notes and references",
}
_SKIPPED_TAGS = {"ref", "references", "table", "gallery", "source", "timeline", "hr"}
_SKIPPED_LINKS = re.compile(r"\s*(file|image|category|media|[a-z]{2,3}|[a-z]+(-[a-z]+)+)\s*:\s*\S", re.I)

# Inline templates, by the positional argument that a reader sees. Others are dropped: most are citations and boxes.
_VISIBLE_ARGUMENT = {
    "lang": 1,
    "transl": -1,
    "nihongo": 0,
    "nowrap": 0,
    "smaller": 0,
    "small": 0,
    "sc": 0,
    "vanchor": 0,
    "angbr": 0,
    "quote": 0,
    "cquote": 0,
    "blockquote": 0,
    "tooltip": 0,
    "ipa": 0,
}
_ALL_ARGUMENTS = {"chem": "", "frac": "/"}  # templates that show all their arguments, and what separates them
_REPLACEMENTS = {
    "'s": "'s",
    "!": "|",
    "nbsp": " ",
    "thinsp": " ",
    "ndash": "\u2013",
    "snd": " \u2013 ",
    "spaced ndash": " \u2013 ",
    "mdash": "\u2014",
    "mdashb": "\u2014",
}
_RANGE = {"to", "and", "or", "by", "x", "-", "\u2013"}  # {{convert|3|to|5|m}}

_FORMULA, _ITEM, _HEADING = "\0", "\1", "\2"  # marks: a formula was here; a list item starts; a heading starts
_NO_LEVEL = 7  # deeper than any heading
_LINE_BREAK = re.compile("^([^\1\2\n].*)\n(?=[^\1\2\n])", re.M)  # a paragraph goes on after a single newline
_EXPONENT = re.compile("[0-9\u2212-]")
_SENTENCE_END = re.compile("[.!?:;,][\"'\u201d\u2019)\\]]*$")
_REMNANTS = re.compile(
    r"\0|,,|\[\[|\]\]|\{\{|\}\}|\{\||\|\}|</?[a-z]{2}|\bISBN\b", re.I
)  # formula marks, unclosed markup
_CLEANUPS = [
    (re.compile(pattern), text)
    for pattern, text in (
        (r"(?<=\w)\s*\x01\s*", ": "),  # "; term : meaning"
        (r"[\1\2]|'{2,}", ""),  # marks; unclosed quotes of bold and italics
        (r"\s+", " "),
        (r"([(\[])[\s,;:/]+", r"\1"),  # "(; born" and similar
        (r"[\s,;:/]+([)\]])", r"\1"),
        (r"\s*(\(\)|\[\])", ""),
        (r" ([,.;:!?])(?=\s|$)", r"\1"),
    )
]


def prose(markup: str) -> str:
    """Wikitext as plain lines, without references, boxes, tables, captions, formulas and back matter."""
    import mwparserfromhell

    plain = _LINE_BREAK.sub(r"\1 ", _plain(mwparserfromhell.parse(markup)))
    lines: list[str] = []
    headings: list[tuple[int, str]] = []  # added once a line follows them
    skipped = _NO_LEVEL  # level of the current back matter
    for raw in plain.split("\n"):
        if raw.startswith(_HEADING):
            level, title = int(raw[1]), _tidy(raw[2:])
            headings = [*(h for h in headings if h[0] < level), (level, title)]
            if level <= skipped:
                skipped = level if title.lower() in _BACK_MATTER else _NO_LEVEL
        elif skipped == _NO_LEVEL and _is_prose(raw, line := _tidy(raw)):
            lines += [*(title for _, title in headings if title and not _REMNANTS.search(title)), line]
            headings = []
    return "\n".join(lines)


def _is_prose(raw: str, line: str) -> bool:
    """Is this prose? Lists of names, remains of tables, and sentences with a formula are not."""
    shortest = 60 if raw.startswith(_ITEM) else 30
    return len(line) >= shortest and bool(_SENTENCE_END.search(line)) and not _REMNANTS.search(line)


def _tidy(line: str) -> str:
    """Clean up what removals leave behind: empty brackets, stray quotes, spaces before commas."""
    for wrong, right in _CLEANUPS:
        line = wrong.sub(right, line)
    return line.strip()


def _plain(code: Wikicode) -> str:
    """What a reader sees of these nodes, with the marks _FORMULA, _ITEM and _HEADING."""
    from mwparserfromhell import nodes

    parts: list[str] = []
    for node in code.nodes:
        match node:
            case nodes.Text():
                parts.append(str(node))
            case nodes.HTMLEntity():
                parts.append(node.normalize())
            case nodes.Heading():
                parts.append(f"\n{_HEADING}{node.level}{_plain(node.title)}\n")
            case nodes.Wikilink() if not _SKIPPED_LINKS.match(str(node.title)):
                parts.append(_plain(node.title if node.text is None else node.text))
            case nodes.ExternalLink() if node.title is not None:
                parts.append(_plain(node.title))
            case nodes.Template():
                parts.append(_template(node))
            case nodes.Tag():
                parts.append(_tag(node))
    return "".join(parts)


def _tag(tag: Tag) -> str:
    name = str(tag.tag).strip().lower()
    if name == "math":
        return _FORMULA
    if name in ("li", "dd", "dt"):
        return _ITEM
    if name in _SKIPPED_TAGS or tag.contents is None:
        return " " if name == "br" else ""
    text = _plain(tag.contents)
    if name == "sup" and _EXPONENT.match(text):
        return f"^{text}"  # or 10<sup>7</sup> would read as 107
    return f"\n\n{text}\n\n" if name in ("blockquote", "poem", "p", "div") else text


def _template(template: Template) -> str:
    name = str(template.name).strip().lower()
    arguments = [_plain(p.value).strip() for p in template.params if not p.showkey]
    if name in _REPLACEMENTS:
        return _REPLACEMENTS[name]
    if name in ("math", "mvar", "val", "nuclide2"):
        return _FORMULA
    if name in ("convert", "cvt"):  # number, unit, …, or number, "to", number, unit, …
        return " ".join(arguments[: 4 if arguments[1:] and arguments[1] in _RANGE else 2])
    if name == "as of":  # year, month, day: only the year is kept
        return f"{'as' if template.has('lc') else 'As'} of {arguments[0]}" if arguments else ""
    if name in _ALL_ARGUMENTS:
        return _ALL_ARGUMENTS[name].join(arguments)
    if name not in _VISIBLE_ARGUMENT or not arguments[_VISIBLE_ARGUMENT[name] :]:
        return ""
    text = arguments[_VISIBLE_ARGUMENT[name]]
    return f"\n\n{text}\n\n" if "quote" in name else text
