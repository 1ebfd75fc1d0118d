"""wiki-mini: about a hundred English Wikipedia articles as plain prose, split by article.

The articles come from the dump sample inside the gensim wheel, so a machine that reaches only a
package index has them. Text: Wikipedia's contributors, CC BY-SA.
"""

from __future__ import annotations

import bz2
import hashlib
import importlib.util
import io
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from methods.errors import UserError

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Tag, Template
    from mwparserfromhell.wikicode import Wikicode

LICENSE = "CC BY-SA"
SPLITS = ("train", "validation", "test", "calibration")

DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"  # inside gensim
DUMP_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
CLEANING = 1  # raise it whenever the text below comes out differently
RECIPE = hashlib.sha256(f"{DUMP_SHA256} {CLEANING}".encode()).hexdigest()[:12]

_MIN_CHARS = 1000  # less than that is a stub or a list
_SALT = "wiki-mini 341: "  # chosen for sizes alone: 80/10/10 of the characters, 13 in test
_TEST_BELOW, _VALIDATION_BELOW = 0.10, 0.20  # of the unit interval that titles hash into

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
_DISAMBIGUATION = re.compile(r"\{\{\s*(disambig\w*|dab|geodis|hndis)\b", re.I)
_UNREAD_TAGS = {"ref", "references", "table", "gallery", "source", "timeline", "hr"}
_UNREAD_LINKS = re.compile(r"\s*(file|image|category|media|[a-z]{2,3}|[a-z]+(-[a-z]+)+)\s*:\s*\S", re.I)

