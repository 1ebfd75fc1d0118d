"""Names from untrusted sources as plain text: in a terminal, in Markdown, in XML and in GitHub's log."""

from __future__ import annotations

from bench.system.text import escape_markdown

MARKUP = "\\*_~@#:!()]$"
"""Characters with a meaning in Markdown or on GitHub, besides those that `escape_markdown` replaces."""


def printable(text: str) -> str:
    """Text without control characters: no colors, no new lines, nothing that a terminal acts on or XML forbids."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def markdown(text: str) -> str:
    """Text in Markdown that cannot become a tag, a link, a mention, emphasis or a table border."""
    return "".join(
        f"&#{ord(c)};" if c in MARKUP else c for c in escape_markdown(printable(text)).replace("&#", "\0")
    ).replace("\0", "&#")


def code(text: str) -> str:
    """The same in a code element, where GitHub does not look for mentions and addresses."""
    return f"<code>{markdown(text)}</code>"


def annotation(text: str, *, field: bool = False) -> str:
    """The data of a workflow command, or a field of it, escaped as in GitHub's toolkit."""
    out = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return out.replace(":", "%3A").replace(",", "%2C") if field else out
