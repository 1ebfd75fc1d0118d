"""Escape text from outside for terminals, Markdown, CSV, JSON, XML and GitHub's log.

Names, reasons and logs come from records, models and plug-ins of other people. Each output escapes
them once, where it is
written: `bench.system.terminal` for the terminal, one function below for each other format.
"""

from __future__ import annotations

import json
import re
import unicodedata

DECIDES_NO_NUMBER = True

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Visible replacement for a character that cannot be shown, so that two names never look equal."""

MARKUP = "\\*_~@#:!()]$"
"""Characters with a meaning in Markdown or on GitHub, besides those that `escape_markdown`
replaces."""

FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""First characters of a spreadsheet formula, in their narrow and wide forms."""

ENTITIES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "[": "&#91;", "`": "&#96;"}
)
"""Characters that would start a tag, a cell border or a link in Markdown, with their HTML
entities."""

MAX_MARKS = 2
"""Largest number of combining marks on one character. More of them draw over other lines."""

_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Invisible characters that Python counts as printable."""

_COLORS = re.compile("\x1b\\[[0-9;:]*m")


def amount(count: int, noun: str) -> str:
    """Return a count with its noun: "1 record", "2,000 records"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def printable(text: str) -> str:
    """Return one line of text that a terminal shows and does not act on.

    It replaces control characters (also newlines), lone surrogates, bidirectional controls,
    invisible characters, and more than MAX_MARKS combining marks.
    """
    if text.isascii() and text.isprintable():
        return text
    out, marks = [], 0
    for c in text:
        marks = marks + 1 if unicodedata.category(c) in ("Mn", "Me") else 0
        is_shown = c.isprintable() and marks <= MAX_MARKS and not _BLANK.match(c)
        out.append(c if is_shown else REPLACEMENT)
    return "".join(out)


def printable_lines(text: str) -> str:
    """Return lines of text that neither a terminal nor GitHub's runner acts on.

    Colors are removed. A carriage return starts a new line, so that no text overwrites other text.
    """
    text = _COLORS.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    return "\n".join(_without_command(printable(line)) for line in text.split("\n"))


def one_line(text: object) -> str:
    """Return text without newlines, so that it cannot imitate another line of output."""
    return REPLACEMENT.join(str(text).split("\n"))


def _without_command(line: str) -> str:
    """Break the start of a workflow command, `::` at the start or `##[` anywhere, by a space."""
    return re.sub(r"^( *):(?=:)", r"\1: ", line).replace("##[", "## [")


def printable_json(text: str) -> str:
    """Return JSON with the same value in which unprintable characters and workflow commands are
    escaped."""
    lines = [_escape_line(line) for line in text.split("\n")]
    return "\n".join(lines).replace("##[", "##\\u005b")


def _escape_line(line: str) -> str:
    """Escape each character of a line of JSON that a terminal would not show."""
    pairs = zip(line, printable(line), strict=True)
    return "".join(c if c == shown else json.dumps(c)[1:-1] for c, shown in pairs)


def escape_csv(text: str) -> str:
    """Put a quote before a cell that a spreadsheet would take for a formula, or GitHub for a
    command."""
    text = printable(text)
    starts_code = text.lstrip(" " + REPLACEMENT).startswith((*FORMULA_STARTS, "::"))
    return "'" + text if starts_code else text


def escape_markdown(text: str) -> str:
    """Escape tags, cell borders and links for Markdown."""
    text = printable(text.replace("\n", " "))
    return text.translate(ENTITIES)


def escape_comment(text: str) -> str:
    """Escape text for a comment on GitHub: as `escape_markdown`, and also mentions, references and
    emphasis.

    GitHub finds mentions, references and addresses in the text that entities give, so a zero-width
    space breaks them.
    """
    linked = r"&#(?:35|64);|GH(?=-)|www(?=\.)"
    return re.sub(linked, r"\g<0>&#8203;", _escape_marks(text), flags=re.I)


def _escape_marks(text: str) -> str:
    plain = escape_markdown(text).replace("&#", "\0")
    escaped = [f"&#{ord(c)};" if c in MARKUP else c for c in plain]
    return "".join(escaped).replace("\0", "&#")


def code(text: str) -> str:
    """Return text in a code element, where GitHub looks for no mentions and addresses."""
    return f"<code>{_escape_marks(text)}</code>"


def annotation(text: str, *, field: bool = False) -> str:
    """Escape the data of a workflow command, or one field of it, as GitHub's toolkit does."""
    out = printable(text).replace("%", "%25")
    return out.replace(":", "%3A").replace(",", "%2C") if field else out