# Inline templates by the positional argument that a reader sees. All others vanish: most are citations and boxes.
_SHOWN = {
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
_GLUE = {"chem": "", "frac": "/"}  # templates that show all their arguments
_FIXED = {
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

_HOLE, _ITEM, _HEADING = "\0", "\1", "\2"  # marks: a formula stood here, a list item or heading starts
_NOTHING = 7  # deeper than any heading
_JOINED = re.compile("^([^\1\2\n].*)\n(?=[^\1\2\n])", re.M)  # a paragraph goes on after a single newline
_EXPONENT = re.compile("[0-9\u2212-]")
_SENTENCE_END = re.compile("[.!?:;,][\"'\u201d\u2019)\\]]*$")
_DEBRIS = re.compile(r"\0|,,|\[\[|\]\]|\{\{|\}\}|\{\||\|\}|</?[a-z]{2}|\bISBN\b", re.I)  # holes, unclosed markup
_MENDS = [
    (re.compile(pattern), text)
    for pattern, text in (
        (r"(?<=\w)\s*\x01\s*", ": "),  # "; term : meaning"
        (r"[\1\2]|'{2,}", ""),  # marks; quotes of bold and italics that nobody closed
        (r"\s+", " "),
        (r"([(\[])[\s,;:/]+", r"\1"),  # "(; born" and its like
        (r"[\s,;:/]+([)\]])", r"\1"),
        (r"\s*(\(\)|\[\])", ""),
        (r" ([,.;:!?])(?=\s|$)", r"\1"),
    )
]


class Article(NamedTuple):
    title: str
    text: str  # paragraphs and headings, one per line


def articles(split: str, cache: Path) -> list[Article]:
    """The articles of one split, in the dump's order.

    An article's split depends on its title alone: sha256 of salt and title, read as a number in [0, 1), puts it
    in test below 0.10, in validation below 0.20 and in train otherwise. `calibration` is train under a second name:
    disjoint from validation and test, which is all that calibration asks.

    The parse (a few seconds) is kept in `cache`/data. Raises UserError for an unknown split, and for a dump
    that is missing or not the one this module was written for.
    """
    if split not in SPLITS:
        raise UserError(f"wiki-mini has no split {split!r}: use one of {', '.join(SPLITS)}")
    wanted = "train" if split == "calibration" else split
    return [a for a in _corpus(cache) if _split_of(a.title) == wanted]


def fingerprint(cache: Path) -> str:
    """sha256 of the whole cleaned corpus as canonical JSON: it moves when a new mwparserfromhell reads differently."""
    return _digest(_corpus(cache))


def _split_of(title: str) -> str:
    u = int.from_bytes(hashlib.sha256((_SALT + title).encode()).digest()[:8]) / 2**64
    return "test" if u < _TEST_BELOW else "validation" if u < _VALIDATION_BELOW else "train"


def _digest(corpus: list[Article]) -> str:
    return hashlib.sha256(json.dumps(corpus, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def _corpus(cache: Path) -> list[Article]:
    path = cache / "data" / f"wiki-mini-{RECIPE}.json"
    kept = _read(path)
    if kept is None:
        kept = [Article(title, text) for title, markup in _pages(_dump()) if len(text := _prose(markup)) >= _MIN_CHARS]
        _write(path, kept)
    return kept


def _read(path: Path) -> list[Article] | None:
    """The cached corpus, or None if it is absent or not what was written."""
    try:
        kept = json.loads(path.read_bytes())
        corpus = [Article(title, text) for title, text in kept["articles"]]
        return corpus if _digest(corpus) == kept["sha256"] else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, corpus: list[Article]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temp.open("w", encoding="utf-8") as file:
            json.dump({"sha256": _digest(corpus), "license": LICENSE, "articles": corpus}, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def _dump() -> bytes:
    """The compressed dump, checked. Found without importing gensim, which takes seconds."""
    spec = importlib.util.find_spec("gensim")
    path = Path(spec.origin).parent / DUMP if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"wiki-mini needs the file {Path(DUMP).name} that gensim ships: pip install gensim==4.4.0")
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != DUMP_SHA256:
        raise UserError(
            f"wiki-mini: {path} has sha256 {found[:12]}…, not {DUMP_SHA256[:12]}…: "
            "pip install --force-reinstall gensim==4.4.0"
        )
    return data


def _pages(dump: bytes) -> Iterator[tuple[str, str]]:
    """(title, wikitext) of each page that is an article."""
    with bz2.open(io.BytesIO(dump)) as xml:
        for _, page in ElementTree.iterparse(xml):  # safe: only bytes whose sha256 is known get here
            if not page.tag.endswith("}page"):
                continue
            title, markup = page.findtext("{*}title"), page.findtext("{*}revision/{*}text")
            article = page.findtext("{*}ns") == "0" and page.find("{*}redirect") is None
            if title and markup and article and not _DISAMBIGUATION.search(markup):
                yield title, markup
            page.clear()


def _prose(markup: str) -> str:
    """Wikitext as plain lines, without references, boxes, tables, captions, formulas and back matter."""
    import mwparserfromhell

    plain = _JOINED.sub(r"\1 ", _plain(mwparserfromhell.parse(markup)))
    lines: list[str] = []
    headings: list[tuple[int, str]] = []  # held back until a line follows them
    skipped = _NOTHING  # level of the back matter we are in
    for raw in plain.split("\n"):
        if raw.startswith(_HEADING):
            level, title = int(raw[1]), _tidy(raw[2:])
            headings = [*(h for h in headings if h[0] < level), (level, title)]
            if level <= skipped:
                skipped = level if title.lower() in _BACK_MATTER else _NOTHING
        elif skipped == _NOTHING and _reads(raw, line := _tidy(raw)):
            lines += [*(title for _, title in headings if title and not _DEBRIS.search(title)), line]
            headings = []
    return "\n".join(lines)


def _reads(raw: str, line: str) -> bool:
    """Is this prose? Lists of names, remains of tables and sentences around a formula are not."""
    shortest = 60 if raw.startswith(_ITEM) else 30
    return len(line) >= shortest and bool(_SENTENCE_END.search(line)) and not _DEBRIS.search(line)


def _tidy(line: str) -> str:
    """Mend what removals leave behind: empty brackets, stray quotes, spaces before commas."""
    for wrong, right in _MENDS:
        line = wrong.sub(right, line)
    return line.strip()


def _plain(code: Wikicode) -> str:
    """What a reader sees of these nodes, with the marks _HOLE, _ITEM and _HEADING."""
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
            case nodes.Wikilink() if not _UNREAD_LINKS.match(str(node.title)):
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
        return _HOLE
    if name in ("li", "dd", "dt"):
        return _ITEM
    if name in _UNREAD_TAGS or tag.contents is None:
        return " " if name == "br" else ""
    text = _plain(tag.contents)
    if name == "sup" and _EXPONENT.match(text):
        return f"^{text}"  # or 10<sup>7</sup> would read as 107
    return f"\n\n{text}\n\n" if name in ("blockquote", "poem", "p", "div") else text


def _template(template: Template) -> str:
    name = str(template.name).strip().lower()
    shown = [_plain(p.value).strip() for p in template.params if not p.showkey]
    if name in _FIXED:
        return _FIXED[name]
    if name in ("math", "mvar", "val", "nuclide2"):
        return _HOLE
    if name in ("convert", "cvt"):  # number, unit, …, or number, "to", number, unit, …
        return " ".join(shown[: 4 if shown[1:] and shown[1] in _RANGE else 2])
    if name == "as of":  # year, month, day: the year will do
        return f"{'as' if template.has('lc') else 'As'} of {shown[0]}" if shown else ""
    if name in _GLUE:
        return _GLUE[name].join(shown)
    if name not in _SHOWN or not shown[_SHOWN[name] :]:
        return ""
    text = shown[_SHOWN[name]]
    return f"\n\n{text}\n\n" if "quote" in name else text
