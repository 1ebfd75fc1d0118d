"""Text that stays text in Markdown."""

from __future__ import annotations


def escape_markdown(text: str) -> str:
    """Text that stays text in Markdown: no tags, no cell borders, no links."""
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
