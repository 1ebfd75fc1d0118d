"""wiki-mini: about a hundred English Wikipedia articles as plain prose, split by article.

The articles come from the sample of a dump in the gensim wheel, so a package index is all that is needed to get them.
Text: Wikipedia's contributors, CC BY-SA.
"""

from __future__ import annotations

import bz2
import hashlib
import importlib.util
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from bench.inputs.wikimarkup import prose
from bench.system.files import atomic_write
from methods.errors import UserError

LICENSE = "CC BY-SA"
SPLITS = ("train", "validation", "test", "calibration")

DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"  # inside gensim
DUMP_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
CLEANING = 1  # increase it whenever a text changes, here or in bench.inputs.wikimarkup
RECIPE = hashlib.sha256(f"{DUMP_SHA256} {CLEANING}".encode()).hexdigest()[:12]

_MIN_CHARS = 1000  # a shorter article is a stub or a list
_SALT = "wiki-mini 341: "  # chosen for sizes alone: 80/10/10 of the characters, 13 in test
_TEST_BELOW, _VALIDATION_BELOW = 0.10, 0.20  # of the unit interval that titles hash into
_DISAMBIGUATION = re.compile(r"\{\{\s*(disambig\w*|dab|geodis|hndis)\b", re.I)


class Article(NamedTuple):
    """One article."""

    title: str
    text: str  # paragraphs and headings, one per line


def articles(split: str, cache: Path) -> list[Article]:
    """The articles of one split, in the dump's order.

    An article's split depends on its title only: sha256 of salt and title, read as a number in [0, 1), puts it
    in test below 0.10, in validation below 0.20 and in train otherwise. `calibration` is another name for train, which is
    disjoint from validation and test.

    Parsing takes a few seconds; the result is kept in `cache`/data.

    Raises:
        UserError: unknown split, or a dump that is missing or not the one this module was written for.
    """
    if split not in SPLITS:
        raise UserError(f"wiki-mini has no split {split!r}: use one of {', '.join(SPLITS)}")
    wanted = "train" if split == "calibration" else split
    return [a for a in _corpus(cache) if _split_of(a.title) == wanted]


def fingerprint(cache: Path) -> str:
    """sha256 of the whole cleaned corpus as canonical JSON; it changes when a new mwparserfromhell parses differently."""
    return _digest(_corpus(cache))


def _split_of(title: str) -> str:
    u = int.from_bytes(hashlib.sha256((_SALT + title).encode()).digest()[:8]) / 2**64
    return "test" if u < _TEST_BELOW else "validation" if u < _VALIDATION_BELOW else "train"


def _digest(corpus: list[Article]) -> str:
    return hashlib.sha256(json.dumps(corpus, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def _corpus(cache: Path) -> list[Article]:
    path = cache / "data" / f"wiki-mini-{RECIPE}.json"
    corpus = _read(path)
    if corpus is None:
        corpus = [
            Article(title, text) for title, markup in _pages(_read_dump()) if len(text := prose(markup)) >= _MIN_CHARS
        ]
        _write(path, corpus)
    return corpus


def _read(path: Path) -> list[Article] | None:
    """The cached corpus; None if it is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
        corpus = [Article(title, text) for title, text in content["articles"]]
        return corpus if _digest(corpus) == content["sha256"] else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, corpus: list[Article]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump({"sha256": _digest(corpus), "license": LICENSE, "articles": corpus}, file, ensure_ascii=False)


def _read_dump(file: str = DUMP, sha256: str = DUMP_SHA256) -> bytes:
    """The compressed dump, checked. Located without importing gensim, which takes seconds.

    Raises:
        UserError: it is missing, or another file.
    """
    spec = importlib.util.find_spec("gensim")
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"wiki-mini needs the file {Path(file).name} that gensim ships: pip install gensim==4.4.0")
    data = path.read_bytes()
    if (actual := hashlib.sha256(data).hexdigest()) != sha256:
        raise UserError(
            f"checksum mismatch: {path} has sha256 {actual[:12]}…, and wiki-mini needs {sha256[:12]}…: "
            "pip install --force-reinstall gensim==4.4.0"
        )
    return data


def _pages(dump: bytes) -> Iterator[tuple[str, str]]:
    """(title, wikitext) of each page that is an article."""
    with bz2.open(io.BytesIO(dump)) as xml:
        for _, page in ElementTree.iterparse(xml):  # safe: the bytes' sha256 was checked
            if not page.tag.endswith("}page"):
                continue
            title, markup = page.findtext("{*}title"), page.findtext("{*}revision/{*}text")
            article = page.findtext("{*}ns") == "0" and page.find("{*}redirect") is None
            if title and markup and article and not _DISAMBIGUATION.search(markup):
                yield title, markup
            page.clear()
