"""Text for Markdown."""

from __future__ import annotations


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it as it is: no tags, cell borders or links."""
    for old, new in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "&#124;"),
        ("[", "&#91;"),
        ("`", "&#96;"),
        ("\n", " "),
    ):
        text = text.replace(old, new)
    return text
