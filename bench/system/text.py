"""Text from outside, made harmless: on a terminal, in Markdown, CSV and JSON, in XML, and in GitHub's log.

Names, reasons and logs come from records, models and plug-ins of other people. Whatever shows them goes through here.
"""

from __future__ import annotations

import json
import re
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What a character that cannot be shown is replaced by. It is visible: a name never looks like another one."""

MARKUP = "\\*_~@#:!()]$"
"""Characters with a meaning in Markdown or on GitHub, besides those that `escape_markdown` replaces."""

FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What begins a formula in a spreadsheet; it also takes the wide forms of these characters."""

MAX_MARKS = 2
"""Combining marks on one character. More of them draw over the lines above and below."""

_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Characters without a picture that Python counts as printable."""

_COLORS = re.compile("\x1b\\[[0-9;:]*m")


def amount(count: int, noun: str) -> str:
    """Return a count with its noun: "1 record", "2,000 records"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def printable(text: str) -> str:
    """Text as one line that a terminal shows and does not act on.

    Replaced are control characters (new lines, too), half surrogates, marks of direction, characters without width or
    picture, and piles of combining marks.
    """
    if text.isascii() and text.isprintable():
        return text
    out, marks = [], 0
    for c in text:
        marks = marks + 1 if unicodedata.category(c) in ("Mn", "Me") else 0
        out.append(c if c.isprintable() and marks <= MAX_MARKS and not _BLANK.match(c) else REPLACEMENT)
    return "".join(out)


def printable_lines(text: str) -> str:
    """Whole lines, as of a log or a traceback, that a terminal only shows and that are no commands to GitHub's runner.

    Colors are left out, the rest is as in `printable`. A carriage return begins a new line, so that nothing is written over.
    """
    text = _COLORS.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    return "\n".join(_without_command(printable(line)) for line in text.split("\n"))


def _without_command(line: str) -> str:
    """A line with a space in what would begin a workflow command: `::` at its start, or `##[` anywhere."""
    return re.sub(r"^( *):(?=:)", r"\1: ", line).replace("##[", "## [")


def printable_json(text: str) -> str:
    """JSON with the same value, in which characters that cannot be shown are escapes, and so is a workflow command."""
    out = "\n".join(
        "".join(c if c == s else json.dumps(c)[1:-1] for c, s in zip(line, printable(line), strict=True))
        for line in text.split("\n")
    )
    return out.replace("##[", "##\\u005b")


def escape_csv(text: str) -> str:
    """A text cell of CSV: what a spreadsheet would take for a formula, or GitHub for a command, gets a quote in front."""
    text = printable(text)
    return "'" + text if text.lstrip(" " + REPLACEMENT).startswith((*FORMULA_STARTS, "::")) else text


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it as it is: no tags, cell borders or links."""
    text = printable(text.replace("\n", " "))
    for old, new in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "&#124;"),
        ("[", "&#91;"),
        ("`", "&#96;"),
    ):
        text = text.replace(old, new)
    return text


def escape_comment(text: str) -> str:
    """Text in a comment on GitHub: besides what `escape_markdown` replaces, no mention, no reference and no emphasis."""
    return "".join(f"&#{ord(c)};" if c in MARKUP else c for c in escape_markdown(text).replace("&#", "\0")).replace(
        "\0", "&#"
    )


def code(text: str) -> str:
    """The same in a code element, where GitHub does not look for mentions and addresses."""
    return f"<code>{escape_comment(text)}</code>"


def annotation(text: str, *, field: bool = False) -> str:
    """The data of a workflow command, or a field of it, escaped as in GitHub's toolkit."""
    out = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return out.replace(":", "%3A").replace(",", "%2C") if field else out
